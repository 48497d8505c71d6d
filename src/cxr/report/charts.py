"""The report's charts: the stages' own figures, drawn anew as parts of the page."""

from functools import partial
from typing import Any

from cxr.data.splits import Origin
from cxr.plots import evaluation
from cxr.plots.svg import inline
from cxr.plots.training import curves_of_models


def draw(
    tests: dict[str, Any], histories: dict[str, list[dict[str, float]]], origin: Origin
) -> dict[str, str]:
    """SVG by name.

    Parameters
    ----------
    tests : by model, its test object of reports/metrics.json.
    histories : by model, the rows of its history.csv.
    """
    of_labels = "; the table below has the numbers"
    return {
        "auroc": inline(
            partial(evaluation.forest, tests, "auroc", origin),
            "auroc",
            f"AUROC of every finding with its interval, all models{of_labels}",
        ),
        "ap": inline(
            partial(evaluation.forest, tests, "ap", origin),
            "ap",
            f"Average precision of every finding with its interval, all models{of_labels}",
        ),
        "curves": inline(
            partial(curves_of_models, histories, origin),
            "curves",
            "Loss and validation macro AUROC of every model by epoch",
        ),
        "reliability": inline(
            partial(evaluation.reliability, tests, origin),
            "reliability",
            "Share of positive images against the probability told, finding by finding",
        ),
    }
