"""What `cxr repro` reports about a pipeline run, and how it can be interrupted."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hostile.valid import record
from pipeline import ROOT, Pipeline

from cxr.cli import summary
from cxr.errors import CxrError
from cxr.pipeline import repro
from cxr.pipeline.repro import Outcome, Score, StageResult, Summary

CXR = str(Path(sys.executable).parent / "cxr")
LONG_AGO = "2024-05-01T10:00:00+00:00"


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A clone in which three stages ran long ago, and the others never."""
    (tmp_path / "records").mkdir()
    for name in ("dvc.yaml", "params.yaml"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    for stage in ("download", "preprocess", "train-cnn"):
        write_record(tmp_path, stage, LONG_AGO, 60)
    return tmp_path


def write_record(folder: Path, stage: str, started: str, seconds: int) -> None:
    finished = datetime.fromisoformat(started) + timedelta(seconds=seconds)
    content = record() | {"stage": stage, "started": started}
    content["finished"] = finished.isoformat(timespec="seconds")
    content["facts"]["stage"] = stage
    (folder / "records" / f"{stage}.json").write_text(json.dumps(content))


def write_metrics(folder: Path, source: str = "phantom") -> None:
    values = {"cnn": (0.7, 0.68), "all-negative": (0.5, None)}
    models = {
        name: {"val": {"macro_auroc": val}, "test": {"macro_auroc": test}}
        for name, (val, test) in values.items()
    }
    (folder / "reports").mkdir(exist_ok=True)
    metrics = {"data": {"name": "some-28", "source": source}, "models": models}
    (folder / "reports" / "metrics.json").write_text(json.dumps(metrics))


def reproduce(
    clone: Path, monkeypatch: pytest.MonkeyPatch, *stages: str, status: int = 0
) -> Summary:
    """With a fake DVC that runs train-cnn, restores preprocess and leaves download unchanged."""

    def fake_dvc(project: Path, *_: Any) -> int:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        write_record(project, "train-cnn", now, 75)
        write_record(project, "preprocess", LONG_AGO, 61)
        return status

    monkeypatch.setattr(repro, "_dvc_repro", fake_dvc)
    return repro.repro(clone, list(stages), sys.stdout)


def test_the_outcome_of_each_stage_is_reported(
    clone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = reproduce(clone, monkeypatch)
    assert {each.stage: (each.how, each.seconds) for each in done.stages} == {
        "download": (Outcome.UNCHANGED, None),
        "preprocess": (Outcome.RESTORED, None),
        "features": (Outcome.NOT_MADE, None),
        "train-cnn": (Outcome.RAN, 75),
        "train-squeezenet": (Outcome.NOT_MADE, None),
        "train-vit": (Outcome.NOT_MADE, None),
        "evaluate": (Outcome.NOT_MADE, None),
        "maps-cnn": (Outcome.NOT_MADE, None),
        "maps-squeezenet": (Outcome.NOT_MADE, None),
        "maps-vit": (Outcome.NOT_MADE, None),
        "gradcam": (Outcome.NOT_MADE, None),
    }
    assert done.scores == {}
    assert json.loads(json.dumps(done.as_json()))["stages"][0]["how"] == "unchanged"


def test_scores_include_trivial_baselines(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_metrics(clone)
    done = reproduce(clone, monkeypatch)
    assert done.scores == {"cnn": Score(0.7, 0.68), "all-negative": Score(0.5, None)}
    assert (done.data, done.is_phantom) == ("some-28", True)
    assert reproduce(clone, monkeypatch, status=255).scores == {}, "they may be from an earlier run"


def test_a_requested_stage_is_reported_with_its_dependencies_and_without_old_scores(
    clone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_metrics(clone)
    done = reproduce(clone, monkeypatch, "train-squeezenet")
    needed = ["download", "preprocess", "features", "train-squeezenet"]
    assert [each.stage for each in done.stages] == needed
    assert done.scores == {}, "they are from an earlier evaluation"
    assert reproduce(clone, monkeypatch, "gradcam").scores != {}


@pytest.mark.parametrize("content", ["{", "[]", '{"data": {}}', '{"models": {"cnn": 5}}'])
def test_damaged_metrics_are_refused(
    clone: Path, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    write_metrics(clone)
    (clone / "reports" / "metrics.json").write_text(content)
    sentence = r"metrics\.json is damaged .*; restore it with `dvc checkout --force"
    with pytest.raises(CxrError, match=sentence):
        reproduce(clone, monkeypatch)


def test_an_unknown_stage_is_refused_with_the_known_ones(clone: Path) -> None:
    with pytest.raises(CxrError, match="has no stage 'train'; its stages are download, "):
        repro.repro(clone, ["train"], sys.stdout)


def printed_summary(
    done: Summary, folder: Path, capsys: pytest.CaptureFixture[str], **options: bool
) -> list[str]:
    summary.summary(done, folder, **options)
    return [" ".join(line.split()) for line in capsys.readouterr().out.splitlines() if line.strip()]


STAGES = [
    StageResult("download", Outcome.UNCHANGED, None, "2024-05-01T10:05:00+00:00"),
    StageResult("preprocess", Outcome.RESTORED, None, "2024-05-01T10:06:00+00:00"),
    StageResult("train-cnn", Outcome.RAN, 75, "2024-05-01T10:07:00+00:00"),
]


def test_the_summary_lists_stages_scores_and_next_steps(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_metrics(tmp_path)
    scores = {"cnn": Score(0.7, 0.68), "all-negative": Score(0.5, None)}
    done = Summary(0, STAGES, "some-28", True, scores, [], {})
    lines = printed_summary(done, tmp_path, capsys)
    assert lines[:6] == [
        "download unchanged made 2024-05-01 10:05 UTC",
        "preprocess restored made 2024-05-01 10:06 UTC",
        "train-cnn ran 1 min 15 s",
        "some-28 (PHANTOM) val macro AUROC test macro AUROC",
        "cnn 0.7000 0.6800",
        "all-negative 0.5000 -",
    ]
    assert lines[6] == f"Results in {tmp_path}:"
    assert lines[7].startswith("reports/metrics.json ")
    assert [line.split("  ")[0] for line in lines[8:]] == [
        "make report all results on one page",
        "make ui all runs, curves and figures in MLflow",
        "cxr audit trace and verify all results",
    ]
    of_real = Summary(0, STAGES, "some-28", False, scores, [], {})
    real = printed_summary(of_real, tmp_path, capsys)
    assert "PHANTOM" not in "".join(real)
    of_demo = printed_summary(done, tmp_path, capsys, of_demo=True)
    assert of_demo[-3].startswith("make ui DEMO=1 ")
    assert of_demo[-1].endswith("start with: cxr table FILE --images FOLDER")


def test_the_summary_names_each_models_widest_gap_between_groups(
    clone: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def gap(model: str, a: str, b: str, difference: float, p: float) -> dict[str, Any]:
        ci = [difference - 0.1, difference + 0.1]
        who = {"model": model, "a": a, "b": b, "metric": "macro_auroc"}
        return who | {"difference": difference, "ci": ci, "p": p, "p_holm": p}

    write_metrics(clone)
    path = clone / "reports" / "metrics.json"
    metrics = json.loads(path.read_text())
    of_age = [gap("cnn", "under 40", "40 and over", 0.3, 0.06)]
    of_view = [gap("cnn", "AP", "PA", -0.2, 0.04)]
    attributes = {
        name: {"gaps": gaps, "models": {"cnn": {}}}
        for name, gaps in (("age", of_age), ("view", of_view))
    }
    metrics["subgroups"] = {"attributes": attributes, "left_out": {}}
    path.write_text(json.dumps(metrics))
    done = reproduce(clone, monkeypatch)
    assert done.attributes == ["age", "view"]
    assert done.gaps == {"cnn": {"attribute": "view", **of_view[0]}}
    says = "cnn: widest gap: AP minus PA (view), macro AUROC -0.2000 [-0.3000, -0.1000], p 0.040"
    assert any(says in line for line in printed_summary(done, clone, capsys))
    of_view[0]["p_holm"] = 0.05
    path.write_text(json.dumps(metrics))
    lines = printed_summary(reproduce(clone, monkeypatch), clone, capsys)
    assert "cnn: no gap in macro AUROC between groups of age, view is shown" in lines


def test_a_failed_pipeline_lists_the_stages_that_finished(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = printed_summary(Summary(255, STAGES, None, False, {}, [], {}), tmp_path, capsys)
    assert [line.split()[:2] for line in lines] == [
        ["preprocess", "restored"], ["train-cnn", "ran"],
    ]  # fmt: skip


FAKE_DVC = """
import signal, sys, time, pathlib
def keep(signum, frame):
    time.sleep(1)  # longer than subprocess.run waits for a child after Ctrl-C
    pathlib.Path("kept").write_text("what was done")
    sys.exit(1)
signal.signal(signal.SIGINT, keep)
print("started", flush=True)
while True:
    signal.pause()
"""


def started(clone: Path, dvc: str, *before: str) -> tuple[subprocess.Popen[str], str]:
    """Start `cxr repro` in a new session with a fake DVC; return it and the fake's first line."""
    (clone / "src" / "dvc").mkdir(parents=True)
    (clone / "src" / "dvc" / "__init__.py").touch()
    (clone / "src" / "dvc" / "__main__.py").write_text(dvc)
    process = subprocess.Popen(
        [*before, CXR, "repro"], cwd=clone, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    return process, process.stdout.readline()


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_after_a_signal_dvc_has_time_to_save_progress(clone: Path, signum: signal.Signals) -> None:
    process, line = started(clone, FAKE_DVC)
    assert line == "started\n"
    os.kill(process.pid, signum)
    _, errors = process.communicate(timeout=30)
    assert (clone / "kept").read_text() == "what was done"
    assert process.returncode == 130
    assert errors == "cxr: stopped\n"


FAKE_STAGE = """
import os, time
print(os.getpid(), flush=True)
while not os.path.exists("end"):
    time.sleep(0.05)
"""


def state(pid: int) -> str:
    """The process state in /proc, `T` for a stopped process."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def handles(pid: int, signum: signal.Signals) -> bool:
    status = Path(f"/proc/{pid}/status").read_text()
    caught = next(line for line in status.splitlines() if line.startswith("SigCgt:"))
    return bool(int(caught.split()[1], 16) >> (signum - 1) & 1)


def wait_until(holds: Callable[[], bool]) -> None:
    until = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.05)


def test_ctrl_z_suspends_the_stage_and_fg_resumes_it(clone: Path) -> None:
    process, line = started(clone, FAKE_STAGE)
    stage = int(line)
    try:
        wait_until(lambda: handles(process.pid, signal.SIGCONT))
        for _ in range(2):
            os.kill(process.pid, signal.SIGTSTP)
            wait_until(lambda: state(stage) == state(process.pid) == "T")
            os.kill(process.pid, signal.SIGCONT)
            wait_until(lambda: "T" not in (state(stage), state(process.pid)))
    finally:
        (clone / "end").touch()
        os.kill(process.pid, signal.SIGCONT)
    process.communicate(timeout=30)
    assert process.returncode == 0


def test_an_ignored_signal_does_not_stop_the_pipeline(clone: Path) -> None:
    """As under nohup, when the terminal closes."""
    wait = "import time; print('started', flush=True); time.sleep(1); print('done')"
    process, line = started(clone, wait, "nohup")
    assert line == "started\n"
    os.kill(process.pid, signal.SIGHUP)
    printed, _ = process.communicate(timeout=30)
    assert printed.startswith("done\n")
    assert process.returncode == 0


@pytest.mark.slow
def test_a_real_run_is_reported_correctly(kept: Path, tmp_path: Path) -> None:
    made = Pipeline(kept).copy(tmp_path / "p")
    assert outcomes(made) == dict.fromkeys(outcomes(made), "unchanged")
    made.change(train__cnn__lr=0.004)
    ran = {stage for stage, how in outcomes(made).items() if how == "ran"}
    assert ran == {"train-cnn", "evaluate", "maps-cnn", "gradcam"}
    made.change(train__cnn__lr=0.002)
    restored = {stage for stage, how in outcomes(made).items() if how == "restored"}
    assert restored == {"train-cnn", "evaluate", "maps-cnn", "gradcam"}
    printed = made.run("cxr", "repro").stdout
    assert "train-cnn" in printed and "unchanged" in printed and "(PHANTOM)" in printed
    for name in ("cnn", "squeezenet", "vit", "all-negative"):
        assert f"\n{name} " in printed
    made.change(train__cnn__lr=-1)
    done = made.run("cxr", "repro")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("cxr: the pipeline failed in ")


def outcomes(made: Pipeline) -> dict[str, str]:
    done = made.run("cxr", "repro", "--json")
    assert done.returncode == 0, done.stderr
    return {each["stage"]: each["how"] for each in json.loads(done.stdout)["stages"]}
