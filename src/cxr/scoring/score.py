"""Score external predictions with the project's metrics, alone or next to the project's models."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cxr.arrays import Doubles
from cxr.data import splits
from cxr.data.ids import pair
from cxr.documents import read_output
from cxr.errors import CxrError
from cxr.evaluation import decisions, metrics
from cxr.evaluation.decisions import CHOSEN_ON
from cxr.evaluation.description import BASELINES, Predicted
from cxr.evaluation.evaluate import evaluate
from cxr.evaluation.intervals import Progress
from cxr.evaluation.references import EVALUATED, describe
from cxr.labels import CHESTMNIST, UNKNOWN, in_order
from cxr.paths import DECISIONS, METRICS, PREDICTIONS, PROCESSED
from cxr.scoring import extra_tables
from cxr.scoring.extra_tables import ExtraTables
from cxr.scoring.submissions import (
    Matched,
    MatchMethod,
    Table,
    has_arrays,
    match,
    other_labels,
    read_labels,
    read_predictions,
)

EVALUATED_SPLITS = ("val", "test")
NO_TABLES = ExtraTables()
NO_VALIDATION = f"no predictions and labels of the {CHOSEN_ON} split to choose thresholds on"


@dataclass(frozen=True)
class Score:
    """Models by name as in reports/metrics.json: the scored one first, the baselines last."""

    name: str
    models: dict[str, dict[str, Any]]
    comparisons: list[dict[str, Any]]
    notes: list[str]
    matched: Matched
    subgroups: dict[str, Any] | None  # as in reports/metrics.json, with a companion table
    references: dict[str, Any]  # the same, with a table of other readers

    @property
    def matched_by(self) -> MatchMethod:
        """How predictions and labels were matched."""
        return self.matched.by

    def as_json(self, compared: bool) -> dict[str, Any]:
        """The scored model's metrics; those of all models if `compared`."""
        is_by_order = self.matched_by == "order"
        files = {"predictions": self.matched.predictions, "labels": self.matched.labels}
        matching_info = {
            "matched_by": self.matched_by,
            "id_columns": {
                name: None if is_by_order else table.id_column for name, table in files.items()
            },
            "n_left_out": dict(zip(files, self.matched.n_left_out, strict=True)),
            "notes": self.notes,
        }
        if self.subgroups is not None:
            matching_info["subgroups"] = self.subgroups
        if self.references:
            matching_info["references"] = self.references
        if not compared:
            return self.models[self.name] | matching_info
        return {"models": self.models, "comparisons": self.comparisons, **matching_info}


def score(
    predictions: Path,
    labels: Path,
    split: str,
    are_logits: bool,
    n_resamples: int,
    seed: int,
    progress: Progress,
    project: Path | None = None,
    by_order: bool = False,
    common: bool = False,
    also: Sequence[str] = (),
    tables: ExtraTables = NO_TABLES,
) -> Score:
    """Score a file of predictions against a file of labels.

    Parameters
    ----------
    split : the split whose arrays to read from an npz.
    are_logits : whether the values are logits, if the array's name does not say so.
    project : the project whose models to add; on the same images they are compared in pairs.
    by_order : match by row order, ignoring ids.
    common : leave out images that only one file has, instead of raising an error.
    also : columns of both files that are labels, besides those that are recognised.
    tables : who the patients are, and what other readers say.
    """
    marked, unmarked = other_labels(predictions, labels)
    expected = (*_labels_of(project), *also, *marked)
    matched, names, notes = _common(
        match(
            read_predictions(predictions, split, are_logits, expected),
            read_labels(labels, split, expected),
            by_order,
            common,
        )
    )
    if unknown := [name for name in unmarked if name not in expected]:
        notes.append(
            f"columns of both files that were not scored: {', '.join(unknown)}; if one is a label, "
            "add --also NAME"
        )
    y = matched.labels.values.astype(np.int8)
    name = predictions.stem
    if name in BASELINES:
        name += " (given)"
    thresholds = _thresholds(predictions, labels, names, by_order, common, notes)
    models = {name: _predicted(matched.predictions, thresholds)}
    reported: dict[str, Any] = {}
    if project is not None:
        project_models = _project_models(project, matched, split)
        models |= {_unique(each, name): model for each, model in project_models.items()}
        if not project_models:
            reported = {_unique(n, name): m for n, m in _reported(project, split).items()}
            notes.append(
                "the models of this project were evaluated on other images; "
                "their metrics are shown but not compared"
            )
    ids = matched.labels.ids if matched.predictions.ids is None else matched.predictions.ids
    joined = extra_tables.join(tables, ids, names, len(y))
    patients = joined.patients if matched.patients is None else matched.patients
    evaluated = evaluate(y, names, models, patients, n_resamples, seed, progress, joined.grouped)
    of_readers = {}
    if joined.readings:
        data = {EVALUATED: extra_tables.split_of(y, names, ids, patients)}
        of_readers = describe(joined.readings, data, models, n_resamples, seed)
    scored = {each: evaluated.models[each] for each in models}
    baselines = {each: m for each, m in evaluated.models.items() if each in BASELINES}
    return Score(
        name, scored | reported | baselines, evaluated.comparisons, notes, matched,
        evaluated.subgroups, of_readers,
    )  # fmt: skip


def _labels_of(project: Path | None) -> tuple[str, ...]:
    """The labels of the project's data."""
    folder = None if project is None else project / PROCESSED
    has_data = folder is not None and (folder / "dataset.json").exists()
    return splits.open_dataset(folder).labels if folder is not None and has_data else ()


def _common(matched: Matched) -> tuple[Matched, tuple[str, ...], list[str]]:
    """The labels that both files have, in the usual order, and notes on the others."""
    predictions, labels = matched.predictions, matched.labels
    names = tuple(name for name in labels.names if name in predictions.names)
    if not names:
        raise CxrError(
            f"no label is in both files: {predictions.path} has {', '.join(predictions.names)}, "
            f"and {labels.path} has {', '.join(labels.names)}; use the same names in both, or "
            "add --also NAME for each column that is a label"
        )
    names = tuple(names[i] for i in in_order(names))
    notes = list(matched.notes)
    for table, other in ((labels, predictions), (predictions, labels)):
        if only := [n for n in table.names if n not in other.names and n in CHESTMNIST]:
            notes.append(f"not scored, because only {table.path} has them: {', '.join(only)}")
    labels = labels.of_labels(names)
    if n_unknown := int((labels.values == UNKNOWN).sum()):
        notes.append(
            f"{n_unknown:,} of {labels.values.size:,} labels are unknown (-1 or empty) and left out"
        )
    predictions = predictions.of_labels(names)
    return replace(matched, predictions=predictions, labels=labels), names, notes


def _unique(name: str, scored: str) -> str:
    """The name of a project's model, marked if the scored model has the same one."""
    return f"{name} (here)" if name == scored else name


def _predicted(table: Table, thresholds: Doubles) -> Predicted:
    return Predicted(table.values, _probs(table), thresholds, NO_VALIDATION)


def _probs(table: Table) -> Doubles:
    return metrics.sigmoid(table.values) if table.kind == "logits" else table.values


def _thresholds(
    predictions: Path,
    labels: Path,
    names: tuple[str, ...],
    by_order: bool,
    common: bool,
    notes: list[str],
) -> Doubles:
    """Thresholds by Youden's rule if both files hold the validation split, else NaN.

    Adds a note if the validation split can't be matched.
    """
    has_predictions = has_arrays(predictions, CHOSEN_ON, ("logits", "probs"))
    if has_predictions and has_arrays(labels, CHOSEN_ON, ("labels",)):
        val_predictions = read_predictions(predictions, CHOSEN_ON, are_logits=False, exact=True)
        val_labels = read_labels(labels, CHOSEN_ON, exact=True)
        try:
            matched = match(val_predictions, val_labels, by_order, common)
        except CxrError as error:
            notes.append(f"could not choose thresholds on the {CHOSEN_ON} split: {error}")
        else:
            y = matched.labels.of_labels(names).values.astype(np.int8)
            probs = _probs(matched.predictions.of_labels(names))
            return decisions.thresholds(y, probs, "youden", 1.0)
    return np.full(len(names), np.nan)


def _project_models(project: Path, matched: Matched, split: str) -> dict[str, Predicted]:
    """The project's models on the same images in the same order; empty if the images differ."""
    if split not in EVALUATED_SPLITS:
        raise CxrError(
            f"the models of {project} were evaluated on {' and '.join(EVALUATED_SPLITS)} only; "
            "choose one with --split, or drop --compare"
        )
    folder = project / PROCESSED
    if not (folder / f"{split}_labels.npy").exists() or not (project / METRICS).exists():
        raise CxrError(f"{project} has no results to compare with; run `dvc repro`")
    data = splits.open_split(folder, split)
    if not set(matched.labels.names) <= set(data.names):
        return {}
    columns = [data.names.index(name) for name in matched.labels.names]
    order = _order(matched.labels, replace(data, labels=data.labels[:, columns]))
    if order is None:
        return {}
    models = {}
    for path in sorted((project / PREDICTIONS).glob("*.npz")):
        operating_point = decisions.read(project / DECISIONS / f"{path.stem}.json")
        table = read_predictions(path, split, False)
        if not table.names == operating_point.labels == data.names:
            raise CxrError(f"{path} is not of the current data; run `dvc repro`")
        logits = table.values[order]
        models[path.stem] = Predicted.from_logits(operating_point, logits).take(columns)
    return models


def _order(labels: Table, data: splits.Split) -> npt.NDArray[np.int64] | None:
    """The project's row of each labelled image, None if the images are not the same."""
    order = np.arange(len(data.labels))
    if labels.ids is not None and data.ids is not None:
        pairs = pair(data.ids.astype(str), labels.ids)
        if len({len(pairs.a), len(data.ids), len(labels.ids)}) > 1:
            return None
        order = pairs.a
    same = labels.values.shape == data.labels.shape and (labels.values == data.labels[order]).all()
    return order if same else None


def _reported(project: Path, split: str) -> dict[str, Any]:
    """The metrics of the project's models on a split, from its own report."""

    def parse(report: Any) -> dict[str, Any]:
        models = report["models"].items()
        return {name: each[split] for name, each in models if name not in BASELINES}

    return read_output(project / METRICS, parse)
