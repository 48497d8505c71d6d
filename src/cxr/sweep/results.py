"""Read the experiments' results from DVC's cache and write the result of the sweep."""

import csv
import io
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from cxr.documents import read_json, write_atomically
from cxr.errors import CxrError, one_line
from cxr.lineage.repository import Repository
from cxr.paths import METRICS, REPORTS
from cxr.sweep.plan import RANKED, Plan
from cxr.sweep.ranking import Outcome

FOLDER = f"{REPORTS}/sweeps"
SYNC = "`cxr sync`"  # in a stage's note that MLflow does not have its run


def done(plan: Plan, root: Path) -> set[str]:
    """The names of the plan's finished experiments."""
    finished = {name for name, _ in Repository(root).experiments()}
    return finished & {each.name for each in plan.experiments}


def log_of(name: str, experiment: str) -> str:
    """Path of an experiment's log."""
    return f"{FOLDER}/{name}/{experiment}.log"


def unlogged(log: Path) -> set[str]:
    """Why MLflow lacks runs of an experiment, such as a server that does not answer."""
    return {line for line in log.read_text(errors="replace").splitlines() if SYNC in line}


def outcomes(plan: Plan, names: Collection[str], root: Path) -> dict[str, dict[str, Outcome]]:
    """The outcome of each model of each of these finished experiments."""
    repository = Repository(root)
    commits = dict(repository.experiments())
    return {
        each.name: _outcome(each.name, commits[each.name], plan, repository)
        for each in plan.experiments
        if each.name in names
    }


def write(
    plan: Plan, document: dict[str, Any], outcomes: dict[str, dict[str, Outcome]], root: Path
) -> None:
    """Write the result as JSON, and as a CSV with one row per model and experiment."""
    folder = root / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(document, indent=2, allow_nan=False, default=str) + "\n"
    write_atomically(folder / f"{plan.name}.json", text.encode())
    write_atomically(folder / f"{plan.name}.csv", _as_csv(plan, outcomes).encode())


def _outcome(name: str, commit: str, plan: Plan, repository: Repository) -> dict[str, Outcome]:
    outputs = repository.lock_at(commit)[RANKED].outputs
    try:
        metrics = read_json(repository.object(outputs[METRICS].md5))["models"]
        return {model: _of_model(metrics[model]) for model in plan.models}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CxrError(
            f"{METRICS} of experiment {name} is missing from DVC's cache or damaged "
            f"({one_line(error)}); run `dvc exp remove {name}`, then the sweep again"
        ) from None


def _of_model(metrics: dict[str, Any]) -> Outcome:
    ci = metrics["test"]["macro_auroc_ci"]
    return Outcome(
        val=metrics["val"]["macro_auroc"],
        test=metrics["test"]["macro_auroc"],
        test_ci=(float(ci[0]), float(ci[1])) if ci else None,
    )


def _as_csv(plan: Plan, outcomes: dict[str, dict[str, Outcome]]) -> str:
    text, keys = io.StringIO(), plan.keys
    writer = csv.writer(text, lineterminator="\n")
    columns = ("val_macro_auroc", "test_macro_auroc", "test_low", "test_high")
    writer.writerow(["experiment", "seed", *keys, "model", *columns])
    for each in plan.experiments:
        for model, outcome in outcomes.get(each.name, {}).items():
            settings = [each.configuration[key] for key in keys]
            numbers = [outcome.val, outcome.test, *(outcome.test_ci or (None, None))]
            writer.writerow([each.name, each.seed, *settings, model, *numbers])
    return text.getvalue()
