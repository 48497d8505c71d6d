"""Training on a GPU: CUDA graphs, resuming, and steps that do not wait for the device."""

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cxr import models, params
from cxr.data import phantom
from cxr.labels import CHESTMNIST
from cxr.models.inputs import InputSpec
from cxr.params import ModelParams, TrainingRecipe
from cxr.pipeline.checkpoint import FileCheckpoint
from cxr.training import cuda_graph, features, loop
from cxr.training.checkpoint import NoCheckpoint
from cxr.training.device import make_deterministic
from cxr.training.feed import FeatureBatches, ImageBatches
from cxr.training.loop import Examples, Fit, Trainer

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

PARAMS = params.load(Path(__file__).parents[2] / "params.yaml")
GREY = InputSpec(28, "bicubic", 28, 1, (0.5,), (0.25,))
BATCH, N = 32, 300  # nine full batches and a smaller one
RECIPE = TrainingRecipe(epochs=3, batch_size=BATCH, warmup_epochs=1, patience=3)
NAMES = ["cnn", "vit", "squeezenet"]


class PowerFailure(Exception):
    """Simulates a power failure."""


@pytest.fixture(autouse=True)
def deterministic() -> None:
    make_deterministic(0)


def hyper_of(name: str) -> ModelParams:
    return models.hyper_parameters(name, PARAMS.train.block(name))


def learner(name: str, device: str) -> tuple[nn.Module, nn.Linear, Examples]:
    """An untrained model and phantom images; for SqueezeNet, its head and random features."""
    batch = phantom.render(0, "train", 0, N, 28)
    labels = torch.from_numpy(batch.labels.astype(np.float32)).to(device)
    torch.manual_seed(1)
    if name == "squeezenet":
        head, x = nn.Linear(512, len(CHESTMNIST)), torch.randn(N, 512)
        return head.to(device), head, Examples(FeatureBatches(x.to(device), -x.to(device)), labels)
    network = models.build(name, hyper_of(name), 28, 1, len(CHESTMNIST)).to(device)
    images = torch.from_numpy(batch.images).to(device)
    return network, network.head(), Examples(ImageBatches(images, GREY, hyper_of(name).augment),
                                             labels)  # fmt: skip


def train(name: str, device: str = "cuda", checkpoint: object = None) -> tuple[Fit, nn.Module]:
    network, head, examples = learner(name, device)
    loop.set_prior_bias(head, examples.labels)
    fit = loop.fit(
        network, examples, examples, RECIPE, hyper_of(name), 0, lambda epoch: None,
        lambda done, of: None, checkpoint or NoCheckpoint(),
    )  # fmt: skip
    return fit, network


def bits(result: tuple[Fit, nn.Module]) -> tuple[list[dict[str, float]], dict[str, Tensor]]:
    fit, network = result
    history = [asdict(replace(e, seconds=0.0, images_per_second=0.0)) for e in fit.history]
    return history, {key: value.cpu() for key, value in network.state_dict().items()}


def assert_equal(a: tuple[Fit, nn.Module], b: tuple[Fit, nn.Module]) -> None:
    (history, weights), (others, other_weights) = bits(a), bits(b)
    assert history == others
    for key, value in weights.items():
        assert torch.equal(value, other_weights[key]), key


@pytest.mark.parametrize("name", NAMES)
def test_replayed_steps_are_bit_identical_to_eager_steps(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    replayed = train(name)
    monkeypatch.setattr(cuda_graph, "EAGER", 10**9)
    assert_equal(replayed, train(name))


@pytest.mark.parametrize("name", NAMES)
def test_equal_seeds_give_bit_identical_results(name: str) -> None:
    assert_equal(train(name), train(name))


@pytest.mark.parametrize("name", NAMES)
def test_losses_in_half_precision_are_close_to_those_on_a_cpu(name: str) -> None:
    on_gpu, on_cpu = train(name)[0], train(name, "cpu")[0]
    for ours, theirs in zip(on_gpu.history, on_cpu.history, strict=True):
        assert ours.train_loss == pytest.approx(theirs.train_loss, rel=0.05)
        assert ours.lr == theirs.lr


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("n_before", [1, 4, 6, 14])  # before, at and after the capture
def test_a_resumed_run_is_bit_identical_to_an_uninterrupted_one(
    name: str, n_before: int, tmp_path: Path
) -> None:
    class FailingCheckpoint(FileCheckpoint):
        n_calls = 0

        def is_due(self) -> bool:
            self.n_calls += 1
            if self.n_calls > n_before:
                raise PowerFailure
            return self.n_calls == n_before

    path = tmp_path / "training.pt"
    with pytest.raises(PowerFailure):
        train(name, checkpoint=FailingCheckpoint(path, lambda line: None))
    assert_equal(train(name, checkpoint=FileCheckpoint(path, lambda line: None)), train(name))


@pytest.mark.parametrize("name", NAMES)
def test_steps_do_not_wait_for_the_device(name: str) -> None:
    network, _, examples = learner(name, "cuda")
    trainer = Trainer(network, examples, RECIPE, hyper_of(name), 0)

    def watch(done: int, of: int) -> None:
        if done == cuda_graph.EAGER + 1:  # the capture waits once
            torch.cuda.set_sync_debug_mode("error")
        if done == of:
            torch.cuda.set_sync_debug_mode("default")

    try:
        trainer.train_one_epoch(watch, NoCheckpoint())
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_features_equal_those_on_a_cpu_within_half_precision() -> None:
    from torchvision.models import squeezenet1_1

    torch.manual_seed(0)
    backbone = squeezenet1_1().features
    images = phantom.render(0, "train", 0, 40, 28).images
    spec = InputSpec(28, "bicubic", 224, 3, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    on_cpu, on_gpu = (
        features.compute(backbone, images, spec, torch.device(name), False, lambda done, of: None)
        for name in ("cpu", "cuda")
    )
    assert np.linalg.norm(on_gpu - on_cpu) < 0.01 * np.linalg.norm(on_cpu)
