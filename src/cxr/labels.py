"""Names of labels: ChestMNIST's 14 findings in its column order, and other spellings of them.

The 14 equal `medmnist.INFO["chestmnist"]["label"]`, which is not imported here because `medmnist`
imports torch; a test compares the two. Other data name their own labels.
"""

import re
from collections.abc import Sequence

from cxr.errors import CxrError

UNKNOWN = -1  # the value of a label that is neither 0 nor 1
MOST_LABELS, MOST_CHARACTERS = 100, 60
RESERVED = ("assumed", "macro", "warnings")  # names of other columns next to those of labels

CHESTMNIST: tuple[str, ...] = (
    "atelectasis",
    "cardiomegaly",
    "effusion",
    "infiltration",
    "mass",
    "nodule",
    "pneumonia",
    "pneumothorax",
    "consolidation",
    "edema",
    "emphysema",
    "fibrosis",
    "pleural",
    "hernia",
)

# Other spellings, in lower case and without separators: of NIH's tables, CheXpert, MIMIC-CXR,
# PadChest and VinDr-CXR, and British ones.
SPELLINGS = {
    "cardiomegaly": ("enlargedheart",),
    "effusion": ("pleuraleffusion",),
    "infiltration": ("infiltrate", "infiltrates"),
    "mass": ("pulmonarymass", "lungmass"),
    "nodule": ("pulmonarynodule", "lungnodule"),
    "edema": ("oedema", "pulmonaryedema", "pulmonaryoedema"),
    "emphysema": ("pulmonaryemphysema",),
    "fibrosis": ("pulmonaryfibrosis",),
    "pleural": ("pleuralthickening",),
    "hernia": ("hiatalhernia", "hiatushernia"),
}
FINDINGS = {name: name for name in CHESTMNIST} | {
    spelling: name for name, spellings in SPELLINGS.items() for spelling in spellings
}
SEPARATORS = re.compile(r"[\s._-]+")
UNSAFE = re.compile(r"[^\w-]+")


def bare(name: str) -> str:
    """A name in lower case without spaces, dots, hyphens and underscores."""
    return SEPARATORS.sub("", name.lower())


def canonical(name: str) -> str | None:
    """ChestMNIST's name of a finding, given in any case or spelling; None for other labels."""
    return FINDINGS.get(bare(name))


def checked_names(names: Sequence[str], where: str) -> tuple[str, ...]:
    """The names of labels, known findings by ChestMNIST's names.

    Parameters
    ----------
    where : the array or parameter that holds the names, for messages.

    Raises
    ------
    CxrError
        If there are none or too many, or a name is not usable or repeated.
    """
    if not 1 <= len(names) <= MOST_LABELS:
        raise CxrError(f"{where}: {len(names)} labels; expected 1 to {MOST_LABELS}")
    standard = tuple(canonical(name) or name.strip() for name in names)
    for i, name in enumerate(standard):
        if not name.isprintable() or not 1 <= len(name) <= MOST_CHARACTERS:
            raise CxrError(
                f"{where}: {names[i]!r} can't be the name of a label; use 1 to {MOST_CHARACTERS} "
                "printable characters"
            )
        if name in RESERVED:
            raise CxrError(f"{where}: a label can't be named {name!r}; rename it")
        if (first := standard.index(name)) != i:
            raise CxrError(
                f"{where}: {names[first]!r} and {names[i]!r} are the same label, {name!r}; merge "
                "the two columns or rename one"
            )
    return standard


def in_order(names: Sequence[str]) -> list[int]:
    """The positions of ChestMNIST's findings in its order, then those of other labels."""
    rank = {name: i for i, name in enumerate(CHESTMNIST)}
    return sorted(range(len(names)), key=lambda i: rank.get(names[i], len(rank)))


def path_names(names: Sequence[str]) -> tuple[str, ...]:
    """Each label's name in file paths and MLflow metrics: letters, digits, `_` and `-`."""
    safe = [UNSAFE.sub("_", name) for name in names]
    lower = [name.lower() for name in safe]
    if len(set(lower)) == len(lower):
        return tuple(safe)
    return tuple(f"{i}_{name}" for i, name in enumerate(safe))
