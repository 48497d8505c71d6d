"""Checkpoints of a training run; a resumed run gives bit-identical results."""

from typing import Any, Protocol

State = dict[str, Any]  # nested tensors, numbers and strings; nothing that could contain code


class Checkpoint(Protocol):
    """Storage for the state of a training run."""

    def load(self) -> State | None:
        """The last saved state, on the CPU; None if none was saved."""

    def is_due(self) -> bool:
        """Whether it is time to save the state again."""

    def save(self, state: State, named: str) -> None:
        """Save a state; `named` describes it in messages."""

    def last(self) -> str | None:
        """Description of the last saved state for messages; None if none was saved."""


class NoCheckpoint:
    """Saves nothing: an interrupted training run starts over."""

    def load(self) -> State | None:
        return None

    def is_due(self) -> bool:
        return False

    def save(self, state: State, named: str) -> None:
        pass

    def last(self) -> str | None:
        return None
