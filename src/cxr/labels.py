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
