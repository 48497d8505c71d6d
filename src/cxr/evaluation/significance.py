"""Which differences in reports/metrics.json can be told from chance."""

from collections.abc import Mapping, Sequence
from typing import Any

ALPHA = 0.05  # of p values after Holm's correction

Compared = Mapping[str, Any]


def is_shown(compared: Compared) -> bool:
    """Whether a difference can be told from chance."""
    return compared["p_holm"] is not None and compared["p_holm"] < ALPHA


def widest_gap(subgroups: Mapping[str, Any], model: str) -> dict[str, Any] | None:
    """The widest gap in a model's macro AUROC that is shown, with its `attribute`; None if none."""
    gaps = [
        {"attribute": attribute, **gap}
        for attribute, report in subgroups["attributes"].items()
        for gap in report["gaps"]
        if gap["model"] == model and gap["metric"] == "macro_auroc" and is_shown(gap)
    ]
    return max(gaps, key=lambda gap: abs(gap["difference"]), default=None)


def is_better(comparisons: Sequence[Compared], model: str, baseline: str) -> bool:
    """Whether a model's macro AUROC is shown to be higher than a baseline's."""
    return any(
        each["difference"] > 0 and is_shown(each)
        for each in comparisons
        if (each["a"], each["b"], each["metric"]) == (model, baseline, "macro_auroc")
    )
