"""Names of labels: ChestMNIST's 14 findings in its column order, and other spellings of them.

The 14 equal `medmnist.INFO["chestmnist"]["label"]`, which is not imported here because `medmnist`
imports torch; a test compares the two. Other data name their own labels.
"""

import re
from collections.abc import Sequence

UNKNOWN = -1  # the value of a label that is neither 0 nor 1
MOST_LABELS, MOST_CHARACTERS = 100, 60

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


def in_order(names: Sequence[str]) -> list[int]:
    """The positions of ChestMNIST's findings in its order, then those of other labels."""
    rank = {name: i for i, name in enumerate(CHESTMNIST)}
    return sorted(range(len(names)), key=lambda i: rank.get(names[i], len(rank)))


def path_names(names: Sequence[str]) -> tuple[str, ...]:
    """Each label's name in file paths and MLflow metrics: letters, digits, `_` and `-`."""
    safe = [UNSAFE.sub("_", name) for name in names]
    counts = [[other.lower() for other in safe].count(name.lower()) for name in safe]
    return tuple(
        name if n == 1 else f"{name}_{i}"
        for i, (name, n) in enumerate(zip(safe, counts, strict=True))
    )
