"""A user's own images through a model that the pipeline made."""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cxr import cam, decisions, images, models
from cxr.augment import normalise, on_unit_scale
from cxr.cam import Cam
from cxr.decisions import Decision
from cxr.errors import CxrError
from cxr.images import Picture
from cxr.labels import LABELS
from cxr.metrics import Doubles
from cxr.models import SavedModel
from cxr.plots.prediction import overlays

NOTICE = "Not a medical device: a research model's opinion, not a diagnosis."
VERDICTS = {True: "yes", False: "no", None: "?"}
MOST_MAPS = 3  # beside an image

BATCH = 8  # images at once; a CPU's cache holds no more at 224 pixels


@dataclass(frozen=True)
class Model:
    """A network, and what turns its logits into probabilities and into yes or no."""

    saved: SavedModel
    decision: Decision


@dataclass(frozen=True)
class Prediction:
    """What a model says of one image."""

    picture: Picture
    probs: Doubles  # (L,)
    called: tuple[bool | None, ...]  # (L,), None where the label has no threshold
    likeness: float
    warnings: list[str]
    maps: Cam | None  # of this image alone, where maps were asked for

    def as_json(self) -> dict[str, Any]:
        """As `cxr predict --json` prints it."""
        height, width = self.picture.grey.shape
        return {
            "image": str(self.picture.path),
            "width": width,
            "height": height,
            "likeness": self.likeness,
            "warnings": self.warnings,
            "labels": {
                label: {"probability": float(prob), "called": called}
                for label, prob, called in zip(LABELS, self.probs, self.called, strict=True)
            },
        }


@dataclass(frozen=True)
class Refused:
    """A file that could not be used, and why."""

    path: Path
    reason: str


def load(name: str, project: Path | None) -> Model:
    """A model by name in the project, or by the path of its folder.

    Its decision stands in `decisions/` beside `models/`.
    """
    folder = Path(name)
    if not (folder / "model.json").is_file():
        if project is None or not (project / "models" / name / "model.json").is_file():
            known = sorted(p.parent.name for p in (project or Path()).glob("models/*/model.json"))
            raise CxrError(
                f"there is no model {name}; "
                + (f"there are {', '.join(known)}" if known else "`dvc repro` makes some")
            )
        folder = project / "models" / name
    saved = models.load(folder)
    if saved.labels != LABELS:
        raise CxrError(f"{folder} tells other labels than these: {', '.join(LABELS)}")
    path = folder.resolve().parents[1] / "decisions" / f"{saved.name}.json"
    if not path.is_file():
        raise CxrError(f"{path} does not exist; the model needs its thresholds: `dvc repro`")
    return Model(saved, decisions.read(path))


def predict(model: Model, paths: list[Path], with_maps: bool) -> Iterator[Prediction | Refused]:
    """What the model says of each file, in order; a file that can't be used stops no other."""
    for start in range(0, len(paths), BATCH):
        done: dict[Path, Prediction | Refused] = {}
        pictures = []
        for path in paths[start : start + BATCH]:
            try:
                pictures.append(images.read(path))
            except CxrError as error:
                done[path] = Refused(path, str(error))
        if pictures:
            for each in _predict(model, pictures, with_maps):
                done[each.picture.path] = each
        for path in paths[start : start + BATCH]:
            yield done[path]


def _predict(model: Model, pictures: list[Picture], with_maps: bool) -> Iterator[Prediction]:
    spec, network = model.saved.input, model.saved.network
    small = np.stack([each.square(spec.data_size, spec.resampling) for each in pictures])
    inputs = normalise(on_unit_scale(torch.from_numpy(small)), spec)
    if with_maps:
        maps = cam.explain(network, inputs)
        logits = maps.logits
    else:
        with torch.inference_mode():
            logits = network.eval()(inputs).numpy()
    probs = model.decision.calibration.probs(logits)
    typical = model.decision.typical
    likeness = typical.likeness(small)
    for i, picture in enumerate(pictures):
        warnings = [*picture.notes]
        if likeness[i] < typical.least:
            warnings.append(
                "does not look like a chest X-ray of the training data: likeness "
                f"{likeness[i]:.2f}, 99 % of those have {typical.least:.2f} or more"
            )
        yield Prediction(
            picture=picture,
            probs=probs[i],
            called=tuple(
                None if np.isnan(cut) else bool(p >= cut)
                for p, cut in zip(probs[i], model.decision.thresholds, strict=True)
            ),
            likeness=float(likeness[i]),
            warnings=warnings,
            maps=Cam(maps.logits[i : i + 1], maps.evidence[i : i + 1]) if with_maps else None,
        )


def draw(done: Prediction, model: Model, folder: Path) -> None:
    """The image and the maps of what is called, or of the likeliest label, as `folder`/name.png."""
    assert done.maps is not None
    cuts = model.decision.thresholds
    called = [i for i, verdict in enumerate(done.called) if verdict]
    with np.errstate(invalid="ignore"):
        by_odds = np.argsort(-np.nan_to_num(done.probs / cuts), kind="stable")
    chosen = [i for i in by_odds.tolist() if i in called][:MOST_MAPS] or [int(by_odds[0])]
    titles = [
        f"{LABELS[i]}: {VERDICTS[done.called[i]]}\np = {done.probs[i]:.3f}, "
        + ("no threshold" if np.isnan(cuts[i]) else f"cut {cuts[i]:.3f}")
        for i in chosen
    ]
    folder.mkdir(parents=True, exist_ok=True)
    overlays(
        done.picture.grey,
        done.maps.evidence[0, chosen],
        titles,
        f"{done.picture.path.name}\n{model.saved.name}, {len(called)} called",
        folder / f"{done.picture.path.stem}.png",
    )


def write_csv(done: list[Prediction | Refused], path: Path) -> None:
    """A row an image: probabilities, verdicts, likeness, warnings; what failed has its reason."""
    columns = ["image", *(f"prob_{label}" for label in LABELS)]
    columns += [*(f"called_{label}" for label in LABELS), "likeness", "warnings"]
    rows: list[list[Any]] = []
    for each in done:
        if isinstance(each, Refused):
            rows.append([each.path, *[""] * (len(columns) - 2), each.reason])
        else:
            verdicts = ["" if called is None else int(called) for called in each.called]
            rows.append(
                [each.picture.path, *each.probs, *verdicts, each.likeness, "; ".join(each.warnings)]
            )
    part = path.with_name(path.name + ".part")
    with open(part, "w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])
    part.replace(path)


def as_json(done: list[Prediction | Refused], model: Model) -> dict[str, Any]:
    """What `cxr predict --json` prints."""
    return {
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
