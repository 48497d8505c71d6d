"""Files of the pipeline are refused with a fix if unreadable, and are written atomically."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest
from pipeline import COMMITTER

from cxr import models, params
from cxr.data import npz, splits
from cxr.documents import read_output, write_atomically
from cxr.errors import CxrError
from cxr.evaluation import decisions
from cxr.lineage import records
from cxr.lineage.facts import declarations
from cxr.lineage.repository import Repository
from cxr.pipeline.repro import evaluated_data
from cxr.training.feed import open_store

READERS: dict[str, Callable[[Path], object]] = {
    "data/raw/origin.json": lambda clone: splits.read_origin(clone / "data/raw"),
    "data/processed/dataset.json": lambda clone: splits.open_dataset(clone / "data/processed"),
    "data/processed/a.npy": lambda clone: npz.load_npy(clone / "data/processed/a.npy"),
    "data/statistics.json": lambda clone: splits.open_statistics(clone / "data/statistics.json"),
    "data/features/features.json": lambda clone: open_store(clone / "data/features"),
    "models/cnn/model.json": lambda clone: models.load(clone / "models/cnn"),
    "decisions/cnn.json": lambda clone: decisions.read(clone / "decisions/cnn.json"),
    "records/evaluate.json": lambda clone: records.read(clone / "records/evaluate.json"),
    "reports/metrics.json": evaluated_data,
}
DAMAGED = {
    "empty": "",
    "cut short": '{"name": "cnn", "mod',
    "a merge conflict": '<<<<<<< HEAD\n{"name": 1}\n=======\n{"name": 2}\n>>>>>>> theirs\n',
    "a list": "[]",
    "null": "null",
    "values of other types": '{"name": 5, "schema": 3, "model": {}, "models": 5, "mean": "x"}',
}


def refusal(call: Callable[..., object], *arguments: Any) -> str:
    with pytest.raises(CxrError) as refused:
        call(*arguments)
    return str(refused.value)


@pytest.mark.parametrize("name", READERS)
def test_a_missing_output_is_reported_with_the_fix(tmp_path: Path, name: str) -> None:
    if name == "reports/metrics.json":  # before the first evaluation
        assert evaluated_data(tmp_path) is None
        return
    message = refusal(READERS[name], tmp_path)
    problem_and_fix = "is missing; fetch it with `dvc pull` or make it with `dvc repro`"
    assert message == f"{tmp_path / name} {problem_and_fix}"


@pytest.mark.parametrize("text", DAMAGED.values(), ids=DAMAGED)
@pytest.mark.parametrize("name", READERS)
def test_a_damaged_output_is_reported_with_the_fix(tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / name
    path.parent.mkdir(parents=True)
    path.write_text(text)
    message = refusal(READERS[name], tmp_path)
    if "has schema None" in message:
        return  # could be from another version
    assert message.startswith(f"{path} is damaged (")
    assert message.endswith(
        f"); restore it with `dvc checkout --force {path}` or make it again with `dvc repro`"
    )


COMMITTED: dict[str, Callable[[Path], object]] = {
    "params.yaml": lambda clone: params.load(clone / "params.yaml"),
    "dvc.yaml": declarations,
    "dvc.lock": lambda clone: Repository(clone).lock(),
}


@pytest.mark.parametrize(
    "text",
    ["", "stages: [", "<<<<<<< HEAD\nseed: 1\n=======\nseed: 2\n>>>>>>> b\n", "- a", "stages: 5"],
    ids=["empty", "cut short", "a merge conflict", "a list", "values of other types"],
)
@pytest.mark.parametrize("name", COMMITTED)
def test_a_damaged_file_under_git_is_named_with_its_remedy(
    tmp_path: Path, name: str, text: str
) -> None:
    (tmp_path / name).write_text(text)
    message = refusal(COMMITTED[name], tmp_path)
    assert name in message
    if not (name == "params.yaml" and text == "stages: 5"):  # its own schema says what is wrong
        assert "`git checkout --" in message


def test_the_fix_also_works_for_a_file_inside_an_output(tmp_path: Path) -> None:
    clone = tmp_path / "my clone"
    (clone / "made").mkdir(parents=True)
    (clone / "made/a.json").write_text("{}")
    for command in ("git init -q", "dvc init -q", "dvc add -q made"):
        subprocess.run(command.split(), cwd=clone, env=os.environ | COMMITTER, check=True)
    (clone / "made/a.json").write_text("{")
    command = refusal(read_output, clone / "made/a.json", dict).split("`")[1]
    subprocess.run(command, cwd=clone, shell=True, check=True, capture_output=True)
    assert read_output(clone / "made/a.json", dict) == {}


def test_a_file_is_synced_before_it_is_renamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, synced = tmp_path / "a.json", []
    path.write_bytes(b"old")
    sync = os.fsync

    def fsync(number: int) -> None:
        sync(number)
        synced.append((str(Path(f"/proc/self/fd/{number}").readlink()), path.read_bytes()))

    monkeypatch.setattr(os, "fsync", fsync)
    write_atomically(path, b"new")
    assert synced == [(f"{path}.part", b"old")]
    assert path.read_bytes() == b"new" and list(tmp_path.iterdir()) == [path]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    write_atomically(path, lambda file: np.save(file, np.arange(3)))

    def fail(file: IO[bytes]) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        write_atomically(path, fail)
    assert np.load(path).tolist() == [0, 1, 2] and list(tmp_path.iterdir()) == [path]
