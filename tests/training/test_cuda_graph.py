"""Which steps are recorded and replayed, on a CPU, with a recorder in the GPU's place.

tests/training/test_cuda.py holds the real thing to its numbers, where there is a GPU.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

from cxr.training.cuda_graph import EAGER, GraphedStep

CPU = torch.Generator()


class Stream:
    def __init__(self, device: torch.device | None = None) -> None:
        pass

    def wait_stream(self, other: "Stream") -> None:
        pass


class Graph:
    """What ran while it was recorded, which a replay runs again; recording itself gives nothing."""

    recording: "Graph | None" = None

    def __init__(self) -> None:
        self.work: list[Callable[[], None]] = []
        self.generators: list[torch.Generator] = []

    def register_generator_state(self, generator: torch.Generator) -> None:
        self.generators.append(generator)

    def replay(self) -> None:
        for each in self.work:
            each()


@pytest.fixture(autouse=True)
def recorder(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def record(graph: Graph) -> Iterator[None]:
        assert graph.generators == [CPU]  # else a replay would draw the same numbers again
        Graph.recording = graph
        yield
        Graph.recording = None

    @contextmanager
    def on(stream: Stream) -> Iterator[None]:
        yield

    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", on)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", record)


class Step:
    """Sums its indices, and remembers what it was called with."""

    def __init__(self) -> None:
        self.called: list[list[int]] = []

    def __call__(self, index: Tensor) -> Tensor:
        result = torch.full((), -1)

        def work() -> None:
            result.copy_(index.sum())

        if Graph.recording:
            Graph.recording.work.append(work)
        else:
            work()
        self.called.append(index.tolist())
        return result


def test_steps_of_one_size_are_recorded_once_and_the_others_run_as_usual() -> None:
    step = Step()
    graphed = GraphedStep(step, 2, CPU)
    batches = [[1, 2], [3, 4], [5, 6], [7, 8], [9, 10], [11], [12, 13]]
    results = [int(graphed(torch.tensor(batch))) for batch in batches]
    assert results == [sum(batch) for batch in batches]
    # The fourth is recorded; the fifth and the last are replayed, with no call.
    assert step.called == [*batches[:EAGER], batches[EAGER], [11]]


def test_a_small_batch_first_is_no_warm_up() -> None:
    step = Step()
    graphed = GraphedStep(step, 2, CPU)
    batches = [[1], *([n, n] for n in range(EAGER + 3))]
    assert [int(graphed(torch.tensor(batch))) for batch in batches] == [sum(b) for b in batches]
    assert step.called == batches[: 1 + EAGER + 1]
