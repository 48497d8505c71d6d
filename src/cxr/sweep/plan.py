"""The experiments of a sweep: check their configurations and name them.

An experiment's name contains a hash of everything that affects its result, except the seed. The
same sweep therefore finds its finished experiments, and a change of parameters or code starts anew.
"""

import copy
import hashlib
import json
import os
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from cxr import git, models
from cxr.documents import read_yaml
from cxr.errors import CxrError, check_user
from cxr.hashing import digest
from cxr.lineage.facts import (
    CODE,
    Declaration,
    code_files,
    declarations,
    inside,
    select,
    with_dependencies,
)
from cxr.params import Params, model_names, validate
from cxr.paths import PARAMS_FILE
from cxr.sweep.space import Configuration

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,39}")
ID_DIGITS = 8
LOCAL = "local"
LOCAL_JOBS = 2
SHARED = "train.protocol."
COMPARED = "train."
RANKED, EXPLAINED = "evaluate", "gradcam"  # the stages after which an experiment is complete


@dataclass(frozen=True)
class Experiment:
    """One training of every model with one configuration and one seed."""

    name: str
    configuration: Configuration
    seed: int
    params: dict[str, Any]  # dotted names; everything that is set for this experiment


@dataclass(frozen=True)
class Place:
    """Where the experiments run, and what each may use."""

    on: str = LOCAL  # or the address of a Ray cluster
    jobs: int | None = (
        None  # most experiments at a time; None: LOCAL_JOBS, or all that fit a cluster
    )
    cpus: int | None = None  # per experiment; None: `threads` of params.yaml, or fewer if shared
    gpus: float | None = None  # per experiment; None: shared if there are any

    @property
    def local_jobs(self) -> int:
        """Number of experiments that run on this machine at a time."""
        return self.jobs or LOCAL_JOBS

    def threads(self, of_params: int) -> int:
        """Threads of each experiment."""
        if self.cpus:
            return self.cpus
        if self.on != LOCAL:
            return of_params
        # More threads than cores make all processes many times slower.
        return min(of_params, max(1, len(os.sched_getaffinity(0)) // self.local_jobs))


@dataclass(frozen=True)
class Plan:
    """The configurations that a sweep compares, and their experiments."""

    name: str
    configurations: list[Configuration]
    seeds: list[int]
    threads: int
    threads_of_params: int  # as in params.yaml
    place: Place
    target: str  # the last stage of an experiment
    experiments: list[Experiment]  # grouped by configuration

    def of(self, configuration: Configuration) -> list[Experiment]:
        """A configuration's experiments, one per seed."""
        return [each for each in self.experiments if each.configuration == configuration]

    def as_json(self) -> dict[str, Any]:
        """The plan as JSON."""
        return {
            "name": self.name,
            "seeds": self.seeds,
            "threads": self.threads,
            "parameters": self.keys,
            "models": self.models,
            "experiments": [asdict(each) for each in self.experiments],
        }

    @property
    def keys(self) -> list[str]:
        """The parameters that differ between configurations; if none differ, all of them."""
        first = self.configurations[0]
        varied = [
            key for key in first if any(each[key] != first[key] for each in self.configurations)
        ]
        return varied or list(first)

    @property
    def models(self) -> list[str]:
        """The models that these parameters affect."""
        return [name for name in model_names() if self.keys_of(name)]

    def keys_of(self, model: str) -> list[str]:
        """Those of `keys` that affect this model."""
        return [key for key in self.keys if key.startswith((SHARED, f"{COMPARED}{model}."))]


def make(
    root: Path,
    name: str,
    configurations: list[Configuration],
    n_seeds: int,
    place: Place,
    explain: bool = False,
) -> Plan:
    """Check every configuration and name its experiments; CxrError for the first invalid one.

    Parameters
    ----------
    explain : whether every experiment also makes heat maps, which its ranking does not need.
    """
    if not NAME.fullmatch(name):
        raise CxrError(
            f"--name is {name!r}; expected at most 40 letters, digits, - and _, starting with a "
            "letter or digit"
        )
    check_user()
    _check_git(root)
    values = read_yaml(root / PARAMS_FILE)
    params = cast(Params, validate(Params, values, ()))
    threads = place.threads(params.threads)
    seeds = [params.seed + n for n in range(n_seeds)]
    target, known = EXPLAINED if explain else RANKED, declarations(root)
    stages = [known[stage] for stage in with_dependencies([target], known)]
    code = _code(root, stages)
    # Two projects in one repository must not use the same experiment names.
    if folder := git.run(root, "rev-parse", "--show-prefix").strip():
        code["folder"] = folder
    experiments = []
    for key in configurations[0]:
        _check_key(key)
    for configuration in configurations:
        shared = configuration | {"threads": threads}
        effective = _checked(values, shared | {"seed": seeds[-1]})
        keys = {key for stage in stages for key in stage.params if key != "seed"}
        identity_facts = {"params": select(effective, tuple(sorted(keys))), **code}
        canonical = json.dumps(identity_facts, sort_keys=True, separators=(",", ":"))
        identity = hashlib.sha256(canonical.encode()).hexdigest()[:ID_DIGITS]
        experiments += [
            Experiment(f"{name}-{identity}-s{seed}", configuration, seed, shared | {"seed": seed})
            for seed in seeds
        ]
    return Plan(name, configurations, seeds, threads, params.threads, place, target, experiments)


def _code(root: Path, stages: list[Declaration]) -> dict[str, Any]:
    """The stages' commands and the hashes of their code."""
    paths = {path for stage in stages for path in stage.dependencies if inside(path, CODE)}
    return {
        "commands": [stage.command for stage in stages],
        "code": {path: digest(root / path).md5 for path in sorted(paths)},
    }


def _check_git(root: Path) -> None:
    """Check what DVC's experiments need: a git repository with a commit and all code."""
    if git.ask(root, "rev-parse", "--git-dir") is None:
        raise CxrError(
            f"{root} is not a git repository, but DVC's experiments are git commits; clone the "
            "project with git, or run `git init && git add -A && git commit -m start`"
        )
    if git.ask(root, "rev-parse", "--verify", "HEAD^{commit}") is None:
        raise CxrError(
            f"{root} has no commit yet, but DVC's experiments start from one; "
            "run `git add -A && git commit -m start`"
        )
    listing = git.run(
        root,
        "ls-files",
        "-z",
        "--cached",
        "--others",
        "--exclude-standard",
        "--",
        *CODE,
        PARAMS_FILE,
    )
    ignored = sorted({*code_files(root), PARAMS_FILE}.difference(listing.split("\0")))
    if ignored:
        raise CxrError(
            f"git ignores {ignored[0]}, so a clone of the project lacks it; "
            f"run `git add --force {ignored[0]}`, or move it elsewhere"
        )


def _checked(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """params.yaml with some values changed; CxrError if its or a model's schema forbids them."""
    effective = copy.deepcopy(values)
    for key, value in changes.items():
        _set(effective, key, value)
    try:
        params = cast(Params, validate(Params, effective, ()))
        for name in model_names():
            models.hyper_parameters(name, params.train.block(name))
    except CxrError as error:
        raise CxrError(f"-S {str(error).removeprefix(f'{PARAMS_FILE}: ')}") from None
    return effective


def _check_key(key: str) -> None:
    if key == "seed":
        raise CxrError(
            "-S seed: all configurations use the same seeds; set their number with --seeds N"
        )
    if not key.startswith(COMPARED):
        raise CxrError(
            f"-S {key}: a sweep chooses by validation AUROC, which can compare only parameters "
            f"below `train`; change {key} in {PARAMS_FILE}"
        )


def _set(values: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    section: Any = values
    for parent in parents:
        section = section.get(parent) if isinstance(section, dict) else None
    if not isinstance(section, dict):
        raise CxrError(f"-S {key}: {PARAMS_FILE} has no section {'.'.join(parents)}")
    if isinstance(section.get(last), dict):
        raise CxrError(f"-S {key} is a section of {PARAMS_FILE}; name one of its keys")
    section[last] = value
