"""Fixtures that several test modules share, and the order of the tests."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock
from pipeline import create

from cxr import cli

# Files that take minutes, the longest first. Those before test_clean_results.py do not need `kept`,
# so one worker runs them while another builds it.
SLOWEST_FIRST = (
    "sweep/test_cluster.py",
    "sweep/test_local.py",
    "faults/test_faults.py",
    "hostile/test_fuzz.py",
    "evaluation/test_coverage.py",
    "test_clean_results.py",
    "sweep/test_experiments.py",
    "test_pipeline.py",
    "test_readme_commands.py",
    "audit/test_replay.py",
    "audit/test_audit.py",
    "report/test_report.py",
    "inference/test_serving.py",
    "pipeline/test_stage.py",
    "pipeline/test_many_at_once.py",
    "tracking/test_registry.py",
    "test_adding_a_model.py",
    "audit/test_sync.py",
    "cli/test_manners.py",
    "pipeline/test_scratch.py",
    "pipeline/test_repro.py",
    "test_larger_repository.py",
    "test_bad_input.py",
    "test_browser.py",
)

Cxr = Callable[..., subprocess.CompletedProcess[str]]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run slow files first, so that no worker is still busy with one long after the others."""
    order = {Path(__file__).parent / name: n for n, name in enumerate(SLOWEST_FIRST)}
    items.sort(key=lambda item: order.get(item.path, len(SLOWEST_FIRST)))


@pytest.fixture
def cxr(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cxr:
    """`cxr(*arguments, cwd=folder)` in this process: a new process takes seconds to import."""

    def call(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
        monkeypatch.chdir(cwd)
        monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
        monkeypatch.setattr(sys, "argv", ["cxr", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit_info:
            cli.main()
        status = exit_info.value.code
        assert isinstance(status, int)
        return subprocess.CompletedProcess(arguments, status, *capsys.readouterr())

    return call


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database without runs. Tests copy it: MLflow takes seconds to create one."""
    from cxr.tracking import database

    path = tmp_path_factory.mktemp("store") / database.STORE_FILE
    database.create(f"{database.SQLITE}{path}")
    return path


@pytest.fixture(scope="session")
def pipelines(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """The folder with `once` and `kept`, built once for all workers: this takes minutes."""
    if worker_id == "master":
        return build_pipelines(tmp_path_factory.mktemp("pipelines"))
    folder = tmp_path_factory.getbasetemp().parent / "pipelines"  # shared by xdist's workers
    with FileLock(folder.with_name("pipelines.lock")):
        done = folder.with_name("pipelines.done")
        if not done.exists():
            shutil.rmtree(folder, ignore_errors=True)  # left by a worker that failed
            folder.mkdir()
            build_pipelines(folder)
            done.touch()
    return folder


@pytest.fixture(scope="session")
def once(pipelines: Path) -> Path:
    """A pipeline that has run once; its results are not committed. Tests copy it."""
    return pipelines / "once"


@pytest.fixture(scope="session")
def kept(pipelines: Path) -> Path:
    """The same pipeline, committed and pushed, with a DVC experiment `fast`. Tests copy it."""
    return pipelines / "kept"


def build_pipelines(folder: Path) -> Path:
    """Build `once`, and `kept` with its DVC remote."""
    pipeline = create(folder / "kept")
    assert len(pipeline.repro()) == 11
    pipeline.copy(folder / "once")
    pipeline.dvc("remote", "add", "--default", "store", str(folder / "remote"))
    pipeline.git("add", "-A")
    pipeline.git("commit", "-qm", "made")
    pipeline.dvc("push")
    pipeline.dvc("exp", "run", "-n", "fast", "-S", "train.cnn.lr=0.01")
    pipeline.git("checkout", "--", ".")
    pipeline.dvc("checkout")
    assert pipeline.repro() == []
    return folder
