"""What is missing on this machine and in this clone, and how to fix it.

Nothing but Python's own library is imported before a check needs it, and what a check runs into is
its finding: this works with a broken environment, and before there is one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cxr.doctor import machine, project, services
from cxr.doctor.context import Place
from cxr.doctor.finding import MISSING, NOTE, OK, Answer, Finding, missing, note
from cxr.errors import CxrError

__all__ = ["MISSING", "NOTE", "OK", "Finding", "as_json", "examine", "find_project", "hinders"]

Check = Callable[[Place], Answer]

# In the order in which people meet what they need.
CHECKS: dict[str, Check] = {
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
# They wait for others, so they wait at once.
WAITING = ("gpu", "data source", "weights", "mlflow", "port")


def find_project(here: Path) -> Path:
    """The nearest folder, from a place upwards, that holds the pipeline, or what is left of it."""
    for folder in (here.resolve(), *here.resolve().parents):
        if any((folder / name).exists() for name in ("dvc.yaml", "params.yaml", ".dvc")):
            return folder
    raise CxrError(f"{here.resolve()} is not inside a clone of the pipeline; change to one")


def examine(root: Path) -> list[Finding]:
    """Every check of one clone, in order."""
    place = Place(root)
    waiting = {name: _started(name, place) for name in WAITING}
    return [waiting[name]() if name in waiting else _finding(name, place) for name in CHECKS]


def hinders(findings: list[Finding]) -> bool:
    """Whether something stands in the way."""
    return any(each.verdict == MISSING for each in findings)


def as_json(findings: list[Finding]) -> dict[str, Any]:
    """What `cxr doctor --json` prints."""
    verdicts = {each.verdict for each in findings}
    worst = next(each for each in (MISSING, NOTE, OK) if each in verdicts)
    return {"verdict": worst, "checks": [each.as_json() for each in findings]}


def _started(name: str, place: Place) -> Callable[[], Finding]:
    found: list[Finding] = []
    thread = threading.Thread(target=lambda: found.append(_finding(name, place)), daemon=True)
    thread.start()

    def wait() -> Finding:
        thread.join()
        return found[0]

    return wait


def _finding(name: str, place: Place) -> Finding:
    try:
        answer = CHECKS[name](place)
    except ImportError as error:
        answer = note(f"can't be looked at without the package {error.name}", "")
    except CxrError as error:
        answer = missing(str(error), "")
    except Exception as error:  # whatever is broken, the other checks go on
        answer = note(f"can't be looked at: {type(error).__name__}: {error}", "")
    return Finding(name, *answer)
