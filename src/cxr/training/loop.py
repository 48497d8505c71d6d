"""fit(): the training loop for every model and device."""

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import LambdaLR

from cxr import signals
from cxr.errors import CxrError
from cxr.evaluation import metrics
from cxr.models import Network
from cxr.params import ModelParams, TrainingRecipe
from cxr.training.checkpoint import Checkpoint, State
from cxr.training.cuda_graph import GraphedStep
from cxr.training.feed import Batches, predict


@dataclass(frozen=True)
class Epoch:
    """Metrics of one epoch; losses are means over images and known labels."""

    epoch: int  # counted from 1
    train_loss: float
    val_loss: float
    val_macro_auroc: float
    val_macro_ap: float
    lr: float  # at the epoch's last step
    seconds: float  # of training, without validation
    images_per_second: float


@dataclass(frozen=True)
class Fit:
    """The result of a training run; the network keeps the weights of the best epoch."""

    history: list[Epoch]
    best_epoch: int
    stopped_early: bool


@dataclass(frozen=True)
class Examples:
    """Inputs of a split and their labels: float (N, L) of 0, 1 and -1, on the same device."""

    inputs: Batches
    labels: Tensor


def fit(
    network: nn.Module,
    train: Examples,
    val: Examples,
    recipe: TrainingRecipe,
    hyper: ModelParams,
    seed: int,
    on_epoch: Callable[[Epoch], None],
    on_batch: Callable[[int, int], None],
    checkpoint: Checkpoint,
) -> Fit:
    """Train `network` and restore the weights of its best epoch.

    AdamW (Loshchilov & Hutter, 2019) on binary cross-entropy of the known labels; the learning rate
    rises linearly over `warmup_epochs` and then follows a cosine decay. The best epoch is the one
    with the highest validation macro AUROC; training stops `patience` epochs after it.

    Parameters
    ----------
    network : maps inputs to logits (B, L).
    on_epoch : called after every epoch, and for the earlier epochs of a resumed run.
    on_batch : called with the number of finished batches and the number of batches per epoch.
    checkpoint : provides the state to resume from, if any, and saves the state regularly.

    Raises
    ------
    CxrError
        If the loss is not finite, or validation has no label with both classes.
    KeyboardInterrupt
        If a signal asked to stop; the checkpoint has the state after the last complete step.
    """
    trainer = Trainer(network, train, recipe, hyper, seed)
    state = checkpoint.load()
    if state is not None:
        trainer.restore(state)
    for epoch in trainer.history:
        on_epoch(epoch)
    while not trainer.has_ended:
        train_loss = trainer.train_one_epoch(on_batch, checkpoint)
        try:
            logits = predict(network, val.inputs, train.labels.device, recipe.batch_size)
        except KeyboardInterrupt:
            trainer.save(checkpoint)
            raise
        epoch = trainer.end_epoch(train_loss, logits, val, checkpoint)
        # Save before reporting, so that a resumed run does not report an epoch twice.
        trainer.save(checkpoint)
        on_epoch(epoch)
    network.load_state_dict(trainer.best)
    return Fit(trainer.history, trainer.best_epoch, len(trainer.history) < recipe.epochs)


class Trainer:
    """The state of a training run, which determines its next step."""

    def __init__(
        self,
        network: nn.Module,
        train: Examples,
        recipe: TrainingRecipe,
        hyper: ModelParams,
        seed: int,
    ) -> None:
        device = train.labels.device
        steps = math.ceil(len(train.inputs) / recipe.batch_size)
        self.history: list[Epoch] = []
        self.best: dict[str, Tensor] = {}  # weights of the best epoch
        self.best_epoch = 0
        self._network, self._train, self._recipe, self._hyper = network, train, recipe, hyper
        self._optimizer = _adamw(network, hyper, device)
        self._lr_multiplier = _warmup_cosine(
            round(recipe.warmup_epochs * steps), recipe.epochs * steps
        )
        self._schedule = LambdaLR(self._optimizer, self._lr_multiplier)
        self._lr: float | Tensor = hyper.lr  # at the last step
        self._generator = torch.Generator(device).manual_seed(seed)
        self._run_step: Callable[[Tensor], Tensor] = self._step
        if device.type == "cuda":
            self._run_step = GraphedStep(self._step, recipe.batch_size, self._generator)
        # Current epoch: order of the images, number of finished batches, summed loss of each batch.
        self._order: Tensor | None = None
        self._n_done = 0
        self._losses = torch.zeros(steps, device=device)
        self._seconds = 0.0
        self._n_known = max(1.0, _n_known(train.labels).item())

    @property
    def has_ended(self) -> bool:
        n = len(self.history)
        return n == self._recipe.epochs or (n > 0 and n - self.best_epoch >= self._recipe.patience)

    def train_one_epoch(
        self, on_batch: Callable[[int, int], None], checkpoint: Checkpoint
    ) -> float:
        """Run the remaining batches of the epoch; return the mean loss of the whole epoch.

        The loss is read from the device once, at the end. A batch of large images is split into
        micro-batches whose gradients are accumulated, so that memory does not grow with the image
        size; batch norm uses the statistics of each micro-batch ("ghost batch norm", Hoffer et
        al., "Train longer, generalize better", NeurIPS 2017).
        """
        inputs, device = self._train.inputs, self._train.labels.device
        self._network.train()
        if self._order is None:
            self._order = torch.randperm(len(inputs), generator=self._generator, device=device)
        batches = self._order.split(self._recipe.batch_size)
        earlier_seconds, started = self._seconds, time.perf_counter()
        with signals.delayed() as is_asked_to_stop:
            for batch in batches[self._n_done :]:
                self._losses[self._n_done] = self._run_step(batch)
                self._lr = self._schedule.get_last_lr()[0]
                self._schedule.step()
                self._n_done += 1
                self._seconds = earlier_seconds + time.perf_counter() - started
                on_batch(self._n_done, len(batches))
                if is_asked_to_stop() or checkpoint.is_due():
                    self.save(checkpoint)
                if is_asked_to_stop():
                    raise KeyboardInterrupt
            summed_loss = float(self._losses.sum())  # waits until a GPU has finished the epoch
            self._seconds = earlier_seconds + time.perf_counter() - started
            if is_asked_to_stop():
                self.save(checkpoint)
        return summed_loss / self._n_known

    def end_epoch(
        self,
        train_loss: float,
        logits: npt.NDArray[np.float32],
        val: Examples,
        checkpoint: Checkpoint,
    ) -> Epoch:
        """Compute the epoch's metrics, and keep its weights if it is the best so far."""
        number = len(self.history) + 1
        if not math.isfinite(train_loss):
            raise self._diverged(checkpoint)
        if not np.isfinite(logits).all():
            raise self._diverged(checkpoint, "a validation output")
        epoch = _measure(
            number, train_loss, logits, val, float(self._lr), self._seconds, len(self._train.inputs)
        )
        self.history.append(epoch)
        best = self.best_epoch and self.history[self.best_epoch - 1].val_macro_auroc
        if not self.best_epoch or epoch.val_macro_auroc > best:
            self.best_epoch = number
            # Cloned, because state_dict() returns references that the next step changes.
            self.best = {key: value.clone() for key, value in self._network.state_dict().items()}
        self._order, self._n_done, self._seconds = None, 0, 0.0
        self._losses.zero_()
        return epoch

    def save(self, checkpoint: Checkpoint) -> None:
        """Save the state in a checkpoint; CxrError if a loss or a weight is not finite."""
        if not math.isfinite(float(self._losses.sum())):
            raise self._diverged(checkpoint)
        if not all(bool(torch.isfinite(value).all()) for value in self._network.parameters()):
            raise self._diverged(checkpoint, "a weight")
        within_epoch = self._order is not None
        batch = f"batch {self._n_done} of {len(self._losses)} of epoch {len(self.history) + 1}"
        checkpoint.save(self._state(), batch if within_epoch else f"epoch {len(self.history)}")

    def restore(self, state: State) -> None:
        """Resume from a state that `save` stored."""
        device = self._train.labels.device
        self._network.load_state_dict(state["network"])
        # Keep this process's groups: their learning rate is already on the right device.
        groups = self._optimizer.state_dict()["param_groups"]
        self._optimizer.load_state_dict({"state": state["optimizer"], "param_groups": groups})
        self._generator.set_state(state["generator"])
        torch.set_rng_state(state["torch"])
        if device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda"], device)
        self.history = [Epoch(**epoch) for epoch in state["history"]]
        self.best = {key: value.to(device) for key, value in state["best"].items()}
        self.best_epoch = state["best_epoch"]
        self._order = None if state["order"] is None else state["order"].to(device)
        self._losses.copy_(state["losses"])
        self._n_done, self._seconds, self._lr = state["n_done"], state["seconds"], state["lr"]
        n_steps = len(self.history) * len(self._losses) + self._n_done
        self._schedule = LambdaLR(self._optimizer, self._lr_multiplier, last_epoch=n_steps - 1)

    def _state(self) -> State:
        device = self._train.labels.device
        return {
            "network": self._network.state_dict(),
            "optimizer": self._optimizer.state_dict()["state"],
            "generator": self._generator.get_state(),
            "torch": torch.get_rng_state(),  # used by dropout
            "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
            "history": [asdict(epoch) for epoch in self.history],
            "best": self.best,
            "best_epoch": self.best_epoch,
            "order": self._order,
            "losses": self._losses,
            "n_done": self._n_done,
            "seconds": self._seconds,
            "lr": float(self._lr),
        }

    def _step(self, batch: Tensor) -> Tensor:
        """One optimiser step on the images at `batch` (B,); returns their summed loss.

        The loss is the mean over the batch's known labels, whatever its micro-batches.
        """
        inputs, labels = self._train.inputs, self._train.labels
        n_known = _n_known(labels[batch])
        summed_loss = torch.zeros((), device=labels.device)
        self._optimizer.zero_grad(set_to_none=True)
        for index in batch.chunk(math.ceil(len(batch) / inputs.micro_batch_size)):
            x = inputs.batch(index, self._generator)  # at full precision
            loss = cross_entropy(self._network(x), labels[index])
            n = _n_known(labels[index])
            (loss * (n / n_known.clamp(min=1 / labels.shape[1]))).backward()
            summed_loss += loss.detach() * n
        self._optimizer.step()
        return summed_loss

    def _diverged(self, checkpoint: Checkpoint, quantity: str = "the loss") -> CxrError:
        not_finite = (~torch.isfinite(self._losses)).nonzero()
        batch = int(not_finite[0]) + 1 if len(not_finite) else self._n_done
        last = checkpoint.last()
        return CxrError(
            f"training diverged in epoch {len(self.history) + 1}, batch {batch} of "
            f"{len(self._losses)}: {quantity} is not a finite number; lower the learning rate "
            f"(lr: {self._hyper.lr:g})" + (f"; the last good checkpoint is {last}" if last else "")
        )


def set_prior_bias(head: nn.Linear, labels: Tensor) -> None:
    """Set a head's bias to the logit of each label's prevalence.

    The first epochs need not learn then that findings are rare (Lin et al., "Focal loss", 2017,
    3.3). Adding one image per class keeps it finite.
    """
    positives, negatives = ((labels == value).sum(dim=0).float() for value in (1, 0))
    with torch.no_grad():
        head.bias.copy_(torch.log((positives + 1) / (negatives + 1)))


def _n_known(labels: Tensor) -> Tensor:
    """The number of known labels (B, L), as that of images: the number of images if all are."""
    return (labels >= 0).sum() / labels.shape[1]


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean binary cross-entropy of the known labels; the others have no gradient.

    Parameters
    ----------
    logits, labels : (B, L); a label below 0 is unknown.
    """
    known = (labels >= 0).float()
    mean = F.binary_cross_entropy_with_logits(logits, labels.clamp(min=0), weight=known)
    # That mean is over all labels; dividing by a share of 1 changes no bit. A batch may have none.
    return mean / known.mean().clamp(min=1 / known.numel())


def _measure(
    number: int,
    train_loss: float,
    logits: npt.NDArray[np.float32],
    val: Examples,
    lr: float,
    seconds: float,
    n_images: int,
) -> Epoch:
    labels = val.labels.cpu()
    y = labels.numpy().astype(np.int8)
    macro_auroc = metrics.macro(metrics.auroc(y, logits))
    if math.isnan(macro_auroc):
        raise CxrError(
            "no label has both classes in the validation split, so the best epoch cannot be "
            "chosen; add images to the split"
        )
    return Epoch(
        epoch=number,
        train_loss=train_loss,
        val_loss=float(cross_entropy(torch.from_numpy(logits), labels)),
        val_macro_auroc=macro_auroc,
        val_macro_ap=metrics.macro(metrics.average_precision(y, logits)),
        lr=lr,
        seconds=seconds,
        images_per_second=n_images / seconds,
    )


def _adamw(network: nn.Module, hyper: ModelParams, device: torch.device) -> torch.optim.AdamW:
    groups = _decay_groups(network, hyper.weight_decay)
    for group in groups:
        group["initial_lr"] = hyper.lr  # the base of LambdaLR: a float, even on a GPU
    if device.type == "cuda":  # one kernel; a captured step reads the learning rate on the device
        lr = torch.tensor(hyper.lr, device=device)
        return torch.optim.AdamW(groups, lr=lr, fused=True, capturable=True)
    return torch.optim.AdamW(groups, lr=hyper.lr)


def _decay_groups(network: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Weight decay only for matrices and kernels, except those that the network exempts."""
    exempt = network.no_weight_decay() if isinstance(network, Network) else set()
    if unknown := exempt - {name for name, _ in network.named_parameters()}:
        raise ValueError(
            f"no_weight_decay() names unknown parameters: {', '.join(sorted(unknown))}"
        )
    trainable = [(name, p) for name, p in network.named_parameters() if p.requires_grad]
    decayed = [p for name, p in trainable if p.ndim >= 2 and name not in exempt]
    not_decayed = [p for name, p in trainable if p.ndim < 2 or name in exempt]
    return [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": not_decayed, "weight_decay": 0.0},
    ]


def _warmup_cosine(warmup: int, total: int) -> Callable[[int], float]:
    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))

    return factor
