"""Grad-CAM maps of a few images, for every label and model, as data URIs for the page."""

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
from cxr.data.splits import Split
from cxr.documents import read_output
from cxr.paths import ATTRIBUTIONS, EVALUATION, MAPS_REPORT, PROCESSED, SAMPLES
from cxr.plots.gradcam import ANSWERS, UNITS, overlay

YES = ANSWERS[1]
QUALITY = 88  # of JPEG; the only sharp edges in a map are the image's own pixels
PICTURES = {
    "samples": SAMPLES,
    "hard_examples": f"{EVALUATION}/hard_examples.png",
    "label_pairs": f"{EVALUATION}/label_pairs.png",
}


@dataclass(frozen=True)
class Map:
    """One model's prediction and attribution map for one label of one image."""

    picture: str  # data URI
    prob: float
    threshold: float | None
    strongest: float  # highest attribution for the label; no attribution if <= 0

    @property
    def predicted_positive(self) -> bool | None:
        return None if self.threshold is None else self.prob >= self.threshold


@dataclass(frozen=True)
class ImageCase:
    """One image with its maps, `maps[model][label]`."""

    name: str
    picture: str
    truth: dict[str, str]  # yes, no or unknown
    maps: dict[str, dict[str, Map]]


@dataclass(frozen=True)
class Sheets:
    """All images with their maps, and each model's method and unit of attribution."""

    cases: list[ImageCase]
    methods: dict[str, str]
    units: dict[str, str]
    first_label: str  # shown first


def gather(project: Path, models: tuple[str, ...]) -> Sheets:
    """Read the maps that gradcam has stored, and the images that they belong to."""
    report = read_output(project / MAPS_REPORT, dict)
    split = splits.open_split(project / PROCESSED, report["split"])
    maps: dict[str, dict[int, dict[str, Map]]] = {
        name: _maps(project, name, split) for name in models
    }
    indices = list(next(iter(maps.values())))
    cases = [
        ImageCase(
            name=f"{report['split']} image {index}",
            picture=_png(split.images[index]),
            truth={
                label: ANSWERS[int(y)]
                for label, y in zip(split.names, split.labels[index], strict=True)
            },
            maps={name: maps[name][index] for name in models},
        )
        for index in indices
    ]
    methods = {name: report["models"][name]["method"] for name in models}
    units = {name: UNITS[method] for name, method in methods.items()}
    return Sheets(cases, methods, units, _most_present(cases))


def pictures(project: Path) -> dict[str, str]:
    """The stages' figures that the page shows unchanged, as data URIs."""
    return {
        name: _data_uri((project / path).read_bytes(), "png")
        for name, path in PICTURES.items()
        if (project / path).exists()
    }


def _maps(project: Path, model: str, split: Split) -> dict[int, dict[str, Map]]:
    with NpzReader(project / ATTRIBUTIONS / f"{model}.npz") as archive:
        indices, probs, thresholds, attribution = (
            archive.read(key) for key in ("indices", "probs", "thresholds", "attribution")
        )
    maps = {}
    for row, index in enumerate(indices.tolist()):
        # As in the stage's figures, full colour is the strongest attribution for any label.
        scale = float(np.abs(attribution[row]).max()) or 1.0
        maps[index] = {
            label: Map(
                picture=_jpeg(overlay(split.images[index], attribution[row, i], scale)),
                prob=float(probs[row, i]),
                threshold=_or_none(thresholds[i]),
                strongest=float(attribution[row, i].max()),
            )
            for i, label in enumerate(split.names)
        }
    return maps


def _most_present(cases: list[ImageCase]) -> str:
    """The most frequent label among the images; the first one in a tie."""
    labels = cases[0].truth
    return max(labels, key=lambda label: sum(case.truth[label] == YES for case in cases))


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _png(grey: npt.NDArray[np.uint8]) -> str:
    return _encoded(Image.fromarray(np.asarray(grey)), "png")


def _jpeg(rgb: npt.NDArray[np.uint8]) -> str:
    return _encoded(Image.fromarray(rgb), "jpeg", quality=QUALITY)


def _encoded(image: Image.Image, kind: str, **settings: Any) -> str:
    file = io.BytesIO()
    image.save(file, kind, **settings)
    return _data_uri(file.getvalue(), kind)


def _data_uri(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"
