"""The report's charts: the stages' own figures as inline SVG."""

from functools import partial
from typing import Any

from cxr.data.splits import Origin
from cxr.plots import evaluation
from cxr.plots.svg import inline
from cxr.plots.training import curves_of_models


def draw(
    tests: dict[str, Any],
    subgroups: dict[str, Any] | None,
    histories: dict[str, list[dict[str, float]]],
    origin: Origin,
) -> dict[str, str]:
    """Draw all charts; returns SVG by name.

    Parameters
    ----------
    tests : the `test` object of each model in reports/metrics.json.
    subgroups : its `subgroups`.
    histories : the rows of each model's history.csv.
    """
    see_table = "; the table below has the numbers"
    drawn = {}
    if subgroups is not None and subgroups["attributes"]:
        drawn["subgroups"] = inline(
            partial(evaluation.subgroups, subgroups, tests, origin),
            "subgroups",
            f"Macro AUROC of each group with its confidence interval, all models{see_table}",
        )
    return drawn | {
        "auroc": inline(
            partial(evaluation.forest, tests, "auroc", origin),
            "auroc",
            f"AUROC per finding with its confidence interval, all models{see_table}",
        ),
        "ap": inline(
            partial(evaluation.forest, tests, "ap", origin),
            "ap",
            f"Average precision per finding with its confidence interval, all models{see_table}",
        ),
        "curves": inline(
            partial(curves_of_models, histories, origin),
            "curves",
            "Loss and validation macro AUROC of every model per epoch",
        ),
        "reliability": inline(
            partial(evaluation.reliability, tests, origin),
            "reliability",
            "Observed frequency against predicted probability, per finding",
        ),
    }
