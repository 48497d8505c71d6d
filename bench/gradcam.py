"""Grad-CAM of 1,000 images and 14 labels of the CNN, against pytorch-grad-cam, a label at a time.

Both end in maps of the image's size. They take turns, and the medians are compared.
"""

import resource
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import torch
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch.nn import functional as F

from cxr import cam, models, params
from cxr.labels import LABELS

N, BATCH, TURNS = 1000, 64, 3


def main() -> None:
    settings = params.load(Path(__file__).parents[1] / "params.yaml")
    torch.set_num_threads(settings.threads)
    torch.manual_seed(0)
    hyper = models.hyper_parameters("cnn", settings.train.block("cnn"))
    network = models.build("cnn", hyper, 28, 1, len(LABELS)).eval()
    images = torch.randn(N, 1, 28, 28)
    peer = GradCAM(network, [network.get_submodule("features")])

    def ours() -> None:
        for batch in images.split(BATCH):
            maps = torch.from_numpy(cam.explain(network, batch).maps)
            F.interpolate(maps, (28, 28), mode="bilinear")

    def theirs() -> None:
        for batch in images.split(BATCH):
            for label in range(len(LABELS)):
                peer(batch, [ClassifierOutputTarget(label)] * len(batch))

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    ours()
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    seconds = np.array([[_timed(each) for each in (ours, theirs)] for _ in range(TURNS)])
    of_ours, of_theirs = (median(column) for column in seconds.T)
    print(f"Grad-CAM of {N:,} images x {len(LABELS)} labels: {of_ours:.2f} s")
    print(f"{after - before:.0f} MiB more at the peak, {after:.0f} MiB in all")
    print(f"pytorch-grad-cam: {of_theirs:.1f} s")
    print(f"ratio: {of_theirs / of_ours:.0f} ({_spread(seconds)})")


def _timed(work: Callable[[], None]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _spread(seconds: np.ndarray) -> str:
    ratios = seconds[:, 1] / seconds[:, 0]
    return f"{ratios.min():.0f} to {ratios.max():.0f} in {TURNS} turns"


if __name__ == "__main__":
    main()
