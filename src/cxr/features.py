"""The output of a frozen backbone, computed once for given images and weights.

A head that is linear in the mean of the feature map needs no more of an image than that mean:
512 numbers instead of a forward pass in every epoch.
"""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from cxr import models
from cxr.augment import Batches, FeatureBatches, ImageBatches, normalise, on_unit_scale
from cxr.data.npz import NpyWriter, load_npy
from cxr.data.splits import open_split
from cxr.documents import read_json
from cxr.errors import CxrError
from cxr.models import InputSpec, SavedModel, read_weights, write_weights
from cxr.params import Augment

PART = 2048  # images: what is computed again at most where the stage was broken off

# On a CPU small batches stay in its cache: 8 images are half as fast again as 128.
BATCH = {"cpu": 8, "cuda": 512}


@dataclass(frozen=True)
class FeatureStore:
    """A folder of pooled features (N, D) per split, with the backbone that made them."""

    folder: Path
    model: str
    frozen: bool  # False: the backbone is trained, there are no features

    def batches(self, split: str, device: torch.device) -> FeatureBatches:
        """The features of one split, with their mirrored view if there is one."""
        mirrored = self.folder / f"{split}_mirrored.npy"
        return FeatureBatches(
            mapped(self.folder / f"{split}.npy").to(device),
            mapped(mirrored).to(device) if mirrored.exists() else None,
        )

    def backbone(self) -> dict[str, Tensor]:
        """The backbone's initial weights."""
        return cast(dict[str, Tensor], read_weights(self.folder / "backbone.safetensors"))


def create_store(folder: Path, model: str, frozen: bool, backbone: nn.Module) -> FeatureStore:
    """An empty store that holds the backbone and says what it is for."""
    folder.mkdir(parents=True)
    write_weights(backbone, folder / "backbone.safetensors")
    (folder / "features.json").write_text(json.dumps({"model": model, "frozen": frozen}) + "\n")
    return FeatureStore(folder, model, frozen)


def open_store(folder: Path) -> FeatureStore:
    path = folder / "features.json"
    try:
        content = read_json(path)
        return FeatureStore(folder, str(content["model"]), bool(content["frozen"]))
    except FileNotFoundError:
        raise CxrError(f"{path} is missing; `dvc repro` makes it, `dvc pull` brings it") from None
    except (ValueError, KeyError, TypeError):
        raise CxrError(f"{path} is damaged; `dvc checkout --force` mends it") from None


def feed(
    model: SavedModel,
    split: str,
    processed: Path,
    store: FeatureStore | None,
    device: torch.device,
    augment: Augment | None = None,
) -> tuple[nn.Module, Batches]:
    """The part of the network that is still to run on a split, and its inputs.

    That is the head on stored features where the model's backbone is frozen and they are there, and
    the whole network on images elsewhere.
    """
    if store is not None and store.frozen and store.model == model.name:
        return model.network.head(), store.batches(split, device)
    images = torch.from_numpy(open_split(processed, split).images).to(device)
    return model.network, ImageBatches(images, model.input, augment)


def mapped(path: Path) -> Tensor:
    """A stored array whose values stay on disk until they are read."""
    return torch.from_numpy(load_npy(path, mapped=True))


@torch.inference_mode()
def compute(
    backbone: nn.Module,
    images: npt.NDArray[np.uint8],
    spec: InputSpec,
    device: torch.device,
    mirror: bool,
    progress: Callable[[int, int], None],
) -> npt.NDArray[np.float32]:
    """The mean of the feature map of every image, mirrored first where that is asked for.

    Parameters
    ----------
    backbone : maps (B, C, S, S) to (B, D, h, w).
    images : uint8 (N, H, W).

    Returns
    -------
    (N, D)
    """
    network = backbone.to(device).to(memory_format=torch.channels_last).eval()
    size = BATCH[device.type]
    features = np.empty((0, 0), np.float32)
    for start in range(0, len(images), size):
        batch = np.array(images[start : start + size])
        grey = on_unit_scale(torch.from_numpy(batch).to(device))
        if mirror:
            grey = grey.flip(3)
        inputs = normalise(grey, spec).contiguous(memory_format=torch.channels_last)
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
    mirror: bool,
    folder: Path,
    progress: Callable[[int, int], None],
) -> list[Path]:
    """As `compute`, part by part; a part that `folder` has already is not computed again.

    Returns
    -------
    The parts' files, each (at most PART, D), in order.
    """
    folder.mkdir(exist_ok=True)
    parts = []
    for start in range(0, len(images), PART):
        stop = min(start + PART, len(images))
        part = folder / f"{start}.npy"
        if not part.exists():

            def advance(done: int, _: int, start: int = start) -> None:
                progress(start + done, len(images))

            values = compute(backbone, images[start:stop], spec, device, mirror, advance)
            _save_whole(values, part)
        progress(stop, len(images))
        parts.append(part)
    return parts


def join(parts: list[Path], path: Path) -> int:
    """Write the parts as one array; how many rows it has."""
    arrays = [np.load(part, mmap_mode="r") for part in parts]
    n = sum(len(array) for array in arrays)
    with open(path, "wb") as file:
        writer = NpyWriter(file, (n, arrays[0].shape[1]), np.float32)
        for array in arrays:
            writer.append(array)
    return n


def _save_whole(values: npt.NDArray[np.float32], path: Path) -> None:
    part = path.with_suffix(".part")
    with open(part, "wb") as file:
        np.save(file, values, allow_pickle=False)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
