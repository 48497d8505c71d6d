"""Ten epochs of each model at full size on a GPU, compared to the limits of the GPU.

The lower bound of a step is the longer of two times: its matrix products and convolutions at the
speed of a large matrix product, and its memory traffic at the speed of a large copy. The traffic
is the activations saved for the backward pass, written and read once, and the weights, their
gradients and AdamW's two moments.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import squeezenet1_1

from bench.measure import Row
from cxr import models
from cxr.data import phantom
from cxr.data.splits import Statistics
from cxr.labels import CHESTMNIST
from cxr.models import squeezenet
from cxr.params import ModelParams, Params
from cxr.training import features, loop
from cxr.training.checkpoint import NoCheckpoint
from cxr.training.feed import Batches, FeatureBatches, ImageBatches

TRAIN, VAL, EPOCHS, MAX_SECONDS = 78_468, 11_219, 10, 60
STATISTICS = Statistics(0.5, 0.25)
BYTES_PER_WEIGHT = 4 * 9  # weight read twice and written, gradient and two moments read and written


Images = npt.NDArray[np.uint8]  # (N, 28, 28)


@dataclass(frozen=True)
class Card:
    """Measured speed of the GPU."""

    flops: float  # operations per second in a product of large bf16 matrices
    bandwidth: float  # bytes read and written per second in a large copy


@dataclass(frozen=True)
class Kernels:
    """Kernels that ran on the GPU in an epoch, including copies."""

    n: int
    seconds: float


@dataclass(frozen=True)
class Learner:
    """A model with its data and hyperparameters."""

    name: str
    network: nn.Module
    head: nn.Linear
    train: loop.Examples
    val: loop.Examples
    hyper: ModelParams


def measure(params: Params) -> list[Row]:
    """Train every model and compare it to its lower bound; notes have images/s and GPU use."""
    device = torch.device("cuda")
    card = measure_card(device)
    recipe = params.train.protocol.model_copy(update={"epochs": EPOCHS, "patience": EPOCHS})
    params = params.model_copy(
        update={"train": params.train.model_copy(update={"protocol": recipe})}
    )
    images, labels = {}, {}
    for split, n in (("train", TRAIN), ("val", VAL)):
        batch = phantom.render(0, split, 0, n, 28)
        images[split] = batch.images
        labels[split] = torch.from_numpy(batch.labels.astype(np.float32)).to(device)
    rows, total = [], 0.0
    for name in ("cnn", "vit"):
        learner = _of_images(name, params, images, labels, device)
        seconds, row = _train(learner, params, card)
        rows.append(row)
        total += seconds
    learner, seconds = _of_features(params, images, labels, device)
    total += seconds
    n = TRAIN + VAL
    rows.append(_backbone_row(params, images["train"], device, card, seconds / n))
    seconds, row = _train(learner, params, card)
    total += seconds
    what = f"three models, {EPOCHS} epochs each, including features"
    return [*rows, row, Row.with_limit(what, total, MAX_SECONDS)]


def measure_card(device: torch.device) -> Card:
    a = torch.randn(8192, 8192, device=device, dtype=torch.bfloat16)
    free, _ = torch.cuda.mem_get_info(device)
    source, target = torch.empty(2, min(2**31, free // 4), device=device, dtype=torch.uint8)
    product = _median_seconds(lambda: torch.mm(a, a))
    copy = _median_seconds(lambda: target.copy_(source))
    return Card(2 * 8192**3 / product, 2 * len(source) / copy)


def _median_seconds(work: Callable[[], object], n: int = 10) -> float:
    for _ in range(3):
        work()
    seconds = []
    for _ in range(n):
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        work()
        stop.record()
        stop.synchronize()
        seconds.append(start.elapsed_time(stop) / 1000)
    return float(np.median(seconds))


def _of_images(
    name: str,
    params: Params,
    images: dict[str, Images],
    labels: dict[str, Tensor],
    device: torch.device,
) -> Learner:
    hyper = models.hyper_parameters(name, params.train.block(name))
    spec = models.input_spec(name, hyper, 28, STATISTICS)
    torch.manual_seed(0)
    network = models.build(name, hyper, 28, 1, len(CHESTMNIST)).to(device)
    on_device = {split: torch.from_numpy(values).to(device) for split, values in images.items()}
    train = loop.Examples(ImageBatches(on_device["train"], spec, hyper.augment), labels["train"])
    val = loop.Examples(ImageBatches(on_device["val"], spec), labels["val"])
    return Learner(name, network, network.head(), train, val, hyper)


def _of_features(
    params: Params,
    images: dict[str, Images],
    labels: dict[str, Tensor],
    device: torch.device,
) -> tuple[Learner, float]:
    """SqueezeNet's head on features, and the seconds for computing the features."""
    hyper = cast(
        squeezenet.Hyper, models.hyper_parameters("squeezenet", params.train.block("squeezenet"))
    )
    spec = squeezenet.input_spec(hyper, 28, None)
    torch.manual_seed(0)
    backbone = squeezenet1_1().features
    start = time.perf_counter()
    inputs: dict[str, Batches] = {}
    for split, values in images.items():
        pooled = features.compute(backbone, values, spec, device, False, lambda done, of: None)
        inputs[split] = FeatureBatches(torch.from_numpy(pooled).to(device))
    torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    head = nn.Linear(squeezenet.N_FEATURES, len(CHESTMNIST)).to(device)
    examples = {split: loop.Examples(inputs[split], labels[split]) for split in inputs}
    return Learner("squeezenet", head, head, examples["train"], examples["val"], hyper), seconds


def _train(learner: Learner, params: Params, card: Card) -> tuple[float, Row]:
    """Seconds of training in all epochs, and a row that compares an epoch to its lower bound."""
    recipe = params.train.protocol
    bound = _bound(learner, recipe.batch_size, card)
    state = {key: value.clone() for key, value in learner.network.state_dict().items()}
    started = time.perf_counter()
    loop.set_prior_bias(learner.head, learner.train.labels)
    fit = loop.fit(
        learner.network, learner.train, learner.val, recipe, learner.hyper, params.seed,
        lambda epoch: None, lambda done, of: None, NoCheckpoint(),
    )  # fmt: skip
    total = time.perf_counter() - started
    seconds = [epoch.seconds for epoch in fit.history]
    epoch = float(np.median(seconds))
    learner.network.load_state_dict(state)
    kernels = _kernels(learner, params)
    per_step = kernels.n / steps_per_epoch(recipe.batch_size)
    best = max(epoch.val_macro_auroc for epoch in fit.history)
    note = (
        f"{TRAIN / epoch:,.0f} images/s, {per_step:.0f} kernels per step, GPU busy "
        f"{kernels.seconds / epoch:.0%}; ten epochs {sum(seconds):.1f} s, {total:.1f} s with "
        f"validation, AUROC {best:.3f}"
    )
    ratio = epoch / bound
    return sum(seconds), Row(
        f"{learner.name}, epoch vs. lower bound", epoch, bound, "s", (ratio,), note=note
    )


def steps_per_epoch(batch_size: int) -> int:
    return math.ceil(TRAIN / batch_size)


def _kernels(learner: Learner, params: Params) -> Kernels:
    """Kernels of an epoch that replays a CUDA graph; they run one by one on one stream."""
    trainer = loop.Trainer(
        learner.network, learner.train, params.train.protocol, learner.hyper, params.seed
    )

    def epoch() -> None:
        logits = np.zeros((VAL, len(CHESTMNIST)), np.float32)
        trainer.train_one_epoch(lambda done, of: None, NoCheckpoint())
        trainer.end_epoch(0.0, logits, learner.val, NoCheckpoint())

    epoch()
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        epoch()
        torch.cuda.synchronize()
    kernels = [event for event in profiler.key_averages() if event.self_device_time_total > 0]
    seconds = sum(event.self_device_time_total for event in kernels) / 1e6
    return Kernels(sum(event.count for event in kernels), float(seconds))


def _bound(learner: Learner, batch_size: int, card: Card) -> float:
    """Lower bound of the seconds per epoch, from operations or memory traffic."""
    saved_bytes: dict[int, int] = {}  # by address, of activations for the backward pass

    def record(value: Tensor) -> Tensor:
        storage = value.untyped_storage()
        n_bytes = min(storage.nbytes(), value.numel() * value.element_size())
        saved_bytes[storage.data_ptr()] = n_bytes
        return value

    index = torch.arange(batch_size, device=learner.train.labels.device)
    x, y = learner.train.inputs.batch(index, None), learner.train.labels[index]
    learner.network.train()
    with FlopCounterMode(display=False) as counter:
        with (
            torch.autocast("cuda", dtype=torch.bfloat16),
            saved_tensors_hooks(record, lambda value: value),
        ):
            loss = F.binary_cross_entropy_with_logits(learner.network(x), y)
        loss.backward()
    learner.network.zero_grad(set_to_none=True)
    weights = sum(p.numel() for p in learner.network.parameters())
    n_bytes = 2 * sum(saved_bytes.values()) + weights * BYTES_PER_WEIGHT
    operations = counter.get_total_flops()
    print(f"{learner.name}: {operations / 1e9:.2f} GFLOP and {n_bytes / 1e6:.0f} MB per step")
    return steps_per_epoch(batch_size) * max(operations / card.flops, n_bytes / card.bandwidth)


def _backbone_row(
    params: Params,
    images: Images,
    device: torch.device,
    card: Card,
    seconds: float,
) -> Row:
    """The frozen backbone's forward pass per image; its traffic is every layer's output once."""
    size = features.BATCH["cuda"]
    backbone = squeezenet1_1().features.to(device, memory_format=torch.channels_last).eval()
    x = torch.randn(size, 3, 224, 224, device=device).contiguous(memory_format=torch.channels_last)
    n_bytes = x.numel() * 4

    def add(layer: nn.Module, inputs: object, output: Tensor) -> None:
        nonlocal n_bytes
        n_bytes += 2 * output.numel() * output.element_size()

    for layer in backbone.modules():
        if isinstance(layer, nn.Conv2d | nn.MaxPool2d):
            layer.register_forward_hook(add)
    with (
        torch.inference_mode(),
        FlopCounterMode(display=False) as counter,
        torch.autocast("cuda", dtype=torch.bfloat16),
    ):
        backbone(x)
    bound = max(counter.get_total_flops() / card.flops, n_bytes / card.bandwidth) / size
    return Row(
        "squeezenet, features per image vs. lower bound", seconds, bound, "s",
        (seconds / bound,), note=f"{1 / seconds:,.0f} images/s",
    )  # fmt: skip
