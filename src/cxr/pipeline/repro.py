"""Run `dvc repro` and report which stages ran, were restored or were unchanged, and the scores."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from types import FrameType
from typing import IO, Any, NamedTuple

from cxr import progress
from cxr.documents import read_output
from cxr.errors import CxrError, check_user
from cxr.evaluation.significance import widest_gap
from cxr.hashing import md5_of_file
from cxr.lineage import records
from cxr.lineage.facts import declarations, with_dependencies
from cxr.paths import METRICS, RECORDS
from cxr.signals import STOPPED, handled, suspended_together

EVALUATE = "evaluate"
POLL_SECONDS = 0.1


class Outcome(StrEnum):
    """What `dvc repro` did with a stage."""

    RAN = "ran"
    RESTORED = "restored"  # by DVC from its cache, or from an earlier interrupted run
    UNCHANGED = "unchanged"
    NOT_MADE = "not made"


@dataclass(frozen=True)
class StageResult:
    """What `dvc repro` did with one stage."""

    stage: str
    how: Outcome
    seconds: int | None  # duration, if the stage ran
    made: str | None  # when its result was made, in UTC (ISO 8601)


@dataclass(frozen=True)
class Score:
    """Macro AUROC of one model; None if it is undefined."""

    val: float | None
    test: float | None


@dataclass(frozen=True)
class Summary:
    """The result of a pipeline run."""

    status: int  # exit status of DVC; 130 if it was interrupted
    stages: list[StageResult]
    data: str | None  # name of the evaluated data; None if nothing was evaluated
    is_phantom: bool
    scores: dict[str, Score]  # by model, baselines last
    attributes: list[str]  # with subgroups
    gaps: dict[str, dict[str, Any] | None]  # by model, the widest one between subgroups that shows

    def as_json(self) -> dict[str, Any]:
        """The output of `cxr repro --json`."""
        return asdict(self)


def repro(project: Path, stages: list[str], printed: IO[str], own_store: bool = False) -> Summary:
    """Run the stages that have changed, and report what was done.

    Parameters
    ----------
    stages : stages to bring up to date, with all that they depend on; empty for all stages.
    printed : receives the output of DVC and the stages.
    own_store : whether to log to the project's own store and ignore `MLFLOW_TRACKING_URI`.
    """
    known = declarations(project)
    for stage in stages:
        if stage not in known:
            raise CxrError(f"dvc.yaml has no stage {stage!r}; its stages are {', '.join(known)}")
    before, start = _records(project), datetime.now(UTC).replace(microsecond=0)
    status = _dvc_repro(project, stages, printed, own_store)
    involved = with_dependencies(stages, known) if stages else list(known)
    results = [_result(stage, before, _records(project), project, start) for stage in involved]
    is_evaluated = status == 0 and EVALUATE in involved
    evaluated = _evaluated(project) if is_evaluated else None
    return Summary(status, results, *(evaluated or (None, False, {}, [], {})))


def evaluated_data(project: Path) -> str | None:
    """Name of the data on which the models were last evaluated; None if they never were.

    params.yaml can't tell: it names the data of the next run.
    """
    evaluated = _evaluated(project)
    return evaluated and evaluated[0]


def _dvc_repro(project: Path, stages: list[str], printed: IO[str], own_store: bool) -> int:
    check_user()
    python = sys.executable
    env = os.environ | {
        "PATH": f"{Path(python).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(project / "src"),
    }
    if own_store:
        env.pop("MLFLOW_TRACKING_URI", None)
    command = [python, "-m", "dvc", "repro", *(["--quiet"] if progress.is_quiet() else []), *stages]
    # With its own process group, DVC and its stage receive each signal once, from this process.
    with subprocess.Popen(
        command, cwd=project, env=env, stdin=subprocess.DEVNULL, stdout=printed, process_group=0
    ) as process:
        stop_signals: list[int] = []

        def send(signum: signal.Signals) -> None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signum)

        def pass_on(signum: int, frame: FrameType | None) -> None:
            # Wait for them, since they need time to save their progress.
            stop_signals.append(signum)
            send(signal.SIGINT)

        with handled(pass_on), suspended_together(send):
            # Poll, since a signal received by another thread would not interrupt process.wait().
            while (status := process.poll()) is None:
                time.sleep(POLL_SECONDS)
    return STOPPED if stop_signals and status else status


def _records(project: Path) -> dict[str, str]:
    """MD5 of each stage's record, by stage."""
    folder = project / RECORDS
    return {path.stem: md5_of_file(path) for path in folder.glob("*.json")}


def _result(
    stage: str, before: dict[str, str], after: dict[str, str], project: Path, start: datetime
) -> StageResult:
    if stage not in after:
        return StageResult(stage, Outcome.NOT_MADE, None, None)
    record = records.read(project / records.path_of(stage))
    if before.get(stage) == after[stage]:
        return StageResult(stage, Outcome.UNCHANGED, None, record.finished)
    started, finished = map(datetime.fromisoformat, (record.started, record.finished))
    if started < start:
        return StageResult(stage, Outcome.RESTORED, None, record.finished)
    seconds = round((finished - started).total_seconds())
    return StageResult(stage, Outcome.RAN, seconds, record.finished)


class _Evaluated(NamedTuple):
    """The last fields of `Summary`."""

    data: str
    is_phantom: bool
    scores: dict[str, Score]
    attributes: list[str]
    gaps: dict[str, dict[str, Any] | None]


def _evaluated(project: Path) -> _Evaluated | None:
    """What the report of the evaluation says; None if there is none."""

    def parse(report: Any) -> _Evaluated:
        scores = {
            str(name): Score(*(metrics[split]["macro_auroc"] for split in ("val", "test")))
            for name, metrics in report["models"].items()
        }
        subgroups = report.get("subgroups") or {"attributes": {}}
        measured = {model for each in subgroups["attributes"].values() for model in each["models"]}
        gaps = {name: widest_gap(subgroups, name) for name in report["models"] if name in measured}
        data = report["data"]
        is_phantom = data["source"] == "phantom"
        return _Evaluated(
            str(data["name"]), is_phantom, scores, list(subgroups["attributes"]), gaps
        )

    path = project / METRICS
    return read_output(path, parse) if path.exists() else None
