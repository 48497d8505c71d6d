"""Somebody else's predictions through the same metrics, alone or beside our models."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cxr.arrays import Doubles
from cxr.data import splits
from cxr.documents import read_output
from cxr.errors import CxrError
from cxr.evaluation import decisions, metrics
from cxr.evaluation.decisions import CHOSEN_ON
from cxr.evaluation.description import BASELINES, Predicted
from cxr.evaluation.evaluate import evaluate
from cxr.evaluation.intervals import Progress
from cxr.labels import LABELS
from cxr.paths import DECISIONS, METRICS, PREDICTIONS, PROCESSED
from cxr.scoring.submissions import (
    By,
    Matched,
    Table,
    has_arrays,
    match,
    pair,
    read_labels,
    read_predictions,
)

MEASURED = ("val", "test")
NO_VALIDATION = f"no predictions and labels of {CHOSEN_ON} to choose it on"


@dataclass(frozen=True)
class Score:
    """Models by name, the scored one first and the baselines last, as in reports/metrics.json."""

    name: str
    models: dict[str, dict[str, Any]]
    comparisons: list[dict[str, Any]]
    notes: list[str]
    matched: Matched

    @property
    def matched_by(self) -> By:
        """How predictions and labels were matched."""
        return self.matched.by

    def as_json(self, compared: bool) -> dict[str, Any]:
        """The scored model's test object; compared, all of them."""
        is_by_order = self.matched_by == "order"
        files = {"predictions": self.matched.predictions, "labels": self.matched.labels}
        about = {
            "matched_by": self.matched_by,
            "id_columns": {
                name: None if is_by_order else table.id_column for name, table in files.items()
            },
            "n_left_out": dict(zip(files, self.matched.n_left_out, strict=True)),
            "notes": self.notes,
        }
        if not compared:
            return self.models[self.name] | about
        return {"models": self.models, "comparisons": self.comparisons, **about}


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
) -> Score:
    """Measure a file of predictions against a file of labels.

    Parameters
    ----------
    split : whose arrays to read from an npz.
    are_logits : whether the numbers are logits, if no array's name says it.
    project : whose models to set beside it; on the same images they are compared in pairs.
    by_order : match rows as they stand, whatever ids there are.
    common : leave out images that only one file has, instead of refusing them.
    """
    matched = match(
        read_predictions(predictions, split, are_logits),
        read_labels(labels, split),
        by_order,
        common,
    )
    y = matched.labels.values.astype(np.uint8)
    name = predictions.stem
    if name in BASELINES:
        name += " (given)"
    notes = list(matched.notes)
    thresholds = _thresholds(predictions, labels, by_order, common, notes)
    models = {name: _predicted(matched.predictions, thresholds)}
    beside: dict[str, Any] = {}
    if project is not None:
        ours = _ours(project, matched, split)
        models |= {_apart(each, name): model for each, model in ours.items()}
        if not ours:
            beside = {_apart(n, name): told for n, told in _reported(project, split).items()}
            notes.append(
                "the models of this project were measured on other images: set beside, not compared"
            )
    evaluated = evaluate(y, models, matched.patients, n_resamples, seed, progress)
    told = {each: evaluated.models[each] for each in models}
    baselines = {each: evaluated.models[each] for each in BASELINES}
    return Score(name, told | beside | baselines, evaluated.comparisons, notes, matched)


def _apart(ours: str, theirs: str) -> str:
    """A name of ours that is not theirs."""
    return f"{ours} (here)" if ours == theirs else ours


def _predicted(table: Table, thresholds: Doubles) -> Predicted:
    return Predicted(table.values, _probs(table), thresholds, NO_VALIDATION)


def _probs(table: Table) -> Doubles:
    return metrics.sigmoid(table.values) if table.kind == "logits" else table.values


def _thresholds(
    predictions: Path, labels: Path, by_order: bool, common: bool, notes: list[str]
) -> Doubles:
    """By Youden's rule, if both files hold the validation split too; a note if it can't be used."""
    has_predictions = has_arrays(predictions, CHOSEN_ON, ("logits", "probs"))
    if has_predictions and has_arrays(labels, CHOSEN_ON, ("labels",)):
        theirs = read_predictions(predictions, CHOSEN_ON, are_logits=False, exact=True)
        known = read_labels(labels, CHOSEN_ON, exact=True)
        try:
            matched = match(theirs, known, by_order, common)
        except CxrError as error:
            notes.append(f"no thresholds from the split {CHOSEN_ON}: {error}")
        else:
            y = matched.labels.values.astype(np.uint8)
            return decisions.thresholds(y, _probs(matched.predictions), "youden", 1.0)
    return np.full(len(LABELS), np.nan)


def _ours(project: Path, matched: Matched, split: str) -> dict[str, Predicted]:
    """The project's models on the same images in the same order; none where they have others."""
    if split not in MEASURED:
        raise CxrError(
            f"the models of {project} were measured on {' and '.join(MEASURED)} alone; choose one "
            "with --split, or leave --compare out"
        )
    folder = project / PROCESSED
    if not (folder / f"{split}_labels.npy").exists() or not (project / METRICS).exists():
        raise CxrError(f"{project} has no results to compare with; `dvc repro` makes them")
    order = _order(matched.labels, splits.open_split(folder, split))
    if order is None:
        return {}
    models = {}
    for path in sorted((project / PREDICTIONS).glob("*.npz")):
        decision = decisions.read(project / DECISIONS / f"{path.stem}.json")
        logits = read_predictions(path, split, False).values[order]
        models[path.stem] = Predicted.by(decision, logits)
    return models


def _order(theirs: Table, ours: splits.Split) -> npt.NDArray[np.int64] | None:
    """Our row of each of their images, None where they are not the same images."""
    order = np.arange(len(ours.labels))
    if theirs.ids is not None and ours.ids is not None:
        pairs = pair(ours.ids.astype(str), theirs.ids)
        if len({len(pairs.a), len(ours.ids), len(theirs.ids)}) > 1:
            return None
        order = pairs.a
    same = theirs.values.shape == ours.labels.shape and (theirs.values == ours.labels[order]).all()
    return order if same else None


def _reported(project: Path, split: str) -> dict[str, Any]:
    """What the project's own report says of its models on a split."""

    def parse(report: Any) -> dict[str, Any]:
        told = report["models"].items()
        return {name: each[split] for name, each in told if name not in BASELINES}

    return read_output(project / METRICS, parse)
