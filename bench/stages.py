"""Run stages one by one as DVC does, and measure seconds and peak anonymous memory."""

import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cxr import params
from cxr.paths import PARAMS_FILE
from cxr.pipeline import demo

PROJECT = Path(__file__).parents[1]
ORDER = (
    "download", "preprocess", "features", "train cnn", "train squeezenet", "train vit",
    "evaluate", "maps cnn", "maps squeezenet", "maps vit", "gradcam",
)  # fmt: skip
INTERVAL = 0.01  # seconds between two samples of a process's memory
MB = 1e6


@dataclass(frozen=True)
class Cost:
    """Time and memory of a process."""

    seconds: float
    megabytes: float  # peak of RssAnon: memory that is not mapped from a file


def clone(folder: Path, changes: dict[str, Any]) -> None:
    """Copy the project to a new repository with changed parameters."""
    demo.copy_project(PROJECT, folder)
    params.change(folder / PARAMS_FILE, changes)


def run(stage: str, folder: Path) -> Cost:
    """Run one stage of a project whose earlier stages have run; `train cnn` means `train-cnn`."""
    name, *model = stage.split()
    return cost([f"stages/{name}.py", *model], folder)


def cost(arguments: list[str], folder: Path) -> Cost:
    """Run a Python program and measure its time and memory."""
    start, peak = time.perf_counter(), 0.0
    with subprocess.Popen(
        [sys.executable, *arguments],
        cwd=folder, env=environment(), stdout=subprocess.DEVNULL,
    ) as process:  # fmt: skip
        while process.poll() is None:
            peak = max(peak, _anonymous(process.pid))
            time.sleep(INTERVAL)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, arguments)
    return Cost(time.perf_counter() - start, peak)


def environment() -> dict[str, str]:
    """A stage's environment: the code of its own folder, and its own MLflow store."""
    env = os.environ | {"PYTHONPATH": "src"}
    for name in ("MLFLOW_TRACKING_URI", "DVC_ROOT"):
        env.pop(name, None)
    return env


def _anonymous(process: int) -> float:
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:  # the process has just ended
        return 0.0
    match = re.search(r"RssAnon:\s+(\d+) kB", status)
    return int(match[1]) * 1024 / MB if match else 0.0
