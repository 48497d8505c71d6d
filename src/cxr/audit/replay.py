"""Reruns a recorded run in a temporary folder and compares the results."""

import os
import shlex
import subprocess
import sys
import tempfile
import zipfile
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

# Outputs that the fingerprint determines byte for byte: not figures, nor files with times.
DETERMINISTIC = (
    "data", paths.MODELS, paths.PREDICTIONS, paths.DECISIONS, paths.DATA_REPORT, paths.METRICS,
    paths.SUMMARY, paths.CURVES, paths.ATTRIBUTIONS, paths.MAPS_REPORT,
)  # fmt: skip
MACHINE_METRICS = ("speed/", "system/")  # not part of the result

# Tolerance of every metric on a different kind of machine:
# |now - then| <= ABSOLUTE + RELATIVE * |then|.
ABSOLUTE = RELATIVE = 0.02


class MissingInput(Exception):
    """Something that the run was made from is missing; the message names it."""


@dataclass(frozen=True)
class Compared:
    """An output's MD5 or a metric's value: as recorded (`then`) and as replayed (`now`)."""

    name: str
    then: str | float | None
    now: str | float | None


@dataclass(frozen=True)
class Replay:
    """The outcome of a replay."""

    run_id: str
    stage: str
    same_kind: bool  # everything that affects the bytes was the same, down to the processor
    outputs: list[Compared]
    metrics: list[Compared]

    def as_json(self) -> dict[str, Any]:
        """What `cxr replay --json` prints."""
        verdicts = {"identical": self.identical, "close": self.close, "holds": self.holds}
        return {**asdict(self), **verdicts, "absolute": ABSOLUTE, "relative": RELATIVE}

    @property
    def identical(self) -> bool:
        """Whether every deterministic output and every metric is the same."""
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
        """Whether the results are identical; on a different kind of machine, close."""
        return self.identical or (not self.same_kind and self.close)


def replay(root: Path, text: str, output: TextIO) -> Replay:
    """Rerun a run's stage from the recorded commit, patch, parameters and data.

    Parameters
    ----------
    text : a run id, or a unique prefix of one.
    output : receives the output of the stage.

    Raises
    ------
    MissingInput
        If something that the stage needs is missing.
    """
    project = Project(root)
    found, run_id = find_run(text, project)
    facts = found.record.facts
    # Signals are handled, so that an interrupted replay leaves neither its stage nor its folder.
    with signals.handled(), tempfile.TemporaryDirectory(prefix="cxr-replay-") as folder:
        copy = Path(folder).resolve()
        _restore_code(facts.code, project, copy)
        for path, md5 in facts.inputs.items():
            _link_input(path, md5, project, copy)
        for path, md5 in facts.foreign.items():
            _check_users_file(path, md5, project)
        params.change(copy / paths.PARAMS_FILE, facts.params)
        _run(facts.command, copy, project.root, output)
        return _compare(found, run_id, copy)


def _restore_code(code: Code, project: Project, copy: Path) -> None:
    commit = code["commit"]
    if commit is None:
        raise MissingInput("it was made outside of git, so its code was not recorded")
    if not project.repository.has_commit(commit):
        fetch = project.repository.fetching_commits()
        raise MissingInput(f"commit {commit} is not in this clone; `{fetch}` may fetch it")
    if project.repository.text_at(commit, paths.PARAMS_FILE) is None:
        raise MissingInput(
            f"commit {commit} has no {paths.PARAMS_FILE} in this folder of the repository"
        )
    if code["edited"] and not code["patch"]:
        raise MissingInput(f"the patch of {', '.join(code['edited'])} is not in the record")
    archive = copy / "code.zip"  # safe to extract before Python 3.11.4, too, unlike tar
    as_committed = ("-c", "core.autocrlf=false", "-c", "core.eol=lf")
    git.run(project.root, *as_committed, "archive", "--format=zip", f"--output={archive}", commit)
    try:
        with zipfile.ZipFile(archive) as files:
            files.extractall(copy)
    except zipfile.BadZipFile as error:
        raise MissingInput(f"cannot extract the files of the commit: {error}") from None
    archive.unlink()
    if code["patch"]:
        # So that git ignores any repository around the temporary folder.
        isolated = {"GIT_CEILING_DIRECTORIES": str(copy.parent)}
        try:
            git.run(copy, "apply", "--whitespace=nowarn", env=isolated, stdin=code["patch"])
        except CxrError as error:
            raise MissingInput(f"the recorded patch does not apply: {error}") from None
    restored = code_files(copy)
    wrong = [path for path, blob in code["files"].items() if restored.get(path) != blob]
    if wrong:
        raise MissingInput(
            f"cannot restore {', '.join(wrong)} from the commit and the recorded patch"
        )


def _link_input(path: str, md5: str, project: Project, copy: Path) -> None:
    """Link an output of an earlier stage, each file from the working copy or the cache."""
    content = project.repository.content(path, md5)
    if content is None and (project.root / path).exists() and project.digest(path).md5 == md5:
        content = project.md5s(path)
    if content is None:
        raise MissingInput(f"{path} (md5 {md5}) is not in DVC's cache; `{FETCH_PAST}` may fetch it")
    for name, expected in content.items():
        source = project.find(name, expected)
        if source is None:
            raise MissingInput(
                f"{name} (md5 {expected}) is not in DVC's cache; `{FETCH_PAST}` may fetch it"
            )
        folder = (copy / name).parent
        if not folder.resolve().is_relative_to(copy):  # through a link in the patch
            raise MissingInput(f"{name} would be outside of the temporary folder")
        folder.mkdir(parents=True, exist_ok=True)
        (copy / name).symlink_to(source)


def _check_users_file(path: str, md5: str, project: Project) -> None:
    """Check a file that the parameters name; the stage reads it in place."""
    file = project.root / path
    if not file.is_file() or project.memory.md5(file) != md5:
        raise MissingInput(f"{path} (md5 {md5}) is missing or has changed")


def _run(command: str, copy: Path, root: Path, output: TextIO) -> None:
    """Run the stage's program with an empty MLflow store and scratch folder of its own."""
    words = shlex.split(command)
    arguments = words[words.index("python") + 1 :]
    env = {key: value for key, value in os.environ.items() if not key.startswith("DVC_")}
    env |= {
        "PYTHONPATH": str(copy / "src"),
        "PYTHONDONTWRITEBYTECODE": "1",
        "DVC_ROOT": str(root),  # base of relative paths to the user's own files
        scratch.FOLDER_VARIABLE: str(copy),
        "MLFLOW_TRACKING_URI": f"sqlite:///{copy / 'mlflow.db'}",
    }
    output.flush()
    done = subprocess.run(
        [sys.executable, *arguments], cwd=copy, env=env, stdout=output, check=False
    )
    if done.returncode != 0:
        raise MissingInput(f"`{command}` failed with exit status {done.returncode}; see its output")


def _compare(found: Found, run_id: str, copy: Path) -> Replay:
    then = found.record
    now = records.read(copy / records.path_of(then.stage))
    outputs = [
        Compared(path, digest.md5, hashing.digest(copy / path).md5)
        for path, digest in then.outputs.items()
        if inside(path, DETERMINISTIC)
    ]
    before, after = _metrics(then), _metrics(now)
    metrics = [Compared(name, before.get(name), after.get(name)) for name in {**before, **after}]
    return Replay(run_id, then.stage, then.fingerprint == now.fingerprint, outputs, metrics)


def _metrics(record: Record) -> dict[str, float]:
    """The last value of every metric of the result, named `RUN METRIC`."""
    return {
        f"{log.name} {name}": points[-1][1]
        for log in record.runs
        for name, points in shown_metrics(log).items()
        if not name.startswith(MACHINE_METRICS)
    }
