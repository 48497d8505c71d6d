"""Benchmark the expensive parts against a straightforward implementation, each with a target.

All benchmarks take 15 minutes; `--quick` takes 2 minutes (smaller samples, no memory, no GPU).
The exit status is 1 if a ratio misses its target by more than a factor of two.
Example: python -m bench --only training
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from bench import (
    bootstrap,
    features,
    gpu,
    gradcam,
    mapped,
    memory,
    reading,
    repro,
    start,
    sweeping,
    tracking,
    training,
    turnaround,
)
from bench.measure import Row
from bench.stages import PROJECT
from cxr import params
from cxr.params import Params
from cxr.training.device import set_up_device

WIDTH = 150  # minimum width of the table in columns, for output without a terminal
REPORT = PROJECT / "reports/bench.json"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="use smaller samples and fewer runs")
    parser.add_argument("--only", choices=list(parts(_settings(), False)), help="run one benchmark")
    arguments = parser.parse_args()
    settings = _settings()
    set_up_device(settings)
    rows: list[Row] = []
    for name, measure in parts(settings, arguments.quick).items():
        if arguments.only in (None, name):
            print(f"measuring {name} ...", end=" ", flush=True)
            started = time.perf_counter()
            rows += measure()
            print(f"{time.perf_counter() - started:.0f} s", flush=True)
    console = Console()
    console.width = max(console.width, WIDTH)
    console.print(table(rows))
    if arguments.only is None:
        _write([row.as_json() for row in rows])
    if any(row.misses_by_factor_two for row in rows):
        sys.exit(1)


def parts(settings: Params, quick: bool) -> dict[str, Callable[[], list[Row]]]:
    """The benchmarks by name."""
    return {
        "training": lambda: training.measure(settings, *((10, 2) if quick else (16, 3))),
        "reading": lambda: reading.measure(settings, *((200, 1) if quick else (1000, 3))),
        "features": lambda: features.measure(settings, *((64, 1) if quick else (256, 3))),
        "mapped": lambda: mapped.measure(1 if quick else 5),
        "evaluation": lambda: bootstrap.measure(5 if quick else 50),
        "gradcam": lambda: gradcam.measure(settings, *((128, 1) if quick else (1000, 3))),
        "start": lambda: start.measure(start.LIGHT if quick else start.STAGES),
        "tracking": lambda: tracking.measure(settings, *((2000, 1) if quick else (78_468, 3))),
        "repro": lambda: repro.measure(1 if quick else 5),
        "turnaround": lambda: turnaround.measure(settings, *((1, False) if quick else (11, True))),
        **({} if quick else {"sweep": lambda: sweeping.measure(5), "memory": memory.measure}),
        **(
            {"gpu": lambda: gpu.measure(settings)}
            if torch.cuda.is_available() and not quick
            else {}
        ),
    }


def table(rows: list[Row]) -> Table:
    """The results as a table."""
    results = Table("benchmark", "ours", "baseline", "ratio", "range", "target", "met", "notes")
    for row in rows:
        results.add_row(
            row.what,
            f"{_number(row.ours)} {row.unit}",
            f"{_number(row.theirs)} {row.unit}",
            f"{row.ratio:.3g}",
            f"{min(row.ratios):.3g} to {max(row.ratios):.3g}",
            row.target,
            {True: "yes", False: "NO", None: ""}[row.holds],
            row.note,
        )
    return results


def _write(rows: list[dict[str, Any]]) -> None:
    REPORT.parent.mkdir(exist_ok=True)
    part = REPORT.with_suffix(".part")
    part.write_text(json.dumps(rows, indent=2) + "\n")
    part.replace(REPORT)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _settings() -> Params:
    return params.load(PROJECT / "params.yaml")


if __name__ == "__main__":
    main()
