"""A training run that is interrupted at any point and resumed gives bit-identical results."""

import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cxr import models, params, signals
from cxr.errors import CxrError
from cxr.labels import CHESTMNIST
from cxr.models import Network
from cxr.models.inputs import InputSpec
from cxr.params import TrainingRecipe
from cxr.pipeline.checkpoint import FileCheckpoint
from cxr.training import checkpoint, loop
from cxr.training.checkpoint import NoCheckpoint
from cxr.training.feed import FeatureBatches, ImageBatches
from cxr.training.loop import Epoch, Examples, Fit

PARAMS = params.load(Path(__file__).parents[2] / "params.yaml")
SPECS = {
    "cnn": InputSpec(28, "bicubic", 28, 1, (0.5,), (0.25,)),
    "vit": InputSpec(28, "bicubic", 28, 1, (0.5,), (0.25,)),
    "squeezenet": InputSpec(28, "bicubic", 33, 3, (0.5,) * 3, (0.25,) * 3),
}
RECIPE = TrainingRecipe(epochs=3, batch_size=8, warmup_epochs=0.5, patience=9)
BATCHES = 3  # per epoch


class PowerFailure(Exception):
    """Simulates a power failure."""


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def signals_as_at_a_terminal() -> Iterator[None]:
    """Restore the default handlers: shells let background jobs ignore Ctrl-C."""
    earlier = {
        signal.SIGINT: signal.signal(signal.SIGINT, signal.default_int_handler),
        signal.SIGTERM: signal.signal(signal.SIGTERM, signal.SIG_DFL),
        signal.SIGHUP: signal.signal(signal.SIGHUP, signal.SIG_DFL),
    }
    yield
    for signum, handler in earlier.items():
        signal.signal(signum, handler)


def examples(n: int, seed: int, name: str) -> Examples:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (n, 28, 28), dtype=torch.uint8, generator=generator)
    labels = torch.rand(n, len(CHESTMNIST), generator=generator).round()
    augment = PARAMS.train.block("cnn").augment.model_copy(update={"hflip": True})
    return Examples(ImageBatches(images, SPECS[name], augment), labels)


def network(name: str) -> Network:
    changes = {"depth": 1} if name == "vit" else {"freeze": False} if name == "squeezenet" else {}
    hyper = models.hyper_parameters(name, PARAMS.train.block(name)).model_copy(update=changes)
    spec = SPECS[name]
    torch.manual_seed(7)
    return models.build(name, hyper, spec.image_size, spec.channels, len(CHESTMNIST))


def fit(
    name: str,
    saved: checkpoint.Checkpoint,
    on_batch: Callable[[int, int], None] = lambda done, of: None,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
) -> tuple[Fit, dict[str, Tensor]]:
    net = network(name)
    hyper = PARAMS.train.block(name)
    fitted = loop.fit(
        net, examples(20, 0, name), examples(12, 1, name), RECIPE, hyper, 3,
        on_epoch, on_batch, saved,
    )  # fmt: skip
    return fitted, net.state_dict()


def without_times(result: Fit) -> list[dict[str, float]]:
    return [asdict(replace(epoch, seconds=0.0, images_per_second=0.0)) for epoch in result.history]


def fail_at(batch: int) -> Callable[[int, int], None]:
    count = 0

    def on_batch(done: int, of: int) -> None:
        nonlocal count
        count += 1
        if count == batch:
            raise PowerFailure

    return on_batch


@pytest.mark.parametrize("name", ["cnn", "vit", "squeezenet"])
@pytest.mark.parametrize("every", [0.0, 1e9], ids=["a checkpoint each batch", "each epoch"])
def test_a_run_interrupted_several_times_is_bit_identical(
    name: str, every: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The batch after a checkpoint is interrupted and repeated, but counts once in the result."""
    monkeypatch.setattr("cxr.pipeline.checkpoint.SAVE_INTERVAL", every)
    whole, weights = fit(name, NoCheckpoint())
    said: list[str] = []
    for batch in (2, BATCHES + 1, 2 if every else 4):
        with pytest.raises(PowerFailure):
            fit(name, FileCheckpoint(tmp_path / "c.pt", said.append), fail_at(batch))
    reported: list[int] = []
    again, same = fit(
        name,
        FileCheckpoint(tmp_path / "c.pt", said.append),
        on_epoch=lambda e: reported.append(e.epoch),
    )
    assert without_times(again) == without_times(whole)
    assert (again.best_epoch, again.stopped_early) == (whole.best_epoch, whole.stopped_early)
    assert all(torch.equal(weights[key], same[key]) for key in weights)
    assert reported == [1, 2, 3]
    assert said[-1].startswith("resuming from ")


def test_resuming_a_finished_run_returns_its_result(tmp_path: Path) -> None:
    first, weights = fit("cnn", FileCheckpoint(tmp_path / "c.pt", lambda line: None))
    batches: list[int] = []
    again, same = fit(
        "cnn", FileCheckpoint(tmp_path / "c.pt", lambda line: None),
        lambda done, of: batches.append(done),
    )  # fmt: skip
    assert batches == []
    assert again == first  # including the times, which are saved
    assert all(torch.equal(weights[key], same[key]) for key in weights)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_after_the_batch_with_a_checkpoint(signum: int, tmp_path: Path) -> None:
    whole, weights = fit("cnn", NoCheckpoint())
    batches: list[int] = []

    def on_batch(done: int, of: int) -> None:
        batches.append(done)
        if len(batches) == BATCHES + 2:
            os.kill(os.getpid(), signum)

    said: list[str] = []
    with signals.handled(), pytest.raises(KeyboardInterrupt):
        fit("cnn", FileCheckpoint(tmp_path / "c.pt", said.append), on_batch)
    assert len(batches) == BATCHES + 2
    again, same = fit("cnn", FileCheckpoint(tmp_path / "c.pt", said.append))
    assert said == [f"resuming from batch 2 of {BATCHES} of epoch 2"]
    assert without_times(again) == without_times(whole)
    assert all(torch.equal(weights[key], same[key]) for key in weights)


def test_a_signal_during_validation_saves_the_trained_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, weights = fit("cnn", NoCheckpoint())

    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    said: list[str] = []
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(loop, "predict", stopped)
        fit("cnn", FileCheckpoint(tmp_path / "c.pt", said.append))
    again, same = fit("cnn", FileCheckpoint(tmp_path / "c.pt", said.append))
    assert said == [f"resuming from batch {BATCHES} of {BATCHES} of epoch 1"]
    assert without_times(again) == without_times(whole)
    assert all(torch.equal(weights[key], same[key]) for key in weights)


def test_a_signal_while_waiting_for_the_device_saves_the_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU nearly all of an epoch's time is spent waiting for its summed loss."""
    whole, weights = fit("cnn", NoCheckpoint())
    original = Tensor.__float__

    def wait(value: Tensor) -> float:
        os.kill(os.getpid(), signal.SIGINT)
        monkeypatch.undo()
        return original(value)

    said: list[str] = []
    monkeypatch.setattr(Tensor, "__float__", wait)
    with signals.handled(), pytest.raises(KeyboardInterrupt):
        fit("cnn", FileCheckpoint(tmp_path / "c.pt", said.append))
    again, same = fit("cnn", FileCheckpoint(tmp_path / "c.pt", said.append))
    assert said == [f"resuming from batch {BATCHES} of {BATCHES} of epoch 1"]
    assert without_times(again) == without_times(whole)
    assert all(torch.equal(weights[key], same[key]) for key in weights)


def test_a_damaged_checkpoint_is_reported_and_training_starts_over(tmp_path: Path) -> None:
    said: list[str] = []
    (tmp_path / "c.pt").write_bytes(b"PK\x03\x04 and no more")
    fitted, _ = fit("cnn", FileCheckpoint(tmp_path / "c.pt", said.append))
    assert len(fitted.history) == RECIPE.epochs
    assert len(said) == 1 and "is damaged" in said[0] and said[0].endswith("starting over")


def test_a_checkpoint_that_contains_code_is_not_loaded(tmp_path: Path) -> None:
    class Marker:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"state": Marker(), "named": "evil"}, tmp_path / "c.pt")
    assert FileCheckpoint(tmp_path / "c.pt", lambda line: None).load() is None
    assert not (tmp_path / "ran").exists()


def test_a_failed_save_leaves_the_previous_checkpoint(tmp_path: Path) -> None:
    """If the disk is full, the new checkpoint is lost; it is reported once and nothing stops."""
    said: list[str] = []
    saved = FileCheckpoint(tmp_path / "c.pt", said.append)
    saved.save({"x": torch.arange(3)}, "first")
    before = (tmp_path / "c.pt").read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", full)
        saved.save({"x": torch.arange(4)}, "second")
        saved.save({"x": torch.arange(5)}, "third")
    assert (tmp_path / "c.pt").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["c.pt"]
    assert len(said) == 1 and "No space left on device" in said[0]
    assert saved.last() == f"first, in {tmp_path / 'c.pt'}"


def test_divergence_names_the_last_good_checkpoint(tmp_path: Path) -> None:
    x = torch.linspace(-1, 1, 12).view(12, 1)
    y = (x > 0).float()

    class Diverging(FeatureBatches):
        n = 0

        def batch(self, index: Tensor, generator: torch.Generator | None) -> Tensor:
            self.n += generator is not None
            return super().batch(index, generator) * (float("nan") if self.n == 5 else 1.0)

    net = torch.nn.Linear(1, 1)
    recipe = RECIPE.model_copy(update={"batch_size": 4})
    saved = FileCheckpoint(tmp_path / "c.pt", lambda line: None)
    hyper = PARAMS.train.block("cnn")
    with pytest.raises(CxrError) as caught:
        loop.fit(
            net, Examples(Diverging(x), y), Examples(FeatureBatches(x), y), recipe, hyper, 0,
            lambda epoch: None, lambda done, of: None, saved,
        )  # fmt: skip
    assert str(caught.value) == (
        "training diverged in epoch 2, batch 2 of 3: the loss is not a finite number; lower the "
        f"learning rate (lr: 0.002); the last good checkpoint is epoch 1, in {tmp_path / 'c.pt'}"
    )


def test_a_state_that_is_not_finite_is_not_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss of a step is still finite when the step has made the weights infinite."""
    monkeypatch.setattr("cxr.pipeline.checkpoint.SAVE_INTERVAL", 0.0)
    net = network("cnn")

    def ruin(done: int, of: int) -> None:
        if done == 2:
            with torch.no_grad():
                net.head().weight.fill_(float("inf"))

    saved = FileCheckpoint(tmp_path / "c.pt", lambda line: None)
    with pytest.raises(CxrError, match=r"epoch 1, batch 2 of 3: a weight .* batch 1 of 3 of epoch"):
        loop.fit(
            net, examples(20, 0, "cnn"), examples(12, 1, "cnn"), RECIPE,
            PARAMS.train.block("cnn"), 3, lambda epoch: None, ruin, saved,
        )  # fmt: skip


def test_signals_interrupt_immediately_outside_delayed_blocks() -> None:
    with pytest.raises(KeyboardInterrupt), signals.handled():
        os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_second_signal_interrupts_a_delayed_block() -> None:
    continued = False
    with signals.handled(), pytest.raises(KeyboardInterrupt), signals.delayed() as is_asked_to_stop:
        os.kill(os.getpid(), signal.SIGINT)
        continued = is_asked_to_stop()
        os.kill(os.getpid(), signal.SIGINT)
        continued = False
    assert continued


def test_a_delayed_signal_interrupts_at_the_end_of_the_block() -> None:
    finished = False
    with signals.handled(), pytest.raises(KeyboardInterrupt), signals.delayed():
        os.kill(os.getpid(), signal.SIGINT)
        finished = True
    assert finished
    with signals.handled(), signals.delayed() as is_asked_to_stop:
        assert not is_asked_to_stop()


def test_an_ignored_signal_stays_ignored() -> None:
    """As for `nohup` and background jobs of a shell."""
    earlier = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with signals.handled():
            os.kill(os.getpid(), signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, earlier)
