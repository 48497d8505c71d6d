"""Findings of an audit: each a verdict with one sentence."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

SHOWN = 3  # names listed in a sentence; the rest are counted


class Verdict(StrEnum):
    """Ordered from best to worst."""

    HOLDS = "holds"
    NOTE = "note"  # worth knowing, but the result is still valid
    FAILS = "fails"


class Where(StrEnum):
    """What a finding is about."""

    FILES = "files"
    CACHE = "cache"
    RECORD = "record"
    LOCK = "dvc.lock"
    PARAMETERS = "parameters"
    CODE = "code"
    ENVIRONMENT = "environment"
    SOURCE = "source"
    INPUTS = "inputs"
    MLFLOW = "mlflow"


@dataclass(frozen=True)
class Finding:
    """The outcome of one check."""

    verdict: Verdict
    where: Where
    says: str
    fix: str | None = None  # a command

    def as_json(self) -> dict[str, str | None]:
        """The keys that `cxr audit --json` prints."""
        return {
            "verdict": self.verdict,
            "where": self.where,
            "says": self.says,
            "fix": self.fix,
        }


def holds(where: Where, says: str) -> Finding:
    return Finding(Verdict.HOLDS, where, says)


def note(where: Where, says: str, fix: str | None = None) -> Finding:
    return Finding(Verdict.NOTE, where, says, fix)


def fails(where: Where, says: str, fix: str | None = None) -> Finding:
    return Finding(Verdict.FAILS, where, says, fix)


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """The worst verdict; HOLDS if there are none."""
    return max(verdicts, key=list(Verdict).index, default=Verdict.HOLDS)


def same(a: Any, b: Any) -> bool:
    """Whether two JSON or YAML values are equal; unlike in Python, true is not 1."""
    return bool(a == b) and isinstance(a, bool) == isinstance(b, bool)


def some(names: Iterable[str]) -> str:
    """The first few names and the number of others: `a, b, c and 4 more`."""
    listed = list(names)
    more = len(listed) - SHOWN
    return ", ".join(listed[:SHOWN]) + (f" and {more} more" if more > 0 else "")
