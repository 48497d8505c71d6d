"""Stage gradcam: the heat maps of all models side by side."""

from typing import Any

from cxr.pipeline import stage

# isort: split


from cxr import progress
from cxr.data import splits
from cxr.data.npz import NpzReader
from cxr.documents import read_output
from cxr.formatting import count
from cxr.paths import ATTRIBUTIONS, MAPS_REPORT, PROCESSED, SIDE_BY_SIDE
from cxr.plots import gradcam as figures


def gradcam(run: stage.Stage) -> None:
    settings = run.params.gradcam
    names = stage.trained_models(run.folder)
    report: dict[str, Any] = {
        name: read_output(run.input(f"{ATTRIBUTIONS}/{name}.json"), dict) for name in names
    }
    run.write_json(MAPS_REPORT, {"split": settings.split, "models": report})
    split = splits.open_split(run.input(PROCESSED), settings.split)
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


if __name__ == "__main__":
    stage.run("gradcam", gradcam)
