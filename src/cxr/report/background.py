"""What a reader must know beside a run's own numbers: the 14 findings, and what others reported."""

from dataclasses import dataclass

FINDINGS = {
    "atelectasis": "a part of a lung that has lost its air and collapsed",
    "cardiomegaly": "a heart wider than half of the chest",
    "effusion": "fluid between a lung and the chest wall",
    "infiltration": "a hazy density in a lung; reports use the word for many causes",
    "mass": "a rounded density of more than 3 cm",
    "nodule": "a rounded density of up to 3 cm",
    "pneumonia": "an infection that fills lung tissue",
    "pneumothorax": "air between a lung and the chest wall, which lets the lung collapse",
    "consolidation": "lung tissue that holds fluid, pus or cells instead of air",
    "edema": "fluid in the lung tissue, most often from a weak heart",
    "emphysema": "destroyed air sacs: lungs blown up, dark and without fine vessels",
    "fibrosis": "scarred lung tissue",
    "pleural": "a thickened lining of the lung (pleural thickening)",
    "hernia": "stomach or bowel that has slipped through the diaphragm into the chest",
}


@dataclass(frozen=True)
class Reported:
    """A result on ChestMNIST's test split at 28 px as its authors printed it."""

    model: str
    source: str
    macro_auroc: float | None
    accuracy: float | None
    parameters: int | None  # trained


# The three models that this pipeline's own are made after were reported by accuracy alone.
STARTED_FROM = "the work that this pipeline starts from"
MEDMNIST = "Yang et al., MedMNIST v2, 2023"
REPORTED = (
    Reported("CNN of three convolutions", STARTED_FROM, None, 0.9459, 596_654),
    Reported("SqueezeNet 1.1, frozen", STARTED_FROM, None, 0.9474, 7_182),
    Reported("Vision Transformer", STARTED_FROM, None, 0.9474, 206_094),
    Reported("ResNet-18", MEDMNIST, 0.768, 0.947, None),
    Reported("ResNet-50", MEDMNIST, 0.769, 0.947, None),
    Reported("Google AutoML Vision", MEDMNIST, 0.778, 0.948, None),
)
