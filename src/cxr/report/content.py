"""Read everything that the report shows from the outputs of the stages."""

import csv
import io
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cxr.audit.audit import Audit, Auditor, Node
from cxr.audit.finding import Verdict, Where
from cxr.audit.inputs import makes_maps
from cxr.data.splits import Origin
from cxr.documents import read_output
from cxr.evaluation.description import ATTRIBUTES_ONLY, BASELINES
from cxr.evaluation.significance import is_better, widest_gap
from cxr.labels import CHESTMNIST
from cxr.lineage.facts import Environment
from cxr.paths import DATA_REPORT, MAPS_REPORT, METRICS, REPORTS
from cxr.report import charts, sheets
from cxr.report.background import FINDINGS, REPORTED, Reported
from cxr.report.sheets import Sheets

EVALUATE = "evaluate"
CHEST_MNIST = "medmnist"  # the source of the published results


@dataclass(frozen=True)
class Training:
    """One model's training, from `reports/<name>/`."""

    model: str
    trained: int  # number of parameters
    frozen: int
    best_epoch: int
    epochs: int
    stopped_early: bool
    seconds_per_epoch: float
    device: str
    history: list[dict[str, float]]


@dataclass(frozen=True)
class Report:
    """Everything that the page shows."""

    written: str
    origin: Origin
    is_chestmnist: bool
    data: dict[str, Any]  # reports/data.json
    metrics: dict[str, Any]  # reports/metrics.json
    models: tuple[str, ...]  # in the order of tables and colours
    baselines: tuple[str, ...]
    gaps: dict[str, dict[str, Any] | None]  # by model, the widest one between groups that is shown
    not_better: tuple[str, ...]  # models not shown to be better than the attributes alone
    trainings: dict[str, Training]
    labels: tuple[str, ...]
    findings: dict[str, str]
    reported: tuple[Reported, ...]  # for ChestMNIST's labels
    trust: dict[str, Any] | None  # reports/gradcam.json; None if gradcam has not run yet
    sheets: Sheets | None  # also None if they are of other models than the metrics
    charts: dict[str, str]  # SVG
    pictures: dict[str, str]  # data URIs
    audit: Audit
    environment: Environment  # of the evaluation


def gather(project: Path) -> Report:
    """Read the results in a working copy.

    Raises
    ------
    CxrError
        If results are missing.
    LookupError, TypeError, ValueError, AttributeError
        If a file does not have the structure that the stages write.
    """
    metrics, data = (read_output(project / path, dict) for path in (METRICS, DATA_REPORT))
    origin = Origin(metrics["data"]["name"], metrics["data"]["source"])
    models = tuple(name for name in metrics["models"] if name not in BASELINES)
    if not models:
        raise ValueError(f"{METRICS} has no model")
    trainings = {name: _training(project, name) for name in models}
    has_maps = (project / MAPS_REPORT).exists()
    audit = Auditor(project).output(project / (REPORTS if has_maps else METRICS))
    nodes = {node.record.stage: node for node in audit.results}
    trust = read_output(project / MAPS_REPORT, dict) if has_maps else None
    maps_match = (
        trust is not None
        and set(trust["models"]) == set(models)
        and not any(_is_of_other_results(node) for node in audit.results)
    )
    subgroups = metrics["subgroups"]
    tests = {name: metrics["models"][name]["test"] for name in models}
    return Report(
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        origin=origin,
        is_chestmnist=origin.source == CHEST_MNIST,
        data=data,
        metrics=metrics,
        models=models,
        baselines=tuple(name for name in BASELINES if name in metrics["models"]),
        gaps={name: widest_gap(subgroups, name) for name in models} if subgroups else {},
        not_better=tuple(
            name
            for name in models
            if ATTRIBUTES_ONLY in metrics["models"]
            and not is_better(metrics["comparisons"], name, ATTRIBUTES_ONLY)
        ),
        trainings=trainings,
        labels=tuple(tests[models[0]]["labels"]),
        findings=FINDINGS,
        reported=REPORTED if set(tests[models[0]]["labels"]) == set(CHESTMNIST) else (),
        trust=trust,
        sheets=sheets.gather(project, models) if maps_match else None,
        charts=charts.draw(
            tests, subgroups, {name: t.history for name, t in trainings.items()}, origin
        ),
        pictures=sheets.pictures(project),
        audit=audit,
        environment=nodes[EVALUATE].record.facts.environment,
    )


def _is_of_other_results(node: Node) -> bool:
    """Whether heat maps were made from other models or images than the results."""
    changed = node.verdict is Verdict.FAILS or any(
        finding.where is Where.INPUTS for finding in node.findings
    )
    return makes_maps(node.record.stage) and changed


def _training(project: Path, name: str) -> Training:
    folder = project / REPORTS / name
    summary = read_output(folder / "train.json", dict)
    parameters = summary["parameters"]
    return Training(
        model=name,
        trained=parameters["trainable"],
        frozen=parameters["total"] - parameters["trainable"],
        best_epoch=summary["best_epoch"],
        epochs=summary["epochs"],
        stopped_early=summary["stopped_early"],
        seconds_per_epoch=summary["seconds"] / summary["epochs"],
        device=summary["device"],
        history=read_output(folder / "history.csv", _history, read=Path.read_text),
    )


def _history(text: str) -> list[dict[str, float]]:
    rows = csv.DictReader(io.StringIO(text))
    return [{key: float(value) for key, value in row.items()} for row in rows]
