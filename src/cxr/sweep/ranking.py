"""What a sweep found: each model's configurations over their seeds, and the best on validation.

The test split is told beside, and nothing here chooses by it.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy import stats

from cxr.arrays import Doubles
from cxr.evaluation.intervals import LEVEL
from cxr.sweep.plan import Plan
from cxr.sweep.space import Configuration


@dataclass(frozen=True)
class Outcome:
    """One model of one experiment, as reports/metrics.json has it; None where undefined."""

    val: float | None  # macro AUROC, which chose the epoch, too
    test: float | None
    test_ci: tuple[float, float] | None  # over patients or images, for this one training


@dataclass(frozen=True)
class OverSeeds:
    """A number over the seeds of one configuration."""

    n: int
    mean: float | None
    sd: float | None  # None with fewer than two seeds
    ci: tuple[float, float] | None  # of the mean over all seeds there could be


@dataclass(frozen=True)
class Row:
    """One model under one setting of the parameters that change it."""

    model: str
    params: Configuration
    experiments: list[str]  # one a seed
    done: int  # of these
    val: OverSeeds
    test: float | None  # mean over seeds
    test_ci: tuple[float, float] | None  # mean of the seeds' own intervals


@dataclass(frozen=True)
class Best:
    """A model's row of the highest mean on validation, held against the second."""

    row: Row
    experiment: str  # of the first seed, not of the luckiest
    second: Row | None
    difference: float | None  # of the means
    ci: tuple[float, float] | None  # of that, paired by seed
    spread: float | None  # sd over seeds, of the two together

    @property
    def doubt(self) -> str | None:
        """Why the second may be as good; None where nothing speaks for that."""
        if self.difference is None:
            return None
        if self.spread is None:
            return "one seed tells no difference from luck"
        if self.difference <= self.spread:
            return f"no more than the seeds' own spread of {self.spread:.4f}"
        if self.ci is None or self.ci[0] <= 0:
            return "an interval that holds 0"
        return None


@dataclass(frozen=True)
class Table:
    """The end of a sweep."""

    rows: list[Row]  # by model, the best first
    best: list[Best]  # one a model, where a configuration has all its seeds


def table(plan: Plan, outcomes: Mapping[str, Mapping[str, Outcome]]) -> Table:
    """Rank the configurations of each model.

    Parameters
    ----------
    outcomes : of each experiment that is done, by model.
    """
    rows: list[Row] = []
    best: list[Best] = []
    for model in plan.models:
        of_model = [_row(model, plan, config, outcomes) for config in _settings(model, plan)]
        # A configuration that lacks a seed may look good for it, and is not chosen.
        whole = [row for row in of_model if row.done == len(plan.seeds) == row.val.n]
        whole.sort(key=_descending)
        rows += [*whole, *(row for row in of_model if row not in whole)]
        if whole:
            best.append(_best(whole, outcomes))
    return Table(rows, best)


def over_seeds(values: list[float]) -> OverSeeds:
    """Mean, standard deviation and interval of a number over seeds.

    By Student's t, since seeds are few: the interval says where the mean over very many seeds may
    lie, given that seeds scatter normally. An AUROC stays between 0 and 1.
    """
    if not values:
        return OverSeeds(0, None, None, None)
    mean, sd, half = _student(np.array(values))
    ci = None if half is None else (max(0.0, mean - half), min(1.0, mean + half))
    return OverSeeds(len(values), mean, sd, ci)


def _settings(model: str, plan: Plan) -> list[Configuration]:
    """One configuration for each setting of the model's own parameters: others change nothing."""
    found: list[Configuration] = []
    keys = plan.keys_of(model)
    for each in plan.configurations:
        if not any(all(each[key] == other[key] for key in keys) for other in found):
            found.append(each)
    return found


def _row(
    model: str,
    plan: Plan,
    configuration: Configuration,
    outcomes: Mapping[str, Mapping[str, Outcome]],
) -> Row:
    experiments = plan.of(configuration)
    done = [outcomes[each.name][model] for each in experiments if each.name in outcomes]
    tests = [each.test for each in done if each.test is not None]
    cis = [each.test_ci for each in done if each.test_ci is not None]
    return Row(
        model=model,
        params={key: configuration[key] for key in plan.keys_of(model)},
        experiments=[each.name for each in experiments],
        done=len(done),
        val=over_seeds([each.val for each in done if each.val is not None]),
        test=float(np.mean(tests)) if tests else None,
        test_ci=_mean_interval(cis) if cis and len(cis) == len(done) else None,
    )


def _best(whole: list[Row], outcomes: Mapping[str, Mapping[str, Outcome]]) -> Best:
    first, second = whole[0], whole[1] if len(whole) > 1 else None
    if second is None:
        return Best(first, first.experiments[0], None, None, None, None)
    a, b = (
        np.array([outcomes[name][row.model].val for name in row.experiments], np.float64)
        for row in (first, second)
    )
    # The same seed gives both the same first weights and order of images, so they are paired.
    difference, _, half = _student(a - b)
    ci = None if half is None else (difference - half, difference + half)
    spread = None
    if first.val.sd is not None and second.val.sd is not None:
        spread = math.sqrt((first.val.sd**2 + second.val.sd**2) / 2)
    return Best(first, first.experiments[0], second, difference, ci, spread)


def _student(values: Doubles) -> tuple[float, float | None, float | None]:
    """Mean, standard deviation and the half width of the mean's interval."""
    n, mean = len(values), float(np.mean(values))
    if n < 2:
        return mean, None, None
    sd = float(np.std(values, ddof=1))
    return mean, sd, float(stats.t.ppf((1 + LEVEL) / 2, n - 1)) * sd / math.sqrt(n)


def _mean_interval(cis: list[tuple[float, float]]) -> tuple[float, float]:
    """The seeds' intervals averaged: at least as wide as the mean's own, over patients alone."""
    low, high = np.mean(cis, axis=0)
    return float(low), float(high)


def _descending(row: Row) -> float:
    return math.inf if row.val.mean is None else -row.val.mean
