"""What more than one module of tests needs."""

from pathlib import Path

import pytest
from pipeline import create


@pytest.fixture(scope="session")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline that has run, committed and pushed, with an experiment `fast` beside it.

    Tests copy it and leave it as it is.
    """
    remote = tmp_path_factory.mktemp("remote")
    pipeline = create(tmp_path_factory.mktemp("kept"))
    pipeline.dvc("remote", "add", "--default", "store", str(remote))
    pipeline.repro()
    pipeline.git("add", "-A")
    pipeline.git("commit", "-qm", "made")
    pipeline.dvc("push")
    pipeline.dvc("exp", "run", "-n", "fast", "-S", "train.cnn.lr=0.01")
    pipeline.git("checkout", "--", ".")
    pipeline.dvc("checkout")
    assert pipeline.repro() == []
    return pipeline.folder
