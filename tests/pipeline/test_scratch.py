"""One process per stage, one result per fingerprint, and scratch folders are cleaned up."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from mlflow import MlflowClient
from pipeline import Pipeline, create

from cxr.errors import CxrError
from cxr.hashing import md5_of_file
from cxr.lineage import records
from cxr.pipeline import scratch
from cxr.pipeline.scratch import Scratch

MARK = "a" * 64
HOLD = """
import sys, time
from pathlib import Path
from cxr.pipeline import scratch
project, workspace = Path(sys.argv[1]), Path(sys.argv[2])
with scratch.claimed(project, workspace, "download", sys.argv[3], print) as claimed:
    (claimed.work / "half").write_text("done")
    print("holds", flush=True)
    time.sleep(float(sys.argv[4]))
"""


def claim(
    project: Path, mark: str = MARK, workspace: Path | None = None, lines: list[str] | None = None
):
    say = (lambda line: None) if lines is None else lines.append
    return scratch.claimed(project, workspace or project, "download", mark, say)


@contextmanager
def holder(
    project: Path, workspace: Path, mark: str = MARK, seconds: float = 60
) -> Iterator[subprocess.Popen[str]]:
    """Another process that runs the stage."""
    arguments = [str(project), str(workspace), mark, str(seconds)]
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, *arguments], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == "holds\n"
        yield process
        process.kill()


def test_a_later_try_finds_the_progress_of_an_earlier_one(tmp_path: Path) -> None:
    with claim(tmp_path) as first:
        (first.work / "half").write_text("done")
    with claim(tmp_path) as again, claim(tmp_path, "b" * 64, tmp_path / "..") as other:
        assert (again.work / "half").read_text() == "done"
        assert again.attempt == first.attempt != other.attempt
        assert not list(other.work.iterdir())


def test_a_second_process_in_the_same_working_copy_is_refused_and_names_the_first(
    tmp_path: Path,
) -> None:
    """Also with another fingerprint, since the outputs have the same paths."""
    with holder(tmp_path, tmp_path) as first:
        for mark in (MARK, "b" * 64):
            with pytest.raises(CxrError) as caught, claim(tmp_path, mark):
                pass
            assert f"process {first.pid} is already running this stage in this working copy" in str(
                caught.value
            )
            assert f"`kill {first.pid}`" in str(caught.value)
    with claim(tmp_path) as after:  # a killed process leaves nothing to clean up
        assert (after.work / "half").read_text() == "done"


def test_the_same_fingerprint_in_another_working_copy_waits_and_prints_why(tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    lines: list[str] = []
    with holder(tmp_path, copy) as first:
        threading.Timer(1.0, first.kill).start()
        started = time.monotonic()
        with claim(tmp_path, lines=lines) as then:
            assert time.monotonic() - started > 0.9
            assert (then.work / "half").read_text() == "done"
    assert lines == [
        f"waiting for process {first.pid}, which is making the same result in another working copy"
    ]


def test_another_fingerprint_in_another_working_copy_does_not_wait(tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    lines: list[str] = []
    with holder(tmp_path, copy), claim(tmp_path, "b" * 64, lines=lines) as claimed:
        assert not list(claimed.work.iterdir())
    assert lines == []


def finish(claimed: Scratch) -> str:
    """Write a record, as if the outputs were complete; return its MD5."""
    path = claimed.outputs / records.path_of("download")
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"not": "read here"}))
    return md5_of_file(path)


def test_the_next_stage_deletes_results_that_dvc_lock_has(tmp_path: Path) -> None:
    with claim(tmp_path) as claimed:
        md5 = finish(claimed)
    with claim(tmp_path, "b" * 64):
        assert claimed.folder.exists()
    (tmp_path / "dvc.lock").write_text(f"outs: [md5: {md5}]")
    with claim(tmp_path, "b" * 64):
        assert not claimed.folder.exists()
        assert not claimed.folder.with_name(f"{claimed.folder.name}.lock").exists()


def test_a_result_that_dvc_lock_has_is_made_again_on_request(tmp_path: Path) -> None:
    """As `dvc repro --force` does."""
    with claim(tmp_path) as claimed:
        (tmp_path / "dvc.lock").write_text(f"outs: [md5: {finish(claimed)}]")
    with claim(tmp_path) as again:
        assert again.attempt != claimed.attempt
        assert again.finished() is None


def test_results_of_a_deleted_working_copy_are_deleted(tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    with claim(tmp_path, workspace=copy) as claimed:
        finish(claimed)
    with claim(tmp_path, "b" * 64):
        assert claimed.folder.exists()
    (copy / ".scratch/download.lock").unlink()
    (copy / ".scratch").rmdir()
    copy.rmdir()
    with claim(tmp_path, "b" * 64):
        assert not claimed.folder.exists()


@pytest.mark.parametrize(("days", "stays"), [(13, True), (15, False), (-400, True)])
def test_unfinished_work_is_kept_for_two_weeks_also_if_the_clock_is_set_back(
    tmp_path: Path, days: int, stays: bool
) -> None:
    with claim(tmp_path) as claimed:
        (claimed.work / "half").write_text("done")
    then = time.time() - days * 24 * 3600
    os.utime(claimed.folder, (then, then))
    with claim(tmp_path, "b" * 64):
        assert claimed.folder.exists() is stays


def test_scratch_locked_by_another_process_is_not_deleted(tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    with holder(tmp_path, copy, "b" * 64), claim(tmp_path):
        folder = tmp_path / ".scratch" / ("b" * 64)
        os.utime(folder, (0, 0))
        with claim(tmp_path, "c" * 64, tmp_path / ".."):
            assert (folder / "work/half").exists()


def test_a_damaged_attempt_file_starts_over(tmp_path: Path) -> None:
    with claim(tmp_path) as claimed:
        (claimed.work / "half").write_text("done")
    (claimed.folder / "attempt.json").write_text('{"attempt": ')
    with claim(tmp_path) as again:
        assert not list(again.work.iterdir())


@pytest.fixture
def project(tmp_path: Path) -> Pipeline:
    return create(tmp_path / "a project, größer")


def only_run(project: Pipeline):
    store = MlflowClient(f"sqlite:///{project.folder / 'mlflow.db'}")
    (run,) = store.search_runs([e.experiment_id for e in store.search_experiments()])
    return run


def test_a_finished_result_missing_from_dvc_lock_is_republished(project: Pipeline) -> None:
    """As after a power failure between publishing and the update of dvc.lock."""
    done = project.run("python", "stages/download.py")
    assert done.returncode == 0, done.stderr
    first = project.json("records/download.json")
    raw = (project.folder / "data/raw/chest.npz").read_bytes()
    run = only_run(project)
    assert project.repro("--single-item", "download") == ["download"]  # DVC deletes outputs first
    assert project.json("records/download.json") == first
    assert (project.folder / "data/raw/chest.npz").read_bytes() == raw
    again = only_run(project)
    assert (again.info.run_id, again.info.status) == (run.info.run_id, "FINISHED")
    assert project.repro("--single-item", "download") == []
    # The cache and the working copy have separate files, not hard links to one.
    assert (project.folder / "data/raw/chest.npz").stat().st_nlink == 1


def test_damaged_outputs_in_the_scratch_folder_are_made_again(project: Pipeline) -> None:
    assert project.run("python", "stages/download.py").returncode == 0
    (made,) = project.folder.glob(".scratch/*/outputs/data/raw/chest.npz")
    made.write_bytes(b"something else")
    done = project.run("python", "stages/download.py")
    assert "republishing" not in done.stdout
    assert (project.folder / "data/raw/chest.npz").read_bytes()[:2] == b"PK"


def test_dvc_repro_force_runs_the_stage_again(project: Pipeline) -> None:
    project.repro("--single-item", "download")
    first = project.run_id("download")
    project.dvc("repro", "--force", "--single-item", "download")
    assert project.run_id("download") != first
