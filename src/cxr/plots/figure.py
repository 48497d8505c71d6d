"""Common parts of all figures: colours, resolution, and the title with the name of the data."""

from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib

from cxr.data.splits import Origin

if TYPE_CHECKING:
    from matplotlib.figure import Figure  # takes 0.3 s, and heat maps are drawn without it

matplotlib.rcParams["text.parse_math"] = False  # a name with two dollar signs is not a formula

DPI = 100
# A palette for all types of colour vision (Okabe & Ito, 2008).
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
GREY = "#777777"
MOST_CHARACTERS = 22  # of a label's name, so that panels and axes keep their room


def data_line(origin: Origin) -> str:
    """The name of the data, which every figure shows; phantom data is marked in capitals."""
    if origin.is_phantom:
        return f"PHANTOM: synthetic images, no patients ({origin.name})"
    return f"data: {origin.name}"


def short(name: str) -> str:
    """A label's name in a figure, cut off if it is long."""
    return name if len(name) <= MOST_CHARACTERS else f"{name[: MOST_CHARACTERS - 1].rstrip()}…"


def finish(figure: "Figure", title: str, origin: Origin, path: Path) -> None:
    """Add the title and the name of the data, and save."""
    figure.suptitle(f"{title}\n{data_line(origin)}", fontsize=11)
    # Without program and time, so that equal figures are identical files.
    metadata = {"Date": None, "Creator": None} if path.suffix == ".svg" else {"Software": None}
    figure.savefig(path, dpi=DPI, metadata=metadata)
