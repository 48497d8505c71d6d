"""Batches of memory-mapped images of 224 px, compared to a copy in memory.

Only the batches are timed, in random order; with a network the relative difference is smaller.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bench.measure import Row, in_turns, relative_to
from cxr.models.inputs import InputSpec
from cxr.training import feed
from cxr.training.feed import ImageBatches

N, SIZE, BATCH = 6000, 224, 128
SPEC = InputSpec(SIZE, "bicubic", SIZE, 1, (0.5,), (0.25,))


def measure(turns: int) -> list[Row]:
    with tempfile.TemporaryDirectory() as temporary:
        file = Path(temporary, "images.npy")
        np.save(file, np.random.default_rng(0).integers(0, 256, (N, SIZE, SIZE), np.uint8))
        mapped = feed.load_mapped(file)
        works = {"mapped": _batches(mapped), "copied": _batches(mapped.clone())}
        seconds = in_turns(works, turns)
    what = f"batches of {N:,} memory-mapped images of {SIZE} px"
    return [relative_to(what, seconds["mapped"], seconds["copied"], 1.2, "vs. a copy in memory")]


def _batches(images: Tensor) -> Callable[[], None]:
    batches, generator = ImageBatches(images, SPEC), torch.Generator().manual_seed(0)

    def work() -> None:
        for index in torch.randperm(N, generator=generator).split(BATCH):
            batches.batch(index, None)

    return work
