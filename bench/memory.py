"""The peak of anonymous memory of every stage, above a bare `import torch`.

At ChestMNIST's full size, where the frozen backbone sees smaller images than it does by default
(it keeps 8 at a time, whatever their number), and on 6,000 images of 224 px.
"""

import tempfile
from pathlib import Path
from typing import Any

from bench import stages
from bench.measure import Row

ONE_PASS: dict[str, Any] = {
    "download.source": "phantom",
    "train.protocol.epochs": 1,
    "train.squeezenet.weights": "none",
    "gradcam.indices": [0],
    "gradcam.labels": "findings",
}
FULL_SIZE = ONE_PASS | {"train.squeezenet.image_size": 32, "gradcam.max_images": 1000}
LARGE_IMAGES = ONE_PASS | {
    "download.size": 224,
    "download.phantom.train": 600,
    "download.phantom.val": 400,
    "download.phantom.test": 5000,
    "train.vit.patch": 16,
    "gradcam.max_images": 100,
    "gradcam.max_findings": 4,
}
SETTINGS = (
    ("full size", FULL_SIZE, 1500),
    ("6,000 images of 224 px", LARGE_IMAGES, 1000),
)
PREPROCESS = 10  # seconds


def measure() -> list[Row]:
    rows = []
    with tempfile.TemporaryDirectory() as place:
        torch = stages.cost(["-c", "import torch"], Path(place))
        for what, changes, most in SETTINGS:
            folder = Path(place, what)
            stages.clone(folder, changes)
            for stage in stages.ORDER:
                cost = stages.run(stage, folder)
                above = max(0.0, cost.megabytes - torch.megabytes)
                rows.append(Row.of_a_bar(f"memory of {stage}, {what}", above, most, "MB"))
                if stage == "preprocess" and changes is FULL_SIZE:
                    rows.append(Row.of_a_bar("preprocess, full size", cost.seconds, PREPROCESS))
    return rows
