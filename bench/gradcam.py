"""Grad-CAM of all 14 labels with the CNN, compared to pytorch-grad-cam, one label at a time.

Both produce maps of the image's size.
"""

import torch
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch.nn import functional as F

from bench.measure import Row, faster, in_turns
from cxr import cam, models
from cxr.labels import CHESTMNIST
from cxr.params import Params

BATCH = 64


def measure(params: Params, n: int, turns: int) -> list[Row]:
    """Time the maps of `n` images."""
    torch.manual_seed(0)
    hyper = models.hyper_parameters("cnn", params.train.block("cnn"))
    network = models.build("cnn", hyper, 28, 1, len(CHESTMNIST)).eval()
    images = torch.randn(n, 1, 28, 28)
    peer = GradCAM(network, [network.get_submodule("features")])

    def ours() -> None:
        for batch in images.split(BATCH):
            maps = torch.from_numpy(cam.explain(network, batch).maps)
            F.interpolate(maps, (28, 28), mode="bilinear")

    def theirs() -> None:
        for batch in images.split(BATCH):
            for label in range(len(CHESTMNIST)):
                peer(batch, [ClassifierOutputTarget(label)] * len(batch))

    seconds = in_turns({"ours": ours, "theirs": theirs}, turns)
    what = f"Grad-CAM, {n:,} images x {len(CHESTMNIST)} labels"
    return [faster(what, seconds["ours"], seconds["theirs"], 5, "vs. pytorch-grad-cam")]
