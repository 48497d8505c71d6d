"""A run made again is the same bit for bit, or what it needed is named."""

import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from pipeline import Pipeline

from cxr.audit.replay import Compared, Replay

SAME = Compared("models/x", "a", "a")
OTHER = Compared("models/x", "a", "b")


def replayed(output: Compared, *, same_kind: bool, metric: float = 0.7) -> Replay:
    return Replay("0" * 32, "train-x", same_kind, [output], [Compared("auroc", 0.7, metric)])


def test_on_the_same_kind_of_machine_only_the_same_bits_will_do() -> None:
    assert replayed(SAME, same_kind=True).holds
    assert not replayed(OTHER, same_kind=True).holds
    assert replayed(SAME, same_kind=False).holds


@pytest.mark.parametrize(("metric", "holds"), [(0.7, True), (0.72, True), (0.74, False)])
def test_elsewhere_the_metrics_may_differ_within_the_tolerance(metric: float, holds: bool) -> None:
    assert replayed(OTHER, same_kind=False, metric=metric).holds is holds


def test_a_metric_that_one_side_lacks_is_not_close() -> None:
    lacking = replace(replayed(OTHER, same_kind=False), metrics=[Compared("auroc", 0.7, None)])
    assert not lacking.holds


@pytest.fixture
def made(kept: Path, tmp_path: Path) -> Pipeline:
    return Pipeline(kept).copy(tmp_path / "p")


def edit(pipeline: Pipeline, path: str, old: str, new: str) -> None:
    file = pipeline.folder / path
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["preprocess", "train-cnn", "train-squeezenet", "evaluate"])
def test_a_stage_is_made_again_bit_for_bit(made: Pipeline, stage: str) -> None:
    done = made.run("cxr", "replay", made.run_id(stage)[:10])
    assert done.returncode == 0, done.stderr
    assert f"✓ {stage} made again" in done.stdout
    assert "bit for bit the same" in done.stdout
    assert made.run("git", "status", "--porcelain").stdout == ""
    assert made.run("cxr", "audit").returncode == 0


@pytest.mark.slow
def test_a_replay_that_is_stopped_leaves_nothing(made: Pipeline, tmp_path: Path) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    process = subprocess.Popen(
        [Path(sys.executable).parent / "cxr", "replay", made.run_id("evaluate")],
        cwd=made.folder, env=made.environment() | {"TMPDIR": str(temporary)}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not list(temporary.glob("cxr-replay-*/mlflow.db")) and time.monotonic() < deadline:
        time.sleep(0.05)  # until the stage itself is at work
    (stage,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors.splitlines()[-1]) == (130, "cxr: stopped")
    assert list(temporary.glob("cxr-replay-*")) == []
    status = Path(f"/proc/{stage}/status")
    assert not status.exists() or "State:\tZ" in status.read_text()  # dead, if not buried


@pytest.mark.slow
def test_a_dirty_tree_and_another_number_of_threads_are_made_again(made: Pipeline) -> None:
    """An edited file, a new one and parameters that were never committed, with two threads."""
    vit = "src/cxr/models/vit.py"
    edit(made, vit, "nn.GELU()", "Odd()")
    edit(made, vit, "from cxr.errors", "from cxr.odd import Odd\nfrom cxr.errors")
    (made.folder / "src/cxr/odd.py").write_text("from torch.nn import SiLU as Odd\n")
    made.change(train__vit__lr=0.02, threads=2)
    made.dvc("repro", "--single-item", "train-vit")
    run_id = made.run_id("train-vit")
    made.git("checkout", "--", ".")
    (made.folder / "src/cxr/odd.py").unlink()
    done = made.run("cxr", "replay", run_id)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "bit for bit the same" in done.stdout


@pytest.mark.slow
def test_a_run_that_is_not_deterministic_does_not_hold(made: Pipeline) -> None:
    edit(made, "src/cxr/training/device.py", "torch.manual_seed(seed)", "torch.seed()")
    made.dvc("repro", "--single-item", "train-vit")
    done = made.run("cxr", "replay", made.run_id("train-vit"))
    assert done.returncode == 1
    assert "✗ train-vit made again is another" in done.stdout
    assert "! models/vit: " in done.stdout


@pytest.mark.slow
def test_what_is_gone_is_named(made: Pipeline) -> None:
    run_id = made.run_id("train-cnn")
    shutil.rmtree(made.folder / ".dvc/cache/files")
    shutil.rmtree(made.folder / "data/processed")
    done = made.run("cxr", "replay", run_id)
    assert (done.returncode, done.stdout) == (1, "")
    assert "data/processed (md5 " in done.stderr
    assert "`dvc fetch --all-commits && dvc exp pull --all-commits origin`" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.slow
def test_a_commit_that_is_gone_is_named(made: Pipeline, tmp_path: Path) -> None:
    """In a clone whose history was cut off."""
    edit(made, "stages/gradcam.py", '"""gradcam', '"""Gradcam')
    made.git("commit", "-qam", "later")
    other = tmp_path / "shallow"
    made.git("clone", "-q", "--depth=1", made.folder.as_uri(), str(other))
    clone = Pipeline(other)
    clone.dvc("pull")
    done = clone.run("cxr", "replay", clone.run_id("train-cnn"))
    assert done.returncode == 1
    commit = clone.json("records/train-cnn.json")["facts"]["code"]["commit"]
    assert f"commit {commit} is not in this clone; `git fetch --unshallow`" in done.stderr
    clone.git("fetch", "--unshallow")
    done = clone.run("cxr", "replay", clone.run_id("train-cnn"))
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_maps_are_compared_too(made: Pipeline) -> None:
    edit(made, "stages/gradcam.py", "attribution=", "attribution=np.random.rand(1) + ")
    made.dvc("repro", "--single-item", "gradcam")
    done = made.run("cxr", "replay", made.run_id("gradcam"))
    assert done.returncode == 1, done.stdout + done.stderr
    assert "! reports/maps: " in done.stdout


@pytest.mark.slow
def test_neither_git_settings_nor_ignored_files_lose_the_code(made: Pipeline) -> None:
    made.git("config", "diff.noprefix", "true")
    made.git("config", "color.ui", "always")
    made.git("config", "core.autocrlf", "true")
    (made.folder / ".git/info/exclude").write_text("odd.py\n")
    edit(
        made, "src/cxr/evaluation/metrics.py", "from typing", "from cxr.odd import ODD\nfrom typing"
    )
    (made.folder / "src/cxr/odd.py").write_text("ODD = 1\n")
    made.dvc("repro", "--single-item", "evaluate")
    run_id = made.run_id("evaluate")
    (made.folder / "src/cxr/odd.py").unlink()
    made.git("checkout", "--", "src")
    done = made.run("cxr", "replay", run_id)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_a_users_file_beside_the_project_is_read_where_it_is(made: Pipeline) -> None:
    own = made.folder.parent / "side (1)/images (1).npz"
    own.parent.mkdir()
    shutil.copyfile(made.folder / "data/raw/chest.npz", own)
    made.change(download__source="file", download__path="../side (1)/images (1).npz")
    made.dvc("repro", "--single-item", "download")
    for _ in range(2):
        done = made.run("cxr", "replay", made.run_id("download"))
        assert done.returncode == 0, done.stdout + done.stderr
    own.write_bytes(b"another")
    done = made.run("cxr", "replay", made.run_id("download"))
    assert done.returncode == 1
    assert "images (1).npz" in done.stderr
