"""Timing two ways of doing the same in turns, and a ratio with its bar."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

Work = Callable[[], None]


@dataclass(frozen=True)
class Row:
    """One line of the table: a ratio, and the bar that it must reach or stay below."""

    what: str
    ours: float  # median, in `unit`
    theirs: float
    unit: str
    ratios: tuple[float, ...]  # of each turn
    least: float | None = None  # the bar where much is good
    most: float | None = None  # the bar where little is good
    note: str = ""

    @classmethod
    def of_a_bar(cls, what: str, ours: float, bar: float, unit: str = "s") -> "Row":
        """A number that must not be above a bar, rather than a ratio to what others do."""
        return cls(what, ours, bar, unit, (ours / bar,), most=1)

    @property
    def ratio(self) -> float:
        return median(self.ratios)

    @property
    def holds(self) -> bool | None:
        """Whether the bar is reached; None of a row that has none."""
        if self.least is not None:
            return self.ratio >= self.least
        return self.ratio <= self.most if self.most is not None else None

    @property
    def bar(self) -> str:
        """For a person; empty where there is none."""
        if self.least is not None:
            return f"at least {self.least:g}"
        return f"at most {self.most:g}" if self.most is not None else ""

    @property
    def misses_widely(self) -> bool:
        """By more than noise explains: half of what was asked, or twice of what was allowed."""
        if self.least is not None:
            return self.ratio < self.least / 2
        return self.most is not None and self.ratio > self.most * 2

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"ratio": self.ratio, "holds": self.holds}


def in_turns(works: dict[str, Work], turns: int, warm_up: bool = True) -> dict[str, list[float]]:
    """Seconds of each way, one after the other, `turns` times; what comes and goes hits all.

    Each is done once before, untimed, to warm up.
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
    """How many times faster ours is."""
    ratios = tuple(b / a for a, b in zip(ours, theirs, strict=True))
    return Row(what, median(ours), median(theirs), "s", ratios, least=least, note=note)


def of_the_limit(
    what: str, ours: list[float], limit: list[float], most: float, note: str = ""
) -> Row:
    """How many times the time of a limit ours takes."""
    ratios = tuple(a / b for a, b in zip(ours, limit, strict=True))
    return Row(what, median(ours), median(limit), "s", ratios, most=most, note=note)
