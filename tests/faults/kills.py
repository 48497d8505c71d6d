"""A stage's process tree killed at a moment, `dvc repro` again, and what that comes to."""

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Run, ViewType
from pipeline import TINY, Pipeline, create

from cxr.audit.replay import DECIDED, OF_MACHINE
from cxr.hashing import digest
from cxr.lineage.facts import declaration, inside
from cxr.tracking import database

STAGES = (
    "download", "preprocess", "features", "train-cnn", "train-squeezenet", "train-vit",
    "evaluate", "gradcam",
)  # fmt: skip
PARAMS = TINY | {"train.protocol.epochs": 8, "train.protocol.patience": 8}
LIMIT = 240.0  # seconds for a stage
LOOK = 0.001  # seconds between two looks at what a stage does

# Whether to kill now, by the folder and the seconds since `dvc repro` was started.
Moment = Callable[[Path, float], bool]


@dataclass(frozen=True)
class Undisturbed:
    """The pipeline without a fault: its folder before each stage, and what each made and told."""

    before: dict[str, Pipeline]
    seconds: dict[str, float]
    made: dict[str, dict[str, str]]
    told: dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Outcome:
    """What a killed stage came to once `dvc repro` had ended it."""

    stage: str
    moment: str
    hit: bool  # the stage lived when it was to be killed
    wrong: list[str]  # what is not as in the undisturbed run


def undisturbed(folder: Path, last: str) -> Undisturbed:
    """Run the stages one by one, up to the last that is to be killed."""
    pipeline = create(folder / "undisturbed", PARAMS)
    found = Undisturbed({}, {}, {}, {})
    for stage in STAGES[: STAGES.index(last) + 1]:
        found.before[stage] = pipeline.copy(folder / f"before-{stage}")
        started = time.monotonic()
        pipeline.dvc("repro", "--single-item", stage)
        found.seconds[stage] = time.monotonic() - started
        found.made[stage] = made(pipeline, stage)
        found.told[stage] = told(pipeline, stage)
    return found


def moments(n: int, seed: int, expected: Undisturbed) -> list[tuple[str, str, Moment]]:
    """`n` moments over all stages: at random, in the saving of a checkpoint, in publishing."""
    rng, planned = random.Random(seed), []
    stages = tuple(expected.seconds)
    for number in range(n):
        turn, place = divmod(number, len(stages))
        stage = stages[place]
        if turn % 4 == 1:
            # The record comes last of the outputs, and right before they are published.
            planned.append((stage, "publishing", seen(f".scratch/*/outputs/records/{stage}.json")))
        elif turn % 4 == 2 and stage.startswith("train-"):
            planned.append((stage, "a checkpoint", seen(".scratch/*/work/training.pt.part")))
        else:
            seconds = rng.uniform(0.3, 1.0) * expected.seconds[stage]
            planned.append((stage, f"{seconds:.1f} s", lambda _, gone, at=seconds: gone >= at))
    return planned


def seen(pattern: str) -> Moment:
    """As soon as a file or folder of this name is there."""
    return lambda folder, gone: any(folder.glob(pattern))


def killed(expected: Undisturbed, stage: str, name: str, moment: Moment, folder: Path) -> Outcome:
    """Kill the stage at the moment, run it to its end, and hold it against the undisturbed one."""
    pipeline = expected.before[stage].copy(folder)
    database.relocate_artifacts(folder)
    hit = _kill(pipeline, stage, moment)
    done = pipeline.run("dvc", "repro", "--single-item", stage)
    if done.returncode != 0:
        return Outcome(stage, name, hit, [(done.stdout + done.stderr).strip()[-500:]])
    wrong = _differences("made", expected.made[stage], made(pipeline, stage))
    wrong += _differences("told", expected.told[stage], told(pipeline, stage))
    return Outcome(stage, name, hit, wrong)


def made(pipeline: Pipeline, stage: str) -> dict[str, str]:
    """MD5 of each output that the fingerprint decides."""
    outputs = declaration(stage, pipeline.folder).outputs
    return {path: digest(pipeline.folder / path).md5 for path in outputs if inside(path, DECIDED)}


def told(pipeline: Pipeline, stage: str) -> dict[str, Any]:
    """What MLflow has of a stage, free of ids and times: every run, deleted or not, by number."""
    store = MlflowClient(f"sqlite:///{pipeline.folder / 'mlflow.db'}")
    ids = [each.experiment_id for each in store.search_experiments()]
    runs = store.search_runs(ids, f"tags.`cxr.stage` = '{stage}'", run_view_type=ViewType.ALL)
    runs.sort(key=lambda run: run.info.run_name)
    return {f"{n} {run.info.run_name}": _shown(store, run) for n, run in enumerate(runs)}


def _shown(store: MlflowClient, run: Run) -> dict[str, Any]:
    artifacts = Path(run.info.artifact_uri.removeprefix("file://"))
    files = [path.relative_to(artifacts) for path in artifacts.rglob("*") if path.is_file()]
    return {
        "status": run.info.status,
        "tags": sorted(run.data.tags),
        "curves": {
            name: [
                (point.step, None if name.startswith(OF_MACHINE) else point.value)
                for point in store.get_metric_history(run.info.run_id, name)
            ]
            for name in sorted(run.data.metrics)
        },
        # MLflow names the steps of a slider by time and chance.
        "files": sorted(path.name.split("+timestamp+")[0] for path in files),
    }


def _differences(what: str, expected: dict[str, Any], found: dict[str, Any]) -> list[str]:
    return [
        f"{what}: {key} is {found.get(key)}, undisturbed {expected.get(key)}"
        for key in sorted({**expected, **found})
        if expected.get(key) != found.get(key)
    ]


def _kill(pipeline: Pipeline, stage: str, moment: Moment) -> bool:
    started = time.monotonic()
    with subprocess.Popen(
        ["dvc", "repro", "--single-item", stage], cwd=pipeline.folder, env=pipeline.environment(),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    ) as process:  # fmt: skip
        while process.poll() is None and time.monotonic() - started < LIMIT:
            if moment(pipeline.folder, time.monotonic() - started):
                os.killpg(process.pid, signal.SIGKILL)
                return True
            time.sleep(LOOK)
    return False
