"""What more than one module of tests needs."""

import shutil
from pathlib import Path

import pytest
from filelock import FileLock
from pipeline import create


@pytest.fixture(scope="session")
def kept(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """A pipeline that has run, committed and pushed, with an experiment `fast` beside it.

    Tests copy it and leave it as it is.
    """
    if worker_id == "master":
        return make(tmp_path_factory.mktemp("kept"))
    shared = tmp_path_factory.getbasetemp().parent  # of all of xdist's workers
    with FileLock(shared / "kept.lock"):
        if not (shared / "kept.done").exists():
            shutil.rmtree(shared / "kept", ignore_errors=True)  # of a worker that has failed
            (shared / "kept").mkdir()
            make(shared / "kept")
            (shared / "kept.done").touch()
    return shared / "kept"


def make(folder: Path) -> Path:
    pipeline = create(folder)
    pipeline.dvc("remote", "add", "--default", "store", str(folder.with_name("remote")))
    pipeline.repro()
    pipeline.git("add", "-A")
    pipeline.git("commit", "-qm", "made")
    pipeline.dvc("push")
    pipeline.dvc("exp", "run", "-n", "fast", "-S", "train.cnn.lr=0.01")
    pipeline.git("checkout", "--", ".")
    pipeline.dvc("checkout")
    assert pipeline.repro() == []
    return pipeline.folder
