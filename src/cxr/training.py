"""fit(): the one training loop, for every model on every device."""

import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import LambdaLR

from cxr import metrics
from cxr.augment import Batches
from cxr.errors import CxrError
from cxr.params import ModelParams, Params, Protocol


@dataclass(frozen=True)
class Epoch:
    """What one epoch showed; losses are means over images and labels."""

    epoch: int  # from 1
    train_loss: float
    val_loss: float
    val_macro_auroc: float
    val_macro_ap: float
    lr: float  # at the epoch's last step
    seconds: float  # of training, validation apart
    images_per_second: float


@dataclass(frozen=True)
class Fit:
    """The course of a training; the network itself was left with its best epoch's weights."""

    history: list[Epoch]
    best_epoch: int
    stopped_early: bool


@dataclass(frozen=True)
class Examples:
    """Inputs of a split and their labels, float (N, L) on the same device."""

    inputs: Batches
    labels: Tensor


def prepare(params: Params) -> str:
    """Seed and threads set before any tensor work; the device, a GPU where there is one."""
    make_deterministic(params.seed)
    torch.set_num_threads(params.threads)
    return "cuda" if torch.cuda.is_available() else "cpu"


def make_deterministic(seed: int) -> None:
    """Every random number of torch from `seed`, and only kernels that repeat their bits."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS repeats itself with it
    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(True)
    # All memory is written before it is read; to fill it first takes 7 % of a step.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False


def fit(
    network: nn.Module,
    head: nn.Linear,
    train: Examples,
    val: Examples,
    protocol: Protocol,
    hyper: ModelParams,
    seed: int,
    on_epoch: Callable[[Epoch], None],
    on_batch: Callable[[int, int], None],
) -> Fit:
    """Train `network` and leave it with the weights of its best epoch.

    AdamW (Loshchilov & Hutter, 2019) on binary cross-entropy with logits; the rate rises linearly
    over `warmup_epochs` and falls along a cosine. The best epoch is the one with the highest
    validation macro AUROC; training stops `patience` epochs after it.

    Parameters
    ----------
    network : maps inputs to logits (B, L).
    head : its last layer; its bias starts at the logit of each label's prevalence, so that the
        first epochs need not learn that findings are rare (Lin et al., "Focal loss", 2017, 3.3).
    on_epoch : called after every epoch.
    on_batch : called with the number of batches done and that of an epoch.

    Raises
    ------
    CxrError
        Where the loss stops being a number, or validation has no label with both classes.
    """
    device = train.labels.device
    set_prior_bias(head, train.labels)
    optimizer = torch.optim.AdamW(_decay_groups(network, hyper.weight_decay), lr=hyper.lr)
    steps = math.ceil(len(train.inputs) / protocol.batch_size)
    share_of_rate = _warmup_cosine(round(protocol.warmup_epochs * steps), protocol.epochs * steps)
    schedule = LambdaLR(optimizer, share_of_rate)
    generator = torch.Generator(device).manual_seed(seed)
    history: list[Epoch] = []
    best: dict[str, Tensor] = {}
    best_epoch = 0
    for number in range(1, protocol.epochs + 1):
        started = time.perf_counter()
        train_loss = train_one_epoch(
            network, train, protocol.batch_size, optimizer, schedule, generator, on_batch
        )
        seconds = time.perf_counter() - started
        logits = predict(network, val.inputs, device, protocol.batch_size)
        if not (math.isfinite(train_loss) and np.isfinite(logits).all()):
            what = "the loss" if not math.isfinite(train_loss) else "an output on validation"
            raise CxrError(
                f"training diverged in epoch {number}: {what} is not a finite number; lower the "
                f"learning rate, {hyper.lr:g}"
            )
        lr = hyper.lr * share_of_rate(number * steps - 1)
        epoch = _measure(number, train_loss, logits, val, lr, seconds, len(train.inputs))
        history.append(epoch)
        on_epoch(epoch)
        if best_epoch == 0 or epoch.val_macro_auroc > history[best_epoch - 1].val_macro_auroc:
            best_epoch = number
            # state_dict() gives references, which the next step would change.
            best = {key: value.clone() for key, value in network.state_dict().items()}
        if number - best_epoch >= protocol.patience:
            break
    network.load_state_dict(best)
    return Fit(history, best_epoch, stopped_early=len(history) < protocol.epochs)


def train_one_epoch(
    network: nn.Module,
    train: Examples,
    batch_size: int,
    optimizer: torch.optim.Optimizer,
    schedule: LambdaLR,
    generator: torch.Generator,
    on_batch: Callable[[int, int], None],
) -> float:
    """One pass over the shuffled training images; the mean loss, read from the device once.

    A batch of large images goes through in parts whose gradients add up to the batch's, so that
    memory does not grow with the images; batch norm takes its statistics from each part by itself
    ("ghost batch norm", Hoffer et al., "Train longer, generalize better", NeurIPS 2017).
    """
    device = train.labels.device
    network.train()
    order = torch.randperm(len(train.inputs), generator=generator, device=device)
    batches = order.split(batch_size)
    loss_sum = torch.zeros((), device=device)
    for done, batch in enumerate(batches, start=1):
        optimizer.zero_grad(set_to_none=True)
        for index in batch.chunk(math.ceil(len(batch) / train.inputs.at_once)):
            inputs = train.inputs.batch(index, generator)
            with _autocast(device):
                loss = F.binary_cross_entropy_with_logits(network(inputs), train.labels[index])
            (loss * (len(index) / len(batch))).backward()
            loss_sum += loss.detach() * len(index)
        optimizer.step()
        schedule.step()
        on_batch(done, len(batches))
    return float(loss_sum) / len(train.inputs)


@torch.inference_mode()
def predict(
    network: nn.Module, inputs: Batches, device: torch.device, batch_size: int
) -> npt.NDArray[np.float32]:
    """Logits (N, L) of all inputs, in evaluation mode."""
    network.eval()
    # One tensor from the start: kept parts would lie between the freed layers, which the C library
    # can then not join, and memory would grow with every pass.
    logits = torch.empty(0, device=device)
    most = min(batch_size, inputs.at_once)
    for index in torch.arange(len(inputs), device=device).split(most):
        with _autocast(device):
            of_part = network(inputs.batch(index, None)).float()
        if not len(logits):
            logits = torch.empty(len(inputs), of_part.shape[1], device=device)
        logits[index] = of_part
    values: npt.NDArray[np.float32] = logits.cpu().numpy()
    return values


def set_prior_bias(head: nn.Linear, labels: Tensor) -> None:
    """Bias = logit of the prevalence; one image more of each class keeps it finite."""
    positives = labels.sum(dim=0)
    with torch.no_grad():
        head.bias.copy_(torch.log((positives + 1) / (len(labels) - positives + 1)))


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
    y = labels.numpy().astype(np.uint8)
    macro_auroc = metrics.macro(metrics.auroc(y, logits))
    if math.isnan(macro_auroc):
        raise CxrError(
            "no label has both classes in the validation split, so no epoch can be called the "
            "best; give it more images"
        )
    return Epoch(
        epoch=number,
        train_loss=train_loss,
        val_loss=float(F.binary_cross_entropy_with_logits(torch.from_numpy(logits), labels)),
        val_macro_auroc=macro_auroc,
        val_macro_ap=metrics.macro(metrics.average_precision(y, logits)),
        lr=lr,
        seconds=seconds,
        images_per_second=n_images / seconds,
    )


def _decay_groups(network: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Weight decay for matrices and kernels alone; biases, norms and positions go without."""
    trainable = [(name, p) for name, p in network.named_parameters() if p.requires_grad]
    decayed = [p for name, p in trainable if p.ndim >= 2 and not name.endswith("positions")]
    plain = [p for name, p in trainable if p.ndim < 2 or name.endswith("positions")]
    return [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]


def _warmup_cosine(warmup: int, total: int) -> Callable[[int], float]:
    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))

    return factor


def _autocast(device: torch.device) -> torch.autocast:
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda")
