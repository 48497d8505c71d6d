"""A training epoch, compared to medmnist's data set in a DataLoader and to its lower limit.

The limit is the forward pass, backward pass and optimiser step on one batch that stays in memory.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from medmnist import ChestMNIST
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Subset
from torchvision import transforms

from bench.measure import Row, faster, in_turns, relative_to
from cxr import models
from cxr.data import phantom
from cxr.data.splits import Statistics
from cxr.labels import CHESTMNIST
from cxr.params import Params
from cxr.training import loop
from cxr.training.checkpoint import NoCheckpoint
from cxr.training.feed import ImageBatches

BATCH = 128
TRAIN = 78_468
STATISTICS = Statistics(0.5, 0.25)


class PlainViT(nn.Module):
    """The same Vision Transformer, implemented with torch's own encoder."""

    def __init__(self, patch: int, width: int, depth: int, heads: int, mlp: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, width, patch, patch)
        self.positions = nn.Parameter(torch.randn(1, (28 // patch) ** 2, width) * 0.02)
        layer = nn.TransformerEncoderLayer(
            width, heads, mlp, dropout=0, activation="gelu", batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, len(CHESTMNIST))

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2) + self.positions
        logits: Tensor = self.head(self.norm(self.encoder(tokens)).mean(dim=1))
        return logits


def measure(params: Params, n_batches: int, turns: int) -> list[Row]:
    """Time epochs of `n_batches` batches of 128 phantom images."""
    n = n_batches * BATCH
    batch = phantom.render(0, "train", 0, n, 28)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        # medmnist requires the full number of images; only the first n are read.
        images = np.zeros((TRAIN, 28, 28), np.uint8)
        labels = np.zeros((TRAIN, len(CHESTMNIST)), np.uint8)
        images[:n], labels[:n] = batch.images, batch.labels
        np.savez(Path(folder, "chestmnist.npz"), train_images=images, train_labels=labels)
        for name, least in (("cnn", 1.5), ("vit", 1.25)):
            rows += _of_model(name, least, params, batch, folder, turns)
    return rows


def _of_model(
    name: str, least: float, params: Params, batch: phantom.Batch, folder: str, turns: int
) -> list[Row]:
    works = {
        "ours": _our_pass(name, params, batch),
        "limit": _bare_steps(_network(name, params), len(batch.images) // BATCH),
        **{
            f"loader {workers}": _loader_pass(
                _peer(name, params), folder, len(batch.images), workers
            )
            for workers in (0, 2)
        },
    }
    seconds = in_turns(works, turns)
    theirs = min((seconds["loader 0"], seconds["loader 2"]), key=sum)
    workers = "0" if theirs is seconds["loader 0"] else "2"
    return [
        faster(f"{name}, training epoch", seconds["ours"], theirs, least, f"{workers} workers"),
        relative_to(f"{name}, training epoch vs. limit", seconds["ours"], seconds["limit"], 1.15),
    ]


def epoch_seconds(name: str, params: Params, n_batches: int = 20) -> float:
    """Seconds of a training epoch at full size, extrapolated from a few batches."""
    batch = phantom.render(0, "train", 0, n_batches * BATCH, 28)
    work = _our_pass(name, params, batch)
    seconds = in_turns({"ours": work}, 1)["ours"][0]
    return seconds / len(batch.images) * TRAIN


def _examples(name: str, params: Params, batch: phantom.Batch) -> loop.Examples:
    spec = models.input_spec(name, _hyper(name, params), 28, STATISTICS)
    return loop.Examples(
        ImageBatches(torch.from_numpy(batch.images), spec),  # no augmentation, as in the peer
        torch.from_numpy(batch.labels.astype(np.float32)),
    )


def _hyper(name: str, params: Params) -> models.ModelParams:
    return models.hyper_parameters(name, params.train.block(name))


def _network(name: str, params: Params) -> models.Network:
    torch.manual_seed(0)
    return models.build(name, _hyper(name, params), 28, 1, len(CHESTMNIST))


def _peer(name: str, params: Params) -> nn.Module:
    """The same CNN in torch's default memory format; a ViT from torch's own layers."""
    if name == "cnn":
        return _network(name, params).to(memory_format=torch.contiguous_format)
    block = params.train.block(name).model_dump()
    torch.manual_seed(0)
    return PlainViT(*(block[key] for key in ("patch", "width", "depth", "heads", "mlp")))


def _our_pass(name: str, params: Params, batch: phantom.Batch) -> Callable[[], None]:
    network, examples = _network(name, params), _examples(name, params, batch)
    hyper = _hyper(name, params)

    def work() -> None:
        trainer = loop.Trainer(network, examples, params.train.protocol, hyper, seed=0)
        trainer.train_one_epoch(lambda done, total: None, NoCheckpoint())

    return work


def _bare_steps(network: models.Network, n: int) -> Callable[[], None]:
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    x, y = torch.randn(BATCH, 1, 28, 28), (torch.rand(BATCH, len(CHESTMNIST)) < 0.05).float()

    def work() -> None:
        network.train()
        for _ in range(n):
            loss = F.binary_cross_entropy_with_logits(network(x), y)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()

    return work


def _loader_pass(network: nn.Module, folder: str, n: int, workers: int) -> Callable[[], None]:
    transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize([0.5], [0.25])])
    data = ChestMNIST("train", root=folder, download=False, transform=transform)
    loader = DataLoader(Subset(data, range(n)), BATCH, shuffle=True, num_workers=workers)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    criterion = nn.BCEWithLogitsLoss()

    def work() -> None:
        network.train()
        total = 0.0
        for images, labels in loader:
            optimizer.zero_grad()
            loss = criterion(network(images), labels.float())
            loss.backward()
            optimizer.step()
            total += loss.item()

    return work
