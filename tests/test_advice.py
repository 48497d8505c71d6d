"""Following the advice of an error message literally fixes the error."""

import os
import re
import sqlite3
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pipeline import COMMITTER, Pipeline

from cxr import git, params
from cxr.audit.difference import difference
from cxr.documents import read_yaml
from cxr.errors import CxrError
from cxr.lineage.facts import declarations
from cxr.lineage.repository import Repository
from cxr.tracking import database
from cxr.tracking.store import Store


def error_of(call: Callable[..., Any], *arguments: Any) -> str:
    with pytest.raises(CxrError) as raised:
        call(*arguments)
    return str(raised.value)


def advised_command(message: str) -> str:
    """The first command in a message."""
    return re.findall("`([^`]+)`", message)[0]


def shell(folder: Path, command: str) -> None:
    env = os.environ | COMMITTER
    subprocess.run(command, cwd=folder, env=env, shell=True, check=True, capture_output=True)


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """An empty git repository whose path needs quotes in a shell."""
    folder = tmp_path / "my clone"
    folder.mkdir()
    shell(folder, "git init -q -b main && git commit -q --allow-empty -m start")
    return folder


def conflict(clone: Path, name: str, text: str) -> None:
    """Merge two branches that changed the same value of a file."""
    path = clone / name
    path.write_text(text.format(value="base"))
    shell(clone, "git add -A && git commit -q -m base && git branch theirs")
    path.write_text(text.format(value="ours"))
    shell(clone, "git commit -q -a -m ours && git checkout -q theirs")
    path.write_text(text.format(value="theirs"))
    shell(clone, "git commit -q -a -m theirs && git checkout -q main && ! git merge theirs")
    assert "<<<<<<< HEAD" in path.read_text()


def lock_of(clone: Path) -> Any:
    return Repository(clone).lock()


@pytest.mark.parametrize(
    ("name", "text", "read"),
    [
        ("params.yaml", "seed: {value}\n", lambda clone: read_yaml(clone / "params.yaml")),
        ("dvc.yaml", "stages:\n  a:\n    cmd: {value}\n", declarations),
        ("dvc.lock", "schema: '2.0'\nstages:\n  a:\n    cmd: {value}\n", lock_of),
    ],
)
def test_a_merge_conflict_is_named_and_resolved(
    clone: Path, name: str, text: str, read: Callable[[Path], Any]
) -> None:
    conflict(clone, name, text)
    message = error_of(read, clone)
    assert message.startswith(f"{clone / name} has merge conflicts; ")
    shell(clone, advised_command(message))
    assert "ours" in repr(read(clone))


def test_a_damaged_file_is_restored(clone: Path) -> None:
    path = clone / "params.yaml"
    path.write_text("seed: 0\n")
    shell(clone, "git add -A && git commit -q -m params")
    path.write_text("seed: [")
    shell(clone, advised_command(error_of(read_yaml, path)))
    assert read_yaml(path) == {"seed": 0}
    shell(clone, advised_command(error_of(params.change, path, {"train.cnn.lr": 1})))


def test_a_revision_without_a_lock_file_is_reported(clone: Path) -> None:
    (clone / "dvc.yaml").write_text("stages: {}\n")
    (clone / "dvc.lock").write_text("schema: '2.0'\nstages: {}\n")
    message = error_of(difference, clone, "HEAD", "workspace")
    assert message.startswith("HEAD has no dvc.lock and thus no results; commit dvc.lock")


def test_a_damaged_lock_file_in_a_commit_advises_another_commit(clone: Path) -> None:
    (clone / "dvc.lock").write_text("stages: 5\n")
    shell(clone, "git add -A && git commit -q -m lock")
    message = error_of(Repository(clone).lock_at, "HEAD")
    assert message.endswith("use another commit")


@pytest.mark.parametrize("folder", ["my clone", "my clone/project"])
def test_a_repository_of_another_user_becomes_trusted(
    clone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    (clone / "project").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    message = error_of(git.ask, tmp_path / folder, "rev-parse", "HEAD")
    shell(clone, advised_command(message))
    assert git.ask(tmp_path / folder, "rev-parse", "HEAD")


@pytest.mark.parametrize("uri", ["./mlruns", "file:///srv/mlruns", "nonsense://host"])
def test_an_invalid_tracking_uri_names_the_valid_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uri: str
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    message = error_of(Store.open, tmp_path)
    assert message.endswith(
        "; set MLFLOW_TRACKING_URI to sqlite:///FILE or the URL of a server, or unset it"
    )


def test_a_database_of_another_mlflow_version_can_be_upgraded_or_rebuilt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    database.create(database.store_uri(tmp_path))
    with sqlite3.connect(tmp_path / "mlflow.db") as base:
        base.execute("UPDATE alembic_version SET version_num = '0123456789ab'")
    base.close()
    message = error_of(Store.open, tmp_path)
    assert "`mlflow db upgrade URI`" in message and "`cxr sync`" in message


@pytest.mark.slow
@pytest.mark.parametrize("command", ["predict", "serve"])
def test_a_registered_model_is_found_after_moving_the_project(
    kept: Path, tmp_path: Path, command: str
) -> None:
    old = Pipeline(kept).copy(tmp_path / "old")
    assert old.run("cxr", "sync").returncode == 0
    made = Pipeline(old.folder.rename(tmp_path / "new"))
    address = "models:/cxr-phantom-28@champion"
    image = made.folder / "reports/data/labels.png"
    commands = {"predict": ("predict", str(image), "--model", address), "serve": ("serve",)}
    done = made.run("cxr", *commands[command])
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert advised_command(done.stderr) == "cxr sync"
    assert made.run("cxr", "sync").returncode == 0
    done = made.run("cxr", *commands["predict"])
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_the_results_of_an_experiment_are_fetched(kept: Path, tmp_path: Path) -> None:
    """DVC fetches results of experiments with another command than results of commits."""
    made = Pipeline(kept).copy(tmp_path / "made")
    made.dvc("remote", "add", "--force", "--default", "lab", str(tmp_path / "remote"))
    made.dvc("push")
    made.git("commit", "-qam", "share")
    made.git("init", "-q", "--bare", str(tmp_path / "origin.git"))
    made.git("remote", "add", "origin", str(tmp_path / "origin.git"))
    made.git("push", "-q", "origin", "HEAD:refs/heads/main")
    made.dvc("exp", "push", "origin", "fast")
    made.git("clone", "-q", "-b", "main", str(tmp_path / "origin.git"), str(tmp_path / "other"))
    other = Pipeline(tmp_path / "other")
    other.dvc("pull")
    experiment = made.git("for-each-ref", "--format=%(refname)", "refs/exps/*/*/fast").strip()
    other.git("fetch", "-q", "origin", f"{experiment}:{experiment}")
    done = other.run("cxr", "diff", "fast")
    assert done.returncode == 2 and "records of train-cnn" in done.stderr, done.stderr
    fixed = other.run("sh", "-c", advised_command(done.stderr))
    assert fixed.returncode == 0, fixed.stderr
    done = other.run("cxr", "diff", "fast")
    assert done.returncode == 0, done.stderr
    assert "train.cnn.lr is 0.01 in fast" in done.stdout
