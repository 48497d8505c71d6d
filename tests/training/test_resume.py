"""A training that is broken off anywhere and gone on with is the one that never was."""

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
from cxr.labels import LABELS
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
RULES = TrainingRecipe(epochs=3, batch_size=8, warmup_epochs=0.5, patience=9)
BATCHES = 3  # an epoch has


class BrokenOff(Exception):
    """The power fails."""


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def signals_as_at_a_terminal() -> Iterator[None]:
    """A shell that starts something in the background lets it ignore Ctrl-C."""
    earlier = {
        signal.SIGINT: signal.signal(signal.SIGINT, signal.default_int_handler),
        signal.SIGTERM: signal.signal(signal.SIGTERM, signal.SIG_DFL),
        signal.SIGHUP: signal.signal(signal.SIGHUP, signal.SIG_DFL),
    }
    yield
    for each, handler in earlier.items():
        signal.signal(each, handler)


def examples(n: int, seed: int, name: str) -> Examples:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (n, 28, 28), dtype=torch.uint8, generator=generator)
    labels = torch.rand(n, len(LABELS), generator=generator).round()
    augment = PARAMS.train.block("cnn").augment.model_copy(update={"hflip": True})
    return Examples(ImageBatches(images, SPECS[name], augment), labels)


def network(name: str) -> Network:
    changes = {"depth": 1} if name == "vit" else {"freeze": False} if name == "squeezenet" else {}
    hyper = models.hyper_parameters(name, PARAMS.train.block(name)).model_copy(update=changes)
    spec = SPECS[name]
    torch.manual_seed(7)
    return models.build(name, hyper, spec.image_size, spec.channels, len(LABELS))


def fit(
    name: str,
    kept: checkpoint.Checkpoint,
    on_batch: Callable[[int, int], None] = lambda done, of: None,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
) -> tuple[Fit, dict[str, Tensor]]:
    net = network(name)
    hyper = PARAMS.train.block(name)
    fitted = loop.fit(
        net, net.head(), examples(20, 0, name), examples(12, 1, name), RULES, hyper, 3,
        on_epoch, on_batch, kept,
    )  # fmt: skip
    return fitted, net.state_dict()


def without_times(result: Fit) -> list[dict[str, float]]:
    return [asdict(replace(epoch, seconds=0.0, images_per_second=0.0)) for epoch in result.history]


def breaking_at(batch: int) -> Callable[[int, int], None]:
    count = 0

    def on_batch(done: int, of: int) -> None:
        nonlocal count
        count += 1
        if count == batch:
            raise BrokenOff

    return on_batch


@pytest.mark.parametrize("name", ["cnn", "vit", "squeezenet"])
@pytest.mark.parametrize("every", [0.0, 1e9], ids=["a checkpoint each batch", "each epoch"])
def test_broken_off_at_every_batch_in_turn(
    name: str, every: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The batch after each checkpoint is done twice and breaks off: never twice into the result."""
    monkeypatch.setattr("cxr.pipeline.checkpoint.SAVE_INTERVAL", every)
    whole, weights = fit(name, NoCheckpoint())
    said: list[str] = []
    for batch in (2, BATCHES + 1, 2 if every else 4):
        with pytest.raises(BrokenOff):
            fit(name, FileCheckpoint(tmp_path / "c.pt", said.append), breaking_at(batch))
    told: list[int] = []
    again, same = fit(
        name,
        FileCheckpoint(tmp_path / "c.pt", said.append),
        on_epoch=lambda e: told.append(e.epoch),
    )
    assert without_times(again) == without_times(whole)
    assert (again.best_epoch, again.stopped_early) == (whole.best_epoch, whole.stopped_early)
    assert all(torch.equal(weights[key], same[key]) for key in weights)
    assert told == [1, 2, 3]
    assert said[-1].startswith("resuming from ")


def test_a_training_that_has_ended_still_gives_its_result(tmp_path: Path) -> None:
    first, weights = fit("cnn", FileCheckpoint(tmp_path / "c.pt", lambda line: None))
    batches: list[int] = []
    again, same = fit(
        "cnn", FileCheckpoint(tmp_path / "c.pt", lambda line: None),
        lambda done, of: batches.append(done),
    )  # fmt: skip
    assert batches == []
    assert again == first  # the times, too: they were kept
    assert all(torch.equal(weights[key], same[key]) for key in weights)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_after_the_batch_with_a_checkpoint(signum: int, tmp_path: Path) -> None:
    whole, weights = fit("cnn", NoCheckpoint())
    done_then: list[int] = []

    def on_batch(done: int, of: int) -> None:
        done_then.append(done)
        if len(done_then) == BATCHES + 2:
            os.kill(os.getpid(), signum)

    said: list[str] = []
    with signals.handled(), pytest.raises(KeyboardInterrupt):
        fit("cnn", FileCheckpoint(tmp_path / "c.pt", said.append), on_batch)
    assert len(done_then) == BATCHES + 2
    again, same = fit("cnn", FileCheckpoint(tmp_path / "c.pt", said.append))
    assert said == [f"resuming from batch 2 of {BATCHES} of epoch 2"]
    assert without_times(again) == without_times(whole)
    assert all(torch.equal(weights[key], same[key]) for key in weights)


def test_a_signal_in_validation_keeps_the_epochs_training(
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


def test_a_signal_while_a_device_ends_an_epoch_keeps_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU nearly all of an epoch's time is the wait for its summed loss."""
    whole, weights = fit("cnn", NoCheckpoint())
    waited = Tensor.__float__

    def wait(value: Tensor) -> float:
        os.kill(os.getpid(), signal.SIGINT)
        monkeypatch.undo()
        return waited(value)

    said: list[str] = []
    monkeypatch.setattr(Tensor, "__float__", wait)
    with signals.handled(), pytest.raises(KeyboardInterrupt):
        fit("cnn", FileCheckpoint(tmp_path / "c.pt", said.append))
    again, same = fit("cnn", FileCheckpoint(tmp_path / "c.pt", said.append))
    assert said == [f"resuming from batch {BATCHES} of {BATCHES} of epoch 1"]
    assert without_times(again) == without_times(whole)
    assert all(torch.equal(weights[key], same[key]) for key in weights)


def test_a_damaged_checkpoint_is_told_and_starts_over(tmp_path: Path) -> None:
    said: list[str] = []
    (tmp_path / "c.pt").write_bytes(b"PK\x03\x04 and no more")
    fitted, _ = fit("cnn", FileCheckpoint(tmp_path / "c.pt", said.append))
    assert len(fitted.history) == RULES.epochs
    assert len(said) == 1 and "is damaged" in said[0] and said[0].endswith("starting over")


def test_a_checkpoint_that_carries_code_is_not_loaded(tmp_path: Path) -> None:
    class Marker:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"state": Marker(), "named": "evil"}, tmp_path / "c.pt")
    assert FileCheckpoint(tmp_path / "c.pt", lambda line: None).load() is None
    assert not (tmp_path / "ran").exists()


def test_a_checkpoint_is_there_whole_or_as_before(tmp_path: Path) -> None:
    """A full disk in the middle of saving costs the new one, is told once, and stops nothing."""
    said: list[str] = []
    kept = FileCheckpoint(tmp_path / "c.pt", said.append)
    kept.save({"x": torch.arange(3)}, "first")
    before = (tmp_path / "c.pt").read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", full)
        kept.save({"x": torch.arange(4)}, "second")
        kept.save({"x": torch.arange(5)}, "third")
    assert (tmp_path / "c.pt").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["c.pt"]
    assert len(said) == 1 and "No space left on device" in said[0]
    assert kept.last() == f"first, in {tmp_path / 'c.pt'}"


def test_divergence_names_the_last_good_checkpoint(tmp_path: Path) -> None:
    x = torch.linspace(-1, 1, 12).view(12, 1)
    y = (x > 0).float()

    class Fails(FeatureBatches):
        n = 0

        def batch(self, index: Tensor, generator: torch.Generator | None) -> Tensor:
            self.n += generator is not None
            return super().batch(index, generator) * (float("nan") if self.n == 5 else 1.0)

    net = torch.nn.Linear(1, 1)
    rules = RULES.model_copy(update={"batch_size": 4})
    kept = FileCheckpoint(tmp_path / "c.pt", lambda line: None)
    hyper = PARAMS.train.block("cnn")
    with pytest.raises(CxrError) as caught:
        loop.fit(
            net, net, Examples(Fails(x), y), Examples(FeatureBatches(x), y), rules, hyper, 0,
            lambda epoch: None, lambda done, of: None, kept,
        )  # fmt: skip
    assert str(caught.value) == (
        "training diverged in epoch 2, batch 2 of 3: the loss is not a finite number; lower the "
        f"learning rate, 0.002; the last good checkpoint is epoch 1, in {tmp_path / 'c.pt'}"
    )


def test_a_state_without_numbers_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss of a step is finite still when the step has ruined the weights."""
    monkeypatch.setattr("cxr.pipeline.checkpoint.SAVE_INTERVAL", 0.0)
    net = network("cnn")

    def ruin(done: int, of: int) -> None:
        if done == 2:
            with torch.no_grad():
                net.head().weight.fill_(float("inf"))

    kept = FileCheckpoint(tmp_path / "c.pt", lambda line: None)
    with pytest.raises(CxrError, match=r"epoch 1, batch 2 of 3: a weight .* batch 1 of 3 of epoch"):
        loop.fit(
            net, net.head(), examples(20, 0, "cnn"), examples(12, 1, "cnn"), RULES,
            PARAMS.train.block("cnn"), 3, lambda epoch: None, ruin, kept,
        )  # fmt: skip


def test_signals_interrupt_at_once_where_nothing_is_deferred() -> None:
    with pytest.raises(KeyboardInterrupt), signals.handled():
        os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_second_signal_breaks_off_deferred_work() -> None:
    went_on = False
    with signals.handled(), pytest.raises(KeyboardInterrupt), signals.delayed() as came:
        os.kill(os.getpid(), signal.SIGINT)
        went_on = came()
        os.kill(os.getpid(), signal.SIGINT)
        went_on = False
    assert went_on


def test_work_that_ends_first_is_interrupted_at_its_end() -> None:
    ended = False
    with signals.handled(), pytest.raises(KeyboardInterrupt), signals.delayed():
        os.kill(os.getpid(), signal.SIGINT)
        ended = True
    assert ended
    with signals.handled(), signals.delayed() as came:
        assert not came()


def test_an_ignored_signal_stays_ignored() -> None:
    """As `nohup` and shells' background jobs have it."""
    earlier = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with signals.handled():
            os.kill(os.getpid(), signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, earlier)
