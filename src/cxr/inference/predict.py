"""A user's own images through a model that the pipeline made."""

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
from cxr.documents import write_atomically
from cxr.errors import CxrError
from cxr.evaluation import decisions
from cxr.evaluation.decisions import OperatingPoint
from cxr.labels import LABELS
from cxr.models import SavedModel
from cxr.models.inputs import to_network_input
from cxr.paths import DECISIONS, MODELS

NOTICE = "Not a medical device: a research model's output, not a diagnosis."
VERDICTS = {True: "yes", False: "no", None: "?"}
ADDRESSES = ("models:/", "runs:/")  # of MLflow's models
MOST_MAPS = 3  # beside an image

BATCH = 8  # images at once; a CPU's cache holds no more at 224 pixels


@dataclass(frozen=True)
class Model:
    """A network, and what turns its logits into probabilities and into yes or no."""

    saved: SavedModel
    decision: OperatingPoint


@dataclass(frozen=True)
class Prediction:
    """What a model says of one image."""

    path: Path
    size: tuple[int, int]  # height and width in pixels
    probs: Doubles  # (L,)
    predicted_positive: tuple[bool | None, ...]  # (L,), None where the label has no threshold
    similarity: float
    assumed: dict[Topic, str]  # what was assumed to read the file
    warnings: list[str]

    def as_json(self) -> dict[str, Any]:
        """As `cxr predict --json` prints it."""
        height, width = self.size
        return {
            "image": str(self.path),
            "width": width,
            "height": height,
            "similarity": self.similarity,
            "assumed": self.assumed,
            "warnings": self.warnings,
            "labels": {
                label: {"probability": float(prob), "predicted_positive": positive}
                for label, prob, positive in zip(
                    LABELS, self.probs, self.predicted_positive, strict=True
                )
            },
        }

    def assumed_as_text(self) -> str:
        """`topic: text; topic: text`, for a cell of a table; empty where nothing was assumed."""
        return "; ".join(f"{topic}: {text}" for topic, text in self.assumed.items())


@dataclass(frozen=True)
class Refused:
    """A file that could not be used, and why."""

    path: Path
    reason: str


def load(name: str, project: Path | None) -> Model:
    """A model by name in the project, by the path of its folder, or by MLflow's address of it.

    Its decision stands in `decisions/` beside `models/`.
    """
    folder = _find(name, project)
    saved = models.load(folder)
    if saved.labels != LABELS:
        raise CxrError(
            f"{folder} tells other labels than these: {', '.join(LABELS)}; give a model of this "
            "pipeline"
        )
    path = folder.resolve().parents[1] / DECISIONS / f"{saved.name}.json"
    return Model(saved, decisions.read(path))


def _find(name: str, project: Path | None) -> Path:
    if name.startswith(ADDRESSES):
        # MLflow takes two seconds to import, which a model in a folder needs not.
        from cxr.tracking.store import fetch_model

        return folder_of(fetch_model(name, project or Path.cwd()), name)
    in_project = (project or Path()) / MODELS / name
    for folder in (Path(name), in_project):
        if (folder / "model.json").is_file():
            return folder
    known = sorted(path.parent.name for path in in_project.parent.glob("*/model.json"))
    raise CxrError(
        f"there is no model {name}; "
        + (f"there are {', '.join(known)}" if known else "`dvc repro` makes some")
    )


def folder_of(registered: Path, name: str) -> Path:
    """Where the weights are in the folder of a registered model; `name` is for the message."""
    folders = [path.parent for path in registered.glob(f"{MODELS}/*/model.json")]
    if len(folders) != 1:
        raise CxrError(f"{name} is no model of this pipeline; `cxr ui` shows which it has")
    return folders[0]


def places(paths: list[Path], folder: Path) -> dict[Path, Path]:
    """Where each file's maps go; CxrError where one would overwrite another or the image itself.

    Images of several folders keep their folders below `folder`, from the one that holds them all.
    """
    found: dict[Path, Path] = {}
    images = {path.resolve() for path in paths}
    top = os.path.commonpath([Path(os.path.abspath(path)).parent for path in paths])  # noqa: PTH100
    for path in paths:
        parent = Path(os.path.abspath(path)).parent.relative_to(top)  # noqa: PTH100 - links stay
        place = folder / parent / f"{stem(path.name)}.maps.png"
        if place in found.values():
            raise CxrError(
                f"two images are called {path.parent / stem(path.name)}, and their maps would "
                "overwrite each other; predict them one after the other into two folders"
            )
        if place.resolve() in images:
            raise CxrError(f"the maps of {path} would overwrite {place}; give another folder")
        found[path] = place
    try:
        for parent in {place.parent for place in found.values()}:
            parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CxrError(
            f"{folder} can't be made a folder for maps: {error.strerror}; give another"
        ) from None
    return found


def predict(
    model: Model, paths: list[Path], maps: dict[Path, Path]
) -> Iterator[Prediction | Refused]:
    """What the model says of each file, in order; a file that can't be used stops no other.

    Parameters
    ----------
    maps : where the maps of each file are drawn, if any are.
    """
    for start in range(0, len(paths), BATCH):
        done: dict[Path, Prediction | Refused] = {}
        pictures = []
        for path in paths[start : start + BATCH]:
            try:
                pictures.append(files.read(path))
            except CxrError as error:
                done[path] = Refused(path, str(error))
        if pictures:
            for each in predict_pictures(model, pictures, maps):
                done[each.path] = each
        for path in paths[start : start + BATCH]:
            yield done[path]


def predict_pictures(
    model: Model, pictures: list[Picture], maps: dict[Path, Path]
) -> Iterator[Prediction]:
    """What the model says of each picture, in order; so many at once as `BATCH` says.

    Parameters
    ----------
    maps : where the maps of each picture's path are drawn; empty for none.
    """
    spec, network = model.saved.input, model.saved.network
    small = np.stack([each.square(spec.data_size, spec.resampling) for each in pictures])
    inputs = to_network_input(torch.from_numpy(small), spec)
    explained = cam.explain(network, inputs) if maps else None
    if explained is None:
        with torch.inference_mode():
            logits = network.eval()(inputs).numpy()
    else:
        logits = explained.logits
    probs = model.decision.calibration.probs(logits)
    ood = model.decision.ood
    similarity = ood.similarity(small)
    for i, picture in enumerate(pictures):
        warnings = [*picture.notes.warnings]
        if similarity[i] < ood.threshold:
            warnings.append(
                "does not look like a chest X-ray of the training data: similarity "
                f"{similarity[i]:.2f}, 99 % of those have {ood.threshold:.2f} or more"
            )
        height, width = picture.grey.shape
        done = Prediction(
            path=picture.path,
            size=(height, width),
            probs=probs[i],
            predicted_positive=tuple(
                None if np.isnan(cut) else bool(p >= cut)
                for p, cut in zip(probs[i], model.decision.thresholds, strict=True)
            ),
            similarity=float(similarity[i]),
            assumed=picture.notes.assumed,
            warnings=warnings,
        )
        if explained is not None:
            _draw(model, picture, done, explained.attribution[i], maps[picture.path])
        yield done


def _draw(model: Model, picture: Picture, done: Prediction, attribution: Maps, place: Path) -> None:
    """Draw the image, and a map per predicted finding, or of the most likely one."""
    from cxr.plots.prediction import overlays  # a served model does without matplotlib

    cuts = model.decision.thresholds
    predicted_positive = [i for i, verdict in enumerate(done.predicted_positive) if verdict]
    by_odds = np.argsort(-np.nan_to_num(done.probs / cuts), kind="stable").tolist()
    chosen = [i for i in by_odds if i in predicted_positive][:MOST_MAPS] or by_odds[:1]
    titles = [
        f"{LABELS[i]}: {VERDICTS[done.predicted_positive[i]]}\np = {done.probs[i]:.3f}, "
        + ("no threshold" if np.isnan(cuts[i]) else f"cut {cuts[i]:.3f}")
        for i in chosen
    ]
    title = f"{done.path.name}\n{model.saved.name}, {len(predicted_positive)} called"
    write_atomically(place, partial(overlays, picture.grey, attribution[chosen], titles, title))


def write_table(done: list[Prediction | Refused], path: Path) -> None:
    """A row an image: probabilities, verdicts, similarity, warnings; what failed has its reason."""
    columns = ["image", *(f"prob_{label}" for label in LABELS)]
    columns += [
        *(f"predicted_positive_{label}" for label in LABELS),
        "similarity",
        "assumed",
        "warnings",
    ]
    rows: list[list[Any]] = []
    for each in done:
        if isinstance(each, Refused):
            rows.append([each.path, *[""] * (len(columns) - 2), each.reason])
        else:
            verdicts = [
                "" if predicted_positive is None else int(predicted_positive)
                for predicted_positive in each.predicted_positive
            ]
            rows.append(
                [
                    each.path, *each.probs, *verdicts, each.similarity, each.assumed_as_text(),
                    "; ".join(each.warnings),
                ]
            )  # fmt: skip
    text = io.StringIO()
    csv.writer(text).writerows([columns, *rows])
    write_atomically(path, text.getvalue().encode(errors="surrogateescape"))


def check_table(path: Path, paths: list[Path]) -> None:
    """That a table can be written there, before the work is done; else CxrError."""
    if path.is_dir() or not path.resolve().parent.is_dir():
        raise CxrError(
            f"{path} can't be written: it is a folder, or its folder does not exist; give another"
        )
    if path.resolve() in {each.resolve() for each in paths}:
        raise CxrError(f"{path} is one of the images; give the table another name")


def as_json(done: list[Prediction | Refused], model: Model, found: Found) -> dict[str, Any]:
    """What `cxr predict --json` prints."""
    return {
        "folders": {"taken": found.taken, "skipped": found.skipped},
        "model": model.saved.name,
        "calibration": model.decision.calibration.method,
        "notice": NOTICE,
        "images": [each.as_json() for each in done if isinstance(each, Prediction)],
        "refused": [
            {"image": str(each.path), "reason": each.reason}
            for each in done
            if isinstance(each, Refused)
        ],
    }
