"""Common parts of all figures: colours, resolution, and the title with the name of the data."""

from pathlib import Path

from matplotlib.figure import Figure

from cxr.data.splits import Origin

DPI = 100
# A palette for all types of colour vision (Okabe & Ito, 2008).
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
GREY = "#777777"


def finish(
    figure: Figure, title: str, origin: Origin, path: Path, top: float | None = None
) -> None:
    """Add the title and the name of the data, and save; phantom data is marked in capitals.

    Parameters
    ----------
    top : top of the title as a fraction of the figure's height (default: placed by the layout).
    """
    data = (
        f"PHANTOM: synthetic images, no patients ({origin.name})"
        if origin.is_phantom
        else f"data: {origin.name}"
    )
    position = {} if top is None else {"y": top}  # a given position is ignored by the layout
    # parse_math=False: a name with two dollar signs is not a formula.
    figure.suptitle(f"{title}\n{data}", fontsize=11, parse_math=False, **position)
    # Without program and time, so that equal figures are identical files.
    metadata = {"Date": None, "Creator": None} if path.suffix == ".svg" else {"Software": None}
    figure.savefig(path, dpi=DPI, metadata=metadata)
