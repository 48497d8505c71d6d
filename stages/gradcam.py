"""Stage gradcam: heat maps of each model, and measures of their reliability."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from cxr.pipeline import stage  # before torch, whose import can run out of memory

# isort: split


import numpy as np
import torch

from cxr import cam, models, progress
from cxr.cam import Method, examples, ground_truth, sanity, trust
from cxr.cam.examples import Flags
from cxr.cam.ground_truth import Truth
from cxr.cam.trust import CamTarget, Forward
from cxr.data import boxes, splits
from cxr.data.splits import Split
from cxr.errors import CxrError
from cxr.evaluation import decisions
from cxr.evaluation.decisions import OperatingPoint
from cxr.labels import LABELS
from cxr.params import Params, flatten
from cxr.paths import DECISIONS, MAPS, MAPS_REPORT, MODELS, PROCESSED, SHEETS, SIDE_BY_SIDE
from cxr.plots.gradcam import ImageCase, ModelOutput, sheet, side_by_side, slide
from cxr.plots.gradcam import examples as example_sheet
from cxr.training.device import set_up_device

SLIDERS = "maps"  # section of MLflow's charts with the image sliders
MAX_ERRORS = 3  # confident errors shown per image with `labels: findings`


def gradcam(run: stage.Stage) -> None:
    settings = run.params.gradcam
    split = splits.open_split(run.input(PROCESSED), settings.split)
    out_of_range = [index for index in settings.indices if index >= len(split.labels)]
    if out_of_range:
        raise CxrError(
            f"gradcam.indices: {out_of_range[0]} is out of range for {settings.split} with "
            f"{len(split.labels)} images; use smaller indices"
        )
    truth = find_truth(run, split)
    searched = np.arange(min(settings.max_images, len(split.labels)))
    report: dict[str, Any] = {}
    model_outputs: dict[str, list[ModelOutput]] = {}
    n_sheets = len(settings.indices) + len(LABELS)  # per model
    with progress.steps("gradcam", len(run.logs) * (1 + n_sheets) + 1) as step:
        for name, log in run.logs.items():
            model = models.load(run.input(f"{MODELS}/{name}"))
            log.params = flatten(model.params) | log.params  # the run's seed and threads win
            target = target_of(run, model, split)
            operating_point = decisions.read(run.input(f"{DECISIONS}/{name}.json"))
            forward = target.forward(searched)
            probs = operating_point.calibration.probs(forward.logits)
            predicted_positive = probs >= operating_point.thresholds
            maps = explain(run, name, target)
            report[name] = {"method": target.method, **describe(maps, settings.indices)}
            report[name] |= assess_maps(run, target, predicted_positive, split, truth)
            log.metrics |= flat_metrics(report[name], maps)
            step()
            model_outputs[name] = explain_images(name, target.method, maps, operating_point)
            draw_sheets(run, name, split, model_outputs[name], step)
            draw_examples(
                run, name, split, target, operating_point, forward, predicted_positive, step
            )
            print_summary(name, report[name], maps)
        draw_side_by_side(run, split, model_outputs)
        step()
    run.write_json(MAPS_REPORT, {"split": settings.split, "models": report})


def find_truth(run: stage.Stage, split: Split) -> Truth | None:
    """The locations of findings, from a file of boxes or from the phantom."""
    settings = run.params.gradcam
    if settings.boxes is not None:
        return ground_truth.of_boxes(split, boxes.read(boxes.find(settings.boxes, run.project)))
    if run.origin.is_phantom:
        return ground_truth.of_phantom(split, settings.split, settings.max_images, run.params.seed)
    return None


def target_of(run: stage.Stage, model: models.SavedModel, split: Split) -> CamTarget:
    device = torch.device(run.device)
    return CamTarget(
        model.network.to(device),
        run.params.gradcam.method[model.name],
        torch.from_numpy(split.images).to(device),
        model.input,
    )


def explain(run: stage.Stage, name: str, target: CamTarget) -> cam.Cam:
    """Compute and save the maps of the images that get a sheet."""
    index = np.array(run.params.gradcam.indices)
    maps = target.explain(index)
    np.savez(
        run.output(f"{MAPS}/{name}.npz"),
        indices=index,
        logits=maps.logits,
        attribution=maps.attribution,
    )
    return maps


def describe(maps: cam.Cam, indices: tuple[int, ...]) -> dict[str, Any]:
    """The range of the attribution per image and label, and the number of empty maps."""
    low, high = maps.attribution.min(axis=(2, 3)), maps.attribution.max(axis=(2, 3))
    return {
        "grid": list(maps.attribution.shape[2:]),
        "empty": int((high <= 0).sum()),
        "images": {
            str(index): {
                label: {"min": float(low[i, j]), "max": float(high[i, j])}
                for j, label in enumerate(LABELS)
            }
            for i, index in enumerate(indices)
        },
    }


def assess_maps(
    run: stage.Stage,
    target: CamTarget,
    predicted_positive: Flags,
    split: Split,
    truth: Truth | None,
) -> dict[str, Any]:
    """Measures of the maps' reliability on true positives; with boxes, localisation on all boxes.

    Parameters
    ----------
    predicted_positive : (N, L), the model's predictions for the split's first N images.
    """
    settings, seed = run.params.gradcam, run.params.seed
    image, label = np.nonzero(predicted_positive & (split.labels[: len(predicted_positive)] == 1))
    report: dict[str, Any] = {}
    if truth is not None:
        if run.origin.is_phantom:
            true_positives = set(zip(image.tolist(), label.tolist(), strict=True))
            pairs = zip(truth.image.tolist(), truth.label.tolist(), strict=True)
            truth = truth.select(np.array([pair in true_positives for pair in pairs], np.bool_))
        untrained = replace(target, network=sanity.untrained(target.network, seed))
        for key, assessed in (("localisation", target), ("localisation_untrained", untrained)):
            attribution = assessed.explain_pairs(truth.image, truth.label)
            report[key] = trust.localisation(attribution, truth, seed)
    image, label = image[: settings.max_findings], label[: settings.max_findings]
    report["faithfulness"] = trust.faithfulness(target, image, label, seed)
    report["sanity"] = trust.sanity(target, image, label, seed)
    return report


def flat_metrics(report: dict[str, Any], maps: cam.Cam) -> dict[str, float]:
    """One model's metrics under their names in MLflow; undefined metrics are left out."""
    values: dict[str, float | None] = {
        "gradcam/maps": maps.logits.size,
        "gradcam/without_positive_attribution": report["empty"],
    }
    if "localisation" in report:
        pooled = report["localisation"]["pooled"]
        for key in ("n", "pointing", "pointing_centre", "pointing_chance", "energy"):
            values[f"gradcam/{key}"] = pooled[key]
        untrained = report["localisation_untrained"]["pooled"]
        values["gradcam/pointing_untrained"] = untrained["pointing"]
    for curve in ("deletion", "insertion"):
        for order, area in report["faithfulness"][curve].items():
            values[f"gradcam/{curve}_{order}"] = area["mean"]
    if report["sanity"]["shifted"]:
        values["gradcam/alike_when_shifted"] = report["sanity"]["shifted"]["mean"]
        values["gradcam/alike_when_random"] = report["sanity"]["randomised"][-1]["mean"]
    return {key: float(value) for key, value in values.items() if value is not None}


def explain_images(
    name: str, method: Method, maps: cam.Cam, operating_point: OperatingPoint
) -> list[ModelOutput]:
    """The model's probabilities, thresholds and maps for each image."""
    probs = operating_point.calibration.probs(maps.logits)
    return [
        ModelOutput(name, method, probs[i], operating_point.thresholds, maps.attribution[i])
        for i in range(len(probs))
    ]


def image_case(run: stage.Stage, split: Split, index: int) -> ImageCase:
    name = f"{run.params.gradcam.split} image {index}"
    return ImageCase(name, np.array(split.images[index]), np.array(split.labels[index]))


def labels_shown(run: stage.Stage, case: ImageCase, model_outputs: list[ModelOutput]) -> list[int]:
    """All labels; or true labels and the false positives furthest above their thresholds.

    If there are none of these, the label closest to its threshold.
    """
    if run.params.gradcam.labels == "all":
        return list(range(len(LABELS)))
    ratios = np.max([output.probs / output.thresholds for output in model_outputs], axis=0)
    ratios = np.nan_to_num(ratios, nan=-1)  # no predicted positives without a threshold
    highest = np.argsort(-ratios, kind="stable").tolist()
    false_positives = [i for i in highest if case.truth[i] == 0 and ratios[i] >= 1]
    present = np.flatnonzero(case.truth).tolist()
    return sorted({*present, *false_positives[:MAX_ERRORS]}) or highest[:1]


def draw_sheets(
    run: stage.Stage,
    name: str,
    split: Split,
    model_outputs: list[ModelOutput],
    step: Callable[[], None],
) -> None:
    """One sheet per image with its labels, and one picture per label for MLflow's slider."""
    log, folder = run.logs[name], f"{SHEETS}/{name}"
    for index, output in zip(run.params.gradcam.indices, model_outputs, strict=True):
        case = image_case(run, split, index)
        labels = labels_shown(run, case, [output])
        sheet(case, output, labels, run.origin, run.picture(f"{folder}/{index}.png", log))
        for label in labels:
            path = f"{folder}/{index}/{LABELS[label]}.png"
            picture = run.slide(path, log, f"{SLIDERS}/{case.name}", step=label)
            slide(case, output, label, run.origin, picture)
        step()


def draw_examples(
    run: stage.Stage,
    name: str,
    split: Split,
    target: CamTarget,
    operating_point: OperatingPoint,
    forward: Forward,
    predicted_positive: Flags,
    step: Callable[[], None],
) -> None:
    """One sheet per label with typical true positives, false positives and false negatives."""
    truth = split.labels[: len(predicted_positive)] == 1
    for i, label in enumerate(LABELS):
        step()
        chosen = examples.choose(forward.pooled, truth[:, i], predicted_positive[:, i])
        rows = {
            "true positive": chosen.true_positives,
            "false positive": chosen.false_positives,
            "false negative": chosen.false_negatives,
        }
        index = np.concatenate(list(rows.values()))
        if not len(index):
            continue
        model_outputs = explain_images(name, target.method, target.explain(index), operating_point)
        output_of = dict(zip(index.tolist(), model_outputs, strict=True))
        example_sheet(
            i,
            {
                group: [(image_case(run, split, row), output_of[row]) for row in members.tolist()]
                for group, members in rows.items()
            },
            run.origin,
            run.picture(f"{SHEETS}/{name}/labels/{label}.png", run.logs[name]),
        )


def draw_side_by_side(
    run: stage.Stage, split: Split, model_outputs: dict[str, list[ModelOutput]]
) -> None:
    """One sheet of all models per image, logged to every model's run."""
    for i, index in enumerate(run.params.gradcam.indices):
        case = image_case(run, split, index)
        outputs = [of_model[i] for of_model in model_outputs.values()]
        labels = labels_shown(run, case, outputs)
        path = run.picture(f"{SIDE_BY_SIDE}/{index}.png")
        side_by_side(case, outputs, labels, run.origin, path)


def print_summary(name: str, report: dict[str, Any], maps: cam.Cam) -> None:
    """Print the number of maps and the main localisation results."""
    n, n_labels, height, width = maps.attribution.shape
    progress.say(
        f"gradcam: {name:<12} {n} images x {n_labels} labels on a grid of {height}x{width}, "
        f"{report['empty']} maps without positive attribution"
    )
    pooled = report.get("localisation", {}).get("pooled")
    if pooled and pooled["n"]:
        low, high = pooled["pointing_ci"]
        untrained = report["localisation_untrained"]["pooled"]["pointing"]
        progress.say(
            f"gradcam: {name:<12} pointing game {pooled['pointing']:.3f} [{low:.3f}, {high:.3f}], "
            f"n = {pooled['n']}; baselines: centre {pooled['pointing_centre']:.3f}, random cell "
            f"{pooled['pointing_chance']:.3f}, untrained network {untrained:.3f}"
        )


def users_file(params: Params, project: Path) -> tuple[Path, ...]:
    file = params.gradcam.boxes
    return () if file is None else (boxes.find(file, project),)


if __name__ == "__main__":
    stage.run(
        "gradcam",
        gradcam,
        models=stage.trained_models,
        prepare=set_up_device,
        external_files=users_file,
    )
