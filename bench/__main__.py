"""All of it: `python -m bench`, or in two minutes `python -m bench --quick`."""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from bench import bootstrap, features, gradcam, repro, start, training
from bench.measure import Row
from cxr import params
from cxr.params import Params

PROJECT = Path(__file__).parents[1]
REPORT = PROJECT / "reports/bench.json"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="smaller samples, fewer turns")
    parser.add_argument("--only", choices=list(parts(_settings(), True)), help="one part alone")
    asked = parser.parse_args()
    settings = _settings()
    torch.set_num_threads(settings.threads)
    rows: list[Row] = []
    for name, measure in parts(settings, asked.quick).items():
        if asked.only in (None, name):
            print(f"measuring {name} ...", flush=True)
            rows += measure()
    Console().print(table(rows))
    REPORT.parent.mkdir(exist_ok=True)
    REPORT.write_text(json.dumps([row.as_json() for row in rows], indent=2) + "\n")
    if any(row.misses_widely for row in rows):
        sys.exit(1)


def parts(settings: Params, quick: bool) -> dict[str, Callable[[], list[Row]]]:
    """What there is to measure, by name."""
    return {
        "training": lambda: training.measure(settings, *((20, 2) if quick else (150, 5))),
        "features": lambda: features.measure(settings, *((128, 2) if quick else (512, 3))),
        "evaluation": lambda: bootstrap.measure(10 if quick else 50),
        "start": lambda: start.measure(2 if quick else 5),
        "repro": lambda: repro.measure(2 if quick else 5),
        "gradcam": lambda: gradcam.measure(settings, *((128, 2) if quick else (1000, 3))),
    }


def table(rows: list[Row]) -> Table:
    """For a person."""
    shown = Table("what", "ours", "theirs", "ratio", "in turns", "bar", "holds", "")
    for row in rows:
        bar = f"at least {row.least:g}" if row.least is not None else f"at most {row.most:g}"
        shown.add_row(
            row.what,
            f"{row.ours:.3g} {row.unit}",
            f"{row.theirs:.3g} {row.unit}",
            f"{row.ratio:.2f}",
            f"{min(row.ratios):.2f} to {max(row.ratios):.2f}",
            bar,
            "yes" if row.holds else "NO",
            row.note,
        )
    return shown


def _settings() -> Params:
    return params.load(PROJECT / "params.yaml")


if __name__ == "__main__":
    main()
