"""What is missing on this machine and in this clone, and how to fix it.

Only Python's own library is imported before a check needs more, and whatever a check runs into is
its finding: this works with a broken environment, and before there is one.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from cxr.doctor import machine, project, services
from cxr.doctor.context import Place, started
from cxr.doctor.finding import MISSING, NOTE, OK, Finding, missing, note
from cxr.errors import CxrError

# They wait for others, so they wait at once.
WAITING = ("gpu", "data source", "weights")
# In the order in which people meet what they need.
CHECKS: dict[str, Callable[[Place], Finding]] = {
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
    """The nearest folder, from a path upwards, that holds the pipeline, or what is left of it."""
    for folder in (here.resolve(), *here.resolve().parents):
        if any((folder / name).exists() for name in ("dvc.yaml", "params.yaml", ".dvc")):
            return folder
    raise CxrError(f"{here.resolve()} is not inside a clone of the pipeline; cd into one")


def examine(root: Path) -> list[Finding]:
    """Every check of one clone, in order."""
    place = Place(root)
    waiting = {name: started(partial(_finding, name, place)) for name in WAITING}
    found = {name: _finding(name, place) for name in CHECKS if name not in WAITING}
    return [found[name] if name in found else waiting[name](None) for name in CHECKS]


def has_blockers(findings: list[Finding]) -> bool:
    """Whether something stands in the way."""
    return any(each.verdict == MISSING for each in findings)


def as_json(findings: list[Finding]) -> dict[str, Any]:
    """What `cxr doctor --json` prints."""
    verdicts = {each.verdict for each in findings}
    worst = next(each for each in (MISSING, NOTE, OK) if each in verdicts)
    return {"verdict": worst, "checks": [each.as_json() for each in findings]}


def _finding(name: str, place: Place) -> Finding:
    try:
        found = CHECKS[name](place)
    except ImportError as error:
        found = note(f"not checked: package {error.name} is not installed")
    except CxrError as error:  # its sentence is the problem and the fix
        problem, _, fix = str(error).partition("; ")
        found = missing(problem, fix)
    except Exception as error:  # whatever is broken, the other checks go on
        found = note(f"not checked: {type(error).__name__}: {error}")
    return found._replace(check=name)
