"""`dvc repro`, and what it did: which stages ran, were restored or stayed, and the scores."""

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
from typing import IO, Any

from cxr import progress
from cxr.documents import read_made
from cxr.errors import CxrError, check_user
from cxr.hashing import md5_of_file
from cxr.lineage import records
from cxr.lineage.facts import Declaration, declarations, inside
from cxr.paths import METRICS, RECORDS
from cxr.signals import STOPPED, handled, suspended_together

EVALUATE = "evaluate"
POLL_SECONDS = 0.1


class How(StrEnum):
    """What became of a stage."""

    RAN = "ran"
    RESTORED = "restored"  # by DVC, from its cache; or finished by an earlier try
    UNCHANGED = "unchanged"
    NOT_MADE = "not made"


@dataclass(frozen=True)
class Done:
    """What became of one stage."""

    stage: str
    how: How
    seconds: int | None  # of the work, where it ran
    made: str | None  # when its result was made: UTC, ISO 8601


@dataclass(frozen=True)
class Score:
    """One model's macro AUROC; None where it is undefined."""

    val: float | None
    test: float | None


@dataclass(frozen=True)
class Summary:
    """What a run of the pipeline did."""

    status: int  # of DVC; 130 where a person stopped it
    stages: list[Done]
    data: str | None  # name of the evaluated data; None where nothing was evaluated
    is_phantom: bool
    scores: dict[str, Score]  # by model, those that have learnt nothing last

    def as_json(self) -> dict[str, Any]:
        """What `cxr repro --json` prints."""
        return asdict(self)


def repro(project: Path, stages: list[str], printed: IO[str], own_store: bool = False) -> Summary:
    """Run what has changed, and tell what that was.

    Parameters
    ----------
    stages : those to bring up to date with all they need; none for all.
    printed : takes what DVC and the stages print.
    own_store : whether runs go into the project's own store whatever `MLFLOW_TRACKING_URI` says.
    """
    known = declarations(project)
    for stage in stages:
        if stage not in known:
            raise CxrError(f"dvc.yaml has no stage {stage!r}; its stages are {', '.join(known)}")
    before, began = _records(project), datetime.now(UTC).replace(microsecond=0)
    status = _dvc_repro(project, stages, printed, own_store)
    looked_at = _with_all_they_need(stages, known) if stages else list(known)
    done = [_done(stage, before, _records(project), project, began) for stage in looked_at]
    is_evaluated = status == 0 and EVALUATE in looked_at
    name, is_phantom, scores = _scores(project) if is_evaluated else (None, False, {})
    return Summary(status, done, name, is_phantom, scores)


def evaluated_data(project: Path) -> str | None:
    """Name of the data on which the models were last evaluated; None before the first time.

    params.yaml does not know it: it names the data of the next run.
    """
    return _scores(project)[0]


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
    # A group of its own: every signal reaches DVC and its stage alike, once, and by way of us.
    with subprocess.Popen(
        command, cwd=project, env=env, stdin=subprocess.DEVNULL, stdout=printed, process_group=0
    ) as process:
        asked_to_stop: list[int] = []

        def send(signum: signal.Signals) -> None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signum)

        def pass_on(signum: int, frame: FrameType | None) -> None:
            # They need time to keep what is done, so that they are waited for.
            asked_to_stop.append(signum)
            send(signal.SIGINT)

        with handled(pass_on), suspended_together(send):
            # A signal that another thread receives interrupts no wait of this one.
            while (status := process.poll()) is None:
                time.sleep(POLL_SECONDS)
    return STOPPED if asked_to_stop and status else status


def _with_all_they_need(stages: list[str], known: dict[str, Declaration]) -> list[str]:
    """The stages and those whose outputs they depend on, in the order of dvc.yaml."""
    wanted = list(stages)
    for stage in wanted:  # it grows while it is gone through
        makers = [each for each in known.values() if _makes(each, known[stage].dependencies)]
        wanted += [each.stage for each in makers if each.stage not in wanted]
    return [stage for stage in known if stage in wanted]


def _makes(stage: Declaration, needs: tuple[str, ...]) -> bool:
    """Whether an output of the stage is among the needs, lies in one or holds one."""
    outputs = stage.outputs
    return any(inside(each, needs) for each in outputs) or any(inside(n, outputs) for n in needs)


def _records(project: Path) -> dict[str, str]:
    """MD5 of each stage's record, by stage."""
    folder = project / RECORDS
    return {path.stem: md5_of_file(path) for path in folder.glob("*.json")}


def _done(
    stage: str, before: dict[str, str], after: dict[str, str], project: Path, began: datetime
) -> Done:
    if stage not in after:
        return Done(stage, How.NOT_MADE, None, None)
    record = records.read(project / records.path_of(stage))
    if before.get(stage) == after[stage]:
        return Done(stage, How.UNCHANGED, None, record.finished)
    started, finished = map(datetime.fromisoformat, (record.started, record.finished))
    if started < began:
        return Done(stage, How.RESTORED, None, record.finished)
    return Done(stage, How.RAN, round((finished - started).total_seconds()), record.finished)


def _scores(project: Path) -> tuple[str | None, bool, dict[str, Score]]:
    """The evaluated data's name, whether it is the phantom, and every model's macro AUROC."""

    def parse(report: Any) -> tuple[str, bool, dict[str, Score]]:
        models = {
            str(name): Score(*(told[split]["macro_auroc"] for split in ("val", "test")))
            for name, told in report["models"].items()
        }
        return str(report["data"]["name"]), report["data"]["source"] == "phantom", models

    path = project / METRICS
    return read_made(path, parse) if path.exists() else (None, False, {})
