"""A training's state in one file, which is whole or as it was before."""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from cxr.documents import write_whole
from cxr.training.checkpoint import State

EVERY = 15.0  # seconds of work that a power failure may cost


class FileCheckpoint:
    """The state in one file, which is there whole or as it was before."""

    def __init__(self, path: Path, tell: Callable[[str], None]) -> None:
        self._path = path
        self._tell = tell
        self._since = time.monotonic()
        self._last: str | None = None
        self._fails = False

    def load(self) -> State | None:
        try:
            kept = torch.load(self._path, map_location="cpu", weights_only=True)
            state, self._last = kept["state"], kept["named"]
        except FileNotFoundError:
            return None
        except Exception as error:  # a damaged file can raise whatever it likes
            self._tell(f"note: {self._path} is damaged ({type(error).__name__}); starting over")
            return None
        self._tell(f"resuming from {self._last}")
        return dict(state)

    def is_due(self) -> bool:
        return time.monotonic() - self._since >= EVERY

    def save(self, state: State, named: str) -> None:
        try:
            write_whole(self._path, partial(torch.save, {"state": state, "named": named}))
            self._last = named
        except OSError as error:  # the training itself may still come to its end
            if not self._fails:
                self._tell(f"note: could not save a checkpoint: {error}; training continues")
            self._fails = True
        self._since = time.monotonic()

    def last(self) -> str | None:
        return f"{self._last}, in {self._path}" if self._last else None
