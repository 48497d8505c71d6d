"""Somebody else's predictions through the same metrics, alone or beside our models."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cxr import decisions, evaluation, metrics
from cxr.data import splits
from cxr.decisions import CHOSEN_ON
from cxr.documents import read_json
from cxr.errors import CxrError
from cxr.evaluation import BASELINES, Predicted
from cxr.evaluation.intervals import Progress
from cxr.labels import LABELS
from cxr.metrics import Doubles
from cxr.submissions import (
    Matched,
    Table,
    has_arrays,
    match,
    order_by,
    plain_ids,
    read_labels,
    read_predictions,
)

PROCESSED = Path("data/processed")
METRICS = Path("reports/metrics.json")
MEASURED = ("val", "test")
NO_VALIDATION = f"no predictions and labels of {CHOSEN_ON} to choose it on"


@dataclass(frozen=True)
class Score:
    """Models by name, the scored one first and the baselines last, as in reports/metrics.json."""

    name: str
    models: dict[str, dict[str, Any]]
    comparisons: list[dict[str, Any]]
    notes: list[str]
    matched_by: str

    def as_json(self, compared: bool) -> dict[str, Any]:
        """The scored model's test object; compared, all of them."""
        about = {"matched_by": self.matched_by, "notes": self.notes}
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
) -> Score:
    """Measure a file of predictions against a file of labels.

    Parameters
    ----------
    split : whose arrays to take from an npz.
    are_logits : whether the numbers of a CSV are logits.
    project : whose models to set beside it; on the same images they are compared in pairs.
    """
    matched = match(read_predictions(predictions, split, are_logits), read_labels(labels, split))
    y = matched.labels.values.astype(np.uint8)
    name = predictions.stem
    if name in BASELINES:
        name += " (given)"
    models = {name: _predicted(matched.predictions, _thresholds(predictions, labels))}
    notes = []
    if matched.by == "order" and labels != predictions:
        notes.append("one of the files has no ids: images were matched by their order")
    beside: dict[str, Any] = {}
    if project is not None:
        ours = _ours(project, matched, split)
        models |= {_apart(each, name): model for each, model in ours.items()}
        if not ours:
            beside = {_apart(n, name): told for n, told in _reported(project, split).items()}
            notes.append(
                "the models of this project were measured on other images: set beside, not compared"
            )
    evaluated = evaluation.evaluate(y, models, matched.patients, n_resamples, seed, progress)
    told = {each: evaluated.models[each] for each in models}
    baselines = {each: evaluated.models[each] for each in BASELINES}
    return Score(name, told | beside | baselines, evaluated.comparisons, notes, matched.by)


def _apart(ours: str, theirs: str) -> str:
    """A name of ours that is not theirs."""
    return f"{ours} (here)" if ours == theirs else ours


def _predicted(table: Table, thresholds: Doubles) -> Predicted:
    return Predicted(table.values, _probs(table), thresholds, NO_VALIDATION)


def _probs(table: Table) -> Doubles:
    return metrics.sigmoid(table.values) if table.kind == "logits" else table.values


def _thresholds(predictions: Path, labels: Path) -> Doubles:
    """By Youden's rule, where both files hold the validation split beside the other."""
    has_predictions = has_arrays(predictions, CHOSEN_ON, ("logits", "probs"))
    if has_predictions and has_arrays(labels, CHOSEN_ON, ("labels",)):
        matched = match(
            read_predictions(predictions, CHOSEN_ON, are_logits=False, exact=True),
            read_labels(labels, CHOSEN_ON, exact=True),
        )
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
    for path in sorted((project / "predictions").glob("*.npz")):
        decision = decisions.read(project / "decisions" / f"{path.stem}.json")
        logits = read_predictions(path, split, False).values[order]
        models[path.stem] = Predicted.by(decision, logits)
    return models


def _order(theirs: Table, ours: splits.Split) -> npt.NDArray[np.int64] | None:
    """Our row of each of their images, None where they are not the same images."""
    order = np.arange(len(ours.labels))
    if theirs.ids is not None and ours.ids is not None:
        known = plain_ids(ours.ids)
        if sorted(theirs.ids) != sorted(known):
            return None
        order = order_by(known, theirs.ids)
    same = theirs.values.shape == ours.labels.shape and (theirs.values == ours.labels[order]).all()
    return order if same else None


def _reported(project: Path, split: str) -> dict[str, Any]:
    """What the project's own report says of its models on a split."""
    path = project / METRICS
    try:
        told = read_json(path)["models"]
        return {name: each[split] for name, each in told.items() if name not in BASELINES}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise CxrError(f"{path} is damaged; `dvc checkout --force {METRICS}` mends it") from None
