"""A project whose only stage takes moments, to test sweeps without training."""

import shutil
from pathlib import Path
from typing import Any

import yaml
from pipeline import ROOT, Pipeline

from cxr.sweep import Place, Plan
from cxr.sweep.plan import Experiment

# Its result depends on the parameters alone. It fails for a negative rate, and counts its starts.
STAGE = '''
import json, os, pathlib, signal, sys, time
import yaml
params = yaml.safe_load(pathlib.Path("params.yaml").read_text())
lr, seconds = params["train"]["cnn"]["lr"], params["train"]["cnn"]["seconds"]
notes = pathlib.Path(os.environ["CXR_PROJECT"], "notes", os.environ["DVC_EXP_NAME"])
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
'''
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


def plan(
    *rates: float, seconds: float = 0, n_seeds: int = 1, place: Place = Place(jobs=2)
) -> Plan:
    """A sweep of rates, each of which takes some seconds."""
    configurations = [{"train.cnn.lr": rate} for rate in rates]
    experiments = []
    for configuration in configurations:
        for seed in range(n_seeds):
            params: dict[str, Any] = configuration | {"train.cnn.seconds": seconds, "seed": seed}
            name = f"toy-{configuration['train.cnn.lr']}-s{seed}".replace(".", "_")
            experiments.append(Experiment(name, configuration, seed, params))
    return Plan(
        "toy", configurations, list(range(n_seeds)), 1, 1, place, "evaluate", experiments
    )


def notes(folder: Path) -> dict[str, list[str]]:
    """What each experiment noted, by name; of all projects and nodes below a folder."""
    found: dict[str, list[str]] = {}
    for path in sorted(folder.rglob("notes/*")):
        found.setdefault(path.name, []).extend(path.read_text().splitlines())
    return found
