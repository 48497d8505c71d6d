"""Sweeps on this machine through DVC, with a stage that takes moments."""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import toy
from pipeline import Pipeline

from cxr.documents import read_yaml
from cxr.errors import CxrError
from cxr.pipeline.resources import VISIBLE_GPUS
from cxr.sweep import local, results
from cxr.sweep.experiment import reason
from cxr.sweep.plan import Place

pytestmark = pytest.mark.slow

ENDLESS = "60"  # seconds of a stage that does not end during a test
STOPPED = "sweep: stopped; run the same command again to resume"


@pytest.fixture
def project(tmp_path: Path) -> Pipeline:
    return toy.create(tmp_path / "p")


def run(project: Pipeline, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a sweep: jobs, seconds, seeds, rates."""
    return subprocess.run(
        toy.command(project, "local", *arguments), env=toy.environment(project) | env, text=True,
        capture_output=True, check=False,
    )  # fmt: skip


def start(project: Pipeline, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        toy.command(project, "local", *arguments), env=toy.environment(project), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def wait_until(condition: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def commits(project: Pipeline) -> dict[str, str]:
    lines = project.git("for-each-ref", "--format=%(refname) %(objectname)", "refs/exps")
    return {ref.rsplit("/", 1)[1]: commit for ref, commit in map(str.split, lines.splitlines())}


def test_dvc_lists_and_applies_the_experiments_of_a_sweep(project: Pipeline) -> None:
    questions = ("status", "--porcelain"), ("rev-parse", "HEAD"), ("stash", "list")
    before = [project.git(*each) for each in questions]
    done = run(project, "2", "0", "2", "0.2", "0.3")
    assert done.returncode == 0, done.stdout + done.stderr
    assert [project.git(*each) for each in questions] == before
    names = ["toy-0_2-s0", "toy-0_2-s1", "toy-0_3-s0", "toy-0_3-s1"]
    assert sorted(project.dvc("exp", "list", "--name-only").split()) == names
    for name, rate, auroc in (("toy-0_2-s0", 0.2, 0.2), ("toy-0_3-s1", 0.3, 0.31)):
        project.dvc("exp", "apply", name)
        metrics = project.json("reports/metrics.json")["models"]["cnn"]
        assert metrics["val"]["macro_auroc"] == pytest.approx(auroc)
        assert read_yaml(project.folder / "params.yaml")["train"]["cnn"]["lr"] == rate
        assert (project.folder / "untracked.txt").read_text() == "a note\n"
    answer = project.json("reports/sweeps/toy.json")
    assert [row["val"]["mean"] for row in answer["rows"]] == pytest.approx([0.305, 0.205])
    assert not (project.folder / local.FOLDER).exists()


def test_only_what_is_not_done_runs_and_a_failure_is_reported_with_its_reason_and_log(
    project: Pipeline,
) -> None:
    run(project, "2", "0", "1", "0.2")
    before = commits(project)
    done = run(project, "2", "0", "1", "0.2", "-0.5", "0.3", CUDA_VISIBLE_DEVICES="7,8")
    assert done.returncode == 1
    assert done.stdout.count(" done: ") == 1
    assert commits(project).keys() == {"toy-0_2-s0", "toy-0_3-s0"}
    assert before.items() < commits(project).items()
    assert {lines.count("started") for lines in toy.notes(project.folder).values()} == {1}
    failed = project.json("reports/sweeps/toy.json")["failed"]
    assert failed == {"toy--0_5-s0": "evaluate: the rate is negative"}
    log = (project.folder / results.log_of("toy", "toy--0_5-s0")).read_text()
    assert "Running stage 'evaluate'" in log
    assert reason(log) == "evaluate: the rate is negative"
    project.dvc("exp", "apply", "toy-0_3-s0")  # it ran in the second slot, with its GPU
    assert project.json("reports/seen.json") == {"CUDA_VISIBLE_DEVICES": "8", "CXR_JOB": None}


def test_ctrl_c_stops_everything_within_ten_seconds_and_the_same_command_resumes(
    project: Pipeline,
) -> None:
    with start(project, "2", ENDLESS, "1", "0.1", "0.2", "0.3") as process:
        wait_until(lambda: len(toy.notes(project.folder)) == 2)
        process.send_signal(signal.SIGINT)
        sent = time.monotonic()
        printed, errors = process.communicate()
    assert time.monotonic() - sent < 10
    assert process.returncode == 130, errors
    assert printed.splitlines()[-1] == STOPPED
    assert list(toy.notes(project.folder).values()) == [["started", "interrupted"]] * 2
    again = run(project, "2", "0", "1", "0.1", "0.2", "0.3")
    assert again.returncode == 0, again.stdout + again.stderr
    assert {n: lines.count("done") for n, lines in toy.notes(project.folder).items()} == (
        dict.fromkeys(commits(project), 1)
    )
    assert len(commits(project)) == 3


def test_after_kill_9_the_same_command_stops_what_is_left_and_resumes(project: Pipeline) -> None:
    arguments = ("2", ENDLESS, "1", "0.1", "0.2")
    with start(project, *arguments) as process:
        wait_until(lambda: len(toy.notes(project.folder)) == 2)
        process.kill()
    with start(project, *arguments) as again:
        wait_until(
            lambda: [n.count("started") for n in toy.notes(project.folder).values()] == [2, 2]
        )
        for name, lines in toy.notes(project.folder).items():
            assert lines == ["started", "interrupted", "started"], name
        again.send_signal(signal.SIGINT)
        again.communicate()


def test_another_sweep_in_the_same_clone_is_refused_and_ctrl_z_suspends_the_experiments(
    project: Pipeline,
) -> None:
    with start(project, "1", "4", "1", "0.1") as process:
        wait_until(lambda: toy.notes(project.folder))
        process.send_signal(signal.SIGTSTP)
        other = run(project, "1", "0", "1", "0.2")
        time.sleep(4)
        assert toy.notes(project.folder) == {"toy-0_1-s0": ["started"]}
        process.send_signal(signal.SIGCONT)
        assert process.wait(30) == 0
        process.communicate()
    assert other.returncode == 2
    expected = f"cxr: process {process.pid} is already running a sweep in {project.folder}; "
    assert other.stderr.startswith(expected)
    assert len(other.stderr.splitlines()) == 1


def test_parallel_experiments_get_the_gpus_they_ask_for(
    project: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gpus_of(place: Place) -> list[str]:
        slots = local.slots(project.folder, place, 1)
        return [slot.env[VISIBLE_GPUS] for slot in slots]

    monkeypatch.setenv(VISIBLE_GPUS, "3,5")
    assert gpus_of(Place(jobs=2, gpus=1)) == ["3", "5"]
    assert gpus_of(Place(jobs=4, gpus=0.5)) == ["3", "3", "5", "5"]
    assert gpus_of(Place(jobs=3)) == ["3", "5", "3"]
    assert gpus_of(Place(jobs=2, gpus=0)) == ["", ""]
    with pytest.raises(CxrError, match="3 experiments at a time with --gpus 1 do not fit: this "):
        gpus_of(Place(jobs=3, gpus=1))
    monkeypatch.setenv(VISIBLE_GPUS, "")
    assert gpus_of(Place(jobs=1)) == [""]
    with pytest.raises(CxrError, match="this machine has 0 GPUs; lower --jobs or --gpus"):
        gpus_of(Place(jobs=1, gpus=0.5))
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(4)))
    with pytest.raises(CxrError, match="need 6 CPUs, and this machine has 4"):
        local.slots(project.folder, Place(jobs=2, cpus=3), 3)
