"""The 14 findings of ChestMNIST, in its column order.

Equal to `medmnist.INFO["chestmnist"]["label"]`, which is not imported here because `medmnist`
imports torch; a test holds the two together.
"""

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

# What others call them: NIH's table of ChestX-ray14, and its table of boxes.
ALIASES = {
    "pleural_thickening": "pleural",
    "pleuralthickening": "pleural",
    "infiltrate": "infiltration",
}


def canonical(name: str) -> str | None:
    """Our name of a finding in any case and of any source, None where it is none of the 14."""
    plain = name.strip().lower().replace(" ", "_").replace("-", "_")
    plain = ALIASES.get(plain, plain)
    return plain if plain in LABELS else None
