"""`make faults`: stages killed at 40 moments, and broken stores and disks; what was counted."""

import argparse
import sys
import tempfile
import time
from pathlib import Path

from faults import kills


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--moments", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--last", choices=kills.STAGES, default=kills.STAGES[-1])
    asked = parser.parse_args()
    started = time.monotonic()
    outcomes = []
    with tempfile.TemporaryDirectory(prefix="cxr-faults-") as name:
        folder = Path(name)
        expected = kills.undisturbed(folder, asked.last)
        for n, (stage, what, moment) in enumerate(
            kills.moments(asked.moments, asked.seed, expected), 1
        ):
            outcome = kills.killed(expected, stage, what, moment, folder / str(n))
            outcomes.append(outcome)
            says = "equal" if not outcome.wrong else f"DIFFERS {outcome.wrong}"
            hit = "killed" if outcome.hit else "ended first"
            print(f"{n:>3}/{asked.moments}  {stage:<17} {what:<14} {hit:<12} {says}", flush=True)
    equal = sum(not outcome.wrong for outcome in outcomes)
    hit = sum(outcome.hit for outcome in outcomes)
    print(
        f"{equal} of {len(outcomes)} equal the undisturbed run, {hit} of them killed alive; "
        f"{time.monotonic() - started:.0f} s"
    )
    sys.exit(equal != len(outcomes))


if __name__ == "__main__":
    main()
