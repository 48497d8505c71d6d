"""A project whose only stage takes moments, to test sweeps without training.

`python -m toy FOLDER ON JOBS SECONDS SEEDS RATE …` runs a sweep in it as `cxr sweep` would.
"""

import shutil
import sys
from pathlib import Path
from typing import Any

import yaml
from pipeline import ROOT, Pipeline

from cxr.errors import CxrError
from cxr.sweep import run
from cxr.sweep.plan import Experiment, Place, Plan

# Its result depends on the parameters alone. It fails for a negative rate, and counts its starts.
STAGE = """
import json, os, pathlib, signal, sys, time
import yaml
params = yaml.safe_load(pathlib.Path("params.yaml").read_text())
lr, seconds = params["train"]["cnn"]["lr"], params["train"]["cnn"]["seconds"]
project, name = os.environ.get("CXR_PROJECT", "."), os.environ["DVC_EXP_NAME"]
notes = pathlib.Path(project, "notes", name)
notes.parent.mkdir(exist_ok=True)
def note(text):
    with open(notes, "a") as file:
        file.write(text + "\\n")
note("started")
if lr < 0:
    print("evaluate: the rate is negative", file=sys.stderr)
    sys.exit(2)
until = time.monotonic() + seconds
try:
    while time.monotonic() < until:
        time.sleep(0.05)
except KeyboardInterrupt:
    note("interrupted")
    sys.exit(130)
auroc = {"macro_auroc": lr + params["seed"] / 100, "macro_auroc_ci": None}
pathlib.Path("reports").mkdir(exist_ok=True)
pathlib.Path("reports/metrics.json").write_text(json.dumps(
    {"models": {"cnn": {"val": auroc, "test": auroc}}}))
pathlib.Path("reports/seen.json").write_text(json.dumps(
    {name: os.environ.get(name) for name in ("CUDA_VISIBLE_DEVICES", "CXR_JOB")}))
note("done")
"""
PIPELINE = {
    "stages": {
        "evaluate": {
            "cmd": "python stage.py",
            "deps": ["stage.py"],
            "params": ["seed", "threads", "train"],
            "outs": ["reports/metrics.json", "reports/seen.json"],
        }
    }
}


def create(folder: Path) -> Pipeline:
    """A new repository with the project; its working copy has an uncommitted change."""
    folder.mkdir(parents=True)
    shutil.copytree(ROOT / ".dvc", folder / ".dvc", ignore=shutil.ignore_patterns("tmp", "cache"))
    (folder / ".gitignore").write_text("/reports/\n/.scratch/\n/notes/\n")
    (folder / "stage.py").write_text("raise SystemExit('only the working copy has the code')\n")
    (folder / "dvc.yaml").write_text(yaml.safe_dump(PIPELINE))
    params = {"seed": 0, "threads": 1, "train": {"cnn": {"lr": 0.1, "seconds": 0}}}
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    project = Pipeline(folder)
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "start"]):
        project.git(*command)
    (folder / "stage.py").write_text(STAGE)
    (folder / "untracked.txt").write_text("a note\n")
    return project


def plan(*rates: float, place: Place, seconds: float = 0, n_seeds: int = 1) -> Plan:
    """A sweep of rates, each of which takes some seconds."""
    configurations = [{"train.cnn.lr": rate} for rate in rates]
    experiments = []
    for configuration in configurations:
        for seed in range(n_seeds):
            params: dict[str, Any] = configuration | {"train.cnn.seconds": seconds, "seed": seed}
            name = f"toy-{configuration['train.cnn.lr']}-s{seed}".replace(".", "_")
            experiments.append(Experiment(name, configuration, seed, params, "evaluate"))
    threads, seeds = place.threads(1), list(range(n_seeds))
    return Plan("toy", configurations, seeds, threads, 1, place, experiments)


def command(project: Pipeline, *arguments: str) -> list[str]:
    """The command that runs a sweep in the project: where, jobs, seconds, seeds, rates."""
    return [sys.executable, "-m", "toy", str(project.folder), *arguments]


def environment(project: Pipeline) -> dict[str, str]:
    """Environment variables of that command."""
    return project.environment() | {"PYTHONPATH": str(Path(__file__).parent)}


def notes(folder: Path) -> dict[str, list[str]]:
    """What each experiment noted, by name; of all projects and nodes below a folder."""
    found: dict[str, list[str]] = {}
    for path in sorted(folder.rglob("notes/*")):
        found.setdefault(path.name, []).extend(path.read_text().splitlines())
    return found


def main() -> None:
    folder, where, jobs, seconds, n_seeds, *rates = sys.argv[1:]
    on, *needs = where.split()  # such as "127.0.0.1:6379 cpus=3"
    cpus, gpus = (next((n[5:] for n in needs if n.startswith(k)), None) for k in ("cpus", "gpus"))
    place = Place(on, int(jobs) or None, cpus and int(cpus), gpus and float(gpus))
    planned = plan(*map(float, rates), place=place, seconds=float(seconds), n_seeds=int(n_seeds))

    def say(line: str) -> None:
        print(line, flush=True)

    try:
        answer = run.run(planned, Path(folder), say, lambda state: None)
    except CxrError as error:
        print(f"cxr: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(bool(answer.failed))


if __name__ == "__main__":
    main()
