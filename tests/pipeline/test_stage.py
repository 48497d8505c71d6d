"""A stage publishes all of its outputs or none, and reports why it failed."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient
from pipeline import ROOT, Pipeline, create

WORK = """
import time
from pathlib import Path
from cxr.pipeline import stage
from cxr.errors import CxrError

def work(run):
    raw = run.output("data/raw")
    raw.mkdir()
    (raw / "chest.npz").write_text("half")
    {body}

stage.run("download", work)
"""


@pytest.fixture
def project(tmp_path: Path, empty_store: Path) -> Pipeline:
    pipeline = create(tmp_path)
    shutil.copy2(empty_store, tmp_path)
    return pipeline


def start(project: Pipeline, body: str) -> subprocess.CompletedProcess[str]:
    (project.folder / "stages/download.py").write_text(WORK.format(body=body))
    return project.run("python", "stages/download.py")


def only_run(project: Pipeline):
    store = MlflowClient(f"sqlite:///{project.folder / 'mlflow.db'}")
    experiment = store.get_experiment_by_name("phantom-28")
    (run,) = store.search_runs([experiment.experiment_id])
    return run


def nothing_is_published(project: Pipeline) -> bool:
    scratch = project.folder / ".scratch"
    remaining = [path.name for path in scratch.iterdir() if path.suffix != ".lock"]
    return not (project.folder / "data").exists() and remaining == []


def test_code_of_another_copy_is_refused(project: Pipeline) -> None:
    """Otherwise the record would name code that did not run."""
    done = project.run("env", f"PYTHONPATH={ROOT / 'src'}", "python", "stages/download.py")
    assert done.returncode == 2
    assert f"the code in {ROOT / 'src'} would run instead of" in done.stderr
    assert not (project.folder / "data").exists()


def test_a_parameter_edited_while_the_stage_runs_is_refused(project: Pipeline) -> None:
    done = start(
        project,
        "(run.work / 'half').touch(); p = Path('params.yaml'); "
        "p.write_text(p.read_text().replace('seed: 0', 'seed: 1'))",
    )
    assert done.returncode == 2
    assert "params.yaml: download.seed changed while the stage ran" in done.stderr
    assert nothing_is_published(project)
    run = only_run(project)
    assert run.info.status == "FAILED"
    assert "download.seed changed" in run.data.tags["cxr.failure"]


def test_code_edited_while_the_stage_runs_is_refused(project: Pipeline) -> None:
    done = start(project, "p = Path('src/cxr/labels.py'); p.write_text(p.read_text() + '#')")
    assert done.returncode == 2
    assert "src/cxr/labels.py changed while the stage ran" in done.stderr
    assert nothing_is_published(project)


def test_a_cxr_error_is_printed_as_one_line(project: Pipeline) -> None:
    done = start(project, "raise CxrError('the input is wrong; fix it')")
    assert (done.returncode, done.stderr) == (2, "download: the input is wrong; fix it\n")
    assert nothing_is_published(project)
    run = only_run(project)
    assert run.data.tags["cxr.failure"] == "the input is wrong; fix it"
    log = Path(run.info.artifact_uri.removeprefix("file://"), "log.txt").read_text()
    assert "the input is wrong; fix it" in log and "stages/download.py" in log  # and the traceback


def test_a_full_disk_is_reported_in_one_line(project: Pipeline) -> None:
    done = start(project, "raise OSError(28, 'No space left on device', 'x.npz')")
    assert done.returncode == 2
    assert done.stderr.startswith("download: x.npz: No space left on device")
    assert len(done.stderr.splitlines()) == 1
    assert nothing_is_published(project)


def test_numpys_error_for_a_full_disk_is_reported_in_one_line(project: Pipeline) -> None:
    done = start(project, "import numpy; numpy.arange(10**6).tofile(open('/dev/full', 'wb'))")
    assert (done.returncode, done.stderr) == (
        2,
        "download: while writing: 1000000 requested and 0 written; nothing was published; "
        "fix the problem and run again\n",
    )
    assert nothing_is_published(project)


def test_an_oserror_that_is_not_from_the_disk_is_a_bug(project: Pipeline) -> None:
    """tests/test_errors.py has more cases."""
    done = start(project, "raise FileNotFoundError(2, 'No such file or directory', 'x.npz')")
    assert done.returncode == 1 and "Traceback" in done.stderr
    assert "run again" not in done.stderr
    assert nothing_is_published(project)


@pytest.mark.parametrize(
    ("error", "device"),
    [
        ("MemoryError()", "this machine"),
        ("type('OutOfMemoryError', (RuntimeError,), {{}})('CUDA out of memory')",
         "the GPU (CUDA_VISIBLE_DEVICES= disables it)"),
    ],
)  # fmt: skip
def test_out_of_memory_is_reported_in_one_line(project: Pipeline, error: str, device: str) -> None:
    done = start(project, f"raise {error}".format())
    assert done.returncode == 2
    assert done.stderr.startswith(f"download: out of memory on {device}; nothing was published")
    assert len(done.stderr.splitlines()) == 1
    assert nothing_is_published(project)


def test_another_runtime_error_is_a_bug(project: Pipeline) -> None:
    done = start(project, "raise RuntimeError('shapes do not match')")
    assert done.returncode == 1 and "Traceback" in done.stderr


def test_an_undeclared_output_is_a_bug(project: Pipeline) -> None:
    done = start(project, "run.output('data/secret.npz')")
    assert done.returncode == 1
    assert "dvc.yaml does not declare" in done.stderr
    assert nothing_is_published(project)


def test_an_interrupt_prints_one_line_and_publishes_nothing(project: Pipeline) -> None:
    (project.folder / "stages/download.py").write_text(
        WORK.format(body="Path('ready').touch(); time.sleep(60)")
    )
    env = os.environ | {"PYTHONPATH": str(project.folder / "src")}
    env.pop("MLFLOW_TRACKING_URI", None)
    process = subprocess.Popen(
        [sys.executable, "stages/download.py"], cwd=project.folder, env=env,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not (project.folder / "ready").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 130
    assert stderr == "download: stopped; nothing was published; run `dvc repro` to resume\n"
    assert not (project.folder / "data").exists()
    assert only_run(project).info.status == "KILLED"


def test_a_damaged_mlflow_store_does_not_lose_the_result(project: Pipeline) -> None:
    (project.folder / "mlflow.db").write_text("this is not a database, and longer than a header")
    done = start(project, "pass")
    assert done.returncode == 0
    assert done.stderr.startswith("download: note: MLflow's store")
    assert len(done.stderr.splitlines()) == 1
    assert (project.folder / "data/raw/chest.npz").read_text() == "half"
    (log,) = project.json("records/download.json")["runs"]
    assert len(log["run_id"]) == 32


def test_a_password_in_the_stores_url_is_not_printed_or_logged(project: Pipeline) -> None:
    uri = "postgresql+nothing://me:secret@127.0.0.1:1/runs"
    body = (
        "import logging, os; logging.getLogger('x').warning(os.environ['MLFLOW_TRACKING_URI']); "
        "(log,) = Path('.scratch').rglob('log.txt'); Path('logged').write_text(log.read_text())"
    )
    (project.folder / "stages/download.py").write_text(WORK.format(body=body))
    done = subprocess.run(
        [sys.executable, "stages/download.py"], cwd=project.folder, capture_output=True, text=True,
        env=project.environment() | {"MLFLOW_TRACKING_URI": uri},
    )  # fmt: skip
    assert done.returncode == 0
    logged = (project.folder / "logged").read_text()
    for text in (done.stderr, logged):
        assert "postgresql+nothing://me:***@127.0.0.1:1/runs" in text
    assert logged.count("me:***@") == 2  # also in a line logged by a library
    assert not any("secret" in text for text in (done.stdout, done.stderr, logged))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "old", "new", "named"),
    [
        ("params.yaml", "weight_decay: 0.05", "weight_decay: 0.1", "params.yaml: train.cnn"),
        ("src/cxr/models/inputs.py", '"""', '"""A', "src/cxr/models/inputs.py"),
    ],
)
def test_an_edit_during_training_is_refused(
    kept: Path, tmp_path: Path, path: str, old: str, new: str, named: str
) -> None:
    """Run by `dvc repro`: the run is FAILED with the reason, and nothing is published."""
    project = Pipeline(kept).copy(tmp_path / "p")
    project.change(train__cnn__lr=0.003, train__protocol__epochs=40, train__protocol__patience=40)
    process = subprocess.Popen(
        ["dvc", "repro", "--single-item", "train-cnn"], cwd=project.folder,
        env=project.environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if "epoch  2/40" in line:
            file = project.folder / path
            file.write_text(file.read_text().replace(old, new, 1))
    assert process.wait() != 0
    (refusal,) = [line for line in lines if "changed while the stage ran" in line]
    assert refusal.startswith(f"train-cnn: {named}")
    assert "nothing was published" in refusal
    assert not any("Traceback" in line for line in lines)
    assert not (project.folder / "models/cnn").exists()
    store = MlflowClient(f"sqlite:///{project.folder / 'mlflow.db'}")
    ids = [each.experiment_id for each in store.search_experiments()]
    (run,) = store.search_runs(ids, "attributes.status = 'FAILED'")
    assert named in run.data.tags["cxr.failure"]
