"""Which steps are captured and replayed, tested on a CPU with a fake CUDA graph.

tests/training/test_cuda.py tests the results on a real GPU.
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
    """Stores the work of a capture and runs it on replay; a capture itself computes nothing."""

    capturing: "Graph | None" = None

    def __init__(self) -> None:
        self.work: list[Callable[[], None]] = []
        self.generators: list[torch.Generator] = []

    def register_generator_state(self, generator: torch.Generator) -> None:
        self.generators.append(generator)

    def replay(self) -> None:
        for work in self.work:
            work()


@pytest.fixture(autouse=True)
def fake_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def capture(graph: Graph) -> Iterator[None]:
        assert graph.generators == [CPU]  # otherwise every replay would draw the same numbers
        Graph.capturing = graph
        yield
        Graph.capturing = None

    @contextmanager
    def use_stream(stream: Stream) -> Iterator[None]:
        yield

    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", use_stream)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", capture)


class Step:
    """Sums its indices and stores the arguments of its calls."""

    def __init__(self) -> None:
        self.calls: list[list[int]] = []

    def __call__(self, index: Tensor) -> Tensor:
        result = torch.full((), -1)

        def work() -> None:
            result.copy_(index.sum())

        if Graph.capturing:
            Graph.capturing.work.append(work)
        else:
            work()
        self.calls.append(index.tolist())
        return result


def test_steps_of_one_size_are_captured_once_and_others_run_eagerly() -> None:
    step = Step()
    graphed = GraphedStep(step, 2, CPU)
    batches = [[1, 2], [3, 4], [5, 6], [7, 8], [9, 10], [11], [12, 13]]
    results = [int(graphed(torch.tensor(batch))) for batch in batches]
    assert results == [sum(batch) for batch in batches]
    # The fourth is captured; the fifth and the last are replayed without a call.
    assert step.calls == [*batches[:EAGER], batches[EAGER], [11]]


def test_a_smaller_first_batch_does_not_count_as_warm_up() -> None:
    step = Step()
    graphed = GraphedStep(step, 2, CPU)
    batches = [[1], *([n, n] for n in range(EAGER + 3))]
    assert [int(graphed(torch.tensor(batch))) for batch in batches] == [sum(b) for b in batches]
    assert step.calls == batches[: 1 + EAGER + 1]
