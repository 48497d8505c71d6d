"""Peak anonymous memory of every stage above that of `import torch`.

Measured at ChestMNIST's full size, with smaller images for the frozen backbone than the default
(it processes 8 at a time, so their number does not matter), and on 6,000 images of 224 px.
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
PREPROCESS = 10  # limit in seconds


def measure() -> list[Row]:
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        torch = stages.cost(["-c", "import torch"], Path(temporary))
        for size, changes, limit in SETTINGS:
            folder = Path(temporary, size)
            stages.clone(folder, changes)
            for stage in stages.ORDER:
                cost = stages.run(stage, folder)
                above = max(0.0, cost.megabytes - torch.megabytes)
                rows.append(Row.with_limit(f"memory of {stage}, {size}", above, limit, "MB"))
                if stage == "preprocess" and changes is FULL_SIZE:
                    rows.append(Row.with_limit("preprocess, full size", cost.seconds, PREPROCESS))
    return rows
