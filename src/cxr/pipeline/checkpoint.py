"""Training checkpoints, written atomically to one file."""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from cxr.documents import write_atomically
from cxr.training.checkpoint import State

SAVE_INTERVAL = 15.0  # seconds of work that a power failure can lose


class FileCheckpoint:
    """A checkpoint in one file, which is replaced atomically.

    `say` prints a line.
    """

    def __init__(self, path: Path, say: Callable[[str], None]) -> None:
        self._path = path
        self._say = say
        self._saved_at = time.monotonic()
        self._last: str | None = None
        self._has_failed = False

    def load(self) -> State | None:
        try:
            saved = torch.load(self._path, map_location="cpu", weights_only=True)
            state, self._last = saved["state"], saved["named"]
        except FileNotFoundError:
            return None
        except Exception as error:  # a damaged file can raise any exception
            self._say(f"note: {self._path} is damaged ({type(error).__name__}); starting over")
            return None
        self._say(f"resuming from {self._last}")
        return dict(state)

    def is_due(self) -> bool:
        return time.monotonic() - self._saved_at >= SAVE_INTERVAL

    def save(self, state: State, named: str) -> None:
        try:
            write_atomically(self._path, partial(torch.save, {"state": state, "named": named}))
            self._last = named
        except OSError as error:  # training can still finish without a checkpoint
            if not self._has_failed:
                self._say(f"note: could not save a checkpoint: {error}; training continues")
            self._has_failed = True
        self._saved_at = time.monotonic()

    def last(self) -> str | None:
        return f"{self._last}, in {self._path}" if self._last else None
