"""Subgroups: metrics of the images of each group, and gaps between groups.

A group's images are those with one value of an attribute, such as the view. All groups and models
are measured on the same resamples of all images, so that a patient with images in two groups is in
both or in neither.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import Any

import numpy as np

from cxr.arrays import Doubles, Flags, Floats, Labels
from cxr.data import attributes
from cxr.data.attributes import MOST_VALUES, Texts
from cxr.evaluation import intervals
from cxr.evaluation.comparisons import holm, paired
from cxr.evaluation.description import MIN_UNITS, Predicted, labels_with_few
from cxr.evaluation.intervals import Estimate, Progress, Resamples, interval
from cxr.evaluation.metrics import has_both_classes
from cxr.labels import UNKNOWN

# Without average precision, which rises with a group's prevalence and so differs between groups
# that a model ranks equally well.
COMPARED = ("auroc", "sensitivity", "specificity", "calibration")

Groups = dict[str, Flags]  # by name, the images (N,) of each group


@dataclass(frozen=True)
class Grouped:
    """The groups of each attribute, and why other attributes have none."""

    of_attribute: dict[str, Groups]
    left_out: dict[str, str]


def group(columns: Mapping[str, Texts], bands: Mapping[str, Sequence[float]]) -> Grouped:
    """Group images by each attribute.

    Parameters
    ----------
    columns : by attribute, (N,), empty where unknown. Such images are in no group.
    bands : by attribute, the lower end of every band but the first: 40 and 65 make three bands.
    """
    of_attribute, left_out = {}, {}
    for name, values in columns.items():
        groups = _bands(values, bands[name]) if name in bands else _values(values)
        if len(groups) > MOST_VALUES:
            left_out[name] = f"it has {len(groups):,} values; set evaluate.bands.{name} for numbers"
        elif len(groups) < 2:
            left_out[name] = "its known values are in fewer than two groups"
        else:
            of_attribute[name] = groups
    return Grouped(of_attribute, left_out)


def describe(
    labels: Labels,
    names: tuple[str, ...],
    models: Mapping[str, Predicted],
    grouped: Grouped,
    resamples: Resamples,
    progress: Progress,
) -> dict[str, Any]:
    """Metrics by group and their gaps: `subgroups` in reports/metrics.json.

    The macro metrics of an attribute are means over the labels that have both classes in each of
    its groups, without groups of fewer than MIN_UNITS patients, which have no gaps either. P values
    are two-sided, and corrected for the number of macro gaps of one attribute and one model.

    Parameters
    ----------
    labels : (N, L) of 0, 1 and UNKNOWN, which is left out.
    names : (L,), of the labels.
    resamples : of all N images.

    Returns
    -------
    A JSON-serialisable mapping by attribute. Undefined values are None.
    """
    masks = [mask for groups in grouped.of_attribute.values() for mask in groups.values()]
    report: dict[str, Any] = {"attributes": {}, "left_out": grouped.left_out}
    if not masks:
        return report
    columns = np.hstack([_only(labels, mask) for mask in masks])
    estimates = _estimates(columns, models, len(masks), resamples, progress)
    start = 0
    for attribute, groups in grouped.of_attribute.items():
        of_group = {}
        for group_name in groups:
            of_group[group_name] = slice(start, start + len(names))
            start += len(names)
        of_labels = {name: columns[:, place] for name, place in of_group.items()}
        described = {
            name: _describe_images(of_labels[name], mask, names, resamples)
            for name, mask in groups.items()
        }
        large = [name for name, each in described.items() if not each["small"]]
        both = [has_both_classes(of_labels[name]) for name in large]
        in_macro = np.logical_and.reduce(both) if large else np.zeros(len(names), np.bool_)
        of_model = {
            model: {name: _columns(estimate, place) for name, place in of_group.items()}
            for model, estimate in estimates.items()
        }
        report["attributes"][attribute] = {
            "macro_labels": [name for name, counts in zip(names, in_macro, strict=True) if counts],
            "n_unknown": int((~np.logical_or.reduce(list(groups.values()))).sum()),
            "groups": described,
            "models": {
                model: {name: _describe(each, names, in_macro) for name, each in by_name.items()}
                for model, by_name in of_model.items()
            },
            "gaps": [
                gap
                for model, by_name in of_model.items()
                for gap in _gaps(model, {name: by_name[name] for name in large}, names, in_macro)
            ],
        }
    return report


def _values(values: Texts) -> Groups:
    """A group per value, in alphabetical order."""
    return {value: values == value for value in np.unique(values).tolist() if value}


def _bands(values: Texts, ends: Sequence[float]) -> Groups:
    numbers = attributes.numbers(values)
    names = [
        f"under {ends[0]:.15g}",
        *(f"{low:.15g} to under {high:.15g}" for low, high in pairwise(ends)),
        f"{ends[-1]:.15g} and over",
    ]
    limits = [-np.inf, *ends, np.inf]
    groups = {
        name: (numbers >= low) & (numbers < high)
        for name, (low, high) in zip(names, pairwise(limits), strict=True)
    }
    return {name: mask for name, mask in groups.items() if mask.any()}


def _only(labels: Labels, mask: Flags) -> Labels:
    """The labels of a group: those of all other images are unknown, and so left out."""
    return np.where(mask[:, None], labels, np.int8(UNKNOWN))


def _estimates(
    columns: Labels,
    models: Mapping[str, Predicted],
    n_groups: int,
    resamples: Resamples,
    progress: Progress,
) -> dict[str, dict[str, Estimate]]:
    """By model and metric, for each column: label by label, group by group."""
    scores = {name: np.tile(model.scores, n_groups) for name, model in models.items()}
    estimates = intervals.estimate(columns, scores, resamples, progress)
    shares: dict[str, tuple[Floats, Floats]] = {}
    for name, model in models.items():
        probs, thresholds = np.tile(model.probs, n_groups), np.tile(model.thresholds, n_groups)
        is_decided = ~np.isnan(thresholds)
        positive, negative = (columns == 1) & is_decided, (columns == 0) & is_decided
        predicted_positive, is_known = probs >= thresholds, columns != UNKNOWN
        shares |= {
            f"{name}/sensitivity": (positive & predicted_positive, positive),
            f"{name}/specificity": (negative & ~predicted_positive, negative),
            f"{name}/calibration": (np.where(is_known, probs - columns, 0), is_known),
        }
    for key, estimate in intervals.estimate_shares(shares, resamples).items():
        name, metric = key.rsplit("/", 1)
        estimates[name][metric] = estimate
    return estimates


def _columns(estimates: Mapping[str, Estimate], place: slice) -> dict[str, Estimate]:
    return {
        metric: Estimate(each.values[place], each.resampled[:, place])
        for metric, each in estimates.items()
    }


def _describe_images(
    labels: Labels, mask: Flags, names: tuple[str, ...], resamples: Resamples
) -> dict[str, Any]:
    n_units = len(np.unique(resamples.unit_of_image[mask]))
    return {
        "n": int(mask.sum()),
        "n_units": n_units,
        "small": n_units < MIN_UNITS,
        "unsure": labels_with_few(labels, names, resamples),
        "labels": {
            name: {"n": int((y >= 0).sum()), "n_positive": int((y == 1).sum())}
            for name, y in zip(names, labels.T, strict=True)
        },
    }


def _describe(
    estimates: Mapping[str, Estimate], names: tuple[str, ...], in_macro: Flags
) -> dict[str, Any]:
    """One model's metrics on one group."""
    values: dict[str, Any] = {}
    for metric, each in estimates.items():
        chosen = _macro(each, in_macro)
        values |= _with_interval(f"macro_{metric}", chosen.macro, chosen.macro_resampled)
    values["labels"] = {
        name: {
            key: value
            for metric, each in estimates.items()
            for key, value in _with_interval(metric, each.values[i], each.resampled[:, i]).items()
        }
        for i, name in enumerate(names)
    }
    return values


def _with_interval(metric: str, value: float, resampled: Doubles) -> dict[str, Any]:
    if np.isnan(value):
        return {metric: None, f"{metric}_ci": None}
    if metric.endswith("calibration"):  # a difference of probabilities, which may be negative
        return {metric: float(value), f"{metric}_ci": paired(float(value), resampled)["ci"]}
    low, high = interval(value, resampled)
    return {metric: float(value), f"{metric}_ci": None if np.isnan(low) else [low, high]}


def _gaps(
    model: str,
    groups: Mapping[str, Mapping[str, Estimate]],
    names: tuple[str, ...],
    in_macro: Flags,
) -> list[dict[str, Any]]:
    """A model's gaps between each pair of groups: macro ones with p, then those by label."""
    of_macro: list[dict[str, Any]] = []
    of_label: list[dict[str, Any]] = []
    for a, b in combinations(groups, 2):
        who = {"model": model, "a": a, "b": b}
        for metric in COMPARED:
            difference = groups[a][metric].minus(groups[b][metric])
            chosen = _macro(difference, in_macro)
            tested = paired(chosen.macro, chosen.macro_resampled)
            of_macro.append(who | {"metric": f"macro_{metric}"} | tested)
            for i, name in enumerate(names):
                gap = paired(difference.values[i], difference.resampled[:, i])
                del gap["p"]  # one of so many gaps is wide by chance
                of_label.append(who | {"metric": metric, "label": name} | gap)
    corrected = holm([gap["p"] for gap in of_macro])
    return [gap | {"p_holm": p} for gap, p in zip(of_macro, corrected, strict=True)] + of_label


def _macro(estimate: Estimate, in_macro: Flags) -> Estimate:
    return Estimate(estimate.values[in_macro], estimate.resampled[:, in_macro])
