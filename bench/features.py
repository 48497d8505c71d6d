"""SqueezeNet with a frozen backbone: features computed once or in every epoch."""

import time
from statistics import median
from typing import cast

import torch
from torch import nn
from torch.nn import functional as F
from torchvision.models import squeezenet1_1

from bench.measure import Row, in_turns
from cxr import models
from cxr.data import phantom
from cxr.labels import CHESTMNIST
from cxr.models import squeezenet
from cxr.params import Params
from cxr.training import features, loop
from cxr.training.checkpoint import NoCheckpoint
from cxr.training.feed import FeatureBatches

TRAIN, VAL, EPOCHS, BATCH = 78_468, 11_219, 10, 128
SECOND_RUN = 60  # limit in seconds with existing features, without running the backbone


def measure(params: Params, n: int, turns: int) -> list[Row]:
    """Time the forward pass on `n` images, and extrapolate to ten epochs at full size."""
    hyper = cast(
        squeezenet.Hyper, models.hyper_parameters("squeezenet", params.train.block("squeezenet"))
    )
    spec = squeezenet.input_spec(hyper, 28, None)
    images = phantom.render(0, "train", 0, n, 28).images
    torch.manual_seed(0)
    backbone = squeezenet1_1().features
    usual = squeezenet1_1().features.eval().requires_grad_(False)
    inputs = torch.randn(BATCH, 3, 224, 224)

    def ours() -> None:
        features.compute(backbone, images, spec, torch.device("cpu"), False, lambda a, b: None)

    @torch.no_grad()
    def theirs() -> None:
        for start in range(0, n, BATCH):
            usual(inputs[: min(BATCH, n - start)])

    seconds = in_turns({"ours": ours, "theirs": theirs}, turns)
    epochs = EPOCHS * _head_epoch(params, hyper)
    both = TRAIN + VAL
    all_ours = [forward / n * both + epochs for forward in seconds["ours"]]
    all_theirs = [forward / n * both * EPOCHS for forward in seconds["theirs"]]
    forward = tuple(b / a for a, b in zip(seconds["ours"], seconds["theirs"], strict=True))
    ten = tuple(b / a for a, b in zip(all_ours, all_theirs, strict=True))
    note = f"extrapolated from {n:,} images"
    medians = median(seconds["ours"]), median(seconds["theirs"])
    medians_of_ten = median(all_ours), median(all_theirs)
    return [
        Row("SqueezeNet, forward pass at 224 px", *medians, "s", forward, least=3),
        Row("SqueezeNet, ten epochs in total", *medians_of_ten, "s", ten, least=25, note=note),
        Row.with_limit("SqueezeNet, ten epochs with existing features", epochs, SECOND_RUN),
    ]  # fmt: skip


def _head_epoch(params: Params, hyper: squeezenet.Hyper) -> float:
    """Seconds per epoch on stored features at full size, including validation."""
    head = nn.Linear(512, len(CHESTMNIST))
    values, labels = torch.randn(TRAIN, 512), (torch.rand(TRAIN, len(CHESTMNIST)) < 0.05).float()
    examples = loop.Examples(FeatureBatches(values), labels)
    trainer = loop.Trainer(head, examples, params.train.protocol, hyper, seed=0)
    start = time.perf_counter()
    trainer.train_one_epoch(lambda done, total: None, NoCheckpoint())
    with torch.no_grad():
        F.linear(values[:VAL], head.weight, head.bias)
    return time.perf_counter() - start
