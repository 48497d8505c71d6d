"""Features of a frozen backbone, computed once for given images and weights.

A head that is linear in the mean of the feature map needs only that mean of each image:
512 numbers instead of a forward pass in every epoch.
"""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from cxr import models
from cxr.data.npz import NpyWriter
from cxr.documents import write_atomically
from cxr.models.inputs import InputSpec, to_network_input
from cxr.models.weights import write_weights

PART = 2048  # images per part; an interrupted stage recomputes at most one part

# On a CPU small batches stay in the cache: batches of 8 are 1.5 times as fast as batches of 128.
BATCH = {"cpu": 8, "cuda": 512}


def create_store(folder: Path, model: str, frozen: bool, backbone: nn.Module) -> None:
    """Create a feature store (`training.feed.FeatureStore`) that contains only the backbone."""
    folder.mkdir(parents=True)
    write_weights(backbone, folder / "backbone.safetensors")
    (folder / "features.json").write_text(json.dumps({"model": model, "frozen": frozen}) + "\n")


@torch.inference_mode()
def compute(
    backbone: nn.Module,
    images: npt.NDArray[np.uint8],
    spec: InputSpec,
    device: torch.device,
    hflip: bool,
    progress: Callable[[int, int], None],
) -> npt.NDArray[np.float32]:
    """The mean of the feature map of every image.

    Parameters
    ----------
    backbone : maps (B, C, S, S) to (B, D, h, w).
    images : uint8 (N, H, W).
    hflip : whether to mirror the images first.

    Returns
    -------
    (N, D)
    """
    network = backbone.to(device).to(memory_format=torch.channels_last).eval()
    size = BATCH[device.type]
    features = np.empty((0, 0), np.float32)
    for start in range(0, len(images), size):
        batch = torch.from_numpy(np.array(images[start : start + size])).to(device)
        if hflip:
            batch = batch.flip(2)
        inputs = to_network_input(batch, spec).contiguous(memory_format=torch.channels_last)
        with models.autocast(device):
            feature_map = network(inputs)
        means = feature_map.float().mean(dim=(2, 3)).cpu().numpy()
        if start == 0:
            features = np.empty((len(images), means.shape[1]), np.float32)
        features[start : start + size] = means
        progress(min(start + size, len(images)), len(images))
    return features


def compute_in_parts(
    backbone: nn.Module,
    images: npt.NDArray[np.uint8],
    spec: InputSpec,
    device: torch.device,
    hflip: bool,
    folder: Path,
    progress: Callable[[int, int], None],
) -> list[Path]:
    """As `compute`, part by part; parts that already exist in `folder` are not recomputed.

    Returns
    -------
    The files of the parts in order, each (at most PART, D).
    """
    folder.mkdir(exist_ok=True)
    parts = []
    for start in range(0, len(images), PART):
        stop = min(start + PART, len(images))
        part = folder / f"{start}.npy"
        if not part.exists():

            def advance(done: int, _: int, start: int = start) -> None:
                progress(start + done, len(images))

            values = compute(backbone, images[start:stop], spec, device, hflip, advance)
            write_atomically(part, partial(np.save, arr=values, allow_pickle=False))
        progress(stop, len(images))
        parts.append(part)
    return parts


def join(parts: list[Path], path: Path) -> int:
    """Write the parts as one array; return its number of rows."""
    arrays = [np.load(part, mmap_mode="r") for part in parts]
    n = sum(len(array) for array in arrays)
    with open(path, "wb") as file:
        writer = NpyWriter(file, (n, arrays[0].shape[1]), np.float32)
        for array in arrays:
            writer.append(array)
    return n
