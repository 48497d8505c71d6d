"""Stages killed at 40 moments, stores and disks that fail, eight processes at once: the counts."""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from pipeline import create

from faults import crowd, disks, kills, queues, stores


def main() -> None:
    parts: dict[str, Callable[[argparse.Namespace, Path], bool]] = {
        "kills": of_kills,
        "stores": of_stores,
        "disks": of_disks,
        "crowd": of_crowd,
        "queue": of_queue,
    }
    parser = argparse.ArgumentParser(prog="make faults", description=__doc__)
    parser.add_argument("--only", choices=parts, help="one part alone")
    parser.add_argument("--moments", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=20, help="of eight processes at once")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    held = []
    for name, part in parts.items():
        if asked.only in (None, name):
            started = time.monotonic()
            with tempfile.TemporaryDirectory(prefix="cxr-faults-") as folder:
                held.append(part(asked, Path(folder)))
            print(f"{name}: {time.monotonic() - started:.0f} s\n", flush=True)
    sys.exit(not all(held))


def of_kills(asked: argparse.Namespace, folder: Path) -> bool:
    expected = kills.undisturbed(folder, kills.STAGES[-1])
    outcomes = []
    for n, planned in enumerate(kills.moments(asked.moments, asked.seed, expected), 1):
        stage, what, moment = planned
        outcome = kills.killed(expected, stage, what, moment, folder / str(n))
        outcomes.append(outcome)
        says = f"DIFFERS {outcome.wrong}" if outcome.wrong else "equal"
        hit = "killed" if outcome.hit else "ended first"
        print(f"{n:>3}/{asked.moments}  {stage:<17} {what:<14} {hit:<12} {says}", flush=True)
    equal = sum(not outcome.wrong for outcome in outcomes)
    hit = sum(outcome.hit for outcome in outcomes)
    print(
        f"kills: {equal} of {len(outcomes)} equal to the undisturbed run, runs and steps of MLflow "
        f"included; {hit} were alive when they were killed"
    )
    return equal == len(outcomes)


def of_stores(asked: argparse.Namespace, folder: Path) -> bool:
    kept = tried = 0
    for n, (way, broken) in enumerate(stores.WAYS.items()):
        try:
            outcome = stores.tried(create(folder / str(n)), broken)
        except disks.CanNotBeTried as reason:
            print(f"     {way:<28} not tried: {reason}", flush=True)
            continue
        tried += 1
        kept += outcome.holds
        says = "result kept, told later" if outcome.holds else f"LOST {outcome}"
        print(f"     {way:<28} {says}", flush=True)
    print(f"stores: {kept} of {tried} kept the result, and its run was there after `cxr sync`")
    return kept == tried


def of_disks(asked: argparse.Namespace, folder: Path) -> bool:
    outcomes = []
    for megabytes in disks.MEGABYTES:
        (folder / str(megabytes)).mkdir()
        try:
            outcomes += disks.full(folder / str(megabytes), megabytes)
        except disks.CanNotBeTried as reason:
            print(f"disks: not tried: {reason}")
            return True
    for outcome in outcomes:
        says = "as expected" if outcome.holds else f"NOT {outcome}"
        done = "refused in one line" if outcome.status else "done"
        print(f"     {outcome.megabytes} MB  {outcome.stage:<12} {done:<20} {says}", flush=True)
    held = sum(outcome.holds for outcome in outcomes)
    print(f"disks: {held} of {len(outcomes)} done or refused with nothing half-written")
    return held == len(outcomes)


def of_crowd(asked: argparse.Namespace, folder: Path) -> bool:
    held = 0
    for n in range(asked.rounds):
        (folder / str(n)).mkdir()
        outcome = crowd.crowd(folder / str(n))
        held += outcome.holds
        print(f"{n + 1:>3}/{asked.rounds}  {'all there' if outcome.holds else outcome}", flush=True)
    print(
        f"crowd: {held} of {asked.rounds} rounds of {crowd.PROCESSES} processes and a reader "
        "without an error, a lost run or a doubled step"
    )
    return held == asked.rounds


def of_queue(asked: argparse.Namespace, folder: Path) -> bool:
    outcome = queues.queued(folder / "p")
    print(
        f"queue: {outcome.succeeded} of {queues.EXPERIMENTS} experiments, {queues.WORKERS} at a "
        "time and read meanwhile: "
        + ("each run there once, and all hold in the audit" if outcome.holds else str(outcome))
    )
    return outcome.holds


if __name__ == "__main__":
    main()
