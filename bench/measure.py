"""Timing of alternatives in turns, and ratios with targets."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

Work = Callable[[], None]


@dataclass(frozen=True)
class Row:
    """One line of the table: a ratio and its target."""

    what: str
    ours: float  # median, in `unit`
    theirs: float  # median of the baseline, or a limit
    unit: str
    ratios: tuple[float, ...]  # one per run
    least: float | None = None  # the target if higher is better
    most: float | None = None  # the target if lower is better
    note: str = ""

    @classmethod
    def with_limit(cls, what: str, ours: float, limit: float, unit: str = "s") -> "Row":
        """A measurement with an absolute limit instead of a baseline."""
        return cls(what, ours, limit, unit, (ours / limit,), most=1)

    @property
    def ratio(self) -> float:
        return median(self.ratios)

    @property
    def holds(self) -> bool | None:
        """Whether the target is met; None without a target."""
        if self.least is not None:
            return self.ratio >= self.least
        return self.ratio <= self.most if self.most is not None else None

    @property
    def target(self) -> str:
        """The target as text; empty without a target."""
        if self.least is not None:
            return f"at least {self.least:g}"
        return f"at most {self.most:g}" if self.most is not None else ""

    @property
    def misses_by_factor_two(self) -> bool:
        """Whether the ratio misses its target by more than a factor of two (more than noise)."""
        if self.least is not None:
            return self.ratio < self.least / 2
        return self.most is not None and self.ratio > self.most * 2

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"ratio": self.ratio, "holds": self.holds}


def in_turns(works: dict[str, Work], turns: int, warm_up: bool = True) -> dict[str, list[float]]:
    """Time each function in turn, `turns` times, so that disturbances affect all equally.

    With `warm_up`, each function first runs once untimed.
    """
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for work in works.values() if warm_up else ():
        work()
    for _ in range(turns):
        for name, work in works.items():
            start = time.perf_counter()
            work()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def faster(what: str, ours: list[float], theirs: list[float], least: float, note: str = "") -> Row:
    """How many times faster ours is than theirs."""
    ratios = tuple(b / a for a, b in zip(ours, theirs, strict=True))
    return Row(what, median(ours), median(theirs), "s", ratios, least=least, note=note)


def relative_to(
    what: str, ours: list[float], limit: list[float], most: float, note: str = ""
) -> Row:
    """Our time as a multiple of a lower limit."""
    ratios = tuple(a / b for a, b in zip(ours, limit, strict=True))
    return Row(what, median(ours), median(limit), "s", ratios, most=most, note=note)
