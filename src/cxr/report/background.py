"""Background for a reader of the report: ChestMNIST's findings, and published results."""

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
    """A published result on ChestMNIST's test split at 28 px."""

    model: str
    source: str
    macro_auroc: float | None
    accuracy: float | None
    parameters: int | None  # trained only


# For the three models that this pipeline's own are based on, only accuracy was reported.
STARTED_FROM = "the work that this pipeline is based on"
MEDMNIST = "Yang et al., MedMNIST v2, 2023"
REPORTED = (
    Reported("CNN of three convolutions", STARTED_FROM, None, 0.9459, 596_654),
    Reported("SqueezeNet 1.1, frozen", STARTED_FROM, None, 0.9474, 7_182),
    Reported("Vision Transformer", STARTED_FROM, None, 0.9474, 206_094),
    Reported("ResNet-18", MEDMNIST, 0.768, 0.947, None),
    Reported("ResNet-50", MEDMNIST, 0.769, 0.947, None),
    Reported("Google AutoML Vision", MEDMNIST, 0.778, 0.948, None),
)
