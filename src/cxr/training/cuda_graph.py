"""A training step on a GPU, captured once as a CUDA graph and replayed.

A small network's kernels take microseconds each, less than Python needs to launch them; a replay
launches a whole step at once. See "CUDA Graphs" in PyTorch's notes on CUDA semantics.
"""

from collections.abc import Callable

import torch
from torch import Tensor

# Eager steps before the capture, in which the libraries choose their kernels and the optimiser
# creates its state; neither is possible during a capture.
EAGER = 3


class GraphedStep:
    """`step` replayed on batches of one size; batches of other sizes run eagerly.

    The results equal those of `step`: the same kernels run in the same order, and a replay
    advances the random state as `step` does.
    """

    def __init__(
        self, step: Callable[[Tensor], Tensor], batch_size: int, generator: torch.Generator
    ) -> None:
        """
        Parameters
        ----------
        step : maps the indices (B,) of a batch to a scalar. It must not read values from the
            device and must allocate new gradients.
        generator : the device's generator that `step` draws from, besides torch's default one.
        """
        self._step = step
        self._index = torch.zeros(batch_size, dtype=torch.int64, device=generator.device)
        self._generator = generator
        self._stream = torch.cuda.Stream(generator.device)
        self._n_eager = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._result = torch.empty(())

    def __call__(self, index: Tensor) -> Tensor:
        """The result of `step`; the next call overwrites it."""
        if len(index) != len(self._index):
            return self._step(index)
        if self._n_eager < EAGER:
            self._n_eager += 1
            return self._run_on_side_stream(index)
        self._index.copy_(index)
        if self._graph is None:
            self._graph = self._capture()
        self._graph.replay()
        return self._result

    def _run_on_side_stream(self, index: Tensor) -> Tensor:
        """Run as a capture does: gradients must not be allocated on the current stream."""
        current = torch.cuda.current_stream(index.device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            result = self._step(index)
        current.wait_stream(self._stream)
        return result

    def _capture(self) -> torch.cuda.CUDAGraph:
        """Capture `step` without running it."""
        graph = torch.cuda.CUDAGraph()
        graph.register_generator_state(self._generator)
        with torch.cuda.graph(graph):
            self._result = self._step(self._index)
        return graph
