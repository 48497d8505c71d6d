"""The finding of a check, and how findings are printed."""

from __future__ import annotations

import os
import sys
from typing import NamedTuple

from cxr.errors import shown
from cxr.formatting import count

OK, NOTE, MISSING = "ok", "note", "missing"
MARKS = {OK: ("✓", "32"), NOTE: ("!", "33"), MISSING: ("✗", "1;31")}  # terminal colours
WIDTH = 12  # of the column of names
MOST_NAMED = 4


class Finding(NamedTuple):
    """The finding of one check; `fix` is empty if nothing needs to be done."""

    verdict: str
    found: str
    fix: str = ""
    check: str = ""

    def as_json(self) -> dict[str, str | None]:
        return {
            "check": self.check,
            "verdict": self.verdict,
            "found": self.found,
            "try": self.fix or None,
        }


def ok(found: str) -> Finding:
    return Finding(OK, found)


def note(found: str, fix: str = "") -> Finding:
    """A finding that does not make anything fail."""
    return Finding(NOTE, found, fix)


def missing(found: str, fix: str = "") -> Finding:
    """A finding that makes a stage or a command fail."""
    return Finding(MISSING, found, fix)


def some(names: list[str]) -> str:
    """The first names of a list, and the number of the others."""
    more = len(names) - MOST_NAMED
    return ", ".join(names[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def print_findings(findings: list[Finding], quiet: bool = False) -> None:
    """Print a line per check and one per fix, without rich; only problems if `quiet`."""
    is_coloured = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    for each in findings:
        if quiet and each.verdict != MISSING:
            continue
        mark, colour = MARKS[each.verdict]
        mark = f"\033[{colour}m{mark}\033[0m" if is_coloured else mark
        print(f"{mark} {each.check:<{WIDTH}}{shown(each.found)}")
        if each.fix:
            print(f"  {'':<{WIDTH}}try: {shown(each.fix)}")
    n = sum(each.verdict == MISSING for each in findings)
    if n or not quiet:
        print(f"{count(n, 'problem') if n else 'no problems'} to fix")
