"""`cxr diff` accepts experiments and revisions of any name, even one like a run id."""

import copy
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from pipeline import COMMITTER
from valid import record

from cxr import git
from cxr.audit.difference import difference
from cxr.errors import CxrError

RUN_ID = "0123456789abcdef0123456789abcdef"  # the run id in the record
LOCK = """\
schema: '2.0'
stages:
  train-cnn:
    cmd: PYTHONPATH=src python stages/train.py cnn
    outs:
    - path: records/train-cnn.json
      hash: md5
      md5: {md5}
      size: {size}
"""


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A git repository whose HEAD has a result with seed 0; no outputs are checked out."""
    for name, value in COMMITTER.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / ".dvc").mkdir()
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    git.run(tmp_path, "init", "-q")
    commit(tmp_path, seed=0)
    return tmp_path


def commit(clone: Path, seed: int) -> str:
    """Commit the dvc.lock of a result with that seed; its record is in DVC's cache."""
    data: dict[str, Any] = copy.deepcopy(record())
    data["facts"]["params"]["seed"] = seed
    data["runs"][0]["run_id"] = RUN_ID
    content = json.dumps(data).encode()
    md5 = hashlib.md5(content).hexdigest()
    path = clone / ".dvc/cache/files/md5" / md5[:2] / md5[2:]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    (clone / "dvc.lock").write_text(LOCK.format(md5=md5, size=len(content)))
    git.run(clone, "add", "dvc.lock", "dvc.yaml")
    git.run(clone, "commit", "-qm", f"seed {seed}")
    return git.run(clone, "rev-parse", "HEAD").strip()


NAMES = ["wide-vit-with-slow-warmup-seed-1", "f" * 32, RUN_ID, "f" * 31, "e" * 33, "cafe"]


@pytest.mark.parametrize("kind", ["experiment", "branch", "tag"])
@pytest.mark.parametrize("name", NAMES)
def test_experiments_and_revisions_take_precedence_over_run_ids(
    clone: Path, name: str, kind: str
) -> None:
    head = git.run(clone, "rev-parse", "HEAD").strip()
    other = commit(clone, seed=1)
    ref = {
        "experiment": f"refs/exps/{head[:2]}/{head[2:]}/{name}",
        "branch": f"refs/heads/{name}",
        "tag": f"refs/tags/{name}",
    }[kind]
    git.run(clone, "update-ref", ref, other)
    git.run(clone, "reset", "-q", "--hard", head)
    result = difference(clone, "HEAD", name)
    assert (result.a, result.b) == ("HEAD", name)
    (change,) = result.parameters
    assert (change.name, change.a, change.b) == ("seed", 0, 1)


@pytest.mark.parametrize("digits", [32, 8])
def test_a_name_of_no_experiment_or_revision_is_a_run_id(clone: Path, digits: int) -> None:
    assert difference(clone, RUN_ID[:digits], "HEAD").a == f"{RUN_ID[:8]} (train-cnn)"


@pytest.mark.parametrize("name", ["wide-vit-with-slow-warmup-seed-2", "nothing"])
def test_an_unknown_name_is_refused(clone: Path, name: str) -> None:
    with pytest.raises(CxrError) as caught:
        difference(clone, name, "HEAD")
    assert str(caught.value) == (
        f"{name} is not an experiment, git revision or run id; `dvc exp show` lists experiments"
    )
