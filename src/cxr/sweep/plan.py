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

from cxr import git
from cxr.doctor.context import Clone
from cxr.doctor.finding import MISSING
from cxr.doctor.project import git_history
from cxr.documents import read_yaml
from cxr.errors import CxrError, check_user
from cxr.hashing import digest
from cxr.lineage.facts import (
    CODE,
    Declaration,
    declarations,
    inside,
    select,
    with_dependencies,
)
from cxr.params import Params, assign, model_names, validate
from cxr.paths import PARAMS_FILE
from cxr.sweep.space import Configuration, shown

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
    target: str  # the last stage

    @property
    def label(self) -> str:
        """Name, configuration and seed, for messages."""
        return f"{self.name} ({shown(self.configuration)}, seed {self.seed})"


@dataclass(frozen=True)
class Place:
    """Where the experiments run, and what each may use."""

    on: str = LOCAL  # or the address of a Ray cluster
    jobs: int | None = None  # at most; None: LOCAL_JOBS, or all that fit on a cluster
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
        varied = [k for k in first if any(each[k] != first[k] for each in self.configurations)]
        return varied or list(first)

    @property
    def models(self) -> list[str]:
        """The models that these parameters affect."""
        return [name for name in model_names() if self.keys_of(name)]

    def keys_of(self, model: str) -> list[str]:
        """Those of `keys` that affect this model."""
        return [key for key in self.keys if key.startswith((SHARED, f"{COMPARED}{model}."))]


def make(
    root: Path, name: str, configurations: list[Configuration], n_seeds: int, place: Place,
    explain: bool = False,
) -> Plan:  # fmt: skip
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
    repository = git_history(Clone(root))
    if repository.verdict == MISSING:
        raise CxrError(f"{repository.found}; {repository.fix}")
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
    if other := [key for key in configurations[0] if not key.startswith(COMPARED)]:
        raise CxrError(
            f"-S {other[0]}: a sweep chooses by validation AUROC, so it compares only parameters "
            f"below `{COMPARED}`; change {other[0]} in {PARAMS_FILE}; --seeds N sets the seeds"
        )
    for configuration in configurations:
        shared = configuration | {"threads": threads}
        effective = _checked(values, shared | {"seed": seeds[-1]})
        keys = {key for stage in stages for key in stage.params if key != "seed"}
        identity_facts = {"params": select(effective, tuple(sorted(keys))), **code}
        canonical = json.dumps(identity_facts, sort_keys=True, separators=(",", ":"))
        identity = hashlib.sha256(canonical.encode()).hexdigest()[:ID_DIGITS]
        experiments += [
            Experiment(
                f"{name}-{identity}-s{seed}", configuration, seed, shared | {"seed": seed}, target
            )
            for seed in seeds
        ]
    return Plan(name, configurations, seeds, threads, params.threads, place, experiments)


def _code(root: Path, stages: list[Declaration]) -> dict[str, Any]:
    """The stages' commands and the hashes of their code."""
    paths = {path for stage in stages for path in stage.dependencies if inside(path, CODE)}
    return {
        "commands": [stage.command for stage in stages],
        "code": {path: digest(root / path).md5 for path in sorted(paths)},
    }


def _checked(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """params.yaml with some values changed; CxrError if its or a model's schema forbids them."""
    from cxr import models  # imports torch, which takes seconds and nodes do not need here

    effective = copy.deepcopy(values)
    try:
        assign(effective, changes)
        params = cast(Params, validate(Params, effective, ()))
        for name in model_names():
            models.hyper_parameters(name, params.train.block(name))
    except CxrError as error:
        raise CxrError(f"-S {str(error).removeprefix(f'{PARAMS_FILE}: ')}") from None
    return effective
