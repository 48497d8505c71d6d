"""The clone to check, its parameters, and work with a timeout."""

from __future__ import annotations

import threading
from collections.abc import Callable
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

TIMEOUT = 3.0  # seconds to wait for a server

T = TypeVar("T")


class Clone:
    """A clone of the project."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()

    @cached_property
    def _params(self) -> dict[str, Any]:
        """Parameters in params.yaml by dotted name; empty if it can't be read."""
        try:
            from cxr.documents import read_yaml
            from cxr.params import flatten
            from cxr.paths import PARAMS_FILE

            return flatten(read_yaml(self.root / PARAMS_FILE))
        except Exception:  # the check `params` reports it
            return {}

    def params_like(self, pattern: str) -> list[str]:
        """The dotted names of parameters that match a pattern with `*`."""
        return [name for name in self._params if fnmatchcase(name, pattern)]

    def param(self, name: str, default: Any) -> Any:
        """A parameter by its dotted name; `default` if it is missing or of another type."""
        value = self._params.get(name, default)
        return value if isinstance(value, type(default)) else default


def in_background(work: Callable[[], T]) -> Callable[[float | None], T]:
    """Start work in a thread; the returned function waits for its result or exception."""
    done: list[T] = []
    failed: list[Exception] = []

    def run() -> None:
        try:
            done.append(work())
        except Exception as error:
            failed.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()

    def wait(seconds: float | None) -> T:
        thread.join(seconds)
        if failed:
            raise failed[0]
        if not done:
            raise TimeoutError(f"no answer within {seconds:g} s")
        return done[0]

    return wait
