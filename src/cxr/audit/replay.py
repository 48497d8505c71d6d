"""A recorded run made again, in a temporary place, and held against what it made then."""

import os
import shlex
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

from cxr import git, hashing, params, paths, signals
from cxr.audit.audit import find_run
from cxr.audit.project import Project
from cxr.errors import CxrError
from cxr.lineage import records
from cxr.lineage.archive import Found
from cxr.lineage.facts import Code, code_files, inside
from cxr.lineage.records import Record
from cxr.lineage.repository import FETCH_PAST
from cxr.pipeline import scratch
from cxr.tracking.format import shown_metrics

# What a stage's fingerprint decides byte for byte: all but pictures and what has times in it.
DECIDED = (
    "data", paths.MODELS, paths.PREDICTIONS, paths.DECISIONS, paths.DATA_REPORT, paths.METRICS,
    paths.SUMMARY, paths.CURVES, paths.MAPS, paths.MAPS_REPORT,
)  # fmt: skip
OF_MACHINE = ("speed/", "system/")  # metrics that are not of the result

# On another kind of machine, for every metric: |now - then| <= ABSOLUTE + RELATIVE * |then|.
ABSOLUTE = RELATIVE = 0.02


class MissingInput(Exception):
    """Something that the run was made from is no longer here; the text names it."""


@dataclass(frozen=True)
class Compared:
    """One thing then and now: an output's MD5 or a metric's value."""

    name: str
    then: str | float | None
    now: str | float | None


@dataclass(frozen=True)
class Replay:
    """What came out."""

    run_id: str
    stage: str
    same_kind: bool  # everything that decides the bytes was the same, down to the processor
    outputs: list[Compared]
    metrics: list[Compared]

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        verdicts = {"identical": self.identical, "close": self.close, "holds": self.holds}
        return {**asdict(self), **verdicts, "absolute": ABSOLUTE, "relative": RELATIVE}

    @property
    def identical(self) -> bool:
        """Whether every output that the fingerprint decides, and every metric, is the same."""
        return all(each.then == each.now for each in [*self.outputs, *self.metrics])

    @property
    def close(self) -> bool:
        """Whether every metric is within the tolerance."""
        return all(
            isinstance(each.then, float)
            and isinstance(each.now, float)
            and abs(each.now - each.then) <= ABSOLUTE + RELATIVE * abs(each.then)
            for each in self.metrics
        )

    @property
    def holds(self) -> bool:
        """On the same kind of machine bit for bit, elsewhere within the tolerance."""
        return self.identical or (not self.same_kind and self.close)


def replay(root: Path, text: str, output: TextIO) -> Replay:
    """Make a run's stage again from the recorded commit, patch, parameters and data.

    Parameters
    ----------
    text : a run id, or a unique start of one.
    output : where the stage's own lines go.

    Raises
    ------
    MissingInput
        Where something that it needs is no longer here.
    """
    project = Project(root)
    found, run_id = find_run(text, project)
    facts = found.record.facts
    # Heeded, so that a replay which is stopped leaves neither its stage nor its folder.
    with signals.handled(), tempfile.TemporaryDirectory(prefix="cxr-replay-") as folder:
        place = Path(folder).resolve()
        _lay_code(facts.code, project, place)
        for path, md5 in facts.inputs.items():
            _lay_input(path, md5, project, place)
        for path, md5 in facts.foreign.items():
            _check_users_file(path, md5, project)
        params.change(place / paths.PARAMS_FILE, facts.params)
        _run(facts.command, place, project.root, output)
        return _compare(found, run_id, place)


def _lay_code(code: Code, project: Project, place: Path) -> None:
    commit = code["commit"]
    if commit is None:
        raise MissingInput("it was made outside of git, so its code was not kept")
    if not project.repository.has_commit(commit):
        fetch = project.repository.fetching_commits()
        raise MissingInput(f"commit {commit} is not in this clone; `{fetch}` may bring it")
    if project.repository.text_at(commit, paths.PARAMS_FILE) is None:
        raise MissingInput(
            f"commit {commit} has no {paths.PARAMS_FILE} in this folder of the repository"
        )
    if code["edited"] and not code["patch"]:
        raise MissingInput(f"the patch of {', '.join(code['edited'])} is not in the record")
    tar = place / "code.tar"
    as_committed = ("-c", "core.autocrlf=false", "-c", "core.eol=lf")
    git.run(project.root, *as_committed, "archive", "--format=tar", f"--output={tar}", commit)
    try:
        with tarfile.open(tar) as archive:
            archive.extractall(place, filter="data")
    except tarfile.TarError as error:
        raise MissingInput(f"the commit's files can't be laid out: {error}") from None
    tar.unlink()
    if code["patch"]:
        # So that git does not take a repository around the temporary place for its own.
        apart = {"GIT_CEILING_DIRECTORIES": str(place.parent)}
        try:
            git.run(place, "apply", "--whitespace=nowarn", env=apart, stdin=code["patch"])
        except CxrError as error:
            raise MissingInput(f"the recorded patch does not apply: {error}") from None
    laid = code_files(place)
    other = [path for path, blob in code["files"].items() if laid.get(path) != blob]
    if other:
        raise MissingInput(
            f"{', '.join(other)} can't be had again from the commit and the recorded patch"
        )


def _lay_input(path: str, md5: str, project: Project, place: Path) -> None:
    """An output of an earlier stage: each file from the working copy or the cache."""
    content = project.repository.content(path, md5)
    if content is None and (project.root / path).exists() and project.digest(path).md5 == md5:
        content = project.md5s(path)
    if content is None:
        raise MissingInput(f"{path} (md5 {md5}) is not in DVC's cache; `{FETCH_PAST}` may bring it")
    for name, expected in content.items():
        source = project.find(name, expected)
        if source is None:
            raise MissingInput(
                f"{name} (md5 {expected}) is not in DVC's cache; `{FETCH_PAST}` may bring it"
            )
        folder = (place / name).parent
        if not folder.resolve().is_relative_to(place):  # by a link that the patch has laid
            raise MissingInput(f"{name} would lie outside of the temporary place")
        folder.mkdir(parents=True, exist_ok=True)
        (place / name).symlink_to(source)


def _check_users_file(path: str, md5: str, project: Project) -> None:
    """A file that the parameters name; it is read where it is."""
    place = project.root / path
    if not place.is_file() or project.memory.md5(place) != md5:
        raise MissingInput(f"{path} (md5 {md5}) is no longer there or has changed")


def _run(command: str, place: Path, root: Path, output: TextIO) -> None:
    """The stage's own program, with a store and a scratch of its own: it finds nothing done."""
    words = shlex.split(command)
    arguments = words[words.index("python") + 1 :]
    env = {key: value for key, value in os.environ.items() if not key.startswith("DVC_")}
    env |= {
        "PYTHONPATH": str(place / "src"),
        "PYTHONDONTWRITEBYTECODE": "1",
        "DVC_ROOT": str(root),  # where relative paths of the user's own files start
        scratch.FOLDER_VARIABLE: str(place),
        "MLFLOW_TRACKING_URI": f"sqlite:///{place / 'mlflow.db'}",
    }
    output.flush()
    done = subprocess.run(
        [sys.executable, *arguments], cwd=place, env=env, stdout=output, check=False
    )
    if done.returncode != 0:
        raise MissingInput(f"`{command}` ended with {done.returncode}; its own line says why")


def _compare(found: Found, run_id: str, place: Path) -> Replay:
    then = found.record
    now = records.read(place / records.path_of(then.stage))
    outputs = [
        Compared(path, digest.md5, hashing.digest(place / path).md5)
        for path, digest in then.outputs.items()
        if inside(path, DECIDED)
    ]
    before, after = _metrics(then), _metrics(now)
    metrics = [Compared(name, before.get(name), after.get(name)) for name in {**before, **after}]
    return Replay(run_id, then.stage, then.fingerprint == now.fingerprint, outputs, metrics)


def _metrics(record: Record) -> dict[str, float]:
    """The last value of every metric of the result, by run and name."""
    return {
        f"{log.name} {name}": points[-1][1]
        for log in record.runs
        for name, points in shown_metrics(log).items()
        if not name.startswith(OF_MACHINE)
    }
