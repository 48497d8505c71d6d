"""Numbers, intervals and p-values as text, the same in terminals, logs and the report."""

from collections.abc import Mapping, Sequence
from typing import Any

UNDEFINED = "-"


def count(n: int, noun: str) -> str:
    """`1 image`, `2 images`."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def duration(seconds: float) -> str:
    """`45 s`, `12 min`, `3.5 h`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def number(value: float | None, digits: int = 4) -> str:
    """`0.7123`; a dash if the value is undefined."""
    return UNDEFINED if value is None else f"{value:,.{digits}f}"


def signed(value: float | None, digits: int = 4) -> str:
    """`+0.0123`."""
    return UNDEFINED if value is None else f"{value:+.{digits}f}"


def percent(value: float | None, digits: int = 2) -> str:
    """`94.74%` of a fraction."""
    return UNDEFINED if value is None else f"{100 * value:.{digits}f}%"


def interval(ci: Sequence[float] | None, digits: int = 4) -> str:
    """`[0.6812, 0.7401]`."""
    return UNDEFINED if ci is None else f"[{ci[0]:.{digits}f}, {ci[1]:.{digits}f}]"


def with_interval(metrics: Mapping[str, Any], key: str) -> str:
    """A metric, with its interval if `metrics` has one under `<key>_ci`."""
    ci = metrics.get(f"{key}_ci")
    return number(metrics[key]) + (f" {interval(ci)}" if ci else "")


def p_value(value: float | None) -> str:
    """`0.012`, or `< 0.001`."""
    if value is None:
        return UNDEFINED
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def widest_gap(gap: Mapping[str, Any] | None, attributes: Sequence[str]) -> str:
    """`widest gap: AP minus PA (view), macro AUROC +0.0123 …`, or that none of these is shown."""
    if gap is None:
        return f"no gap in macro AUROC between groups of {', '.join(attributes)} is shown"
    pair = f"{gap['a']} minus {gap['b']} ({gap['attribute']})"
    return f"widest gap: {pair}, macro AUROC {comparison(gap)}"


def comparison(compared: Mapping[str, Any]) -> str:
    """A difference with its interval and p-value, to print after `a minus b: `."""
    low, high = compared["ci"]
    return (
        f"{signed(compared['difference'])} [{signed(low)}, {signed(high)}], "
        f"p {p_value(compared['p_holm'])} after Holm's correction"
    )
