"""What every figure has in common: colours, size, and the name of its data."""

from pathlib import Path

from matplotlib.figure import Figure

from cxr.data.splits import Origin

DPI = 100
# Colours that people with any colour vision tell apart (Okabe & Ito, 2008).
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
GREY = "#777777"


def finish(
    figure: Figure, title: str, origin: Origin, path: Path, top: float | None = None
) -> None:
    """Write it under its title and data; one made from the phantom says so in capitals.

    Parameters
    ----------
    top : of the title, as a share of the figure's height; without it the layout makes room.
    """
    data = (
        f"PHANTOM: synthetic images, no patients ({origin.name})"
        if origin.is_phantom
        else f"data: {origin.name}"
    )
    place = {} if top is None else {"y": top}  # a place that is given stays out of the layout
    # A name with two dollar signs is no formula.
    figure.suptitle(f"{title}\n{data}", fontsize=11, parse_math=False, **place)
    # Neither the program nor the time: equal figures are equal files.
    silent = {"Date": None, "Creator": None} if path.suffix == ".svg" else {"Software": None}
    figure.savefig(path, dpi=DPI, metadata=silent)
