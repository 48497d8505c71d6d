"""What is missing on this machine and in this clone, and how to fix it.

Only the standard library is imported at first, and an exception in a check becomes its finding, so
this works in a broken environment and before `make setup`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from cxr.doctor import machine, project, services
from cxr.doctor.context import Clone, in_background
from cxr.doctor.finding import MISSING, NOTE, OK, Finding, missing, note
from cxr.errors import CxrError

# Checks that wait for a server or a process; they run in the background.
SLOW_CHECKS = ("gpu", "data source", "weights")
# In the order in which a new user needs them.
CHECKS: dict[str, Callable[[Clone], Finding]] = {
    "python": machine.python,
    "packages": machine.packages,
    "disk": machine.disk,
    "memory": machine.memory,
    "cores": machine.cores,
    "gpu": machine.gpu,
    "user": machine.user,
    "git": project.git_history,
    "params": project.parameters,
    "pipeline": project.pipeline,
    "own files": project.own_files,
    "data source": services.data_source,
    "weights": services.weights,
    "cache": project.cache,
    "locks": project.locks,
    "queue": project.queue,
    "mlflow": services.store,
    "port": services.port,
}


def find_project(here: Path) -> Path:
    """The nearest folder, from `here` upwards, with a (perhaps incomplete) clone."""
    for folder in (here.resolve(), *here.resolve().parents):
        if any((folder / name).exists() for name in ("dvc.yaml", "params.yaml", ".dvc")):
            return folder
    raise CxrError(f"{here.resolve()} is not inside a clone of the pipeline; cd into one")


def examine(root: Path) -> list[Finding]:
    """Run all checks of a clone; findings in the order of `CHECKS`."""
    clone = Clone(root)
    slow = {name: in_background(partial(_finding, name, clone)) for name in SLOW_CHECKS}
    fast = {name: _finding(name, clone) for name in CHECKS if name not in SLOW_CHECKS}
    return [fast[name] if name in fast else slow[name](None) for name in CHECKS]


def has_blockers(findings: list[Finding]) -> bool:
    """Whether a finding would make a stage or a command fail."""
    return any(each.verdict == MISSING for each in findings)


def as_json(findings: list[Finding]) -> dict[str, Any]:
    """The output of `cxr doctor --json`."""
    verdicts = {each.verdict for each in findings}
    worst = next(each for each in (MISSING, NOTE, OK) if each in verdicts)
    return {"verdict": worst, "checks": [each.as_json() for each in findings]}


def _finding(name: str, clone: Clone) -> Finding:
    try:
        finding = CHECKS[name](clone)
    except ImportError as error:
        finding = note(f"not checked: package {error.name} is not installed")
    except CxrError as error:  # its message has the form "problem; fix"
        problem, _, fix = str(error).partition("; ")
        finding = missing(problem, fix)
    except Exception as error:  # the other checks must still run
        finding = note(f"not checked: {type(error).__name__}: {error}")
    return finding._replace(check=name)
