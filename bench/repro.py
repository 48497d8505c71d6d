"""`dvc repro` with nothing to do, against as many stages that do `true`."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.measure import Row, in_turns, of_the_limit
from cxr import lineage, params

PROJECT = Path(__file__).parents[1]
TINY: dict[str, Any] = {
    "threads": 1,
    "download.source": "phantom",
    "download.phantom.train": 300,
    "download.phantom.val": 200,
    "download.phantom.test": 150,
    "train.protocol.epochs": 1,
    "train.squeezenet.weights": "none",
    "train.squeezenet.image_size": 32,
    "gradcam.indices": [0],
    "gradcam.labels": "findings",
    "gradcam.probed": 1,
}


def measure(turns: int) -> list[Row]:
    with tempfile.TemporaryDirectory() as place:
        ours, bare = Path(place, "ours"), Path(place, "bare")
        subprocess.run(["git", "clone", "-q", PROJECT, ours], check=True)
        params.change(ours / params.PARAMS_FILE, TINY)
        _repro(ours)()
        _lay_down_bare(bare, len(lineage.declarations(ours)))
        _repro(bare)()
        seconds = in_turns({"ours": _repro(ours), "bare": _repro(bare)}, turns)
    return [of_the_limit("repro with nothing to do", seconds["ours"], seconds["bare"], 1.5)]


def _repro(folder: Path) -> Callable[[], None]:
    python = Path(sys.executable)
    env = os.environ | {"PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}"}

    def work() -> None:
        subprocess.run(
            [python, "-m", "dvc", "repro", "-q"], cwd=folder, env=env, check=True,
            capture_output=True,
        )  # fmt: skip

    return work


def _lay_down_bare(folder: Path, n_stages: int) -> None:
    folder.mkdir()
    for command in (["git", "init", "-q"], [sys.executable, "-m", "dvc", "init", "-q"]):
        subprocess.run(command, cwd=folder, check=True)
    subprocess.run(
        [sys.executable, "-m", "dvc", "config", "core.analytics", "false"], cwd=folder, check=True
    )
    (folder / "in.txt").write_text("x\n")
    stages = [f"  s{i}:\n    cmd: 'true'\n    deps: [in.txt]\n" for i in range(n_stages)]
    (folder / "dvc.yaml").write_text("stages:\n" + "".join(stages))
