"""Overhead of tracking and lineage in a stage, without the stage's own work and without torch.

Compared to a bare process that imports MLflow and starts and ends a run, and to a training run.
"""

import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median

from bench import stages, training
from bench.measure import Row, in_turns, relative_to
from cxr.params import Params

EPOCHS = 20
# A training stage without training, which still logs and publishes everything.
STAGE = """
import shutil
from cxr.lineage import records
from cxr.pipeline import scratch, stage

def work(run):
    values = dict.fromkeys(
        ("loss/train", "loss/val", "val/macro_auroc", "val/macro_ap", "schedule/lr",
         "speed/seconds_per_epoch", "speed/images_per_second"), 0.5
    )
    for epoch in range(1, {epochs} + 1):
        run.log_epoch({{"epoch": epoch}} | values)
    for output in run.declared.outputs:
        if output != records.path_of(run.name):
            run.output(output).write_text("made")

shutil.rmtree(scratch.FOLDER, ignore_errors=True)  # otherwise the stage is already done
stage.run("train-cnn", work)
"""
BARE = """
import mlflow

mlflow.set_tracking_uri("sqlite:///bare.db")
mlflow.set_experiment("bare")
with mlflow.start_run():
    pass
"""


def measure(params: Params, n: int, turns: int) -> list[Row]:
    """Parameters
    ----------
    n : number of training images in the hashed file; validation and test are in proportion.
    """
    changes = {"download.source": "phantom", "download.phantom.train": n,
               "download.phantom.val": n // 7, "download.phantom.test": n * 2 // 7}  # fmt: skip
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary, "project")
        stages.clone(folder, changes)
        for name in ("download", "preprocess"):
            stages.run(name, folder)
        works = {
            "start": _program(STAGE.format(epochs=0), folder),
            "whole": _program(STAGE.format(epochs=EPOCHS), folder),
            "bare": _program(BARE, folder),
        }
        seconds = in_turns(works, turns)
    whole = EPOCHS * training.epoch_seconds("cnn", params)
    ratios = tuple(overhead / whole for overhead in seconds["whole"])
    note = f"vs. {EPOCHS} epochs of the CNN at full size, extrapolated"
    return [
        relative_to("tracking and lineage, fixed cost", seconds["start"], seconds["bare"], 1.3,
            "vs. a bare MLflow run"),
        Row("tracking and lineage, share of training", median(seconds["whole"]), whole, "s", ratios,
            most=0.02, note=note),
    ]  # fmt: skip


def _program(text: str, folder: Path) -> Callable[[], None]:
    def work() -> None:
        program = [sys.executable, "-c", text]
        subprocess.run(
            program, cwd=folder, check=True, env=stages.environment(), capture_output=True
        )

    return work
