"""A training step on a GPU, recorded once as a graph of kernels and replayed.

A small network's kernels take microseconds each, less than Python needs to launch them; a replay
launches a whole step at once. See "CUDA Graphs" in PyTorch's notes on CUDA semantics.
"""

from collections.abc import Callable

import torch
from torch import Tensor

# Steps that run as usual first: the libraries choose their kernels and the optimiser makes its
# state then, which a recording could not do.
EAGER = 3


class GraphedStep:
    """`step` on batches of one size, replayed; on a batch of another size it runs as usual.

    The numbers are those of `step` itself: the same kernels run in the same order, and a replay
    draws the random numbers that would have come next.
    """

    def __init__(
        self, step: Callable[[Tensor], Tensor], batch_size: int, generator: torch.Generator
    ) -> None:
        """
        Parameters
        ----------
        step : takes the indices (B,) of a batch and gives a scalar. It reads no number from the
            device and makes its gradients anew.
        generator : the one on the device that `step` draws from, besides torch's own.
        """
        self._step = step
        self._index = torch.zeros(batch_size, dtype=torch.int64, device=generator.device)
        self._generator = generator
        self._stream = torch.cuda.Stream(generator.device)
        self._n_eager = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._result = torch.empty(())

    def __call__(self, index: Tensor) -> Tensor:
        """What `step` gives; it holds until the next call."""
        if len(index) != len(self._index):
            return self._step(index)
        if self._n_eager < EAGER:
            self._n_eager += 1
            return self._on_a_side_stream(index)
        self._index.copy_(index)
        if self._graph is None:
            self._graph = self._record()
        self._graph.replay()
        return self._result

    def _on_a_side_stream(self, index: Tensor) -> Tensor:
        """As a recording runs: gradients must not have been made on the stream in use."""
        current = torch.cuda.current_stream(index.device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            result = self._step(index)
        current.wait_stream(self._stream)
        return result

    def _record(self) -> torch.cuda.CUDAGraph:
        """Nothing runs while it is recorded."""
        graph = torch.cuda.CUDAGraph()
        graph.register_generator_state(self._generator)
        with torch.cuda.graph(graph):
            self._result = self._step(self._index)
        return graph
