"""Kill a stage and its child processes, run `dvc repro` again, and compare the results."""

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

from cxr.audit.replay import DETERMINISTIC, MACHINE_METRICS
from cxr.hashing import digest
from cxr.lineage.facts import declaration, inside
from cxr.tracking import database

STAGES = (
    "download", "preprocess", "features", "train-cnn", "train-squeezenet", "train-vit",
    "evaluate", "maps-cnn", "maps-squeezenet", "maps-vit", "gradcam",
)  # fmt: skip
PARAMS = TINY | {"train.protocol.epochs": 8, "train.protocol.patience": 8}
TIMEOUT = 240.0  # seconds per stage
POLL_INTERVAL = 0.001  # seconds

# Whether to kill now, given the project folder and the seconds since `dvc repro` started.
Trigger = Callable[[Path, float], bool]


@dataclass(frozen=True)
class Reference:
    """A pipeline that ran without a kill; each field maps stages."""

    before: dict[str, Pipeline]  # a copy of the project before the stage ran
    seconds: dict[str, float]
    outputs: dict[str, dict[str, str]]
    mlflow_runs: dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Outcome:
    """A stage that was killed and then run to its end, compared with the reference."""

    stage: str
    when: str
    was_alive: bool  # False if the stage ended before it could be killed
    differences: list[str]


def run_reference(folder: Path, last: str) -> Reference:
    """Run the stages one by one, up to and including `last`."""
    pipeline = create(folder / "reference", PARAMS)
    reference = Reference({}, {}, {}, {})
    for stage in STAGES[: STAGES.index(last) + 1]:
        reference.before[stage] = pipeline.copy(folder / f"before-{stage}")
        started = time.monotonic()
        pipeline.dvc("repro", "--single-item", stage)
        reference.seconds[stage] = time.monotonic() - started
        reference.outputs[stage] = output_md5s(pipeline, stage)
        reference.mlflow_runs[stage] = mlflow_runs(pipeline, stage)
    return reference


def plan(n: int, seed: int, reference: Reference) -> list[tuple[str, str, Trigger]]:
    """`n` kills over all stages: at random times, while saving a checkpoint, while publishing."""
    rng, planned = random.Random(seed), []
    stages = tuple(reference.seconds)
    for number in range(n):
        turn, index = divmod(number, len(stages))
        stage = stages[index]
        if turn % 4 == 1:
            # The record is the last output to be written; publishing follows at once.
            record = f".scratch/*/outputs/records/{stage}.json"
            planned.append((stage, "publishing", when_exists(record)))
        elif turn % 4 == 2 and stage.startswith("train-"):
            planned.append((stage, "a checkpoint", when_exists(".scratch/*/work/training.pt.part")))
        else:
            at = rng.uniform(0.3, 1.0) * reference.seconds[stage]
            planned.append((stage, f"{at:.1f} s", lambda _, seconds, at=at: seconds >= at))
    return planned


def when_exists(pattern: str) -> Trigger:
    """As soon as a file or folder matches the pattern."""
    return lambda folder, seconds: any(folder.glob(pattern))


def kill_and_repeat(
    reference: Reference, stage: str, when: str, trigger: Trigger, folder: Path
) -> Outcome:
    """Kill the stage, run it again to its end, and compare it with the reference."""
    pipeline = reference.before[stage].copy(folder)
    database.relocate_artifacts(folder)
    was_alive = _kill(pipeline, stage, trigger)
    done = pipeline.run("dvc", "repro", "--single-item", stage)
    if done.returncode != 0:
        return Outcome(stage, when, was_alive, [(done.stdout + done.stderr).strip()[-500:]])
    differences = [
        *_differences("output", reference.outputs[stage], output_md5s(pipeline, stage)),
        *_differences("MLflow", reference.mlflow_runs[stage], mlflow_runs(pipeline, stage)),
    ]
    if differences:
        differences += [line for line in done.stderr.splitlines() if "note:" in line]
    return Outcome(stage, when, was_alive, differences)


def output_md5s(pipeline: Pipeline, stage: str) -> dict[str, str]:
    """MD5 of each output that depends only on the fingerprint."""
    outputs = declaration(stage, pipeline.folder).outputs
    return {
        path: digest(pipeline.folder / path).md5 for path in outputs if inside(path, DETERMINISTIC)
    }


def mlflow_runs(pipeline: Pipeline, stage: str) -> dict[str, Any]:
    """All MLflow runs of a stage, deleted ones too, without ids and times; keys are numbered."""
    store = MlflowClient(f"sqlite:///{pipeline.folder / 'mlflow.db'}")
    ids = [experiment.experiment_id for experiment in store.search_experiments()]
    runs = store.search_runs(ids, f"tags.`cxr.stage` = '{stage}'", run_view_type=ViewType.ALL)
    runs.sort(key=lambda run: run.info.run_name)
    return {f"{n} {run.info.run_name}": _describe(store, run) for n, run in enumerate(runs)}


def _describe(store: MlflowClient, run: Run) -> dict[str, Any]:
    artifacts = Path(run.info.artifact_uri.removeprefix("file://"))
    files = [path.relative_to(artifacts) for path in artifacts.rglob("*") if path.is_file()]
    return {
        "status": run.info.status,
        "tags": sorted(run.data.tags),
        "curves": {
            name: [
                (point.step, None if name.startswith(MACHINE_METRICS) else point.value)
                for point in store.get_metric_history(run.info.run_id, name)
            ]
            for name in sorted(run.data.metrics)
        },
        # MLflow's names of logged images end in a time and a random part.
        "files": sorted(path.name.split("+timestamp+")[0] for path in files),
    }


def _differences(what: str, expected: dict[str, Any], actual: dict[str, Any]) -> list[str]:
    return [
        f"{what} {key} is {actual.get(key)}; expected {expected.get(key)}"
        for key in sorted({**expected, **actual})
        if expected.get(key) != actual.get(key)
    ]


def _kill(pipeline: Pipeline, stage: str, trigger: Trigger) -> bool:
    started = time.monotonic()
    with subprocess.Popen(
        ["dvc", "repro", "--single-item", stage], cwd=pipeline.folder, env=pipeline.environment(),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    ) as process:  # fmt: skip
        while process.poll() is None and time.monotonic() - started < TIMEOUT:
            if trigger(pipeline.folder, time.monotonic() - started):
                os.killpg(process.pid, signal.SIGKILL)
                return True
            time.sleep(POLL_INTERVAL)
    return False
