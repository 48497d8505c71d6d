"""Learning curves: of one training, and of all models over each other."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from cxr.data.splits import Origin
from cxr.plots.figure import COLOURS, GREY, finish
from cxr.training.loop import Epoch


def learning_curves(
    history: Sequence[Epoch], best_epoch: int, model: str, origin: Origin, path: Path
) -> None:
    """Losses, validation AUROC and learning rate by epoch; the kept epoch is marked."""
    figure = Figure(figsize=(10.5, 3.6), layout="constrained")
    loss, area, rate = figure.subplots(1, 3, width_ratios=(3, 3, 2))
    epochs = [epoch.epoch for epoch in history]
    loss.plot(epochs, [e.train_loss for e in history], color=COLOURS[0], label="training")
    loss.plot(epochs, [e.val_loss for e in history], color=COLOURS[1], label="validation")
    loss.set_ylabel("binary cross-entropy")
    loss.legend(frameon=False)
    area.plot(epochs, [e.val_macro_auroc for e in history], color=COLOURS[1])
    area.axhline(0.5, color=GREY, linewidth=0.8, linestyle=":")
    area.set_ylabel("validation macro AUROC")
    rate.plot(epochs, [e.lr for e in history], color=GREY)
    rate.set_ylabel("learning rate")
    for ax in (loss, area, rate):
        ax.axvline(best_epoch, color=GREY, linewidth=0.8, linestyle="--")
        ax.set_xlabel("epoch")
        ax.spines[["top", "right"]].set_visible(False)
    best = history[best_epoch - 1].val_macro_auroc
    finish(figure, f"{model}: epoch {best_epoch} kept, AUROC {best:.3f}", origin, path)


def curves_of_models(
    histories: Mapping[str, Sequence[Mapping[str, float]]], origin: Origin, path: Path
) -> None:
    """Loss and validation AUROC of every model by epoch, over each other.

    Parameters
    ----------
    histories : by model, the rows of its `history.csv`.
    """
    figure = Figure(figsize=(10.5, 4), layout="constrained")
    loss, area = figure.subplots(1, 2)
    for i, (model, rows) in enumerate(histories.items()):
        colour = COLOURS[i % len(COLOURS)]
        epochs = [row["epoch"] for row in rows]
        loss.plot(epochs, [row["train_loss"] for row in rows], color=colour, linestyle="--")
        loss.plot(epochs, [row["val_loss"] for row in rows], color=colour, label=model)
        areas = [row["val_macro_auroc"] for row in rows]
        best = areas.index(max(areas))
        area.plot(epochs, areas, color=colour, label=model)
        area.plot(epochs[best], areas[best], "o", color=colour)
    loss.set_ylabel("binary cross-entropy")
    loss.plot([], [], color=GREY, linestyle="--", label="training")
    loss.plot([], [], color=GREY, label="validation")
    area.set_ylabel("macro AUROC on validation")
    for ax in (loss, area):
        ax.set_xlabel("epoch")
        ax.xaxis.get_major_locator().set_params(integer=True)
        ax.legend(frameon=False)
        ax.spines[["top", "right"]].set_visible(False)
    finish(figure, "Learning curves", origin, path)
