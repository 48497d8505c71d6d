"""Out-of-distribution score: how similar an image is to the chest X-rays of the training data.

The score is Pearson's correlation with the mean training image at 28 x 28. Chest X-rays share their
coarse structure, so nearly all correlate with the mean; photographs and inverted films do not.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

from cxr.arrays import Doubles

Images = npt.NDArray[np.uint8]

SIDE = 28
BATCH = 256  # images; 100 MB in double precision at 224 pixels
SHARE = 0.01  # fraction of the validation images with a similarity below `threshold`


@dataclass(frozen=True)
class OodReference:
    """The mean training image (SIDE, SIDE) and the 1% quantile of validation similarity."""

    mean_image: Doubles
    threshold: float

    @classmethod
    def of(cls, train: Images, val: Images) -> "OodReference":
        """Fit to images, uint8 (N, H, W)."""
        total = sum(_small(train[i : i + BATCH]).sum(axis=0) for i in range(0, len(train), BATCH))
        mean = np.asarray(total / len(train), np.float64)
        return cls(mean, float(np.quantile(cls(mean, 0.0).similarity(val), SHARE)))

    def similarity(self, images: Images) -> Doubles:
        """Correlation of each image (N, H, W) with the mean, -1 to 1; 0 for a constant image."""
        parts = [self._similarity(images[i : i + BATCH]) for i in range(0, len(images), BATCH)]
        return np.concatenate(parts) if parts else np.empty(0)

    def _similarity(self, images: Images) -> Doubles:
        small = _small(images).reshape(len(images), -1)
        small -= small.mean(axis=1, keepdims=True)
        mean = (self.mean_image - self.mean_image.mean()).ravel()
        norm = np.linalg.norm(small, axis=1) * np.linalg.norm(mean)
        return np.asarray(small @ mean / np.where(norm > 0, norm, 1), np.float64)


def _small(images: Images) -> Doubles:
    """Downsample (N, H, W) to (N, SIDE, SIDE) by area averaging."""
    grey = torch.from_numpy(np.array(images))[:, None].double()
    small: Doubles = F.interpolate(grey, size=(SIDE, SIDE), mode="area")[:, 0].numpy()
    return small
