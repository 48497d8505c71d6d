"""Sweeps of the real pipeline: ranked, shared in MLflow, audited, applied, failed, interrupted."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from faults import sweeps
from mlflow import MlflowClient
from pipeline import Pipeline

from cxr.documents import read_yaml
from cxr.lineage.repository import Repository
from cxr.sweep.results import log_of

pytestmark = pytest.mark.slow

CXR = str(Path(sys.executable).parent / "cxr")
LRS = (0.003, 0.03)  # test_sweep.py has grids of more parameters
N = len(LRS)
SWEEP = ("sweep", "-S", f"train.squeezenet.lr={','.join(map(str, LRS))}", "--seeds", "1")
GRID = (*SWEEP, "--name", "grid")
MAPS = ["maps-squeezenet", "gradcam"]  # the stages of heat maps that these experiments change
THEN_MAPS = "  its heat maps do not exist yet; make them with  dvc repro"


@pytest.fixture(scope="module")
def project(kept: Path, tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    """A clone in which the pipeline has run with other learning rates."""
    clone = Pipeline(kept).copy(tmp_path_factory.mktemp("sweep") / "p")
    assert clone.run("cxr", "sync").returncode == 0  # MLflow has the artifact paths of the original
    return clone


@pytest.fixture(scope="module")
def first(project: Pipeline) -> subprocess.CompletedProcess[str]:
    """The first call of the sweep: two configurations, one seed."""
    done = project.run(CXR, *GRID)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def experiments(project: Pipeline, name: str = "grid") -> dict[str, str]:
    """Commits of the finished experiments of a sweep by name."""
    found = Repository(project.folder).experiments()
    return {each: commit for each, commit in found if each.startswith(f"{name}-")}


def stages_run(project: Pipeline, experiment: str) -> list[str]:
    """The stages that an experiment ran, from its log."""
    log = (project.folder / log_of(experiment.split("-")[0], experiment)).read_text()
    return [line.split("'")[1] for line in log.splitlines() if line.startswith("Running stage")]


def notes(project: Pipeline) -> list[str]:
    """The notes of an audit that has no failure."""
    done = project.run("cxr", "audit", "--json")
    assert done.returncode == 0, done.stdout
    audit = json.loads(done.stdout)
    findings = audit["findings"] + [f for stage in audit["stages"] for f in stage["findings"]]
    return [finding["says"] for finding in findings if finding["verdict"] != "holds"]


def ranked(printed: str) -> list[str]:
    """The printed table and everything below it."""
    lines = printed.splitlines()
    return lines[next(n for n, line in enumerate(lines) if "validation" in line) :]


def test_a_sweep_prints_its_progress_and_one_ranked_table(
    project: Pipeline, first: subprocess.CompletedProcess[str]
) -> None:
    lines = first.stdout.splitlines()
    assert lines[0].startswith(
        f"sweep: {N} configurations, seed 0: {N} experiments, 0 of them done"
    )
    assert [line.split()[1:4] for line in lines[1 : N + 1]] == [
        [str(n), "of", str(N)] for n in range(1, N + 1)
    ]
    table = ranked(first.stdout)
    rows = [line.split() for line in table if line.startswith("squeezenet ")]
    assert {float(row[1]) for row in rows} == set(LRS)
    assert table[-2] == THEN_MAPS  # the last line names the saved files
    assert len(experiments(project)) == N
    assert project.git("status", "--porcelain") == ""


def test_an_experiment_runs_only_what_it_changes_and_ends_with_its_evaluation(
    project: Pipeline, first: subprocess.CompletedProcess[str]
) -> None:
    for name in experiments(project):
        assert stages_run(project, name) == ["train-squeezenet", "evaluate"]


def test_the_table_has_the_experiments_own_results(
    project: Pipeline, first: subprocess.CompletedProcess[str]
) -> None:
    """Compared with what `dvc exp show` reads."""
    shown = json.loads(project.dvc("exp", "show", "--json"))
    reported: dict[float, float] = {}
    for experiment in shown[1]["experiments"]:
        if experiment["name"].startswith("grid-"):
            data = experiment["revs"][0]["data"]
            key = data["params"]["params.yaml"]["data"]["train"]["squeezenet"]["lr"]
            metrics = data["metrics"]["reports/summary.json"]["data"]
            reported[key] = metrics["squeezenet"]["val_macro_auroc"]
    answer = project.json("reports/sweeps/grid.json")
    ranked_means = {
        row["params"]["train.squeezenet.lr"]: row["val"]["mean"] for row in answer["rows"]
    }
    assert ranked_means == pytest.approx(reported)
    assert list(ranked_means.values()) == sorted(ranked_means.values(), reverse=True)
    (best,) = answer["best"]
    assert reported[best["row"]["params"]["train.squeezenet.lr"]] == max(reported.values())
    assert f"dvc exp apply {best['experiment']}" in first.stdout
    csv = (project.folder / "reports/sweeps/grid.csv").read_text().splitlines()
    assert len(csv) == 1 + N


def test_the_audit_passes_and_experiments_with_equal_results_of_a_model_share_its_run(
    project: Pipeline, first: subprocess.CompletedProcess[str]
) -> None:
    audit = project.run(CXR, "audit")
    assert audit.returncode == 0, audit.stdout
    store = MlflowClient(f"sqlite:///{project.folder / 'mlflow.db'}")
    ids = [each.experiment_id for each in store.search_experiments()]
    runs = store.search_runs(ids)
    assert {run.info.status for run in runs} == {"FINISHED"}
    named: dict[str, list[set[str]]] = {}
    names = set(experiments(project))
    for run in runs:
        members = names & set(run.data.tags.get("cxr.experiment", "").split(", "))
        if members:
            named.setdefault(run.info.run_name.partition(" (")[0], []).append(members)
    apart = sorted([name] for name in names)
    own = ("train-squeezenet", "evaluate", "evaluate-squeezenet")
    others = ("cnn", "vit", "attributes-only", "all-negative", "prevalence")
    expected = dict.fromkeys(own, apart)
    expected |= {f"evaluate-{name}": [sorted(names)] for name in others}
    assert {name: sorted(map(sorted, members)) for name, members in named.items()} == expected


def test_a_second_call_runs_nothing_and_prints_the_same_table(
    project: Pipeline, first: subprocess.CompletedProcess[str]
) -> None:
    before = experiments(project)
    again = project.run(CXR, *GRID)
    assert again.returncode == 0
    assert again.stdout.splitlines()[0].endswith(f"{N} of them done")
    assert again.stdout.splitlines()[1:] == ranked(first.stdout)
    assert experiments(project) == before
    as_json = project.run(CXR, *GRID, "--json")
    assert json.loads(as_json.stdout) == project.json("reports/sweeps/grid.json")


def test_the_best_experiment_can_be_applied_and_its_heat_maps_made(
    project: Pipeline, first: subprocess.CompletedProcess[str], tmp_path: Path
) -> None:
    clone = project.copy(tmp_path / "p")
    best = clone.json("reports/sweeps/grid.json")["best"][0]
    clone.dvc("exp", "apply", best["experiment"])
    lr = read_yaml(clone.folder / "params.yaml")["train"]["squeezenet"]["lr"]
    assert {"train.squeezenet.lr": lr} == best["row"]["params"]
    clone.run("cxr", "sync")  # MLflow has the artifact paths of the original
    found = notes(clone)
    assert {note.partition(":")[0] for note in found} == {"heat maps are out of date"}
    assert clone.repro() == MAPS
    assert notes(clone) == []


def test_with_explain_every_experiment_has_heat_maps(
    project: Pipeline, first: subprocess.CompletedProcess[str]
) -> None:
    call = ["sweep", "-S", f"train.squeezenet.lr={LRS[0]}", "--seeds", "1", "--explain"]
    done = project.run(CXR, *call, "--name", "explained")
    assert done.returncode == 0, done.stdout + done.stderr
    assert ranked(done.stdout)[-2].startswith("  apply it with  dvc exp apply explained-")
    assert THEN_MAPS not in done.stdout
    (name,) = experiments(project, "explained")
    assert stages_run(project, name) == MAPS  # the rest is known


def test_the_reason_of_a_failure_is_printed(
    project: Pipeline, first: subprocess.CompletedProcess[str]
) -> None:
    call = ["sweep", "-S", "train.squeezenet.weights=/nowhere.pt", "--seeds", "1"]
    done = project.run(CXR, *call, "--name", "broken")
    assert done.returncode == 1, done.stdout + done.stderr
    (failed,) = (each["name"] for each in project.json("reports/sweeps/broken.json")["experiments"])
    reason = f"{failed}: features: train.squeezenet.weights: /nowhere.pt does not exist"
    assert reason in done.stdout
    assert done.stdout.splitlines()[-2].endswith(f"  → {log_of('broken', failed)}")
    assert experiments(project, "broken") == {}


def test_a_killed_mlflow_server_costs_no_result_and_sync_logs_every_run_once(
    kept: Path, tmp_path: Path
) -> None:
    clone = Pipeline(kept).copy(tmp_path / "p")
    outcome = sweeps.kill_server(clone, "train.squeezenet.lr=0.004,0.005", 3, comes_back=False)
    assert outcome.as_expected, outcome
    assert outcome.stop_seconds > 3  # the sweep went on without it


def test_an_interrupted_experiment_resumes_from_its_checkpoint(
    project: Pipeline, first: subprocess.CompletedProcess[str]
) -> None:
    call = ["sweep", "-S", "train.protocol.epochs=2000", "-S", "train.protocol.patience=2000"]
    call += ["--seeds", "1", "--name", "stopped", "--jobs", "1"]
    for wanted in ("epoch  3", "resuming"):
        with subprocess.Popen(
            [CXR, *call], cwd=project.folder, env=project.environment(), text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        ) as process:  # fmt: skip
            _wait_for_log(project, wanted)
            process.send_signal(signal.SIGINT)
            sent = time.monotonic()
            printed, errors = process.communicate(timeout=60)
        assert time.monotonic() - sent < 10
        assert process.returncode == 130, errors
        assert printed.splitlines()[-1] == "sweep: stopped; run the same command again to resume"
        assert list(project.folder.glob(".scratch/*/work/training.pt"))
    assert experiments(project, "stopped") == {}


def _wait_for_log(project: Pipeline, wanted: str) -> None:
    deadline = time.monotonic() + 90
    while not any(
        wanted in path.read_text() for path in project.folder.glob("reports/sweeps/stopped/*.log")
    ):
        assert time.monotonic() < deadline
        time.sleep(0.1)
