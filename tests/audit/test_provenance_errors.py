"""Errors of audit, diff and replay are one line with exit status 2 and no traceback."""

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pipeline import Pipeline

from cxr.lineage.repository import FETCH_PAST

pytestmark = pytest.mark.slow


@pytest.fixture
def made(kept: Path, tmp_path: Path) -> Pipeline:
    return Pipeline(kept).copy(tmp_path / "p")


def refusal(pipeline: Pipeline, *arguments: str) -> str:
    """The one line that a failing command prints."""
    done = pipeline.run("cxr", *arguments)
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("cxr: ")
    return line


@pytest.mark.parametrize("command", ["audit", "replay", "diff"])
def test_an_unknown_run_id_is_named(made: Pipeline, command: str) -> None:
    assert "no run 0123456789ab" in refusal(made, command, "0123456789ab")


@pytest.mark.parametrize("command", ["audit", "replay", "diff"])
def test_a_name_that_is_neither_file_nor_run_nor_revision_is_named(
    made: Pipeline, command: str
) -> None:
    assert "nonsense is n" in refusal(made, command, "nonsense")


def test_an_ambiguous_run_id_prefix_needs_more_digits(made: Pipeline) -> None:
    with sqlite3.connect(made.folder / "mlflow.db") as base:
        for digit, name in enumerate(("download", "preprocess")):
            new = "abcd" + str(digit) * 28
            base.execute("UPDATE runs SET run_uuid = ? WHERE name = ?", (new, name))
    base.close()
    assert "abcd matches 2 run ids; give more digits" in refusal(made, "audit", "abcd")


def test_a_path_outside_of_the_project_is_refused(made: Pipeline, tmp_path: Path) -> None:
    outside = tmp_path / "outside.json"
    outside.write_text("{}")
    assert "is not inside a clone of the pipeline" in refusal(made, "audit", str(outside))
    assert "is not inside a clone" in refusal(made, "audit", "../outside.json")


@pytest.mark.parametrize(
    "path", ["params.yaml", "src/cxr/pipeline/stage.py", "reports/none.json", "./docs/x"]
)
def test_a_path_that_is_not_an_output_is_refused(made: Pipeline, path: str) -> None:
    assert "is neither an output of a stage nor a run id" in refusal(made, "audit", path)


def test_a_project_without_results_names_the_command_to_run(made: Pipeline, tmp_path: Path) -> None:
    made.git("clone", "-q", str(made.folder), str(tmp_path / "clone"))
    clone = Pipeline(tmp_path / "clone")
    (clone.folder / "dvc.lock").unlink()
    assert "has no results yet; run `dvc repro`" in refusal(clone, "audit")
    assert "has no record (records/evaluate.json)" in refusal(
        clone, "audit", "reports/metrics.json"
    )


DAMAGES = {
    "records/train-cnn.json": ["", "{", "[]", '{"schema": 3}', '{"schema": 2}', "\0\0", "\xff"],
    "dvc.lock": ["{", "stages: 3", "stages:\n  download: {cmd: 1}\n", "\0", "- a\n"],
    "mlflow.db": ["no database, and longer than its header " * 10],
    "params.yaml": ["{", "seed: [\n"],
    "dvc.yaml": ["{"],
}


@pytest.mark.parametrize(
    ("path", "text"), [(path, text) for path, texts in DAMAGES.items() for text in texts]
)
def test_a_damaged_file_is_named(made: Pipeline, path: str, text: str) -> None:
    (made.folder / path).write_bytes(text.encode("latin-1"))
    assert Path(path).name in refusal(made, "audit")


@contextmanager
def locked(database: Path) -> Iterator[None]:
    base = sqlite3.connect(database, isolation_level=None)
    base.execute("BEGIN EXCLUSIVE")
    try:
        yield
    finally:
        base.close()


@pytest.mark.parametrize("command", ["audit", "sync"])
def test_a_locked_database_is_reported(made: Pipeline, command: str) -> None:
    with locked(made.folder / "mlflow.db"):
        assert "another program has locked it" in refusal(made, command)


def test_a_run_without_a_result_says_why(made: Pipeline) -> None:
    made.change(download__source="file", download__path="missing.npz")
    made.run("dvc", "repro", "download")
    made.change(download__source="phantom", download__path=None, train__cnn__channels=[0, 1, 2])
    made.run("dvc", "repro", "--single-item", "train-cnn")
    with sqlite3.connect(made.folder / "mlflow.db") as base:
        ((run_id,),) = base.execute("SELECT run_uuid FROM runs WHERE status = 'FAILED'").fetchall()
    base.close()
    assert f"run {run_id} is FAILED and has no result" in refusal(made, "audit", run_id)


def test_a_record_missing_from_the_cache_names_the_command_to_fetch_it(made: Pipeline) -> None:
    """The record of an experiment's run is only in the cache."""
    with sqlite3.connect(made.folder / "mlflow.db") as base:
        ((run_id,),) = base.execute(
            "SELECT t.run_uuid FROM tags t JOIN runs r USING (run_uuid) "
            "WHERE t.key = 'cxr.experiment' AND t.value = 'fast' AND r.name = 'train-cnn (fast)'"
        ).fetchall()
    base.close()
    shutil.rmtree(made.folder / ".dvc/cache/files")
    fetch = f"`{FETCH_PAST}` may fetch"
    assert f"is not in DVC's cache; {fetch} it" in refusal(made, "audit", run_id)
    assert f"{fetch} them" in refusal(made, "diff", "fast")
