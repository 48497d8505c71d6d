"""maps-<model>: one model's heat maps, and measures of their reliability."""

import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from cxr.pipeline import stage  # before torch, whose import can run out of memory

# isort: split


import numpy as np
import torch

from cxr import cam, models, progress
from cxr.arrays import Flags
from cxr.cam import examples, ground_truth, sanity, trust
from cxr.cam.ground_truth import Truth
from cxr.cam.trust import CamTarget, Forward
from cxr.data import boxes, splits
from cxr.data.splits import Split
from cxr.errors import CxrError
from cxr.evaluation import decisions
from cxr.evaluation.decisions import OperatingPoint
from cxr.labels import path_names
from cxr.params import Method, Params, flatten
from cxr.paths import ATTRIBUTIONS, DECISIONS, FEATURES, MODELS, PROCESSED, SHEETS
from cxr.plots import gradcam as figures
from cxr.training import feed
from cxr.training.device import set_up_device

SLIDERS = "maps"  # section of MLflow's charts with the image sliders


def make_maps(run: stage.Stage, name: str) -> None:
    settings = run.params.gradcam
    split = splits.open_split(run.input(PROCESSED), settings.split)
    if problem := settings.out_of_range({settings.split: len(split.labels)}):
        raise CxrError(problem)
    truths = find_truths(run, split)
    model = models.load(run.input(f"{MODELS}/{name}"))
    run.log.params = flatten(model.params) | run.log.params  # the run's seed and threads win
    operating_point = decisions.read(run.input(f"{DECISIONS}/{name}.json"))
    target = target_of(run, model, split)
    forward = target.forward(np.arange(min(settings.max_images, len(split.labels))))
    probs = operating_point.calibration.probs(forward.logits)
    predicted_positive = probs >= operating_point.thresholds
    with progress.steps(run.name, 1 + len(settings.indices) + len(split.names)) as step:
        maps = explain(run, name, target, operating_point)
        report = {"method": target.method, **describe(maps, settings.indices, split.names)}
        report |= assess_maps(run, target, predicted_positive, split, truths)
        run.write_json(f"{ATTRIBUTIONS}/{name}.json", report)
        run.log.metrics |= flat_metrics(report, maps)
        step()
        draw_sheets(run, name, split, maps, operating_point, step)
        draw_examples(run, name, split, target, operating_point, forward, predicted_positive, step)
    print_summary(name, report, maps)


def find_truths(run: stage.Stage, split: Split) -> dict[str, Truth]:
    """The locations of findings by expert, from files of boxes or from the phantom."""
    settings = run.params.gradcam
    if settings.boxes:
        data = {name: splits.open_split(run.input(PROCESSED), name) for name in splits.SPLITS}
        found = boxes.read(settings.boxes, boxes.files(settings.boxes, run.project), data)
        return {expert: ground_truth.of_boxes(split, each) for expert, each in found.items()}
    if run.origin.is_phantom:
        seed = run.params.download.seed
        truth = ground_truth.of_phantom(split, settings.split, settings.max_images, seed)
        return {truth.source: truth}
    return {}


def target_of(run: stage.Stage, model: models.SavedModel, split: Split) -> CamTarget:
    device = torch.device(run.device)
    return CamTarget(
        model.network.to(device),
        run.params.gradcam.method[model.name],
        torch.from_numpy(split.images).to(device),
        model.input,
        stored_features(run, model.name, device),
    )


def stored_features(run: stage.Stage, name: str, device: torch.device) -> torch.Tensor | None:
    """The head's inputs for all images of the split, if a frozen backbone has stored them."""
    if FEATURES not in run.declared.dependencies:
        return None
    store = feed.open_store(run.input(FEATURES))
    if not store.frozen or store.model != name:
        return None
    return store.batches(run.params.gradcam.split, device).features


def explain(
    run: stage.Stage, name: str, target: CamTarget, operating_point: OperatingPoint
) -> cam.Cam:
    """Compute and save the maps of the images that get a sheet, with their predictions."""
    index = np.array(run.params.gradcam.indices)
    maps = target.explain(index)
    np.savez(
        run.output(f"{ATTRIBUTIONS}/{name}.npz"),
        indices=index,
        logits=maps.logits,
        probs=operating_point.calibration.probs(maps.logits),
        thresholds=operating_point.thresholds,
        attribution=maps.attribution,
    )
    return maps


def describe(maps: cam.Cam, indices: tuple[int, ...], names: tuple[str, ...]) -> dict[str, Any]:
    """The range of the attribution per image and label, and the number of empty maps."""
    low, high = maps.attribution.min(axis=(2, 3)), maps.attribution.max(axis=(2, 3))
    return {
        "grid": list(maps.attribution.shape[2:]),
        "empty": int((high <= 0).sum()),
        "images": {
            str(index): {
                label: {"min": float(low[i, j]), "max": float(high[i, j])}
                for j, label in enumerate(names)
            }
            for i, index in enumerate(indices)
        },
    }


def assess_maps(
    run: stage.Stage,
    target: CamTarget,
    predicted_positive: Flags,
    split: Split,
    truths: dict[str, Truth],
) -> dict[str, Any]:
    """Measures of the maps' reliability on true positives; with boxes, localisation on all boxes.

    Parameters
    ----------
    predicted_positive : (N, L), the model's predictions for the split's first N images.
    """
    settings, seed = run.params.gradcam, run.params.seed
    image, label = np.nonzero(predicted_positive & (split.labels[: len(predicted_positive)] == 1))
    report: dict[str, Any] = {"localisation": {}, "localisation_untrained": {}}
    untrained = replace(target, network=sanity.untrained(target.network, seed))
    for expert, truth in truths.items():
        if truth.source == "phantom":
            true_positives = set(zip(image.tolist(), label.tolist(), strict=True))
            pairs = zip(truth.image.tolist(), truth.label.tolist(), strict=True)
            truth = truth.select(np.array([pair in true_positives for pair in pairs], np.bool_))
        for key, assessed in (("localisation", target), ("localisation_untrained", untrained)):
            attribution = assessed.explain_pairs(truth.image, truth.label)
            report[key][expert] = trust.localisation(attribution, truth, split.names, seed)
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
    for expert, localised in report["localisation"].items():
        for key in ("n", "pointing", "pointing_centre", "pointing_chance", "energy"):
            values[f"gradcam/{expert}/{key}"] = localised["pooled"][key]
        untrained = report["localisation_untrained"][expert]["pooled"]
        values[f"gradcam/{expert}/pointing_untrained"] = untrained["pointing"]
    for curve in ("deletion", "insertion"):
        for order, area in report["faithfulness"][curve].items():
            values[f"gradcam/{curve}_{order}"] = area["mean"]
    if report["sanity"]["shifted"]:
        values["gradcam/alike_when_shifted"] = report["sanity"]["shifted"]["mean"]
        values["gradcam/alike_when_random"] = report["sanity"]["randomised"][-1]["mean"]
    return {key: float(value) for key, value in values.items() if value is not None}


def outputs(
    name: str, method: Method, maps: cam.Cam, operating_point: OperatingPoint
) -> list[figures.ModelOutput]:
    """The model's probabilities, thresholds and maps for each image."""
    probs, thresholds = operating_point.calibration.probs(maps.logits), operating_point.thresholds
    return [
        figures.ModelOutput(name, method, probs[i], thresholds, maps.attribution[i])
        for i in range(len(probs))
    ]


def draw_sheets(
    run: stage.Stage,
    name: str,
    split: Split,
    maps: cam.Cam,
    operating_point: OperatingPoint,
    step: Callable[[], None],
) -> None:
    """One sheet per image with its labels, and one picture per label for MLflow's slider."""
    settings, folder = run.params.gradcam, f"{SHEETS}/{name}"
    files = path_names(split.names)
    model_outputs = outputs(name, settings.method[name], maps, operating_point)
    for index, output in zip(settings.indices, model_outputs, strict=True):
        case = figures.image_case(split, settings.split, index)
        pairs = figures.pairs(case, output, figures.labels_shown(case, [output], settings.labels))
        figures.sheet(case, output, pairs, run.origin).save(run.picture(f"{folder}/{index}.png"))
        for label, pair in pairs.items():
            path = f"{folder}/{index}/{files[label]}.png"
            picture = run.slide(path, f"{SLIDERS}/{case.name}", step=label)
            figures.slide(case, output, pair, run.origin).save(picture)
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
    labels = split.labels[: len(predicted_positive)]
    for i, file in enumerate(path_names(split.names)):
        step()
        chosen = examples.choose(forward.pooled, labels[:, i], predicted_positive[:, i])
        rows = {
            "true positive": chosen.true_positives,
            "false positive": chosen.false_positives,
            "false negative": chosen.false_negatives,
        }
        index = np.concatenate(list(rows.values()))
        if not len(index):
            continue
        model_outputs = outputs(name, target.method, target.explain(index), operating_point)
        output_of = dict(zip(index.tolist(), model_outputs, strict=True))
        groups = {
            group: [
                (figures.image_case(split, run.params.gradcam.split, row), output_of[row])
                for row in members.tolist()
            ]
            for group, members in rows.items()
        }
        path = run.picture(f"{SHEETS}/{name}/labels/{file}.png")
        figures.examples(i, groups, run.origin).save(path)


def print_summary(name: str, report: dict[str, Any], maps: cam.Cam) -> None:
    """Print the number of maps and the main localisation results."""
    n, n_labels, height, width = maps.attribution.shape
    progress.say(
        f"maps-{name}: {n} images x {n_labels} labels on a grid of {height}x{width}, "
        f"{report['empty']} maps without positive attribution"
    )
    for expert, localised in report["localisation"].items():
        pooled = localised["pooled"]
        if not pooled["n"]:
            progress.say(f"maps-{name}: {expert}: no finding with a known location in this split")
            continue
        low, high = pooled["pointing_ci"]
        untrained = report["localisation_untrained"][expert]["pooled"]["pointing"]
        progress.say(
            f"maps-{name}: {expert}: pointing game {pooled['pointing']:.3f} "
            f"[{low:.3f}, {high:.3f}], n = {pooled['n']}; baselines: centre "
            f"{pooled['pointing_centre']:.3f}, random cell {pooled['pointing_chance']:.3f}, "
            f"untrained network {untrained:.3f}"
        )


def users_files(params: Params, project: Path) -> tuple[Path, ...]:
    return tuple(boxes.files(params.gradcam.boxes, project).values())


def main() -> None:
    if len(sys.argv) != 2:
        print("usage: python stages/maps.py MODEL", file=sys.stderr)
        sys.exit(2)
    name = sys.argv[1]
    stage.run(
        f"maps-{name}",
        partial(make_maps, name=name),
        prepare=set_up_device,
        external_files=users_files,
    )


if __name__ == "__main__":
    main()
