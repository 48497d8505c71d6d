"""Batches of network inputs for a split, prepared on the device.

A batch is an index into one uint8 tensor of the whole split, as in Keller Jordan's airbench (2023);
there are no loader processes. On a GPU the tensor is in GPU memory. On a CPU it is memory-mapped
from the file, so memory use does not grow with the data.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from cxr.data.npz import load_npy
from cxr.data.splits import open_split
from cxr.documents import read_output
from cxr.models import SavedModel
from cxr.models.inputs import InputSpec, micro_batch_size, normalise, on_unit_scale
from cxr.models.weights import read_weights
from cxr.params import Augment
from cxr.training.augment import augment, coin


class Batches(Protocol):
    """Inputs of one split, by index."""

    def __len__(self) -> int: ...

    @property
    def micro_batch_size(self) -> int:
        """Number of inputs per forward pass."""
        ...

    def batch(self, index: Tensor, generator: torch.Generator | None) -> Tensor:
        """The inputs at `index`; augmented if a generator is given."""
        ...


class ImageBatches:
    """Images of one split, converted to network inputs."""

    def __init__(self, images: Tensor, spec: InputSpec, augment: Augment | None = None) -> None:
        self._images = images  # uint8 (N, H, W), on the device
        self._spec = spec
        self._augment = augment

    def __len__(self) -> int:
        return len(self._images)

    @property
    def micro_batch_size(self) -> int:
        return micro_batch_size(self._spec.image_size)

    def batch(self, index: Tensor, generator: torch.Generator | None) -> Tensor:
        grey = on_unit_scale(self._images[index])
        if generator is not None and self._augment is not None:
            grey = augment(grey, self._augment, generator)
        return normalise(grey, self._spec)


class FeatureBatches:
    """Pooled features (N, D) of a frozen backbone, and optionally of the mirrored images."""

    def __init__(self, features: Tensor, mirrored: Tensor | None = None) -> None:
        self.features = features
        self._mirrored = mirrored

    def __len__(self) -> int:
        return len(self.features)

    @property
    def micro_batch_size(self) -> int:
        return len(self)

    def batch(self, index: Tensor, generator: torch.Generator | None) -> Tensor:
        features = self.features[index]
        if generator is None or self._mirrored is None:
            return features
        return torch.where(
            coin(len(index), generator).unsqueeze(1), self._mirrored[index], features
        )


@dataclass(frozen=True)
class FeatureStore:
    """A folder with pooled features (N, D) per split and the backbone that computed them."""

    folder: Path
    model: str
    frozen: bool  # False: the backbone is fine-tuned and there are no features

    def batches(self, split: str, device: torch.device) -> FeatureBatches:
        """The features of one split, with those of the mirrored images if they exist."""
        mirrored = self.folder / f"{split}_hflip.npy"
        return FeatureBatches(
            load_mapped(self.folder / f"{split}.npy").to(device),
            load_mapped(mirrored).to(device) if mirrored.exists() else None,
        )

    def backbone(self) -> dict[str, Tensor]:
        """The backbone's initial weights."""
        return cast(dict[str, Tensor], read_weights(self.folder / "backbone.safetensors"))


def open_store(folder: Path) -> FeatureStore:
    return read_output(
        folder / "features.json",
        lambda content: FeatureStore(folder, str(content["model"]), bool(content["frozen"])),
    )


def open_feed(
    model: SavedModel,
    split: str,
    processed: Path,
    store: FeatureStore | None,
    device: torch.device,
    augment: Augment | None = None,
) -> tuple[nn.Module, Batches]:
    """The part of the network to run on a split, and its inputs.

    These are the head and stored features if the model's backbone is frozen and the store has its
    features; otherwise the whole network and the images.
    """
    if store is not None and store.frozen and store.model == model.name:
        return model.network.head(), store.batches(split, device)
    images = torch.from_numpy(open_split(processed, split).images).to(device)
    return model.network, ImageBatches(images, model.input, augment)


def load_mapped(path: Path) -> Tensor:
    """Memory-map a stored array; values are read from disk on access."""
    return torch.from_numpy(load_npy(path, mapped=True))


@torch.inference_mode()
def predict(
    network: nn.Module, inputs: Batches, device: torch.device, batch_size: int
) -> npt.NDArray[np.float32]:
    """Logits (N, L) of all inputs, in evaluation mode."""
    network.eval()
    # One tensor for all results: a list of parts would fragment the C library's heap, and memory
    # use would grow with every pass.
    logits = torch.empty(0, device=device)
    size = min(batch_size, inputs.micro_batch_size)
    for index in torch.arange(len(inputs), device=device).split(size):
        x = inputs.batch(index, None)
        batch_logits = network(x)
        if not len(logits):
            logits = torch.empty(len(inputs), batch_logits.shape[1], device=device)
        logits[index] = batch_logits
    values: npt.NDArray[np.float32] = logits.cpu().numpy()
    return values
