"""Kill stages, break MLflow's store, fill disks, run many processes at once; print what is lost."""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import ray_cluster
from pipeline import create

from faults import crowd, disks, kills, stores, sweeps


def main() -> None:
    parts: dict[str, Callable[[argparse.Namespace, Path], bool]] = {
        "kills": run_kills,
        "stores": run_stores,
        "disks": run_disks,
        "crowd": run_crowd,
        "sweeps": run_sweeps,
    }
    parser = argparse.ArgumentParser(
        prog="make faults",
        description=__doc__,
        epilog="Example: make faults ARGS='--only kills --moments 8'",
    )
    parser.add_argument("--only", choices=parts, help="run one part only")
    parser.add_argument(
        "--moments", type=int, default=40, help="number of kills (default: %(default)s)"
    )
    parser.add_argument(
        "--rounds", type=int, default=20, help="rounds of eight processes (default: %(default)s)"
    )
    parser.add_argument(
        "--times", type=int, default=3, help="sweeps with each fault (default: %(default)s)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of the kills' times (default: %(default)s)"
    )
    args = parser.parse_args()
    passed = []
    for name, part in parts.items():
        if args.only in (None, name):
            started = time.monotonic()
            with tempfile.TemporaryDirectory(prefix="cxr-faults-") as folder:
                passed.append(part(args, Path(folder)))
            print(f"{name}: {time.monotonic() - started:.0f} s\n", flush=True)
    sys.exit(not all(passed))


def run_kills(args: argparse.Namespace, folder: Path) -> bool:
    reference = kills.run_reference(folder, kills.STAGES[-1])
    outcomes = []
    for n, planned in enumerate(kills.plan(args.moments, args.seed, reference), 1):
        stage, when, trigger = planned
        outcome = kills.kill_and_repeat(reference, stage, when, trigger, folder / str(n))
        outcomes.append(outcome)
        result = f"DIFFERS: {outcome.differences}" if outcome.differences else "equal"
        killed = "killed" if outcome.was_alive else "had ended"
        print(f"{n:>3}/{args.moments}  {stage:<17} {when:<14} {killed:<12} {result}", flush=True)
    equal = sum(not outcome.differences for outcome in outcomes)
    alive = sum(outcome.was_alive for outcome in outcomes)
    print(
        f"kills: {equal} of {len(outcomes)} equal to the run without a kill, in outputs and in "
        f"MLflow; {alive} of {len(outcomes)} were still running when killed"
    )
    return equal == len(outcomes)


def run_stores(args: argparse.Namespace, folder: Path) -> bool:
    passed = tried = 0
    for n, (name, failure) in enumerate(stores.FAILURES.items()):
        try:
            outcome = stores.run_and_sync(create(folder / str(n)), failure)
        except disks.NotPossibleHere as reason:
            print(f"     {name:<28} skipped: {reason}", flush=True)
            continue
        tried += 1
        passed += outcome.as_expected
        result = "result kept, run logged by sync" if outcome.as_expected else f"LOST {outcome}"
        print(f"     {name:<28} {result}", flush=True)
    print(f"stores: {passed} of {tried} kept the result, and `cxr sync` logged its run")
    return passed == tried


def run_disks(args: argparse.Namespace, folder: Path) -> bool:
    outcomes = []
    for megabytes in disks.MEGABYTES:
        (folder / str(megabytes)).mkdir()
        try:
            outcomes += disks.run_on_small_disk(folder / str(megabytes), megabytes)
        except disks.NotPossibleHere as reason:
            print(f"disks: skipped: {reason}")
            return True
    for outcome in outcomes:
        result = "as expected" if outcome.as_expected else f"UNEXPECTED {outcome}"
        end = "failed with an error" if outcome.status else "finished"
        print(f"     {outcome.megabytes} MB  {outcome.stage:<12} {end:<20} {result}", flush=True)
    passed = sum(outcome.as_expected for outcome in outcomes)
    print(f"disks: {passed} of {len(outcomes)} finished, or failed without a partial output")
    return passed == len(outcomes)


def run_crowd(args: argparse.Namespace, folder: Path) -> bool:
    passed = 0
    for n in range(args.rounds):
        (folder / str(n)).mkdir()
        outcome = crowd.run_round(folder / str(n))
        passed += outcome.as_expected
        result = "as expected" if outcome.as_expected else f"UNEXPECTED {outcome}"
        print(f"{n + 1:>3}/{args.rounds}  {result}", flush=True)
    print(
        f"crowd: {passed} of {args.rounds} rounds of {crowd.PROCESSES} writers and a reader "
        "without an error, a lost run or a duplicate step"
    )
    return passed == args.rounds


def run_sweeps(args: argparse.Namespace, folder: Path) -> bool:
    if reason := ray_cluster.why_not():
        print(f"sweeps: skipped: {reason}")
        return True
    outcomes = []
    for fault in sweeps.FAULTS:
        for n in range(args.times):
            outcome = sweeps.run_with_fault(fault, args.seed + n, folder / f"{len(outcomes)}")
            outcomes.append(outcome)
            result = "as expected" if outcome.as_expected else f"UNEXPECTED {outcome}"
            print(f"     {fault:<28} calls: {outcome.calls}  {result}", flush=True)
    passed = sum(outcome.as_expected for outcome in outcomes)
    n = sum(outcome.n for outcome in outcomes)
    lost = n - sum(outcome.results for outcome in outcomes)
    repeated = sum(outcome.repeated for outcome in outcomes)
    print(
        f"sweeps: {passed} of {len(outcomes)} as expected: {lost} results lost, {repeated} "
        f"finished experiments repeated, of {n}"
    )
    return passed == len(outcomes)


if __name__ == "__main__":
    main()
