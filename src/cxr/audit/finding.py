"""What an audit finds: one verdict on one thing, in a sentence."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

SHOWN = 3  # names in a sentence; the rest is counted


class Verdict(StrEnum):
    """From good to bad."""

    HOLDS = "holds"
    NOTE = "note"  # worth knowing; the result stays true
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
    """One thing that was looked at."""

    verdict: Verdict
    where: Where
    says: str
    mend: str | None = None  # a command


def holds(where: Where, says: str) -> Finding:
    return Finding(Verdict.HOLDS, where, says)


def note(where: Where, says: str, mend: str | None = None) -> Finding:
    return Finding(Verdict.NOTE, where, says, mend)


def fails(where: Where, says: str, mend: str | None = None) -> Finding:
    return Finding(Verdict.FAILS, where, says, mend)


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """The worst of them; nothing to find fault with holds."""
    return max(verdicts, key=list(Verdict).index, default=Verdict.HOLDS)


def same(a: Any, b: Any) -> bool:
    """Whether two values of JSON or YAML are equal; to Python true is 1."""
    return bool(a == b) and isinstance(a, bool) == isinstance(b, bool)


def some(names: Iterable[str]) -> str:
    """A few names and how many more, for a sentence."""
    listed = list(names)
    more = len(listed) - SHOWN
    return ", ".join(listed[:SHOWN]) + (f" and {more} more" if more > 0 else "")
