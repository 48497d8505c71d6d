"""Grad-CAM maps of a few images, every label of every model, small enough to stand in a page."""

import base64
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from cxr.data import splits
from cxr.data.npz import NpzReader
from cxr.documents import read_output
from cxr.evaluation import decisions
from cxr.labels import LABELS
from cxr.paths import DECISIONS, EVALUATION, MAPS, MAPS_REPORT, PROCESSED, SAMPLES
from cxr.plots.gradcam import UNITS, overlay

QUALITY = 88  # of JPEG: a map has no sharp edges but the image's own pixels
PICTURES = {
    "samples": SAMPLES,
    "hard_examples": f"{EVALUATION}/hard_examples.png",
    "label_pairs": f"{EVALUATION}/label_pairs.png",
}


@dataclass(frozen=True)
class Map:
    """What one model says of one label of one image, and where it sees it."""

    picture: str  # an address that holds the picture itself
    prob: float
    threshold: float | None
    strongest: float  # attribution for the label; at most 0: there is none

    @property
    def predicted_positive(self) -> bool | None:
        return None if self.threshold is None else self.prob >= self.threshold


@dataclass(frozen=True)
class ImageCase:
    """One image with the maps of every model: `maps[model][label]`."""

    name: str
    picture: str
    truth: dict[str, bool]
    maps: dict[str, dict[str, Map]]


@dataclass(frozen=True)
class Sheets:
    """The images, and what full colour stands for in each model's maps."""

    cases: list[ImageCase]
    methods: dict[str, str]
    units: dict[str, str]
    first_label: str  # one that there is something to see of


def gather(project: Path, models: tuple[str, ...]) -> Sheets:
    """The maps that gradcam has kept, over the images that they were made of."""
    told = read_output(project / MAPS_REPORT, dict)
    split = splits.open_split(project / PROCESSED, told["split"])
    maps: dict[str, dict[int, dict[str, Map]]] = {
        name: _maps(project, name, split.images) for name in models
    }
    indices = list(next(iter(maps.values())))
    cases = [
        ImageCase(
            name=f"{told['split']} image {index}",
            picture=_png(split.images[index]),
            truth={label: bool(split.labels[index, i]) for i, label in enumerate(LABELS)},
            maps={name: maps[name][index] for name in models},
        )
        for index in indices
    ]
    methods = {name: told["models"][name]["method"] for name in models}
    units = {name: UNITS[method] for name, method in methods.items()}
    return Sheets(cases, methods, units, _most_present(cases))


def pictures(project: Path) -> dict[str, str]:
    """Figures of the stages that stand in the page as they are."""
    return {
        name: _address((project / path).read_bytes(), "png")
        for name, path in PICTURES.items()
        if (project / path).exists()
    }


def _maps(project: Path, model: str, images: npt.NDArray[np.uint8]) -> dict[int, dict[str, Map]]:
    decision = decisions.read(project / DECISIONS / f"{model}.json")
    with NpzReader(project / MAPS / f"{model}.npz") as kept:
        indices, logits, attribution = (
            kept.read(key) for key in ("indices", "logits", "attribution")
        )
    probs = decision.calibration.probs(logits)
    found = {}
    for row, index in enumerate(indices.tolist()):
        # As on the stage's sheets: full colour is the strongest attribution of any label.
        scale = float(np.abs(attribution[row]).max()) or 1.0
        found[index] = {
            label: Map(
                picture=_jpeg(overlay(images[index], attribution[row, i], scale)),
                prob=float(probs[row, i]),
                threshold=_or_none(decision.thresholds[i]),
                strongest=float(attribution[row, i].max()),
            )
            for i, label in enumerate(LABELS)
        }
    return found


def _most_present(cases: list[ImageCase]) -> str:
    """The finding that most of the images have; of equally many the first."""
    return max(LABELS, key=lambda label: sum(case.truth[label] for case in cases))


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _png(grey: npt.NDArray[np.uint8]) -> str:
    return _encoded(Image.fromarray(np.asarray(grey)), "png")


def _jpeg(rgb: npt.NDArray[np.uint8]) -> str:
    return _encoded(Image.fromarray(rgb), "jpeg", quality=QUALITY)


def _encoded(image: Image.Image, kind: str, **settings: Any) -> str:
    file = io.BytesIO()
    image.save(file, kind, **settings)
    return _address(file.getvalue(), kind)


def _address(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"
