"""Learning curves."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from cxr.data.splits import Origin
from cxr.plots.figure import COLOURS, GREY, finish
from cxr.training import Epoch


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
