"""One process in a stage, one result of a fingerprint, and nothing kept longer than needed."""

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
with scratch.claimed(project, workspace, "download", sys.argv[3], print) as kept:
    (kept.work / "half").write_text("done")
    print("holds", flush=True)
    time.sleep(float(sys.argv[4]))
"""


def claim(project: Path, mark: str = MARK, workspace: Path | None = None, said: object = None):
    tell = said.append if isinstance(said, list) else lambda line: None
    return scratch.claimed(project, workspace or project, "download", mark, tell)


@contextmanager
def holder(
    project: Path, workspace: Path, mark: str = MARK, seconds: float = 60
) -> Iterator[subprocess.Popen[str]]:
    """Another process that is in the stage."""
    arguments = [str(project), str(workspace), mark, str(seconds)]
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, *arguments], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == "holds\n"
        yield process
        process.kill()


def test_a_later_try_finds_what_an_earlier_one_did(tmp_path: Path) -> None:
    with claim(tmp_path) as first:
        (first.work / "half").write_text("done")
    with claim(tmp_path) as again, claim(tmp_path, "b" * 64, tmp_path / "..") as other:
        assert (again.work / "half").read_text() == "done"
        assert again.attempt == first.attempt != other.attempt
        assert not list(other.work.iterdir())


def test_a_second_process_in_the_same_working_copy_is_refused_by_name(tmp_path: Path) -> None:
    """Whatever it would make: the outputs' places are the same."""
    with holder(tmp_path, tmp_path) as first:
        for mark in (MARK, "b" * 64):
            with pytest.raises(CxrError) as caught, claim(tmp_path, mark):
                pass
            assert f"process {first.pid} is already running this stage in this working copy" in str(
                caught.value
            )
            assert f"`kill {first.pid}`" in str(caught.value)
    with claim(tmp_path) as after:  # killed, and yet nothing has to be cleared away
        assert (after.work / "half").read_text() == "done"


def test_the_same_in_another_working_copy_waits_and_says_so(tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    said: list[str] = []
    with holder(tmp_path, copy) as first:
        threading.Timer(1.0, first.kill).start()
        started = time.monotonic()
        with claim(tmp_path, said=said) as then:
            assert time.monotonic() - started > 0.9
            assert (then.work / "half").read_text() == "done"
    assert said == [
        f"waiting for process {first.pid}, which is making the same result in another working copy"
    ]


def test_another_fingerprint_in_another_working_copy_does_not_wait(tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    said: list[str] = []
    with holder(tmp_path, copy), claim(tmp_path, "b" * 64, said=said) as kept:
        assert not list(kept.work.iterdir())
    assert said == []


def finish(kept: Scratch) -> str:
    """Outputs that are whole by the look of it; MD5 of their record."""
    place = kept.outputs / records.path_of("download")
    place.parent.mkdir(parents=True)
    place.write_text(json.dumps({"not": "read here"}))
    return md5_of_file(place)


def test_what_dvc_has_taken_goes_with_the_next_stage_and_not_before(tmp_path: Path) -> None:
    with claim(tmp_path) as kept:
        md5 = finish(kept)
    with claim(tmp_path, "b" * 64):
        assert kept.folder.exists()
    (tmp_path / "dvc.lock").write_text(f"outs: [md5: {md5}]")
    with claim(tmp_path, "b" * 64):
        assert not kept.folder.exists()
        assert not kept.folder.with_name(f"{kept.folder.name}.lock").exists()


def test_what_dvc_has_taken_is_made_anew_when_it_is_asked_for_again(tmp_path: Path) -> None:
    """As `dvc repro --force` does."""
    with claim(tmp_path) as kept:
        (tmp_path / "dvc.lock").write_text(f"outs: [md5: {finish(kept)}]")
    with claim(tmp_path) as anew:
        assert anew.attempt != kept.attempt
        assert anew.finished() is None


def test_a_working_copy_that_is_gone_needs_nothing_any_more(tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    with claim(tmp_path, workspace=copy) as kept:
        finish(kept)
    with claim(tmp_path, "b" * 64):
        assert kept.folder.exists()
    (copy / ".scratch/download.lock").unlink()
    (copy / ".scratch").rmdir()
    copy.rmdir()
    with claim(tmp_path, "b" * 64):
        assert not kept.folder.exists()


@pytest.mark.parametrize(("days", "stays"), [(13, True), (15, False), (-400, True)])
def test_unfinished_work_waits_two_weeks_and_a_clock_set_back_costs_none(
    tmp_path: Path, days: int, stays: bool
) -> None:
    with claim(tmp_path) as kept:
        (kept.work / "half").write_text("done")
    then = time.time() - days * 24 * 3600
    os.utime(kept.folder, (then, then))
    with claim(tmp_path, "b" * 64):
        assert kept.folder.exists() is stays


def test_what_another_process_holds_is_not_swept(tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    with holder(tmp_path, copy, "b" * 64), claim(tmp_path):
        folder = tmp_path / ".scratch" / ("b" * 64)
        os.utime(folder, (0, 0))
        with claim(tmp_path, "c" * 64, tmp_path / ".."):
            assert (folder / "work/half").exists()


def test_an_attempt_that_was_half_written_is_begun_anew(tmp_path: Path) -> None:
    with claim(tmp_path) as kept:
        (kept.work / "half").write_text("done")
    (kept.folder / "attempt.json").write_text('{"attempt": ')
    with claim(tmp_path) as anew:
        assert not list(anew.work.iterdir())


@pytest.fixture
def project(tmp_path: Path) -> Pipeline:
    return create(tmp_path / "a project, größer")


def only_run(project: Pipeline):
    store = MlflowClient(f"sqlite:///{project.folder / 'mlflow.db'}")
    (run,) = store.search_runs([e.experiment_id for e in store.search_experiments()])
    return run


def test_a_result_that_dvc_did_not_take_is_published_again(project: Pipeline) -> None:
    """The power failed between the publishing and dvc.lock."""
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
    # What lies in the cache and in the working copy are two files, not two names of one.
    assert (project.folder / "data/raw/chest.npz").stat().st_nlink == 1


def test_outputs_in_the_scratch_that_are_not_the_records_are_made_again(project: Pipeline) -> None:
    assert project.run("python", "stages/download.py").returncode == 0
    (made,) = project.folder.glob(".scratch/*/outputs/data/raw/chest.npz")
    made.write_bytes(b"something else")
    done = project.run("python", "stages/download.py")
    assert "republishing" not in done.stdout
    assert (project.folder / "data/raw/chest.npz").read_bytes()[:2] == b"PK"


def test_a_forced_repetition_runs_the_work(project: Pipeline) -> None:
    project.repro("--single-item", "download")
    first = project.run_id("download")
    project.dvc("repro", "--force", "--single-item", "download")
    assert project.run_id("download") != first
