"""Stage gradcam: the heat maps of all models side by side."""

from pathlib import Path
from typing import Any

from cxr.pipeline import stage

# isort: split


from cxr import progress
from cxr.data import agreement, boxes, splits
from cxr.data.npz import NpzReader
from cxr.documents import read_output
from cxr.formatting import count, number, with_interval
from cxr.params import Params
from cxr.paths import ATTRIBUTIONS, MAPS_REPORT, PROCESSED, SIDE_BY_SIDE
from cxr.plots import gradcam as figures


def gradcam(run: stage.Stage) -> None:
    settings = run.params.gradcam
    names = stage.trained_models(run.folder)
    report: dict[str, Any] = {
        name: read_output(run.input(f"{ATTRIBUTIONS}/{name}.json"), dict) for name in names
    }
    data = {name: splits.open_split(run.input(PROCESSED), name) for name in splits.SPLITS}
    found = boxes.read(settings.boxes, boxes.files(settings.boxes, run.project), data)
    experts = agreement.compare(found, run.params.seed)
    run.write_json(MAPS_REPORT, {"split": settings.split, "models": report, "experts": experts})
    split = data[settings.split]
    of_model = {name: read_maps(run, name) for name in names}
    with progress.steps("gradcam", len(settings.indices)) as step:
        for i, index in enumerate(settings.indices):
            case = figures.image_case(split, settings.split, index)
            outputs = [of_model[name][i] for name in names]
            labels = figures.labels_shown(case, outputs, settings.labels)
            path = run.picture(f"{SIDE_BY_SIDE}/{index}.png")
            figures.side_by_side(case, outputs, labels, run.origin).save(path)
            step()
    progress.say(f"gradcam: {count(len(settings.indices), 'sheet')} of {', '.join(names)}")
    for pair in experts:
        for what in ("any", "same"):
            progress.say(f"gradcam: {agreement_line(pair, what)}")


def agreement_line(pair: dict[str, Any], what: str) -> str:
    """What two experts score against each other, for boxes of any or of the same finding."""
    a, b, compared = pair["a"], pair["b"], pair[f"{what}_finding"]
    if not compared["images"]:
        return f"{a} and {b}: no image with boxes of both around {what} finding"
    shares = (
        f"{x} in {y} {with_interval(compared[key], 'share')} of {compared[key]['boxes']:,}"
        for x, y, key in ((a, b, "a_in_b"), (b, a, "b_in_a"))
    )
    return (
        f"{a} and {b}, {what} finding, {count(compared['images'], 'image')}: centres of boxes of "
        f"{', of '.join(shares)}; median IoU {number(compared['median_iou'])}"
    )


def read_maps(run: stage.Stage, name: str) -> list[figures.ModelOutput]:
    """One model's output for each image of `gradcam.indices`."""
    with NpzReader(run.input(f"{ATTRIBUTIONS}/{name}.npz")) as archive:
        probs, thresholds, attribution = (
            archive.read(key) for key in ("probs", "thresholds", "attribution")
        )
    method = run.params.gradcam.method[name]
    return [
        figures.ModelOutput(name, method, probs[i], thresholds, attribution[i])
        for i in range(len(probs))
    ]


def users_files(params: Params, project: Path) -> tuple[Path, ...]:
    return tuple(boxes.files(params.gradcam.boxes, project).values())


if __name__ == "__main__":
    stage.run("gradcam", gradcam, external_files=users_files)
