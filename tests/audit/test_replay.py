"""A replayed run is bit-identical, or the missing input is named."""

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


def test_on_the_same_kind_of_machine_outputs_must_be_bit_identical() -> None:
    assert replayed(SAME, same_kind=True).holds
    assert not replayed(OTHER, same_kind=True).holds
    assert replayed(SAME, same_kind=False).holds


@pytest.mark.parametrize(("metric", "holds"), [(0.7, True), (0.72, True), (0.74, False)])
def test_on_another_kind_of_machine_metrics_may_differ_within_the_tolerance(
    metric: float, holds: bool
) -> None:
    assert replayed(OTHER, same_kind=False, metric=metric).holds is holds


def test_a_metric_missing_on_one_side_is_not_close() -> None:
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
@pytest.mark.parametrize(
    "stage",
    ["preprocess", "train-cnn", "train-squeezenet", "evaluate", "maps-squeezenet", "gradcam"],
)
def test_a_replayed_stage_is_bit_identical(made: Pipeline, stage: str) -> None:
    done = made.run("cxr", "replay", made.run_id(stage)[:10])
    assert done.returncode == 0, done.stderr
    assert f"✓ {stage}: replay is bit-identical (" in done.stdout
    assert made.run("git", "status", "--porcelain").stdout == ""
    assert made.run("cxr", "audit").returncode == 0


@pytest.mark.slow
def test_an_interrupted_replay_leaves_no_process_and_no_folder(
    made: Pipeline, tmp_path: Path
) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    process = subprocess.Popen(
        [Path(sys.executable).parent / "cxr", "replay", made.run_id("evaluate")],
        cwd=made.folder, env=made.environment() | {"TMPDIR": str(temporary)}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not list(temporary.glob("cxr-replay-*/mlflow.db")) and time.monotonic() < deadline:
        time.sleep(0.05)  # until the stage is running
    (stage,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors.splitlines()[-1]) == (130, "cxr: stopped")
    assert list(temporary.glob("cxr-replay-*")) == []
    status = Path(f"/proc/{stage}/status")
    assert not status.exists() or "State:\tZ" in status.read_text()  # ended, perhaps as a zombie


@pytest.mark.slow
def test_uncommitted_edits_and_the_number_of_threads_are_replayed(made: Pipeline) -> None:
    """An edited file, a new file and parameters, none committed, with two threads."""
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
    assert "replay is bit-identical" in done.stdout


@pytest.mark.slow
def test_a_nondeterministic_run_fails_the_replay(made: Pipeline) -> None:
    edit(made, "src/cxr/training/device.py", "torch.manual_seed(seed)", "torch.seed()")
    made.dvc("repro", "--single-item", "train-vit")
    done = made.run("cxr", "replay", made.run_id("train-vit"))
    assert done.returncode == 1
    assert "✗ train-vit: replay gave a different result from identical inputs" in done.stdout
    assert "! models/vit: " in done.stdout


@pytest.mark.slow
def test_missing_data_are_named_with_the_command_to_fetch_them(made: Pipeline) -> None:
    run_id = made.run_id("train-cnn")
    shutil.rmtree(made.folder / ".dvc/cache/files")
    shutil.rmtree(made.folder / "data/processed")
    done = made.run("cxr", "replay", run_id)
    assert (done.returncode, done.stdout) == (1, "")
    assert "data/processed (md5 " in done.stderr
    assert "`dvc fetch --all-commits && dvc exp pull --all-commits origin`" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.slow
def test_a_missing_commit_is_named_with_the_command_to_fetch_it(
    made: Pipeline, tmp_path: Path
) -> None:
    """In a shallow clone."""
    edit(made, "stages/gradcam.py", '"""Stage gradcam', '"""The stage gradcam')
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
def test_attribution_maps_are_compared_too(made: Pipeline) -> None:
    edit(made, "stages/maps.py", "attribution=", "attribution=np.random.rand(1) + ")
    made.dvc("repro", "--single-item", "maps-cnn")
    done = made.run("cxr", "replay", made.run_id("maps-cnn"))
    assert done.returncode == 1, done.stdout + done.stderr
    assert "! attributions/cnn.npz: " in done.stdout
    assert "! attributions/cnn.json: " not in done.stdout


@pytest.mark.slow
def test_code_is_restored_despite_git_settings_and_ignored_files(made: Pipeline) -> None:
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
def test_a_file_of_the_user_outside_the_project_is_read_in_place(made: Pipeline) -> None:
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
