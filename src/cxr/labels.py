"""The 14 findings of ChestMNIST, in its column order.

Equal to `medmnist.INFO["chestmnist"]["label"]`, which is not imported here because `medmnist`
imports torch; a test compares the two.
"""

import re

LABELS: tuple[str, ...] = (
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

# Other names, without separators: from NIH's table of ChestX-ray14 and its table of boxes,
# CheXpert, and British spelling.
ALIASES = {
    "pleuralthickening": "pleural",
    "pleuraleffusion": "effusion",
    "infiltrate": "infiltration",
    "oedema": "edema",
}
SEPARATORS = re.compile(r"[\s._-]+")


def bare(name: str) -> str:
    """A name in lower case without spaces, dots, hyphens and underscores."""
    return SEPARATORS.sub("", name.lower())


def canonical(name: str) -> str | None:
    """Our name of a finding, given any case or alias; None if it is not one of the 14."""
    plain = ALIASES.get(bare(name), bare(name))
    return plain if plain in LABELS else None
