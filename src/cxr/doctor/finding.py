"""What one check has found, and the lines that tell it."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from typing import NamedTuple

from cxr.errors import shown

OK, NOTE, MISSING = "ok", "note", "missing"
MARKS = {OK: ("✓", "32"), NOTE: ("!", "33"), MISSING: ("✗", "1;31")}  # colours of a terminal
WIDTH = 12  # of a check's name
MOST_NAMED = 4


class Answer(NamedTuple):
    """Whether something stands in the way, what was found, and how to mend it."""

    verdict: str
    found: str
    mend: str


@dataclass(frozen=True)
class Finding:
    """The answer of one check; `mend` is empty where nothing is to be done."""

    check: str
    verdict: str
    found: str
    mend: str

    def as_json(self) -> dict[str, str | None]:
        return {
            "check": self.check,
            "verdict": self.verdict,
            "found": self.found,
            "try": self.mend or None,
        }


def ok(found: str) -> Answer:
    return Answer(OK, found, "")


def note(found: str, mend: str = "") -> Answer:
    """Something to know, with which everything works."""
    return Answer(NOTE, found, mend)


def missing(found: str, mend: str) -> Answer:
    """Something that stands in the way."""
    return Answer(MISSING, found, mend)


def some(names: list[str]) -> str:
    """The first of a list, and how many more there are."""
    more = len(names) - MOST_NAMED
    return ", ".join(names[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def tell(findings: list[Finding], quietly: bool = False) -> None:
    """A line a check, and one more for what is to be done; quietly, what stands in the way alone.

    Without rich, which may be what is missing.
    """
    is_coloured = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    for each in findings:
        if quietly and each.verdict != MISSING:
            continue
        mark, colour = MARKS[each.verdict]
        mark = f"\033[{colour}m{mark}\033[0m" if is_coloured else mark
        print(f"{mark} {each.check:<{WIDTH}}{shown(each.found)}")
        if each.mend:
            print(f"  {'':<{WIDTH}}try: {shown(each.mend)}")
    n = sum(each.verdict == MISSING for each in findings)
    if n or not quietly:
        many = (
            "1 thing stands" if n == 1 else f"{n or 'nothing'} {'things stand' if n else 'stands'}"
        )
        print(f"{many} in the way")
