"""Which configurations a sweep compares: a grid, or draws from ranges.

train.cnn.lr=1e-3,2e-3          choices, as params.yaml writes them; lists in brackets
train.cnn.dropout=0.1..0.5      a range, each value as likely as another
train.cnn.lr=log:1e-4..1e-2     a range, each order of magnitude as likely as another
train.vit.depth=2..8            a range of whole numbers, its ends among them
"""

import itertools
import json
import math
import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from cxr.documents import parse_yaml
from cxr.errors import CxrError

Configuration = dict[str, Any]  # dotted names of params.yaml -> values

NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
RANGE = re.compile(rf"(log:)?({NUMBER})\.\.({NUMBER})")
WHOLE = re.compile(r"[-+]?\d+")
DIGITS = 4  # of a drawn number: as many as a person copies
MOST_CONFIGURATIONS = 1000  # a grid of more is a slip of the finger
TRIES = 1000  # draws for one new configuration


@dataclass(frozen=True)
class Choices:
    """Values to take one of."""

    values: tuple[Any, ...]

    def draw(self, rng: np.random.Generator) -> Any:
        """One of them, each as likely."""
        return self.values[int(rng.integers(len(self.values)))]


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both among them; whole ones where both ends are."""

    low: float
    high: float
    log: bool

    def draw(self, rng: np.random.Generator) -> float:
        """One of them: with `log`, its logarithm is uniform."""
        whole = isinstance(self.low, int) and isinstance(self.high, int)
        # A whole number stands for all from it up to the next.
        low, high = self.low, self.high + whole
        share = rng.random()
        value = low * (high / low) ** share if self.log else low + (high - low) * share
        if whole:
            return min(math.floor(value), int(self.high))
        return min(max(float(f"{value:.{DIGITS}g}"), self.low), self.high)


Space = dict[str, Choices | Range]


def parse(assignments: list[str]) -> Space:
    """A space from texts `KEY=VALUES`; CxrError where one is none, or a key comes twice."""
    if not assignments:
        raise CxrError("nothing to compare; name a parameter, as in -S train.cnn.lr=1e-3,2e-3")
    space: Space = {}
    for text in assignments:
        key, equals, values = (part.strip() for part in text.partition("="))
        if not key or not equals:
            raise CxrError(f"-S {text} is no KEY=VALUES, such as train.cnn.lr=1e-3,2e-3")
        if key in space:
            raise CxrError(f"-S {key} is given twice; put its values behind one, with commas")
        space[key] = _values(key, values)
    return space


def grid(space: Space) -> list[Configuration]:
    """Every combination, the last parameter changing fastest."""
    for key, values in space.items():
        if isinstance(values, Range):
            raise CxrError(f"-S {key} is a range; --random N draws from it, a grid needs choices")
    choices = [values.values for values in space.values() if isinstance(values, Choices)]
    if (n := math.prod(map(len, choices))) > MOST_CONFIGURATIONS:
        raise CxrError(f"a grid of {n:,} configurations; {MOST_CONFIGURATIONS:,} are the most")
    found = [dict(zip(space, values, strict=True)) for values in itertools.product(*choices)]
    seen: set[str] = set()
    for each in found:
        if _canonical(each) in seen:
            raise CxrError(f"-S: the configuration {shown(each)} is there twice")
        seen.add(_canonical(each))
    return found


def random(space: Space, n: int, seed: int) -> list[Configuration]:
    """`n` different draws; the first ones of more are the same."""
    if n > MOST_CONFIGURATIONS:
        raise CxrError(f"--random {n:,}: {MOST_CONFIGURATIONS:,} configurations are the most")
    rng = np.random.default_rng(seed)
    found: dict[str, Configuration] = {}
    for _ in range(n * TRIES):
        if len(found) == n:
            break
        drawn = {key: values.draw(rng) for key, values in space.items()}
        found.setdefault(_canonical(drawn), drawn)
    if len(found) < n:
        raise CxrError(
            f"-S: these choices and ranges hold about {len(found)} different configurations; "
            f"--random {n} asks for more"
        )
    return list(found.values())


def shown(configuration: Configuration) -> str:
    """A configuration as a person types it."""
    return ", ".join(f"{key}={text(value)}" for key, value in configuration.items())


def text(value: Any) -> str:
    """A value as params.yaml would write it."""
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _values(key: str, values: str) -> Choices | Range:
    found = RANGE.fullmatch(values)
    if found:
        return _range(key, values, bool(found[1]), found[2], found[3])
    if values.startswith("log:"):
        raise CxrError(f"-S {key}={values} is no range, such as log:1e-4..1e-2")
    try:
        choices = parse_yaml(f"[{values}]")  # as DVC reads params.yaml
    except ValueError:
        choices = None
    if not isinstance(choices, list) or any(isinstance(each, dict) for each in choices):
        raise CxrError(
            f"-S {key}={values} is neither choices (1e-3,2e-3; texts with special characters in "
            "quotes: 'a[1].pth'), nor a range (0.1..0.5, log:1e-4..1e-2)"
        )
    if not choices:
        raise CxrError(f"-S {key}= has no value")
    return Choices(tuple(choices))


def _range(key: str, values: str, log: bool, first: str, last: str) -> Range:
    whole = WHOLE.fullmatch(first) and WHOLE.fullmatch(last)
    low, high = (int(first), int(last)) if whole else (float(first), float(last))
    if not low < high or math.isinf(high - low):
        raise CxrError(f"-S {key}={values} is an empty range; its low end comes first")
    if log and low <= 0:
        raise CxrError(f"-S {key}={values}: a log range starts above 0")
    return Range(low, high, log)


def _canonical(configuration: Configuration) -> str:
    """The same text for the same configuration: 1 and 1.0 are one number."""
    values = [float(each) if type(each) is int else each for each in configuration.values()]
    return json.dumps(values, default=str)
