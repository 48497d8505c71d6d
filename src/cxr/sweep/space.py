"""The configurations that a sweep compares: a grid of choices, or random samples from ranges.

train.cnn.lr=1e-3,2e-3          choices, as params.yaml writes them; lists in brackets
train.cnn.dropout=0.1..0.5      a range, sampled uniformly
train.cnn.lr=log:1e-4..1e-2     a range, sampled uniformly in the logarithm
train.vit.depth=2..8            a range of integers, including both ends
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
INTEGER = re.compile(r"[-+]?\d+")
DIGITS = 4  # significant digits of a sampled number, so that it is easy to copy
MOST_CONFIGURATIONS = 1000  # a larger grid is most likely a typo
TRIES = 1000  # samples to draw for each new configuration before giving up


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included; integers if both ends are integers."""

    low: float
    high: float
    log: bool

    def draw(self, rng: np.random.Generator) -> float:
        """Sample one number uniformly, or with `log` uniformly in the logarithm."""
        integers = isinstance(self.low, int) and isinstance(self.high, int)
        # The integer k covers the interval from k to k + 1.
        low, high = self.low, self.high + integers
        fraction = rng.random()
        value = low * (high / low) ** fraction if self.log else low + (high - low) * fraction
        if integers:
            return min(math.floor(value), int(self.high))
        return min(max(float(f"{value:.{DIGITS}g}"), self.low), self.high)


Space = dict[str, list[Any] | Range]  # choices, or a range, for each parameter


def parse(assignments: list[str]) -> Space:
    """Parse `KEY=VALUES` texts; CxrError if one is invalid or a key is given twice."""
    if not assignments:
        raise CxrError(
            "nothing to compare; give a parameter and its values, such as -S train.cnn.lr=1e-3,2e-3"
        )
    space: Space = {}
    for text in assignments:
        key, equals, values = (part.strip() for part in text.partition("="))
        if not key or not equals:
            raise CxrError(f"-S {text} is not KEY=VALUES, such as train.cnn.lr=1e-3,2e-3")
        if key in space:
            raise CxrError(
                f"-S {key} is given twice; give all its values in one -S, separated by commas"
            )
        space[key] = _values(key, values)
    return space


def grid(space: Space) -> list[Configuration]:
    """Every combination once, the last parameter changing fastest."""
    choices = []
    for key, values in space.items():
        if isinstance(values, Range):
            raise CxrError(
                f"-S {key} is a range, but a grid needs choices; sample from ranges with --random N"
            )
        choices.append(values)
    if (n := math.prod(map(len, choices))) > MOST_CONFIGURATIONS:
        raise CxrError(
            f"the grid has {n:,} configurations; at most {MOST_CONFIGURATIONS:,} are allowed"
        )
    combinations = (dict(zip(space, each, strict=True)) for each in itertools.product(*choices))
    return list({_canonical(each): each for each in combinations}.values())


def random(space: Space, n: int, seed: int) -> list[Configuration]:
    """Sample `n` different configurations; a larger `n` keeps the first ones."""
    if n > MOST_CONFIGURATIONS:
        raise CxrError(f"--random is {n:,}; expected at most {MOST_CONFIGURATIONS:,}")
    rng = np.random.default_rng(seed)
    samples: dict[str, Configuration] = {}
    for _ in range(n * TRIES):
        if len(samples) == n:
            break
        sample = {
            key: values.draw(rng)
            if isinstance(values, Range)
            else values[rng.integers(len(values))]
            for key, values in space.items()
        }
        samples.setdefault(_canonical(sample), sample)
    if len(samples) < n:
        raise CxrError(
            f"--random is {n}, but the choices and ranges have only about {len(samples)} different "
            "configurations"
        )
    return list(samples.values())


def shown(configuration: Configuration) -> str:
    """A configuration as it is typed on the command line."""
    return ", ".join(f"{key}={text(value)}" for key, value in configuration.items())


def text(value: Any) -> str:
    """A value as params.yaml would write it."""
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _values(key: str, values: str) -> list[Any] | Range:
    if match := RANGE.fullmatch(values):
        return _range(key, values, bool(match[1]), match[2], match[3])
    try:
        choices = parse_yaml(f"[{values}]")  # as DVC reads params.yaml
    except ValueError:
        choices = None
    is_list = isinstance(choices, list) and not any(isinstance(each, dict) for each in choices)
    if not choices or not is_list or values.startswith("log:"):
        raise CxrError(
            f"-S {key}={values} is neither a list of choices (1e-3,2e-3; text with special "
            "characters in quotes: 'a[1].pth') nor a range (0.1..0.5, log:1e-4..1e-2)"
        )
    return list(choices)


def _range(key: str, values: str, log: bool, first: str, last: str) -> Range:
    integers = INTEGER.fullmatch(first) and INTEGER.fullmatch(last)
    low, high = (int(first), int(last)) if integers else (float(first), float(last))
    if not low < high or math.isinf(high - low):
        raise CxrError(f"-S {key}={values} is an empty range; write the lower end first")
    if log and low <= 0:
        raise CxrError(f"-S {key}={values}: a log range must start above 0")
    return Range(low, high, log)


def _canonical(configuration: Configuration) -> str:
    """The same text for equal configurations; 1 and 1.0 are equal."""
    values = [float(each) if type(each) is int else each for each in configuration.values()]
    return json.dumps(values, default=str)
