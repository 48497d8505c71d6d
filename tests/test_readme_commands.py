"""Runs every command of the README, in order, on a small phantom.

Except `make demo` and `make test`, which CI runs as they are. Placeholders in capitals and example
paths are replaced by a reader's own files, which the tests create.
"""

import csv
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pipeline import ROOT, Pipeline
from servers import free_port, wait_for

from cxr.labels import CHESTMNIST

pytestmark = pytest.mark.slow

LEFT_TO_CI = ("make demo", "make test")
SERVERS = {"make ui": "health", "make ui DEMO=1": "health", "make serve": "ping"}
ACTIVATE = "source .venv/bin/activate"


def commands() -> list[str]:
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line]


N_SCANS = 40


@pytest.fixture(scope="module")
def clone(kept: Path, tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    """A clone in which the pipeline and the demo have run, with a reader's own files."""
    folder = tmp_path_factory.mktemp("readme") / "clone"
    pipeline = Pipeline(kept).copy(folder)
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        (folder / name).write_bytes((ROOT / name).read_bytes())
        os.utime(folder / name, (0, 0))  # old, so that make does not install again
    environment(folder / ".venv")
    pipeline.git("add", "-A")
    pipeline.git("commit", "-qm", "as cloned")
    Pipeline(kept).copy(folder / ".demo")
    create_own_files(folder)
    return pipeline


def environment(folder: Path) -> None:
    """Link the environment of the tests, marked as ready for make."""
    folder.mkdir()
    for each in Path(sys.prefix).iterdir():
        if each.name != ".ready":
            (folder / each.name).symlink_to(each)
    (folder / ".ready").touch()


def create_own_files(folder: Path) -> None:
    """Create a reader's own files: scans, images, labels and predictions."""
    raw = np.load(folder / "data/raw/chest.npz")
    (folder / "scans").mkdir()
    for i, image in enumerate(raw["test_images"][:N_SCANS]):
        Image.fromarray(image).save(folder / f"scans/{i}.png")
    labels = raw["test_labels"][:N_SCANS]
    probs = np.random.default_rng(0).uniform(size=labels.shape)
    for name, values in (("theirs.csv", probs), ("labels.csv", labels)):
        rows = [[f"{i}.png", *row] for i, row in enumerate(values.tolist())]
        with open(folder / name, "w", newline="") as file:
            csv.writer(file).writerows([["image", *CHESTMNIST], *rows])


def as_typed(command: str, clone: Pipeline) -> list[str]:
    """The words of a command, with a run id instead of RUN_ID."""
    run_id = clone.run_id("train-vit")
    words = [run_id if word == "RUN_ID" else word for word in shlex.split(command)]
    # Sweeps are tested elsewhere.
    return [*words, "--dry-run"] if words[:2] == ["cxr", "sweep"] else words


def serve(command: str, clone: Pipeline) -> None:
    """Start a server, wait until it answers, and stop it with Ctrl-C."""
    port = free_port()
    process = subprocess.Popen(
        [*command.split(), f"PORT={port}"], cwd=clone.folder, env=clone.environment(),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        wait_for(f"http://127.0.0.1:{port}/{SERVERS[command]}")
    finally:
        os.killpg(process.pid, signal.SIGINT)
        process.wait(60)


def test_every_command_succeeds(clone: Pipeline) -> None:
    """In one test, since each command builds on those before it."""
    for command in commands():
        if command in (*LEFT_TO_CI, ACTIVATE):
            continue
        if command in SERVERS:
            serve(command, clone)
            continue
        done = clone.run(*as_typed(command, clone))
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"


def test_the_commands_created_their_files(clone: Pipeline) -> None:
    assert (clone.folder / "reports/index.html").exists()
    assert (clone.folder / ".demo/reports/index.html").exists()
    assert list((clone.folder / "maps").glob("*.png"))
