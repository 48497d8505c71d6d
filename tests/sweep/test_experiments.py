"""Sweeps with DVC's real queue: run, repeated, failed, interrupted, next to other tasks."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cxr.sweep.queue import Queue, State
from mlflow import MlflowClient
from pipeline import TINY, Pipeline, create

from cxr import sweep
from cxr.documents import parse_yaml, read_yaml
from cxr.sweep import runner

pytestmark = pytest.mark.slow

# One epoch on so few images that most of an experiment's time is starting its programs.
SMALLEST = TINY | {
    "download.phantom.train": 120,
    "download.phantom.val": 100,
    "download.phantom.test": 80,
    "train.protocol.epochs": 1,
    "evaluate.resamples": 100,
}
CXR = str(Path(sys.executable).parent / "cxr")
LRS, SEEDS = (0.003, 0.03), 2  # test_sweep.py has grids of more parameters
N_CONFIGURATIONS = len(LRS)
N = N_CONFIGURATIONS * SEEDS
SWEEP = ("sweep", "-S", f"train.squeezenet.lr={','.join(map(str, LRS))}", "--name", "grid")
MAPS = ["maps-cnn", "maps-squeezenet", "maps-vit", "gradcam"]  # the stages of heat maps
THEN_MAPS = "  its heat maps do not exist yet; make them with  dvc repro"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    """A clone in which nothing has run yet."""
    return create(tmp_path_factory.mktemp("sweep"), SMALLEST)


@pytest.fixture(scope="module")
def first(project: Pipeline) -> subprocess.CompletedProcess[str]:
    """The first call of the sweep: every configuration, two seeds each."""
    done = project.run(CXR, *SWEEP, limit=1800)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def experiments(project: Pipeline) -> dict[str, str]:
    """Commits of the finished experiments by name."""
    refs = project.git("for-each-ref", "--format=%(objectname) %(refname)", "refs/exps").split("\n")
    pairs = (line.split(" ") for line in refs if line and "refs/exps/celery" not in line)
    return {ref.rsplit("/", 1)[1]: commit for commit, ref in pairs if "/exec/" not in ref}


def states(project: Pipeline) -> dict[str, str]:
    lines = project.dvc("queue", "status").splitlines()
    rows = [line.split() for line in lines if line.split()[-1:] in (["Success"], ["Failed"])]
    rows += [line.split() for line in lines if line.split()[-1:] in (["Running"], ["Queued"])]
    return {row[1]: row[-1] for row in rows}


def stop_workers(project: Pipeline) -> None:
    """Stop all workers; the message with which an idle one stops itself can get lost."""
    deadline = time.monotonic() + 120
    while "Worker status: 0 active, 0 idle" not in project.dvc("queue", "status"):
        assert time.monotonic() < deadline
        project.dvc("queue", "stop")
        time.sleep(1)


def stages_of(project: Pipeline, experiment: str) -> set[str]:
    """The stages that an experiment ran or restored."""
    lock = project.git("show", f"{experiments(project)[experiment]}:dvc.lock")
    return set(parse_yaml(lock)["stages"])


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
    headline = f"{N_CONFIGURATIONS} configurations, seeds 0 to 1: {N} experiments, 0 of them done"
    assert lines[0] == f"sweep: {headline}"
    assert [line.split()[1:4] for line in lines[1 : N + 1]] == [
        [str(n), "of", str(N)] for n in range(1, N + 1)
    ]
    table = ranked(first.stdout)
    rows = [line.split() for line in table if line.startswith("squeezenet ")]
    assert len(rows) == N_CONFIGURATIONS
    assert {float(row[1]) for row in rows} == set(LRS)
    assert table[-2] == THEN_MAPS  # the last line names the saved files
    assert list(states(project).values()) == ["Success"] * N
    assert len(experiments(project)) == N
    assert project.git("status", "--porcelain") == ""


def test_an_experiment_ends_with_its_evaluation(
    project: Pipeline, first: subprocess.CompletedProcess[str]
) -> None:
    trainings = {f"train-{model}" for model in ("cnn", "squeezenet", "vit")}
    for name in experiments(project):
        made = stages_of(project, name)
        assert made == {"download", "preprocess", "features", *trainings, "evaluate"}


def test_the_table_has_the_experiments_own_results(
    project: Pipeline, first: subprocess.CompletedProcess[str]
) -> None:
    """Compared with the means of what `dvc exp show` reads."""
    shown = json.loads(project.dvc("exp", "show", "--json"))
    reported: dict[float, list[float]] = {}
    for experiment in shown[1]["experiments"]:
        data = experiment["revs"][0]["data"]
        key = data["params"]["params.yaml"]["data"]["train"]["squeezenet"]["lr"]
        metrics = data["metrics"]["reports/summary.json"]["data"]
        reported.setdefault(key, []).append(metrics["squeezenet"]["val_macro_auroc"])
    means = {key: sum(values) / 2 for key, values in reported.items()}
    answer = project.json("reports/sweeps/grid.json")
    ranked_means = {
        row["params"]["train.squeezenet.lr"]: row["val"]["mean"] for row in answer["rows"]
    }
    assert ranked_means == pytest.approx(means)
    assert list(ranked_means.values()) == sorted(ranked_means.values(), reverse=True)
    (best,) = answer["best"]
    assert means[best["row"]["params"]["train.squeezenet.lr"]] == max(means.values())
    assert f"dvc exp apply {best['experiment']}" in first.stdout
    csv = (project.folder / "reports/sweeps/grid.csv").read_text().splitlines()
    assert len(csv) == 1 + N


def test_the_audit_passes_and_mlflow_names_every_experiment(
    project: Pipeline, first: subprocess.CompletedProcess[str]
) -> None:
    audit = project.run(CXR, "audit")
    assert audit.returncode == 0, audit.stdout
    store = MlflowClient(f"sqlite:///{project.folder / 'mlflow.db'}")
    ids = [each.experiment_id for each in store.search_experiments()]
    runs = store.search_runs(ids)
    assert {run.info.status for run in runs} == {"FINISHED"}
    evaluated = [run for run in runs if run.data.tags["cxr.stage"] == "evaluate"]
    own = [run for run in evaluated if "cxr.model" not in run.data.tags]
    names = sorted(experiments(project))
    assert sorted(run.data.tags["cxr.experiment"] for run in own) == names
    assert sorted(run.info.run_name for run in own) == [f"evaluate ({name})" for name in names]


def test_experiments_with_equal_results_of_a_model_share_one_run(
    project: Pipeline, first: subprocess.CompletedProcess[str]
) -> None:
    """Only the SqueezeNet depends on the sweep's parameter; the others depend on the seed."""
    store = MlflowClient(f"sqlite:///{project.folder / 'mlflow.db'}")
    ids = [each.experiment_id for each in store.search_experiments()]
    members: dict[str, list[list[str]]] = {}
    for run in store.search_runs(ids, "tags.`cxr.stage` = 'evaluate'"):
        if model := run.data.tags.get("cxr.model"):
            assert run.info.run_name == f"evaluate-{model}"
            named = sorted(run.data.tags["cxr.experiment"].split(", "))
            members.setdefault(model, []).append(named)
    names = sorted(experiments(project))
    of_seed = [[name for name in names if name.endswith(f"-s{seed}")] for seed in range(SEEDS)]
    others = ("cnn", "vit", "attributes-only", "all-negative", "prevalence")
    expected = dict.fromkeys(others, of_seed) | {"squeezenet": [[name] for name in names]}
    assert {model: sorted(found) for model, found in members.items()} == {
        model: sorted(found) for model, found in expected.items()
    }


def test_a_second_call_runs_nothing_and_prints_the_same_table(
    project: Pipeline, first: subprocess.CompletedProcess[str]
) -> None:
    before = experiments(project)
    again = project.run(CXR, *SWEEP)
    assert again.returncode == 0
    assert again.stdout.splitlines()[0].endswith(f"{N} experiments, {N} of them done")
    assert again.stdout.splitlines()[1:] == ranked(first.stdout)
    assert experiments(project) == before
    as_json = project.run(CXR, *SWEEP, "--json")
    assert json.loads(as_json.stdout) == project.json("reports/sweeps/grid.json")


def test_the_best_experiment_can_be_applied(
    project: Pipeline, first: subprocess.CompletedProcess[str], tmp_path: Path
) -> None:
    stop_workers(project)  # their temporary files would disturb the copy
    clone = project.copy(tmp_path / "p")
    best = clone.json("reports/sweeps/grid.json")["best"][0]
    applied = clone.run("dvc", "exp", "apply", best["experiment"])
    assert applied.returncode == 255  # only because no heat maps have ever been made here
    failed = applied.stderr.partition("following targets:\n")[2].partition("\nIs your")[0]
    places = ("attributions/", "reports/gradcam", "records/maps-", "records/gradcam.json")
    assert failed and all(line.startswith(places) for line in failed.splitlines())
    lr = read_yaml(clone.folder / "params.yaml")["train"]["squeezenet"]["lr"]
    assert {"train.squeezenet.lr": lr} == best["row"]["params"]
    clone.run("cxr", "sync")  # MLflow has the artifact paths of the original
    assert notes(clone) == ["these results have no heat maps yet"]
    assert clone.repro() == MAPS
    assert notes(clone) == []


def test_heat_maps_of_earlier_results_are_a_note_until_they_are_made_again(
    project: Pipeline, first: subprocess.CompletedProcess[str], tmp_path: Path
) -> None:
    stop_workers(project)
    clone = project.copy(tmp_path / "p")
    answer = clone.json("reports/sweeps/grid.json")
    best, second = answer["rows"]
    (params,) = (e["params"] for e in answer["experiments"] if e["name"] == best["experiments"][0])
    clone.change(**params)
    assert clone.repro() == MAPS  # DVC has the results of the other stages
    clone.git("add", "-A")
    clone.git("commit", "-qm", "best")
    lr = f"train.squeezenet.lr={second['params']['train.squeezenet.lr']}"
    clone.dvc("exp", "run", "evaluate", "--temp", "-n", "next", "-S", lr)  # as a sweep does
    clone.dvc("exp", "apply", "next")
    clone.run("cxr", "sync")
    found = notes(clone)
    assert {note.partition(":")[0] for note in found} == {"heat maps are out of date"}
    assert {note.split()[8] for note in found} == {"models/squeezenet", "decisions/squeezenet.json"}
    assert clone.repro() == ["maps-squeezenet", "gradcam"]
    assert notes(clone) == []


def test_with_explain_every_experiment_has_heat_maps(
    project: Pipeline, first: subprocess.CompletedProcess[str], tmp_path: Path
) -> None:
    call = ["sweep", "-S", f"train.squeezenet.lr={LRS[0]}", "--seeds", "1", "--explain"]
    done = project.run(CXR, *call, "--name", "explained")
    assert done.returncode == 0, done.stdout + done.stderr
    assert ranked(done.stdout)[-2].startswith("  apply it with  dvc exp apply explained-")
    assert THEN_MAPS not in done.stdout
    (name,) = (each for each in experiments(project) if each.startswith("explained-"))
    assert set(MAPS) <= stages_of(project, name)
    stop_workers(project)
    clone = project.copy(tmp_path / "p")
    clone.dvc("exp", "apply", name)
    clone.run("cxr", "sync")
    assert clone.repro() == []
    assert notes(clone) == []


def test_a_failure_is_reported_and_the_others_continue(
    project: Pipeline, first: subprocess.CompletedProcess[str]
) -> None:
    call = ["sweep", "-S", "train.squeezenet.weights=/nowhere.pt,none", "--seeds", "1"]
    call += ["-S", "train.squeezenet.lr=0.02", "--name", "broken"]
    done = project.run(CXR, *call)
    assert done.returncode == 1, done.stdout + done.stderr
    failed, succeeded = (
        each["name"] for each in project.json("reports/sweeps/broken.json")["experiments"]
    )
    assert (
        f"{failed}: features: train.squeezenet.weights: /nowhere.pt does not exist" in done.stdout
    )
    assert f"dvc queue logs {failed}" in done.stdout
    assert succeeded in experiments(project)
    assert failed not in experiments(project)
    assert states(project)[failed] == "Failed"
    assert project.run(CXR, "audit").returncode == 0


def test_ctrl_c_stops_everything_and_the_same_command_resumes(
    project: Pipeline, first: subprocess.CompletedProcess[str]
) -> None:
    call = ["sweep", "-S", "train.squeezenet.lr=0.04,0.05,0.06,0.07,0.08", "--seeds", "1"]
    call += ["--name", "stopped"]
    with subprocess.Popen(
        [CXR, *call], cwd=project.folder, env=project.environment(), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        for line in process.stdout:
            if "1 of 5 done" in line:
                break
        process.send_signal(signal.SIGINT)
        rest, errors = process.communicate(timeout=300)
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert rest.splitlines()[-1] == "sweep: stopped; run the same command again to resume"
    done = {name: commit for name, commit in experiments(project).items() if "stopped" in name}
    assert 1 <= len(done) < 5
    assert not {"Running", "Queued"} & set(states(project).values())

    again = project.run(CXR, *call)
    assert again.returncode == 0, again.stdout + again.stderr
    after = {name: commit for name, commit in experiments(project).items() if "stopped" in name}
    assert len(after) == 5
    assert done.items() <= after.items()
    assert project.run(CXR, "audit").returncode == 0


def test_queued_tasks_from_outside_the_sweep_are_refused(tmp_path: Path) -> None:
    clone = create(tmp_path, SMALLEST)  # no worker has run in this clone yet
    clone.dvc("exp", "run", "--queue", "-n", "other", "-S", "train.cnn.lr=0.5")
    done = clone.run(CXR, "sweep", "-S", "train.squeezenet.lr=0.08", "--seeds", "1")
    assert done.returncode == 2
    assert done.stderr.startswith("cxr: DVC's queue holds 1 task from outside this sweep (other)")
    assert states(clone) == {"other": "Queued"}
    command = "dvc queue remove --queued"
    assert f"`{command}`" in done.stderr
    clone.run(*command.split())
    assert states(clone) == {}


def test_the_experiment_of_a_killed_worker_is_run_again(
    project: Pipeline,
    first: subprocess.CompletedProcess[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As after a power failure: DVC reports it as running, but it has no live process."""
    for name, value in project.environment().items():
        monkeypatch.setenv(name, value)
    space = sweep.parse(["train.squeezenet.lr=0.09"])
    plan = sweep.make(project.folder, "killed", sweep.grid(space), n_seeds=1, jobs=1)
    queue, name = Queue(project.folder), plan.experiments[0].name
    queue.add(plan.experiments[0], plan.target)
    queue.start(1)
    deadline = time.monotonic() + 120
    while not queue.is_alive(task := queue.tasks()[name]) and time.monotonic() < deadline:
        time.sleep(0.2)
    process_file = f".dvc/tmp/exps/run/{task.revision}/{task.revision}.json"
    os.killpg(
        os.getpgid(project.json(process_file)["pid"]), signal.SIGKILL
    )  # the worker's group, too
    assert queue.tasks()[name].state is State.RUNNING
    monkeypatch.setattr(runner, "LOST_SECONDS", 3)
    answer = sweep.run(plan, project.folder, lambda line: None, lambda done, total: None)
    assert answer.failed == {}
    assert name in experiments(project)
    assert project.run(CXR, "audit").returncode == 0
