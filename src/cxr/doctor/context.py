"""One clone on this machine: its parameters, read once, and which processes still live."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

LIMIT = 3.0  # seconds that anything outside of this process is waited for

T = TypeVar("T")


class Place:
    """A clone of the project."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()

    @cached_property
    def _params(self) -> dict[str, Any]:
        """As they stand in params.yaml; nothing where it can't be read, which `params` tells."""
        try:
            from cxr.documents import read_yaml
            from cxr.params import PARAMS_FILE, flatten

            return flatten(read_yaml(self.root / PARAMS_FILE))
        except Exception:
            return {}

    def param(self, name: str, otherwise: Any) -> Any:
        """A parameter by its dotted name; `otherwise` where it is none of that kind."""
        value = self._params.get(name, otherwise)
        return value if isinstance(value, type(otherwise)) else otherwise


def within(work: Callable[[], T]) -> T:
    """What `work` gives; TimeoutError where it takes too long, and is left to itself."""
    done: list[T] = []
    failed: list[Exception] = []

    def run() -> None:
        try:
            done.append(work())
        except Exception as error:
            failed.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(LIMIT)
    if failed:
        raise failed[0]
    if not done:
        raise TimeoutError(f"no answer within {LIMIT:g} s")
    return done[0]


def command_of(pid: int) -> str | None:
    """What a process was started with; None where there is no such process."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return None
    return b" ".join(words).decode(errors="replace").strip() or "?"
