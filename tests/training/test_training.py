"""fit(): the schedule, the loss and the choice of the best epoch, worked out beside it."""

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
from cxr.labels import LABELS
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
    torch.set_num_threads(1)  # the number of threads decides the last bits


class Scripted:
    """Inputs that are multiplied by one number in each pass, and remember who was asked for."""

    def __init__(self, x: Tensor, factors: list[float] | None = None) -> None:
        self.x = x
        self.factors = factors
        self.asked: list[tuple[list[int], bool]] = []

    def __len__(self) -> int:
        return len(self.x)

    @property
    def micro_batch_size(self) -> int:
        return len(self.x)

    def batch(self, index: Tensor, generator: torch.Generator | None) -> Tensor:
        n_before = sum(len(batch) for batch, _ in self.asked)
        self.asked.append((index.tolist(), generator is not None))
        factor = self.factors[n_before // len(self.x)] if self.factors else 1.0
        return self.x[index] * factor


def protocol(
    epochs: int, batch_size: int = 4, warmup: float = 0.0, patience: int = 99
) -> TrainingRecipe:
    return TrainingRecipe(
        epochs=epochs, batch_size=batch_size, warmup_epochs=warmup, patience=patience
    )


def network(name: str, **changes: object) -> Network:
    hyper = models.hyper_parameters(name, PARAMS.train.block(name)).model_copy(update=changes)
    spec = RGB if name == "squeezenet" else GREY
    return models.build(name, hyper, spec.image_size, spec.channels, len(LABELS))


def random_examples(n: int, seed: int, spec: InputSpec = GREY) -> Examples:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (n, 28, 28), dtype=torch.uint8, generator=generator)
    labels = torch.rand(n, len(LABELS), generator=generator).round()
    return Examples(ImageBatches(images, spec), labels)


def separable(n: int = 12) -> tuple[Tensor, Tensor]:
    """One feature whose sign is the one label."""
    x = torch.linspace(-1, 1, n).view(n, 1)
    return x, (x > 0).float()


def fit(
    net: nn.Module,
    train: Examples,
    val: Examples,
    rules: TrainingRecipe,
    hyper: ModelParams = HYPER,
    seed: int = 0,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
    on_batch: Callable[[int, int], None] = lambda done, of: None,
    checkpoint: Checkpoint | None = None,
) -> Fit:
    head = net if isinstance(net, nn.Linear) else net.head()
    return loop.fit(
        net, head, train, val, rules, hyper, seed, on_epoch, on_batch, checkpoint or NoCheckpoint()
    )


def without_times(result: Fit) -> list[dict[str, float]]:
    return [asdict(replace(epoch, seconds=0.0, images_per_second=0.0)) for epoch in result.history]


@pytest.mark.parametrize("name", ["cnn", "vit"])
def test_same_seed_gives_the_same_bits_and_another_seed_others(name: str) -> None:
    def trained(seed: int) -> tuple[Fit, dict[str, Tensor]]:
        torch.manual_seed(0)  # the first weights, and the dropout
        net = network(name)
        augment = PARAMS.train.block("cnn").augment
        examples = random_examples(40, 0)
        examples.inputs._augment = augment
        rules = protocol(epochs=2, batch_size=16)
        result = fit(net, examples, random_examples(20, 1), rules, seed=seed)
        return result, net.state_dict()

    first, weights = trained(seed=3)
    again, same_weights = trained(seed=3)
    other, other_weights = trained(seed=4)
    assert without_times(first) == without_times(again) != without_times(other)
    assert all(torch.equal(weights[key], same_weights[key]) for key in weights)
    assert not all(torch.equal(weights[key], other_weights[key]) for key in weights)


def test_best_epoch_is_kept_bit_for_bit_and_training_stops_patience_after_it() -> None:
    x, y = separable()
    # A factor below zero turns the ranking of that epoch's validation round: AUROC 0, not 1.
    val = Scripted(x, [-1.0, -1.0, 1.0, -1.0, -1.0, -1.0, -1.0])
    net, seen = nn.Linear(1, 1), []
    nn.init.constant_(net.weight, 1.0)
    result = fit(
        net,
        Examples(FeatureBatches(x), y),
        Examples(val, y),
        protocol(epochs=7, patience=3),
        on_epoch=lambda epoch: seen.append({k: v.clone() for k, v in net.state_dict().items()}),
    )
    assert [epoch.val_macro_auroc for epoch in result.history] == [0, 0, 1, 0, 0, 0]
    assert (result.best_epoch, result.stopped_early) == (3, True)
    assert all(torch.equal(net.state_dict()[key], seen[2][key]) for key in seen[2])
    assert not torch.equal(seen[2]["weight"], seen[5]["weight"])


def test_kept_network_predicts_as_at_its_best_epoch() -> None:
    """A whole network, with running statistics; validation is what it learns to get wrong."""
    train = random_examples(32, 0)
    val = Examples(train.inputs, 1 - train.labels)
    torch.manual_seed(0)
    net, seen = network("cnn"), []
    result = fit(
        net,
        train,
        val,
        protocol(epochs=4, batch_size=8),
        on_epoch=lambda epoch: seen.append(predict(net, val.inputs, CPU, 8)),
    )
    best = max(result.history, key=lambda epoch: epoch.val_macro_auroc)
    assert result.best_epoch == best.epoch < 4
    assert best.val_macro_auroc > result.history[-1].val_macro_auroc + 0.1
    kept = predict(net, val.inputs, CPU, 8)
    assert np.array_equal(kept, seen[result.best_epoch - 1])
    assert not np.allclose(kept, seen[-1], atol=1e-2)


@pytest.mark.parametrize(
    ("patience", "epochs", "n_run", "stopped"), [(2, 9, 3, True), (1, 9, 2, True), (8, 4, 4, False)]
)
def test_of_equally_good_epochs_the_first_is_the_best(
    patience: int, epochs: int, n_run: int, stopped: bool
) -> None:
    x, y = separable()
    examples = Examples(FeatureBatches(x), y)
    net = nn.Linear(1, 1)
    nn.init.constant_(net.weight, 1.0)
    result = fit(net, examples, examples, protocol(epochs=epochs, patience=patience))
    assert (result.best_epoch, len(result.history), result.stopped_early) == (1, n_run, stopped)


def test_prior_bias_is_the_logit_of_the_prevalence_with_one_image_more_of_each_class() -> None:
    labels = torch.tensor([[1, 0, 1], [1, 0, 0], [1, 0, 0], [1, 0, 0]]).float()
    head = nn.Linear(2, 3)
    loop.set_prior_bias(head, labels)
    assert head.bias.requires_grad
    assert torch.allclose(head.bias, torch.tensor([math.log(5), -math.log(5), math.log(2 / 4)]))


class Recorder(torch.optim.AdamW):
    """AdamW that keeps the rate of every step, and what it was given."""

    def __init__(self, groups: list[dict[str, object]], **options: float) -> None:
        self.given = [(list(group["params"]), group["weight_decay"]) for group in groups]
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
def test_rate_rises_linearly_and_falls_along_a_cosine(
    warmup: float, factors: list[float], recorder: Callable[[], Recorder]
) -> None:
    x, y = separable(11)  # 4 + 4 + 3 images would be three steps, of 3 each there are four
    examples = Examples(FeatureBatches(x), y)
    fit(nn.Linear(1, 1), examples, examples, protocol(3, batch_size=3, warmup=warmup))
    rates = np.array(recorder().rates)
    assert np.allclose(rates, 0.01 * np.array(factors)[:, None], rtol=1e-12)
    if warmup == 1:  # the same by hand: the top, the middle and the last step of the cosine
        assert np.allclose(rates[[4, 8, 11], 0], [0.01, 0.005, 0.01 * 0.0380602337], rtol=1e-8)


def test_history_holds_the_rate_of_the_epochs_last_step(
    recorder: Callable[[], Recorder],
) -> None:
    x, y = separable(12)
    examples = Examples(FeatureBatches(x), y)
    result = fit(nn.Linear(1, 1), examples, examples, protocol(3, batch_size=3, warmup=1.0))
    last_steps = [rates[0] for rates in recorder().rates[3::4]]
    assert [epoch.lr for epoch in result.history] == pytest.approx(last_steps)


@pytest.mark.parametrize("name", ["cnn", "squeezenet", "vit"])
def test_weight_decay_is_for_kernels_and_matrices_alone(
    name: str, recorder: Callable[[], Recorder]
) -> None:
    net = network(name)
    spec = RGB if name == "squeezenet" else GREY
    fit(net, random_examples(4, 0, spec), random_examples(4, 1, spec), protocol(1))
    decay = {id(p): value for group, value in recorder().given for p in group}
    kernels = {id(m.weight) for m in net.modules() if isinstance(m, nn.Linear | nn.Conv2d)}
    trainable = {key: p for key, p in net.named_parameters() if p.requires_grad}
    assert decay.keys() == {id(p) for p in trainable.values()}
    assert {key: decay[id(p)] for key, p in trainable.items()} == {
        key: 0.05 if id(p) in kernels else 0.0 for key, p in trainable.items()
    }


class WithTokens(Network):
    """Position embeddings and a class token under names of its own."""

    def __init__(self, exempt: set[str]) -> None:
        super().__init__()
        self.pos_embed = nn.Parameter(torch.ones(1, 4, 3))
        self.cls_token = nn.Parameter(torch.ones(1, 1, 3))
        self.classifier = nn.Linear(3, len(LABELS))
        self._exempt = exempt

    def no_weight_decay(self) -> set[str]:
        return self._exempt

    def feature_map(self, x: Tensor) -> Tensor:
        return x[:, :1, :1, :3] * (self.pos_embed.sum() + self.cls_token.sum())

    def classify(self, feature_map: Tensor) -> Tensor:
        return self.classifier(feature_map.flatten(1))

    def head(self) -> nn.Linear:
        return self.classifier


def test_a_network_says_what_does_not_decay(recorder: Callable[[], Recorder]) -> None:
    net = WithTokens({"pos_embed", "cls_token"})
    fit(net, random_examples(4, 0), random_examples(4, 1), protocol(1))
    decay = {id(p): value for group, value in recorder().given for p in group}
    assert {name: decay[id(p)] for name, p in net.named_parameters()} == {
        "pos_embed": 0.0, "cls_token": 0.0, "classifier.weight": 0.05, "classifier.bias": 0.0
    }  # fmt: skip


def test_a_name_that_no_parameter_has_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no_weight_decay\(\) names no parameter: positions"):
        fit(WithTokens({"positions"}), random_examples(4, 0), random_examples(4, 1), protocol(1))


def test_one_step_is_adamws_first_step_by_hand() -> None:
    """With fresh moments AdamW moves each weight by the rate against its gradient's sign."""
    x, y = separable(4)
    net = nn.Linear(1, 1)
    nn.init.constant_(net.weight, 0.5)
    examples = Examples(FeatureBatches(x), y)
    fit(net, examples, examples, protocol(1, batch_size=4))
    # Larger weights separate better, so the gradient is below zero; decay is rate * 0.05 * 0.5.
    assert float(net.weight.detach()) == pytest.approx(0.5 - 0.01 * 0.05 * 0.5 + 0.01, rel=1e-5)


def test_every_training_image_is_seen_once_an_epoch_in_a_new_order() -> None:
    x, y = separable(10)
    train, val = Scripted(x), Scripted(x)
    told: list[tuple[int, int]] = []
    fit(
        nn.Linear(1, 1), Examples(train, y), Examples(val, y), protocol(2),
        on_batch=lambda done, of: told.append((done, of)),
    )  # fmt: skip
    assert told == [(1, 3), (2, 3), (3, 3)] * 2
    assert [len(index) for index, _ in train.asked] == [4, 4, 2] * 2
    epochs = [[n for index, _ in train.asked[i : i + 3] for n in index] for i in (0, 3)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(10))
    assert epochs[0] != epochs[1] != list(range(10))
    assert all(is_random for _, is_random in train.asked)
    assert [index for index, _ in val.asked] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]] * 2
    assert not any(is_random for _, is_random in val.asked)


def test_order_of_the_images_is_the_seeds_alone() -> None:
    def order(seed: int, state_of_torch: int) -> list[tuple[list[int], bool]]:
        torch.manual_seed(state_of_torch)
        x, y = separable(10)
        train = Scripted(x)
        fit(
            nn.Linear(1, 1),
            Examples(train, y),
            Examples(FeatureBatches(x), y),
            protocol(2),
            seed=seed,
        )
        return train.asked

    assert order(seed=1, state_of_torch=0) == order(seed=1, state_of_torch=5)
    assert order(seed=1, state_of_torch=0) != order(seed=2, state_of_torch=0)


def test_training_loss_is_the_mean_over_images_whatever_the_last_batch() -> None:
    x, y = separable(10)
    net = nn.Linear(1, 1)
    nn.init.zeros_(net.weight)
    hardly = HYPER.model_copy(update={"lr": 1e-12})
    labels = (torch.arange(10) < 3).float().view(10, 1)
    result = fit(net, Examples(FeatureBatches(x), labels), Examples(FeatureBatches(x), y),
                 protocol(1), hardly)  # fmt: skip
    p = 4 / 12  # three positives and seven negatives, one more of each
    by_hand = -(3 * math.log(p) + 7 * math.log(1 - p)) / 10
    assert result.history[0].train_loss == pytest.approx(by_hand, rel=1e-5)


def test_history_is_what_the_network_scored() -> None:
    val, logits = random_examples(24, 1), []
    torch.manual_seed(0)
    net, told = network("cnn"), []

    def keep(epoch: Epoch) -> None:
        told.append(epoch)
        with torch.no_grad():
            logits.append(net.eval()(val.inputs.batch(torch.arange(24), None)))

    result = fit(net, random_examples(24, 0), val, protocol(2, batch_size=7), on_epoch=keep)
    assert told == result.history
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
def test_divergence_names_its_epoch_and_the_rate(first_bad: int) -> None:
    x, y = separable(8)
    factors = [1.0] * (first_bad - 1) + [math.nan]
    with pytest.raises(
        CxrError,
        match=rf"in epoch {first_bad}, batch 1 of 2: the loss is not a finite .*rate, 0\.01$",
    ):
        fit(nn.Linear(1, 1), Examples(Scripted(x, factors), y), Examples(FeatureBatches(x), y),
            protocol(4))  # fmt: skip


def test_rate_that_is_far_too_high_is_told() -> None:
    wild = HYPER.model_copy(update={"lr": 1e20})
    with pytest.raises(CxrError, match=r"diverged in epoch 1, .*lower the learning rate, 1e\+20"):
        fit(network("cnn"), random_examples(32, 0), random_examples(16, 1), protocol(2), wild)


def test_divergence_in_the_last_step_of_an_epoch_is_told_too() -> None:
    wild = HYPER.model_copy(update={"lr": 1e20})
    with pytest.raises(CxrError, match="diverged in epoch 1"):
        fit(network("cnn"), random_examples(8, 0), random_examples(8, 1), protocol(2, 8), wild)


def test_validation_without_two_classes_is_told() -> None:
    x, y = separable(8)
    val = Examples(FeatureBatches(x), torch.zeros(8, 1))
    with pytest.raises(CxrError, match="no label has both classes in the validation split"):
        fit(nn.Linear(1, 1), Examples(FeatureBatches(x), y), val, protocol(2))


def test_one_label_with_two_classes_is_enough_to_choose_by() -> None:
    x, y = separable(8)
    labels = torch.cat([y, torch.zeros(8, 1)], dim=1)
    net = nn.Linear(1, 2)
    nn.init.ones_(net.weight)
    val = Examples(FeatureBatches(x), labels)
    assert fit(net, val, val, protocol(1)).history[0].val_macro_auroc == 1


@pytest.mark.parametrize("batch_size", [1, 5, 12, 100])
def test_predict_is_the_network_in_evaluation_mode_whatever_the_batch_size(batch_size: int) -> None:
    torch.manual_seed(0)
    net, inputs = network("cnn"), random_examples(12, 0).inputs
    net.train()(inputs.batch(torch.arange(12), None))  # running statistics of its own
    logits = predict(net.train(), inputs, CPU, batch_size)
    with torch.no_grad():
        stated = net.eval()(inputs.batch(torch.arange(12), None)).numpy()
    assert logits.shape == (12, 14) and logits.dtype == np.float32
    assert np.allclose(logits, stated, atol=1e-5)


def test_whole_squeezenet_with_a_frozen_backbone_learns_in_its_head_alone() -> None:
    torch.manual_seed(0)
    net = network("squeezenet")
    before = {key: value.clone() for key, value in net.state_dict().items()}
    fit(net, random_examples(8, 0, RGB), random_examples(8, 1, RGB), protocol(1))
    changed = {
        key for key, value in net.state_dict().items() if not torch.equal(value, before[key])
    }
    assert changed == {"classifier.weight", "classifier.bias"}


def test_head_on_features_is_trained_in_place_and_the_backbone_left_alone() -> None:
    torch.manual_seed(0)
    net = network("squeezenet")
    before = {key: value.clone() for key, value in net.state_dict().items()}
    x, labels = torch.randn(16, 512), torch.rand(16, 14).round()
    examples = Examples(FeatureBatches(x), labels)
    fit(net.head(), examples, examples, protocol(3), HYPER)
    changed = {
        key for key, value in net.state_dict().items() if not torch.equal(value, before[key])
    }
    assert changed == {"classifier.weight", "classifier.bias"}


def test_prepare_sets_seed_and_threads_before_any_tensor_work() -> None:
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


def test_a_gpu_is_named_since_another_may_round_differently(
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


def test_cnn_finds_effusion_and_a_large_heart_in_a_small_phantom() -> None:
    """About 180 and 30 positives to learn from; 2,000 other images, so that few are not luck."""
    torch.manual_seed(0)
    net = network("cnn")
    hyper = models.hyper_parameters("cnn", PARAMS.train.block("cnn"))
    train, val, unseen = (
        phantom_examples("train", 1500),
        phantom_examples("val", 300),
        phantom_examples("test", 2000),
    )
    fit(net, train, val, protocol(6, batch_size=32, warmup=1.0), hyper)
    logits = predict(net, unseen.inputs, CPU, 100)
    areas = metrics.auroc(unseen.labels.numpy().astype(np.uint8), logits)
    assert areas[LABELS.index("effusion")] > 0.8
    assert areas[LABELS.index("cardiomegaly")] > 0.7


def of_all_passes(net: Network) -> list[int]:
    """How many images each pass through a network has, once it has run."""
    sizes: list[int] = []
    net.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    return sizes


def test_batch_of_large_images_goes_through_in_parts_and_learns_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Three images at a time: batches of 8 as 3 + 3 + 2, and a last one of 3.

    With SGD, since AdamW's first step has nearly the same length however small a gradient is, and
    so makes much of its rounding.
    """
    monkeypatch.setattr(torch.optim, "AdamW", torch.optim.SGD)
    weights, losses, passes = [], [], []
    for images_at_once in (99, 3):
        monkeypatch.setattr(inputs, "PIXELS_PER_MICRO_BATCH", images_at_once * 28**2 + 1)
        torch.manual_seed(0)
        net = network("vit", depth=1)
        sizes = of_all_passes(net)
        result = fit(net, random_examples(11, 0), random_examples(8, 1), protocol(1, batch_size=8))
        weights.append(torch.cat([value.flatten() for value in net.state_dict().values()]))
        losses.append((result.history[0].train_loss, result.history[0].val_loss))
        passes.append(sizes)
    assert passes == [[8, 3, 8], [3, 3, 2, 3, 3, 3, 2]]
    torch.testing.assert_close(weights[1], weights[0], rtol=0, atol=1e-7)
    assert losses[1] == pytest.approx(losses[0], abs=1e-5)


def test_steps_read_no_number_from_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU each would wait for all that was asked of it; the loss is read once an epoch."""
    read: list[str] = []
    whole = Tensor.__float__

    def counted(name: str) -> Callable[[Tensor], float]:
        def reads(value: Tensor) -> float:
            read.append(name)
            return whole(value)

        return reads

    for name in ("__float__", "item", "tolist", "cpu", "numpy", "__bool__", "__int__"):
        monkeypatch.setattr(Tensor, name, counted(name))
    monkeypatch.setattr(torch.optim, "AdamW", torch.optim.SGD)  # which on a CPU reads its steps
    examples = Examples(FeatureBatches(torch.randn(12, 3)), torch.ones(12, 2))
    course = loop.Trainer(nn.Linear(3, 2), examples, protocol(1), HYPER, seed=0)
    course.train_one_epoch(lambda done, total: None, NoCheckpoint())
    assert read == ["__float__"]


@pytest.mark.parametrize("name", ["cnn", "squeezenet", "vit"])
def test_half_precision_as_on_a_gpu_trains_nearly_the_same(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What runs on a GPU, here on a CPU: every operation takes what autocast hands it."""
    spec = RGB if name == "squeezenet" else GREY
    results = []
    for half in (False, True):
        cast = torch.autocast("cpu", dtype=torch.bfloat16, enabled=half)
        monkeypatch.setattr(models, "autocast", lambda device, cast=cast: cast)
        torch.manual_seed(0)
        net = network(name)
        result = fit(net, random_examples(16, 0, spec), random_examples(16, 1, spec), protocol(1))
        assert all(value.dtype == torch.float32 for value in net.parameters())
        results.append(result.history[0])
    whole, halved = results
    assert halved.train_loss != whole.train_loss
    assert halved.train_loss == pytest.approx(whole.train_loss, rel=0.05)
    assert halved.val_loss == pytest.approx(whole.val_loss, rel=0.05)
