"""fit(): the schedule, the loss and the choice of the best epoch, checked by hand."""

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score
from torch import Tensor, nn
from torch.nn import functional as F

from cxr import models, params
from cxr.data import phantom
from cxr.errors import CxrError
from cxr.evaluation import metrics
from cxr.labels import CHESTMNIST
from cxr.models import Network, inputs
from cxr.models.inputs import InputSpec
from cxr.params import ModelParams, TrainingRecipe
from cxr.training import loop
from cxr.training.checkpoint import Checkpoint, NoCheckpoint
from cxr.training.device import set_up_device
from cxr.training.feed import FeatureBatches, ImageBatches, predict
from cxr.training.loop import Epoch, Examples, Fit

PARAMS = params.load(Path(__file__).parents[2] / "params.yaml")
CPU = torch.device("cpu")
GREY = InputSpec(28, "bicubic", 28, 1, (0.5,), (0.25,))
RGB = InputSpec(28, "bicubic", 33, 3, (0.5,) * 3, (0.25,) * 3)
HYPER = ModelParams(
    lr=0.01,
    weight_decay=0.05,
    augment=params.Augment(hflip=False, translate=0.0, degrees=0.0, scale=0.0, contrast=0.0),
)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)  # results are not bit-identical across numbers of threads


class Scripted:
    """Inputs multiplied by a given factor in each pass; stores the requested indices."""

    def __init__(self, x: Tensor, factors: list[float] | None = None) -> None:
        self.x = x
        self.factors = factors
        self.requests: list[tuple[list[int], bool]] = []

    def __len__(self) -> int:
        return len(self.x)

    @property
    def micro_batch_size(self) -> int:
        return len(self.x)

    def batch(self, index: Tensor, generator: torch.Generator | None) -> Tensor:
        n_before = sum(len(batch) for batch, _ in self.requests)
        self.requests.append((index.tolist(), generator is not None))
        factor = self.factors[n_before // len(self.x)] if self.factors else 1.0
        return self.x[index] * factor


def make_recipe(
    epochs: int, batch_size: int = 4, warmup: float = 0.0, patience: int = 99
) -> TrainingRecipe:
    return TrainingRecipe(
        epochs=epochs, batch_size=batch_size, warmup_epochs=warmup, patience=patience
    )


def network(name: str, **changes: object) -> Network:
    hyper = models.hyper_parameters(name, PARAMS.train.block(name)).model_copy(update=changes)
    spec = RGB if name == "squeezenet" else GREY
    return models.build(name, hyper, spec.image_size, spec.channels, len(CHESTMNIST))


def random_examples(n: int, seed: int, spec: InputSpec = GREY) -> Examples:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (n, 28, 28), dtype=torch.uint8, generator=generator)
    labels = torch.rand(n, len(CHESTMNIST), generator=generator).round()
    return Examples(ImageBatches(images, spec), labels)


def separable(n: int = 12) -> tuple[Tensor, Tensor]:
    """One feature whose sign is the only label."""
    x = torch.linspace(-1, 1, n).view(n, 1)
    return x, (x > 0).float()


def fit(
    net: nn.Module,
    train: Examples,
    val: Examples,
    recipe: TrainingRecipe,
    hyper: ModelParams = HYPER,
    seed: int = 0,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
    on_batch: Callable[[int, int], None] = lambda done, of: None,
    checkpoint: Checkpoint | None = None,
) -> Fit:
    return loop.fit(
        net, train, val, recipe, hyper, seed, on_epoch, on_batch, checkpoint or NoCheckpoint()
    )


def without_times(result: Fit) -> list[dict[str, float]]:
    return [asdict(replace(epoch, seconds=0.0, images_per_second=0.0)) for epoch in result.history]


@pytest.mark.parametrize("name", ["cnn", "vit"])
def test_only_the_same_seed_gives_bit_identical_results(name: str) -> None:
    def trained(seed: int) -> tuple[Fit, dict[str, Tensor]]:
        torch.manual_seed(0)  # initial weights and dropout
        net = network(name)
        augment = PARAMS.train.block("cnn").augment
        examples = random_examples(40, 0)
        examples.inputs._augment = augment
        recipe = make_recipe(epochs=2, batch_size=16)
        result = fit(net, examples, random_examples(20, 1), recipe, seed=seed)
        return result, net.state_dict()

    first, weights = trained(seed=3)
    again, same_weights = trained(seed=3)
    other, other_weights = trained(seed=4)
    assert without_times(first) == without_times(again) != without_times(other)
    assert all(torch.equal(weights[key], same_weights[key]) for key in weights)
    assert not all(torch.equal(weights[key], other_weights[key]) for key in weights)


def test_best_epoch_is_restored_and_training_stops_after_patience_epochs() -> None:
    x, y = separable()
    # A negative factor reverses the ranking in that epoch's validation: AUROC 0 instead of 1.
    val = Scripted(x, [-1.0, -1.0, 1.0, -1.0, -1.0, -1.0, -1.0])
    net, seen = nn.Linear(1, 1), []
    nn.init.constant_(net.weight, 1.0)
    result = fit(
        net,
        Examples(FeatureBatches(x), y),
        Examples(val, y),
        make_recipe(epochs=7, patience=3),
        on_epoch=lambda epoch: seen.append({k: v.clone() for k, v in net.state_dict().items()}),
    )
    assert [epoch.val_macro_auroc for epoch in result.history] == [0, 0, 1, 0, 0, 0]
    assert (result.best_epoch, result.stopped_early) == (3, True)
    assert all(torch.equal(net.state_dict()[key], seen[2][key]) for key in seen[2])
    assert not torch.equal(seen[2]["weight"], seen[5]["weight"])


def test_final_network_predicts_as_at_its_best_epoch() -> None:
    """A network with running statistics; validation labels are inverted, so it gets worse."""
    train = random_examples(32, 0)
    val = Examples(train.inputs, 1 - train.labels)
    torch.manual_seed(0)
    net, seen = network("cnn"), []
    result = fit(
        net,
        train,
        val,
        make_recipe(epochs=4, batch_size=8),
        on_epoch=lambda epoch: seen.append(predict(net, val.inputs, CPU, 8)),
    )
    best = max(result.history, key=lambda epoch: epoch.val_macro_auroc)
    assert result.best_epoch == best.epoch < 4
    assert best.val_macro_auroc > result.history[-1].val_macro_auroc + 0.1
    final = predict(net, val.inputs, CPU, 8)
    assert np.array_equal(final, seen[result.best_epoch - 1])
    assert not np.allclose(final, seen[-1], atol=1e-2)


@pytest.mark.parametrize(
    ("patience", "epochs", "n_run", "stopped"), [(2, 9, 3, True), (1, 9, 2, True), (8, 4, 4, False)]
)
def test_the_first_of_equally_good_epochs_is_the_best(
    patience: int, epochs: int, n_run: int, stopped: bool
) -> None:
    x, y = separable()
    examples = Examples(FeatureBatches(x), y)
    net = nn.Linear(1, 1)
    nn.init.constant_(net.weight, 1.0)
    result = fit(net, examples, examples, make_recipe(epochs=epochs, patience=patience))
    assert (result.best_epoch, len(result.history), result.stopped_early) == (1, n_run, stopped)


def test_prior_bias_is_the_logit_of_the_prevalence_after_adding_one_image_per_class() -> None:
    labels = torch.tensor([[1, 0, 1], [1, 0, 0], [1, 0, 0], [1, 0, 0]]).float()
    head = nn.Linear(2, 3)
    loop.set_prior_bias(head, labels)
    assert head.bias.requires_grad
    assert torch.allclose(head.bias, torch.tensor([math.log(5), -math.log(5), math.log(2 / 4)]))


def test_unknown_labels_do_not_count_in_the_prior_bias() -> None:
    labels = torch.tensor([[1, -1, -1], [-1, 0, -1], [1, 0, -1], [0, 1, -1]]).float()
    head = nn.Linear(2, 3)
    loop.set_prior_bias(head, labels)
    assert torch.allclose(head.bias, torch.tensor([math.log(3 / 2), math.log(2 / 3), 0.0]))


def test_the_loss_is_the_mean_over_known_labels_and_the_others_have_no_gradient() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(20, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    labels = (torch.rand(20, 5, generator=generator) < 0.4).double()
    is_unknown = torch.rand(20, 5, generator=generator) < 0.3
    labels[is_unknown] = -1
    loss = loop.cross_entropy(logits, labels)
    loss.backward()
    of_known = [
        -math.log(p if y == 1 else 1 - p)
        for p, y in zip(torch.sigmoid(logits).flatten().tolist(), labels.flatten(), strict=True)
        if y != -1
    ]
    assert loss.item() == pytest.approx(sum(of_known) / len(of_known), rel=1e-6)
    assert logits.grad is not None and (logits.grad[is_unknown] == 0).all()
    residual = (torch.sigmoid(logits) - labels).detach() / len(of_known)
    assert torch.allclose(logits.grad[~is_unknown], residual[~is_unknown], rtol=1e-6)


def test_micro_batches_have_the_gradient_of_the_whole_batch() -> None:
    """Whatever the number of known labels in each of them."""
    x = torch.linspace(-1, 1, 12).view(12, 1)
    labels = torch.tensor([1, -1, -1, 0, 1, 0, -1, -1, -1, -1, 1, 1]).float().view(12, 1)

    class Small(FeatureBatches):
        micro_batch_size = 4

    results = []
    for kind in (FeatureBatches, Small):
        net = nn.Linear(1, 1)
        nn.init.constant_(net.weight, 0.7)
        nn.init.zeros_(net.bias)
        trainer = loop.Trainer(net, Examples(kind(x), labels), make_recipe(1, 12), HYPER, 0)
        summed = trainer._step(torch.arange(12))
        results.append((net.weight.grad.item(), net.bias.grad.item(), summed.item()))  # type: ignore[union-attr]
    assert results[0] == pytest.approx(results[1], rel=1e-6)
    known = labels.flatten() >= 0
    p = torch.sigmoid(0.7 * x.flatten()[known])
    by_hand = ((p - labels.flatten()[known]) * x.flatten()[known]).mean()
    assert results[0][0] == pytest.approx(by_hand.item(), rel=1e-5)


def test_a_batch_without_known_labels_has_no_loss_and_no_gradient() -> None:
    logits = torch.ones(3, 2, requires_grad=True)
    loss = loop.cross_entropy(logits, torch.full((3, 2), -1.0))
    loss.backward()
    assert loss.item() == 0 and logits.grad is not None and (logits.grad == 0).all()


@pytest.mark.parametrize("n_images", [1, 3, 54, 128, 317])
def test_without_unknown_labels_the_loss_is_torchs_bit_for_bit(n_images: int) -> None:
    """54 images with 14 labels are 756 values, and 756 * (1 / 756) is not 1 in float32."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(n_images, 14, generator=generator)
    labels = (torch.rand(n_images, 14, generator=generator) < 0.1).float()
    ours, theirs = (logits.clone().requires_grad_() for _ in range(2))
    loss = loop.cross_entropy(ours, labels)
    expected = nn.functional.binary_cross_entropy_with_logits(theirs, labels)
    loss.backward()
    expected.backward()
    assert torch.equal(loss, expected)
    assert ours.grad is not None and theirs.grad is not None and torch.equal(ours.grad, theirs.grad)


class Recorder(torch.optim.AdamW):
    """AdamW that stores the learning rate of every step and its parameter groups."""

    def __init__(self, groups: list[dict[str, object]], **options: float) -> None:
        self.groups = [(list(group["params"]), group["weight_decay"]) for group in groups]
        self.rates: list[list[float]] = []
        Recorder.last = self
        super().__init__(groups, **options)

    def step(self, closure: None = None) -> None:
        self.rates.append([group["lr"] for group in self.param_groups])
        super().step(closure)


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Recorder]]:
    monkeypatch.setattr(torch.optim, "AdamW", Recorder)
    yield lambda: Recorder.last


def cosine(k: int, n: int) -> float:
    return (1 + math.cos(math.pi * k / n)) / 2


@pytest.mark.parametrize(
    ("warmup", "factors"),
    [
        # Three epochs of four steps: rise over four, then fall along half a cosine of eight.
        (1.0, [0.25, 0.5, 0.75, 1.0, *(cosine(k, 8) for k in range(8))]),
        (0.5, [0.5, 1.0, *(cosine(k, 10) for k in range(10))]),
        (0.0, [cosine(k, 12) for k in range(12)]),
        (3.0, [(k + 1) / 12 for k in range(12)]),
    ],
)
def test_learning_rate_has_a_linear_warmup_and_a_cosine_decay(
    warmup: float, factors: list[float], recorder: Callable[[], Recorder]
) -> None:
    x, y = separable(11)  # batches of 3 make four steps per epoch; batches of 4 would make three
    examples = Examples(FeatureBatches(x), y)
    fit(nn.Linear(1, 1), examples, examples, make_recipe(3, batch_size=3, warmup=warmup))
    rates = np.array(recorder().rates)
    assert np.allclose(rates, 0.01 * np.array(factors)[:, None], rtol=1e-12)
    if warmup == 1:  # by hand: the first, the middle and the last step of the cosine
        assert np.allclose(rates[[4, 8, 11], 0], [0.01, 0.005, 0.01 * 0.0380602337], rtol=1e-8)


def test_history_contains_the_learning_rate_of_each_epochs_last_step(
    recorder: Callable[[], Recorder],
) -> None:
    x, y = separable(12)
    examples = Examples(FeatureBatches(x), y)
    result = fit(nn.Linear(1, 1), examples, examples, make_recipe(3, batch_size=3, warmup=1.0))
    last_steps = [rates[0] for rates in recorder().rates[3::4]]
    assert [epoch.lr for epoch in result.history] == pytest.approx(last_steps)


@pytest.mark.parametrize("name", ["cnn", "squeezenet", "vit"])
def test_weight_decay_applies_only_to_kernels_and_matrices(
    name: str, recorder: Callable[[], Recorder]
) -> None:
    net = network(name)
    spec = RGB if name == "squeezenet" else GREY
    fit(net, random_examples(4, 0, spec), random_examples(4, 1, spec), make_recipe(1))
    decay = {id(p): value for group, value in recorder().groups for p in group}
    kernels = {id(m.weight) for m in net.modules() if isinstance(m, nn.Linear | nn.Conv2d)}
    trainable = {key: p for key, p in net.named_parameters() if p.requires_grad}
    assert decay.keys() == {id(p) for p in trainable.values()}
    assert {key: decay[id(p)] for key, p in trainable.items()} == {
        key: 0.05 if id(p) in kernels else 0.0 for key, p in trainable.items()
    }


class WithTokens(Network):
    """A network with position embeddings and a class token."""

    def __init__(self, exempt: set[str]) -> None:
        super().__init__()
        self.pos_embed = nn.Parameter(torch.ones(1, 4, 3))
        self.cls_token = nn.Parameter(torch.ones(1, 1, 3))
        self.classifier = nn.Linear(3, len(CHESTMNIST))
        self._exempt = exempt

    def no_weight_decay(self) -> set[str]:
        return self._exempt

    def feature_map(self, x: Tensor) -> Tensor:
        return x[:, :1, :1, :3] * (self.pos_embed.sum() + self.cls_token.sum())

    def classify(self, feature_map: Tensor) -> Tensor:
        return self.classifier(feature_map.flatten(1))

    def head(self) -> nn.Linear:
        return self.classifier


def test_a_network_can_exempt_parameters_from_decay(
    recorder: Callable[[], Recorder],
) -> None:
    net = WithTokens({"pos_embed", "cls_token"})
    fit(net, random_examples(4, 0), random_examples(4, 1), make_recipe(1))
    decay = {id(p): value for group, value in recorder().groups for p in group}
    assert {name: decay[id(p)] for name, p in net.named_parameters()} == {
        "pos_embed": 0.0, "cls_token": 0.0, "classifier.weight": 0.05, "classifier.bias": 0.0
    }  # fmt: skip


def test_exempting_an_unknown_parameter_is_refused() -> None:
    message = r"no_weight_decay\(\) names unknown parameters: positions"
    with pytest.raises(ValueError, match=message):
        fit(WithTokens({"positions"}), random_examples(4, 0), random_examples(4, 1), make_recipe(1))


def test_the_first_step_equals_adamw_by_hand() -> None:
    """In its first step AdamW moves each weight by `lr` against the sign of its gradient."""
    x, y = separable(4)
    net = nn.Linear(1, 1)
    nn.init.constant_(net.weight, 0.5)
    examples = Examples(FeatureBatches(x), y)
    fit(net, examples, examples, make_recipe(1, batch_size=4))
    # Larger weights separate better, so the gradient is negative; the decay is lr * 0.05 * 0.5.
    assert float(net.weight.detach()) == pytest.approx(0.5 - 0.01 * 0.05 * 0.5 + 0.01, rel=1e-5)


def test_every_training_image_is_used_once_per_epoch_in_a_new_order() -> None:
    x, y = separable(10)
    train, val = Scripted(x), Scripted(x)
    progress: list[tuple[int, int]] = []
    fit(
        nn.Linear(1, 1), Examples(train, y), Examples(val, y), make_recipe(2),
        on_batch=lambda done, of: progress.append((done, of)),
    )  # fmt: skip
    assert progress == [(1, 3), (2, 3), (3, 3)] * 2
    assert [len(index) for index, _ in train.requests] == [4, 4, 2] * 2
    epochs = [[n for index, _ in train.requests[i : i + 3] for n in index] for i in (0, 3)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(10))
    assert epochs[0] != epochs[1] != list(range(10))
    assert all(is_random for _, is_random in train.requests)
    assert [index for index, _ in val.requests] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]] * 2
    assert not any(is_random for _, is_random in val.requests)


def test_order_of_the_images_depends_only_on_the_seed() -> None:
    def order(seed: int, state_of_torch: int) -> list[tuple[list[int], bool]]:
        torch.manual_seed(state_of_torch)
        x, y = separable(10)
        train = Scripted(x)
        fit(
            nn.Linear(1, 1),
            Examples(train, y),
            Examples(FeatureBatches(x), y),
            make_recipe(2),
            seed=seed,
        )
        return train.requests

    assert order(seed=1, state_of_torch=0) == order(seed=1, state_of_torch=5)
    assert order(seed=1, state_of_torch=0) != order(seed=2, state_of_torch=0)


def test_training_loss_is_the_mean_over_images_with_a_smaller_last_batch() -> None:
    x, y = separable(10)
    net = nn.Linear(1, 1)
    nn.init.zeros_(net.weight)
    tiny_lr = HYPER.model_copy(update={"lr": 1e-12})
    labels = (torch.arange(10) < 3).float().view(10, 1)
    loop.set_prior_bias(net, labels)
    result = fit(net, Examples(FeatureBatches(x), labels), Examples(FeatureBatches(x), y),
                 make_recipe(1), tiny_lr)  # fmt: skip
    p = 4 / 12  # three positives and seven negatives, plus one of each
    by_hand = -(3 * math.log(p) + 7 * math.log(1 - p)) / 10
    assert result.history[0].train_loss == pytest.approx(by_hand, rel=1e-5)


def test_history_contains_the_metrics_of_the_network() -> None:
    val, logits = random_examples(24, 1), []
    torch.manual_seed(0)
    net, reported = network("cnn"), []

    def keep(epoch: Epoch) -> None:
        reported.append(epoch)
        with torch.no_grad():
            logits.append(net.eval()(val.inputs.batch(torch.arange(24), None)))

    result = fit(net, random_examples(24, 0), val, make_recipe(2, batch_size=7), on_epoch=keep)
    assert reported == result.history
    y = val.labels.numpy()
    for number, (epoch, seen) in enumerate(zip(result.history, logits, strict=True), start=1):
        assert epoch.epoch == number
        assert all(math.isfinite(value) for value in asdict(epoch).values())
        loss = F.binary_cross_entropy_with_logits(seen, val.labels)
        assert epoch.val_loss == pytest.approx(float(loss), rel=1e-4)
        assert epoch.val_macro_auroc == pytest.approx(roc_auc_score(y, seen), abs=1e-6)
        assert epoch.val_macro_ap == pytest.approx(average_precision_score(y, seen), abs=1e-6)
        assert epoch.images_per_second == pytest.approx(24 / epoch.seconds)


@pytest.mark.parametrize("first_bad", [1, 3])
def test_divergence_is_reported_with_its_epoch_and_learning_rate(first_bad: int) -> None:
    x, y = separable(8)
    factors = [1.0] * (first_bad - 1) + [math.nan]
    with pytest.raises(
        CxrError,
        match=rf"in epoch {first_bad}, batch 1 of 2: the loss is not a finite .*\(lr: 0\.01\)$",
    ):
        fit(nn.Linear(1, 1), Examples(Scripted(x, factors), y), Examples(FeatureBatches(x), y),
            make_recipe(4))  # fmt: skip


def test_a_learning_rate_that_is_far_too_high_is_reported() -> None:
    huge_lr = HYPER.model_copy(update={"lr": 1e20})
    with pytest.raises(CxrError, match=r"diverged in epoch 1, .*lower the learning .*lr: 1e\+20\)"):
        fit(network("cnn"), random_examples(32, 0), random_examples(16, 1), make_recipe(2), huge_lr)


def test_divergence_in_the_last_step_of_an_epoch_is_reported() -> None:
    huge_lr = HYPER.model_copy(update={"lr": 1e20})
    train, val = random_examples(8, 0), random_examples(8, 1)
    with pytest.raises(CxrError, match="diverged in epoch 1"):
        fit(network("cnn"), train, val, make_recipe(2, 8), huge_lr)


def test_validation_without_both_classes_is_refused() -> None:
    x, y = separable(8)
    val = Examples(FeatureBatches(x), torch.zeros(8, 1))
    with pytest.raises(CxrError, match="no label has both classes in the validation split"):
        fit(nn.Linear(1, 1), Examples(FeatureBatches(x), y), val, make_recipe(2))


def test_one_label_with_both_classes_is_enough_to_choose_the_best_epoch() -> None:
    x, y = separable(8)
    labels = torch.cat([y, torch.zeros(8, 1)], dim=1)
    net = nn.Linear(1, 2)
    nn.init.ones_(net.weight)
    val = Examples(FeatureBatches(x), labels)
    assert fit(net, val, val, make_recipe(1)).history[0].val_macro_auroc == 1


@pytest.mark.parametrize("batch_size", [1, 5, 12, 100])
def test_predict_uses_evaluation_mode_with_any_batch_size(batch_size: int) -> None:
    torch.manual_seed(0)
    net, inputs = network("cnn"), random_examples(12, 0).inputs
    net.train()(inputs.batch(torch.arange(12), None))  # sets the running statistics
    logits = predict(net.train(), inputs, CPU, batch_size)
    with torch.no_grad():
        expected = net.eval()(inputs.batch(torch.arange(12), None)).numpy()
    assert logits.shape == (12, 14) and logits.dtype == np.float32
    assert np.allclose(logits, expected, atol=1e-5)


def test_training_a_squeezenet_with_a_frozen_backbone_changes_only_its_head() -> None:
    torch.manual_seed(0)
    net = network("squeezenet")
    before = {key: value.clone() for key, value in net.state_dict().items()}
    fit(net, random_examples(8, 0, RGB), random_examples(8, 1, RGB), make_recipe(1))
    changed = {
        key for key, value in net.state_dict().items() if not torch.equal(value, before[key])
    }
    assert changed == {"classifier.weight", "classifier.bias"}


def test_training_the_head_on_features_changes_the_head_in_place() -> None:
    torch.manual_seed(0)
    net = network("squeezenet")
    before = {key: value.clone() for key, value in net.state_dict().items()}
    x, labels = torch.randn(16, 512), torch.rand(16, 14).round()
    examples = Examples(FeatureBatches(x), labels)
    fit(net.head(), examples, examples, make_recipe(3), HYPER)
    changed = {
        key for key, value in net.state_dict().items() if not torch.equal(value, before[key])
    }
    assert changed == {"classifier.weight", "classifier.bias"}


def test_set_up_device_sets_seed_threads_and_determinism() -> None:
    were_deterministic = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(False)
    try:
        torch.manual_seed(999)
        device = set_up_device(PARAMS.model_copy(update={"seed": 42, "threads": 2}))
        drawn = torch.rand(3)
        assert device.split()[0] == ("cuda" if torch.cuda.is_available() else "cpu")
        assert torch.get_num_threads() == 2
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.equal(drawn, torch.rand(3, generator=torch.Generator().manual_seed(42)))
    finally:
        torch.use_deterministic_algorithms(were_deterministic)


def test_the_device_includes_the_name_of_the_gpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H200")
    were_deterministic = torch.are_deterministic_algorithms_enabled()
    try:
        assert set_up_device(PARAMS) == "cuda NVIDIA H200"
    finally:
        torch.use_deterministic_algorithms(were_deterministic)


def phantom_examples(split: str, n: int) -> Examples:
    batch = phantom.render(0, split, 0, n, 28)
    labels = torch.from_numpy(batch.labels.astype(np.float32))
    return Examples(ImageBatches(torch.from_numpy(batch.images), GREY), labels)


def test_cnn_learns_effusion_and_cardiomegaly_on_a_small_phantom() -> None:
    """About 180 and 30 positives for training; 2,000 test images keep the AUROC's error small."""
    torch.manual_seed(0)
    net = network("cnn")
    hyper = models.hyper_parameters("cnn", PARAMS.train.block("cnn"))
    train, val, test = (
        phantom_examples("train", 1500),
        phantom_examples("val", 300),
        phantom_examples("test", 2000),
    )
    fit(net, train, val, make_recipe(6, batch_size=32, warmup=1.0), hyper)
    logits = predict(net, test.inputs, CPU, 100)
    aurocs = metrics.auroc(test.labels.numpy().astype(np.uint8), logits)
    assert aurocs[CHESTMNIST.index("effusion")] > 0.8
    assert aurocs[CHESTMNIST.index("cardiomegaly")] > 0.7


def record_pass_sizes(net: Network) -> list[int]:
    """A list that collects the number of images in each forward pass."""
    sizes: list[int] = []
    net.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    return sizes


def test_micro_batches_give_the_same_result_as_whole_batches(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Micro-batches of three: batches of 8 as 3 + 3 + 2, and a last one of 3.

    Uses SGD, because AdamW's first step has nearly the same size for any gradient and thus
    amplifies rounding errors in small gradients.
    """
    monkeypatch.setattr(torch.optim, "AdamW", torch.optim.SGD)
    weights, losses, passes = [], [], []
    for micro_batch_size in (99, 3):
        monkeypatch.setattr(inputs, "PIXELS_PER_MICRO_BATCH", micro_batch_size * 28**2 + 1)
        torch.manual_seed(0)
        net = network("vit", depth=1)
        sizes = record_pass_sizes(net)
        result = fit(
            net, random_examples(11, 0), random_examples(8, 1), make_recipe(1, batch_size=8)
        )
        weights.append(torch.cat([value.flatten() for value in net.state_dict().values()]))
        losses.append((result.history[0].train_loss, result.history[0].val_loss))
        passes.append(sizes)
    assert passes == [[8, 3, 8], [3, 3, 2, 3, 3, 3, 2]]
    torch.testing.assert_close(weights[1], weights[0], rtol=0, atol=1e-7)
    assert losses[1] == pytest.approx(losses[0], abs=1e-5)


def test_steps_do_not_read_values_from_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU every read waits for all queued work; the loss is read once per epoch."""
    reads: list[str] = []
    original = Tensor.__float__

    def counted(name: str) -> Callable[[Tensor], float]:
        def read(value: Tensor) -> float:
            reads.append(name)
            return original(value)

        return read

    for name in ("__float__", "item", "tolist", "cpu", "numpy", "__bool__", "__int__"):
        monkeypatch.setattr(Tensor, name, counted(name))
    monkeypatch.setattr(torch.optim, "AdamW", torch.optim.SGD)  # AdamW reads its step count
    examples = Examples(FeatureBatches(torch.randn(12, 3)), torch.ones(12, 2))
    trainer = loop.Trainer(nn.Linear(3, 2), examples, make_recipe(1), HYPER, seed=0)
    reads.clear()  # it counts the known labels once
    trainer.train_one_epoch(lambda done, total: None, NoCheckpoint())
    assert reads == ["__float__"]


@pytest.mark.parametrize("name", ["cnn", "squeezenet", "vit"])
def test_losses_in_half_precision_are_close_to_those_in_full_precision(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The GPU's autocast, run on a CPU."""
    spec = RGB if name == "squeezenet" else GREY
    results = []
    for half in (False, True):
        cast = torch.autocast("cpu", dtype=torch.bfloat16, enabled=half)
        monkeypatch.setattr(models, "autocast", lambda device, cast=cast: cast)
        torch.manual_seed(0)
        net = network(name)
        result = fit(
            net, random_examples(16, 0, spec), random_examples(16, 1, spec), make_recipe(1)
        )
        assert all(value.dtype == torch.float32 for value in net.parameters())
        results.append(result.history[0])
    whole, halved = results
    assert halved.train_loss != whole.train_loss
    assert halved.train_loss == pytest.approx(whole.train_loss, rel=0.05)
    assert halved.val_loss == pytest.approx(whole.val_loss, rel=0.05)
