"""Read the experiments' results from DVC's cache and write the result of the sweep."""

import csv
import io
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from cxr.documents import parse_yaml, read_json, write_atomically
from cxr.errors import CxrError, one_line
from cxr.lineage.repository import Repository
from cxr.params import flatten
from cxr.paths import METRICS, PARAMS_FILE, REPORTS
from cxr.sweep.plan import Experiment, Plan
from cxr.sweep.ranking import Outcome

FOLDER = f"{REPORTS}/sweeps"


def done(plan: Plan, root: Path) -> set[str]:
    """The names of the plan's finished experiments."""
    finished = {name for name, _ in Repository(root).experiments()}
    return finished & {each.name for each in plan.experiments}


def log_of(name: str, experiment: str) -> str:
    """Path of an experiment's log."""
    return f"{FOLDER}/{name}/{experiment}.log"


def outcomes(plan: Plan, names: Collection[str], root: Path) -> dict[str, dict[str, Outcome]]:
    """The outcome of each model of each of these finished experiments."""
    repository = Repository(root)
    commits = dict(repository.experiments())
    return {
        each.name: _outcome(each, commits[each.name], plan, repository)
        for each in plan.experiments
        if each.name in names
    }


def write(
    plan: Plan, document: dict[str, Any], outcomes: dict[str, dict[str, Outcome]], root: Path
) -> Path:
    """Write the result as JSON, and as a CSV with one row per model and experiment."""
    folder = root / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(document, indent=2, allow_nan=False, default=str) + "\n"
    path = folder / f"{plan.name}.json"
    write_atomically(path, text.encode())
    write_atomically(folder / f"{plan.name}.csv", _as_csv(plan, outcomes).encode())
    return path


def _outcome(
    experiment: Experiment, commit: str, plan: Plan, repository: Repository
) -> dict[str, Outcome]:
    name = experiment.name
    fix = f"run `dvc exp remove {name}`, then the sweep again"
    text = repository.text_at(commit, PARAMS_FILE)
    if text is None:
        raise CxrError(f"experiment {name} has no {PARAMS_FILE}; {fix}")
    ran = flatten(parse_yaml(text))
    for key, value in experiment.params.items():
        if ran.get(key) != value:
            raise CxrError(
                f"experiment {name} ran with {key} {ran.get(key)!r} instead of {value!r}; {fix}"
            )
    outputs = {
        path: digest
        for stage in repository.lock_at(commit).values()
        for path, digest in stage.outputs.items()
    }
    if METRICS not in outputs:
        raise CxrError(f"experiment {name} has no {METRICS}; {fix}")
    try:
        metrics = read_json(repository.object(outputs[METRICS].md5))["models"]
        return {model: _of_model(metrics[model]) for model in plan.models}
    except FileNotFoundError:
        raise CxrError(
            f"{METRICS} of experiment {name} is missing from DVC's cache; {fix}"
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise CxrError(
            f"{METRICS} of experiment {name} is damaged ({one_line(error)}); {fix}"
        ) from None


def _of_model(metrics: dict[str, Any]) -> Outcome:
    ci = metrics["test"]["macro_auroc_ci"]
    return Outcome(
        val=metrics["val"]["macro_auroc"],
        test=metrics["test"]["macro_auroc"],
        test_ci=(float(ci[0]), float(ci[1])) if ci else None,
    )


def _as_csv(plan: Plan, outcomes: dict[str, dict[str, Outcome]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    keys = plan.keys
    columns = ("val_macro_auroc", "test_macro_auroc", "test_low", "test_high")
    writer.writerow(["experiment", "seed", *keys, "model", *columns])
    for each in plan.experiments:
        for model, outcome in outcomes.get(each.name, {}).items():
            settings = [each.configuration[key] for key in keys]
            numbers = [outcome.val, outcome.test, *(outcome.test_ci or (None, None))]
            writer.writerow([each.name, each.seed, *settings, model, *numbers])
    return text.getvalue()
