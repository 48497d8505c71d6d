"""How far a training is, on disk: it goes on from there to the same bits."""

from typing import Any, Protocol

State = dict[str, Any]  # tensors, numbers and texts, nested; nothing that could carry code


class Checkpoint(Protocol):
    """Where a training keeps its state."""

    def load(self) -> State | None:
        """The state that was kept last, on the CPU; None where there is none."""

    def is_due(self) -> bool:
        """Whether it is time to keep the state again."""

    def save(self, state: State, named: str) -> None:
        """Keep a state; `named` says which, for people."""

    def last(self) -> str | None:
        """Which state is kept, for people; None where none is."""


class NoCheckpoint:
    """Keeps nothing: a training that is broken off starts over."""

    def load(self) -> State | None:
        return None

    def is_due(self) -> bool:
        return False

    def save(self, state: State, named: str) -> None:
        pass

    def last(self) -> str | None:
        return None
