"""Predict image files with a trained model: probabilities, predictions, warnings, maps."""

import csv
import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cxr import cam, models
from cxr.arrays import Doubles
from cxr.cam.localisation import Maps
from cxr.data.ids import stem
from cxr.data.images import files
from cxr.data.images.find import Found
from cxr.data.images.picture import Picture, Topic
from cxr.data.ood import OodScores
from cxr.documents import write_atomically
from cxr.errors import CxrError
from cxr.evaluation import decisions
from cxr.evaluation.decisions import OperatingPoint
from cxr.models import SavedModel
from cxr.models.inputs import to_network_input
from cxr.paths import DECISIONS
from cxr.tracking.saved_models import find

NOTICE = "Not a medical device: a research model's output, not a diagnosis."
ANSWERS = {True: "predicted yes", False: "predicted no", None: "no prediction"}
OOD_SCORES = ("shape", "brightness", "contrast")
MAX_MAPS = 3  # per image

BATCH = 8  # images; at 224 pixels a CPU's cache holds no more


@dataclass(frozen=True)
class Model:
    """A network and its operating point."""

    saved: SavedModel
    operating_point: OperatingPoint


@dataclass(frozen=True)
class Prediction:
    """A model's prediction for one image."""

    path: Path
    size: tuple[int, int]  # height and width in pixels
    labels: tuple[str, ...]  # (L,), their names
    probs: Doubles  # (L,)
    predicted_positive: tuple[bool | None, ...]  # (L,), None if the label has no threshold
    ood: OodScores
    assumed: dict[Topic, str]  # what was assumed to read the file
    warnings: list[str]

    def as_json(self) -> dict[str, Any]:
        """One image in the JSON of `cxr predict --json`."""
        height, width = self.size
        return {
            "image": str(self.path),
            "width": width,
            "height": height,
            **{key: getattr(self.ood, key) for key in OOD_SCORES},
            "assumed": self.assumed,
            "warnings": self.warnings,
            "labels": {
                label: {"probability": float(prob), "predicted_positive": positive}
                for label, prob, positive in zip(
                    self.labels, self.probs, self.predicted_positive, strict=True
                )
            },
        }

    def assumed_as_text(self) -> str:
        """`topic: text; topic: text` for a table cell; empty if nothing was assumed."""
        return "; ".join(f"{topic}: {text}" for topic, text in self.assumed.items())


@dataclass(frozen=True)
class Refused:
    """A file that could not be used, with the reason."""

    path: Path
    reason: str


def load(name: str, project: Path | None) -> Model:
    """Load a model by its name in the project, the path of its folder, or its MLflow URI.

    Its operating point is in `decisions/` next to `models/`.
    """
    folder = find(name, project or Path())
    saved = models.load(folder)
    path = folder.resolve().parents[1] / DECISIONS / f"{saved.name}.json"
    operating_point = decisions.read(path)
    if saved.labels != operating_point.labels:
        raise CxrError(f"{folder} and {path} have different labels; run `dvc repro`")
    return Model(saved, operating_point)


def map_paths(paths: list[Path], folder: Path) -> dict[Path, Path]:
    """The file for the maps of each image; CxrError if it would overwrite another or an image.

    Images of several folders keep their paths, relative to their common parent, below `folder`.
    """
    outputs: dict[Path, Path] = {}
    images = {path.resolve() for path in paths}
    top = os.path.commonpath([Path(os.path.abspath(path)).parent for path in paths])  # noqa: PTH100
    for path in paths:
        parent = Path(os.path.abspath(path)).parent.relative_to(top)  # noqa: PTH100 - links stay
        output = folder / parent / f"{stem(path.name)}.maps.png"
        if output in outputs.values():
            raise CxrError(
                f"two images are named {path.parent / stem(path.name)}, so their maps would "
                "overwrite each other; predict them separately, with different folders for --cam"
            )
        if output.resolve() in images:
            raise CxrError(
                f"the maps of {path} would overwrite the image {output}; choose another folder "
                "for --cam"
            )
        outputs[path] = output
    try:
        for parent in {output.parent for output in outputs.values()}:
            parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CxrError(
            f"can't create the folder {folder} for maps: {error.strerror}; choose another for --cam"
        ) from None
    return outputs


def predict(
    model: Model, paths: list[Path], maps: dict[Path, Path]
) -> Iterator[Prediction | Refused]:
    """Predict each file, in order; a file that can't be used gives a `Refused`.

    Parameters
    ----------
    maps : the file for each image's maps; empty for none.
    """
    for start in range(0, len(paths), BATCH):
        results: dict[Path, Prediction | Refused] = {}
        pictures = []
        for path in paths[start : start + BATCH]:
            try:
                pictures.append(files.read(path))
            except CxrError as error:
                results[path] = Refused(path, str(error))
        if pictures:
            for each in predict_pictures(model, pictures, maps):
                results[each.path] = each
        for path in paths[start : start + BATCH]:
            yield results[path]


def predict_pictures(
    model: Model, pictures: list[Picture], maps: dict[Path, Path]
) -> Iterator[Prediction]:
    """Predict one batch of pictures, in order.

    Parameters
    ----------
    maps : the file for each picture's maps, by path; empty for none.
    """
    spec, network = model.saved.input, model.saved.network
    small = np.stack([each.square(spec.data_size, spec.resampling, spec.fit) for each in pictures])
    inputs = to_network_input(torch.from_numpy(small), spec)
    explained = cam.explain(network, inputs) if maps else None
    if explained is None:
        with torch.inference_mode():
            logits = network.eval()(inputs).numpy()
    else:
        logits = explained.logits
    probs = model.operating_point.calibration.probs(logits)
    ood = model.operating_point.ood.check(small)
    for i, picture in enumerate(pictures):
        height, width = picture.grey.shape
        prediction = Prediction(
            path=picture.path,
            size=(height, width),
            labels=model.saved.labels,
            probs=probs[i],
            predicted_positive=tuple(
                None if np.isnan(threshold) else bool(p >= threshold)
                for p, threshold in zip(probs[i], model.operating_point.thresholds, strict=True)
            ),
            ood=ood[i],
            assumed=picture.notes.assumed,
            warnings=[*picture.notes.warnings, *ood[i].warnings],
        )
        if explained is not None:
            _draw(model, picture, prediction, explained.attribution[i], maps[picture.path])
        yield prediction


def _draw(
    model: Model, picture: Picture, prediction: Prediction, attribution: Maps, path: Path
) -> None:
    """Draw the image with a map per predicted finding, or of the most likely one if none."""
    from cxr.plots.prediction import overlays  # a served model does not need matplotlib

    thresholds = model.operating_point.thresholds
    predicted_positive = [i for i, positive in enumerate(prediction.predicted_positive) if positive]
    by_ratio = np.argsort(-np.nan_to_num(prediction.probs / thresholds), kind="stable").tolist()
    chosen = [i for i in by_ratio if i in predicted_positive][:MAX_MAPS] or by_ratio[:1]
    titles = [
        f"{prediction.labels[i]}: {ANSWERS[prediction.predicted_positive[i]]}\n"
        f"p = {prediction.probs[i]:.3f}, "
        + ("no threshold" if np.isnan(thresholds[i]) else f"threshold {thresholds[i]:.3f}")
        for i in chosen
    ]
    title = f"{prediction.path.name}\n{model.saved.name}, {len(predicted_positive)} positive"
    write_atomically(path, partial(overlays, picture.grey, attribution[chosen], titles, title))


def write_table(results: list[Prediction | Refused], labels: tuple[str, ...], path: Path) -> None:
    """Write one row per image; that of a refused image has only the reason, as a warning."""
    columns = ["image", *(f"prob_{label}" for label in labels)]
    columns += [
        *(f"predicted_positive_{label}" for label in labels),
        *OOD_SCORES,
        "assumed",
        "warnings",
    ]
    rows: list[list[Any]] = []
    for each in results:
        if isinstance(each, Refused):
            rows.append([each.path, *[""] * (len(columns) - 2), each.reason])
        else:
            predictions = [
                "" if positive is None else int(positive) for positive in each.predicted_positive
            ]
            rows.append(
                [
                    each.path, *each.probs, *predictions,
                    *(getattr(each.ood, key) for key in OOD_SCORES),
                    each.assumed_as_text(), "; ".join(each.warnings),
                ]
            )  # fmt: skip
    text = io.StringIO()
    csv.writer(text).writerows([columns, *rows])
    write_atomically(path, text.getvalue().encode(errors="surrogateescape"))


def check_table(path: Path, paths: list[Path]) -> None:
    """CxrError if a table can't be written to `path`; called before predicting."""
    if path.is_dir() or not path.resolve().parent.is_dir():
        raise CxrError(
            f"{path} can't be written: it is a folder, or its folder does not exist; "
            "choose another path"
        )
    if path.resolve() in {each.resolve() for each in paths}:
        raise CxrError(f"{path} is one of the images; choose another name for the table")


def as_json(results: list[Prediction | Refused], model: Model, found: Found) -> dict[str, Any]:
    """The JSON that `cxr predict --json` prints."""
    return {
        "folders": {"taken": found.taken, "skipped": found.skipped},
        "model": model.saved.name,
        "calibration": model.operating_point.calibration.method,
        "notice": NOTICE,
        "images": [each.as_json() for each in results if isinstance(each, Prediction)],
        "refused": [
            {"image": str(each.path), "reason": each.reason}
            for each in results
            if isinstance(each, Refused)
        ],
    }
