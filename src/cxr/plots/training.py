"""Learning curves of one model and of all models."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from cxr.data.splits import Origin
from cxr.plots.figure import COLOURS, GREY, finish
from cxr.training.loop import Epoch


def learning_curves(
    history: Sequence[Epoch], best_epoch: int, model: str, origin: Origin, path: Path
) -> None:
    """Losses, validation AUROC and learning rate by epoch; the best epoch is marked."""
    figure = Figure(figsize=(10.5, 3.6), layout="constrained")
    loss, auroc, lr = figure.subplots(1, 3, width_ratios=(3, 3, 2))
    epochs = [epoch.epoch for epoch in history]
    loss.plot(epochs, [e.train_loss for e in history], color=COLOURS[0], label="Training")
    loss.plot(epochs, [e.val_loss for e in history], color=COLOURS[1], label="Validation")
    loss.set_ylabel("Cross-entropy loss")
    loss.legend(frameon=False)
    auroc.plot(epochs, [e.val_macro_auroc for e in history], color=COLOURS[1])
    auroc.axhline(0.5, color=GREY, linewidth=0.8, linestyle=":")
    auroc.set_ylabel("Macro AUROC (validation)")
    lr.plot(epochs, [e.lr for e in history], color=GREY)
    lr.set_ylabel("Learning rate")
    for ax in (loss, auroc, lr):
        ax.axvline(best_epoch, color=GREY, linewidth=0.8, linestyle="--")
        ax.set_xlabel("Epoch")
        ax.spines[["top", "right"]].set_visible(False)
    best = history[best_epoch - 1].val_macro_auroc
    title = f"{model}: best epoch {best_epoch}, macro AUROC {best:.3f} (validation)"
    finish(figure, title, origin, path)


def curves_of_models(
    histories: Mapping[str, Sequence[Mapping[str, float]]], origin: Origin, path: Path
) -> None:
    """Loss and validation AUROC of all models by epoch.

    Parameters
    ----------
    histories : by model, the rows of its `history.csv`.
    """
    figure = Figure(figsize=(10.5, 4), layout="constrained")
    loss, auroc = figure.subplots(1, 2)
    for i, (model, rows) in enumerate(histories.items()):
        colour = COLOURS[i % len(COLOURS)]
        epochs = [row["epoch"] for row in rows]
        loss.plot(epochs, [row["train_loss"] for row in rows], color=colour, linestyle="--")
        loss.plot(epochs, [row["val_loss"] for row in rows], color=colour, label=model)
        aurocs = [row["val_macro_auroc"] for row in rows]
        best = aurocs.index(max(aurocs))
        auroc.plot(epochs, aurocs, color=colour, label=model)
        auroc.plot(epochs[best], aurocs[best], "o", color=colour)
    loss.set_ylabel("Cross-entropy loss")
    loss.plot([], [], color=GREY, linestyle="--", label="Training")
    loss.plot([], [], color=GREY, label="Validation")
    auroc.set_ylabel("Macro AUROC (validation)")
    for ax in (loss, auroc):
        ax.set_xlabel("Epoch")
        ax.xaxis.get_major_locator().set_params(integer=True)
        ax.legend(frameon=False)
        ax.spines[["top", "right"]].set_visible(False)
    finish(figure, "Learning curves", origin, path)
