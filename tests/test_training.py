"""The training loop: repeats its bits, keeps its best, starts at the prior, and learns."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from cxr import metrics, models, params, training
from cxr.augment import FeatureBatches, ImageBatches
from cxr.data import phantom
from cxr.data.splits import Statistics
from cxr.errors import CxrError
from cxr.params import Protocol
from cxr.training import Examples

PARAMS = params.load(Path(__file__).parents[1] / "params.yaml")
PROTOCOL = Protocol(epochs=3, batch_size=64, warmup_epochs=1, patience=3)


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def features(n: int, seed: int, noise: float = 1.0) -> Examples:
    """Sixteen numbers an image, of which two labels are a noisy linear function."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 16, generator=generator)
    y = (x[:, :2] + noise * torch.randn(n, 2, generator=generator) > 1).float()
    return Examples(FeatureBatches(x), y)


def fit(network: nn.Linear, train: Examples, val: Examples, seed=0, lr=0.05, **protocol):
    hyper = PARAMS.train.block("cnn").model_copy(update={"lr": lr})
    rules = PROTOCOL.model_copy(update=protocol)
    seen: list[dict[str, torch.Tensor]] = []

    def keep(epoch: training.Epoch) -> None:
        seen.append({k: v.clone() for k, v in network.state_dict().items()})

    made = training.fit(network, network, train, val, rules, hyper, seed, keep, lambda *_: None)
    return made, seen


def linear(seed: int = 0) -> nn.Linear:
    torch.manual_seed(seed)
    return nn.Linear(16, 2)


def trained_cnn(seed: int) -> dict[str, torch.Tensor]:
    training.make_deterministic(seed)
    block = PARAMS.train.block("cnn")
    hyper = models.hyper_parameters("cnn", block)
    spec = models.input_spec("cnn", hyper, 28, Statistics(0.5, 0.25))
    network = models.build("cnn", hyper, 28, 1, 14)
    batch = phantom.render(0, "train", 0, 200, 28)
    examples = Examples(
        ImageBatches(torch.from_numpy(batch.images), spec, hyper.augment),
        torch.from_numpy(batch.labels).float(),
    )
    rules = PROTOCOL.model_copy(update={"epochs": 1})
    training.fit(
        network, network.head(), examples, examples, rules, hyper, seed, lambda _: None,
        lambda *_: None,
    )  # fmt: skip
    return network.state_dict()


def test_same_seed_same_bits_other_seed_other_bits() -> None:
    """With augmentation and dropout, so that every source of chance takes part."""
    first, second, other = trained_cnn(0), trained_cnn(0), trained_cnn(1)
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not all(torch.equal(first[key], other[key]) for key in first)


def test_the_best_epoch_is_kept_and_not_the_last() -> None:
    """Validation labels are inverted, so each epoch of learning makes them worse."""
    train, val = features(400, 0), features(300, 1)
    inverted = Examples(val.inputs, 1 - val.labels)
    network = linear()
    made, seen = fit(network, train, inverted, epochs=3)
    areas = [epoch.val_macro_auroc for epoch in made.history]
    assert made.best_epoch == int(np.argmax(areas)) + 1 < 3
    kept = network.state_dict()
    assert all(torch.equal(kept[key], seen[made.best_epoch - 1][key]) for key in kept)
    assert not torch.equal(kept["weight"], seen[-1]["weight"])


def test_patience_ends_the_training() -> None:
    val = features(300, 1)
    made, _ = fit(
        linear(), features(400, 0), Examples(val.inputs, 1 - val.labels), epochs=30, patience=4
    )
    assert len(made.history) == made.best_epoch + 4
    assert made.stopped_early


def test_the_bias_starts_at_the_prior() -> None:
    head = nn.Linear(3, 2)
    labels = torch.tensor([[1.0, 0], [0, 0], [1, 0], [1, 0]])
    training.set_prior_bias(head, labels)
    expected = [math.log(4 / 2), math.log(1 / 5)]
    np.testing.assert_allclose(head.bias.detach().numpy(), expected, rtol=1e-6)


def test_the_rate_rises_and_falls() -> None:
    """700 images in batches of 64: 11 steps an epoch, 11 of warm-up, 33 in all."""
    made, _ = fit(linear(), features(700, 0), features(300, 1), lr=0.01)
    # The scheduler has stepped on: after epoch 1 it stands at the top of the cosine.
    assert made.history[0].lr == pytest.approx(0.01)
    assert made.history[1].lr == pytest.approx(0.01 * 0.5 * (1 + math.cos(math.pi * 11 / 22)))
    assert made.history[2].lr == pytest.approx(0, abs=1e-12)


def test_losses_and_areas_are_sklearns_and_torchs() -> None:
    train, val = features(400, 0), features(300, 1)
    network = linear()
    made, _ = fit(network, train, val, epochs=1)
    logits = training.predict(network, val.inputs, torch.device("cpu"), 37)
    with torch.no_grad():
        whole = network(val.inputs.batch(torch.arange(300), None))
    np.testing.assert_allclose(logits, whole.numpy(), atol=1e-6)
    loss = nn.functional.binary_cross_entropy_with_logits(whole, val.labels)
    assert made.history[0].val_loss == pytest.approx(float(loss), abs=1e-6)
    areas = metrics.auroc(val.labels.numpy().astype(np.uint8), logits)
    assert made.history[0].val_macro_auroc == pytest.approx(areas.mean())


def test_it_learns() -> None:
    made, _ = fit(linear(), features(2000, 0, 0.3), features(500, 1, 0.3), epochs=8, lr=0.05)
    assert made.history[-1].val_macro_auroc > 0.95
    assert made.history[-1].train_loss < made.history[0].train_loss


def test_divergence_is_one_line() -> None:
    train = features(200, 0)
    bad = Examples(FeatureBatches(torch.full((200, 16), 1e38)), train.labels)
    with pytest.raises(CxrError, match="diverged in epoch 1"):
        fit(linear(), bad, features(100, 1), lr=100.0)


def test_validation_without_two_classes_is_one_line() -> None:
    val = features(100, 1)
    with pytest.raises(CxrError, match="no label has both classes"):
        fit(linear(), features(200, 0), Examples(val.inputs, torch.zeros(100, 2)))
