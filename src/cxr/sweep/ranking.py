"""Rank each model's configurations by their mean validation AUROC over seeds.

Test results are reported too, but never used to choose.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy import special

from cxr.arrays import Doubles
from cxr.evaluation.intervals import LEVEL
from cxr.sweep.plan import Plan
from cxr.sweep.space import Configuration, shown

Interval = tuple[float, float]


@dataclass(frozen=True)
class Outcome:
    """One model's results in one experiment's reports/metrics.json; None where undefined."""

    val: float | None  # macro AUROC, which also chose the epoch
    test: float | None
    test_ci: Interval | None  # over patients or images, of this one training


Outcomes = Mapping[str, Mapping[str, Outcome]]  # by experiment and model


@dataclass(frozen=True)
class OverSeeds:
    """Statistics of a metric over the seeds of one configuration."""

    n: int
    mean: float | None
    sd: float | None  # None with fewer than two seeds
    ci: Interval | None  # confidence interval of the mean over all possible seeds


@dataclass(frozen=True)
class Row:
    """One model with one setting of the parameters that affect it."""

    model: str
    params: Configuration
    experiments: list[str]  # one per seed
    done: int  # number of finished experiments
    val: OverSeeds
    test: float | None  # mean over seeds
    test_ci: Interval | None  # mean of the seeds' own intervals


@dataclass(frozen=True)
class Best:
    """A model's row with the highest mean on validation, compared with the second best."""

    row: Row
    experiment: str  # of the first seed, not of the best one
    second: Row | None
    difference: float | None  # of the means
    ci: Interval | None  # of the difference, paired by seed
    spread: float | None  # pooled standard deviation over seeds

    @property
    def doubt(self) -> str | None:
        """Why the second may be as good; None if the difference is clear."""
        if self.difference is None:
            return None
        if self.spread is None:
            return "a single seed cannot separate a difference from chance"
        if self.difference <= self.spread:
            return f"not more than the standard deviation over seeds ({self.spread:.4f})"
        if self.ci is None or self.ci[0] <= 0:
            return "the interval includes 0"
        return None


@dataclass(frozen=True)
class Table:
    """The ranking of all configurations."""

    rows: list[Row]  # by model, best first
    best: list[Best]  # one per model that has a configuration with all its seeds


def table(plan: Plan, outcomes: Outcomes) -> Table:
    """Rank the configurations of each model."""
    rows: list[Row] = []
    best: list[Best] = []
    for model in plan.models:
        of_model = [_row(model, plan, config, outcomes) for config in _settings(model, plan)]
        # A configuration that lacks a seed may look too good, so it is not chosen.
        complete = [row for row in of_model if row.done == len(plan.seeds) == row.val.n]
        complete.sort(key=lambda row: row.val.mean or 0.0, reverse=True)
        rows += [*complete, *(row for row in of_model if row not in complete)]
        if complete:
            best.append(_best(complete, outcomes))
    return Table(rows, best)


def over_seeds(values: list[float]) -> OverSeeds:
    """Mean, standard deviation and confidence interval of an AUROC over seeds.

    The interval is Student's t for the mean over all possible seeds, which assumes normally
    distributed values. It is clipped to the range of an AUROC, 0 to 1.
    """
    if not values:
        return OverSeeds(0, None, None, None)
    mean, sd, ci = _student(np.array(values))
    return OverSeeds(len(values), mean, sd, (max(0.0, ci[0]), min(1.0, ci[1])) if ci else None)


def _student(values: Doubles) -> tuple[float, float | None, Interval | None]:
    """Mean, standard deviation and confidence interval of the mean."""
    n, mean = len(values), float(np.mean(values))
    if n < 2:
        return mean, None, None
    sd = float(np.std(values, ddof=1))
    half = float(special.stdtrit(n - 1, (1 + LEVEL) / 2)) * sd / math.sqrt(n)
    return mean, sd, (mean - half, mean + half)


def _settings(model: str, plan: Plan) -> list[Configuration]:
    """One configuration for each setting of the parameters that affect this model."""
    distinct: dict[str, Configuration] = {}
    for each in plan.configurations:
        distinct.setdefault(shown({key: each[key] for key in plan.keys_of(model)}), each)
    return list(distinct.values())


def _row(model: str, plan: Plan, configuration: Configuration, outcomes: Outcomes) -> Row:
    experiments = plan.of(configuration)
    done = [outcomes[each.name][model] for each in experiments if each.name in outcomes]
    tests = [each.test for each in done if each.test is not None]
    cis = [each.test_ci for each in done if each.test_ci is not None]
    low, high = np.mean(cis, axis=0) if cis else (0.0, 0.0)
    return Row(
        model=model,
        params={key: configuration[key] for key in plan.keys_of(model)},
        experiments=[each.name for each in experiments],
        done=len(done),
        val=over_seeds([each.val for each in done if each.val is not None]),
        test=float(np.mean(tests)) if tests else None,
        # At least as wide as the interval of the mean over patients.
        test_ci=(float(low), float(high)) if cis and len(cis) == len(done) else None,
    )


def _best(complete: list[Row], outcomes: Outcomes) -> Best:
    first, second = complete[0], complete[1] if len(complete) > 1 else None
    if second is None:
        return Best(first, first.experiments[0], None, None, None, None)
    a, b = (
        np.array([outcomes[name][row.model].val for name in row.experiments], np.float64)
        for row in (first, second)
    )
    # Paired: the same seed gives both the same initial weights and order of images.
    difference, _, ci = _student(a - b)
    sds = [row.val.sd for row in (first, second) if row.val.sd is not None]
    spread = math.sqrt(np.mean(np.square(sds))) if sds else None
    return Best(first, first.experiments[0], second, difference, ci, spread)
