"""gradcam: where each model looks, and how far that is to be trusted."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from cxr.pipeline import stage  # before torch, whose import may lack memory

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

SLIDERS = "maps"  # the section of MLflow's charts where they stand
MOST_ERRORS = 3  # of an image, where not all labels are shown


def gradcam(run: stage.Stage) -> None:
    wanted = run.params.gradcam
    split = splits.open_split(run.input(PROCESSED), wanted.split)
    beyond = [index for index in wanted.indices if index >= len(split.labels)]
    if beyond:
        raise CxrError(
            f"gradcam.indices: {beyond[0]} is not in {wanted.split}, which has "
            f"{len(split.labels)} images; give indices below that"
        )
    known = find_truth(run, split)
    searched = np.arange(min(wanted.max_images, len(split.labels)))
    report: dict[str, Any] = {}
    model_outputs: dict[str, list[ModelOutput]] = {}
    n_sheets = len(wanted.indices) + len(LABELS)  # of a model
    with progress.steps("gradcam", len(run.logs) * (1 + n_sheets) + 1) as step:
        for name, log in run.logs.items():
            model = models.load(run.input(f"{MODELS}/{name}"))
            log.params = flatten(model.params) | log.params  # its own seed and threads win
            target = target_of(run, model, split)
            operating_point = decisions.read(run.input(f"{DECISIONS}/{name}.json"))
            forward = target.forward(searched)
            predicted_positive = (
                operating_point.calibration.probs(forward.logits) >= operating_point.thresholds
            )
            maps = explain(run, name, target)
            report[name] = {"method": target.method, **describe(maps, wanted.indices)}
            report[name] |= assess_maps(run, target, predicted_positive, split, known)
            log.metrics |= flat_metrics(report[name], maps)
            step()
            model_outputs[name] = explain_images(name, target.method, maps, operating_point)
            draw_sheets(run, name, split, model_outputs[name], step)
            draw_examples(
                run, name, split, target, operating_point, forward, predicted_positive, step
            )
            tell(name, report[name], maps)
        draw_side_by_side(run, split, model_outputs)
        step()
    run.write_json(MAPS_REPORT, {"split": wanted.split, "models": report})


def find_truth(run: stage.Stage, split: Split) -> Truth | None:
    """Where findings are, as far as the data or a file of boxes knows it."""
    wanted = run.params.gradcam
    if wanted.boxes is not None:
        return ground_truth.of_boxes(split, boxes.read(boxes.find(wanted.boxes, run.project)))
    if run.origin.is_phantom:
        return ground_truth.of_phantom(split, wanted.split, wanted.max_images, run.params.seed)
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
    """Maps of the images that get a sheet, kept as they are."""
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
    """Per image and label, the range of the attribution: what is empty is told, not stretched."""
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
    known: Truth | None,
) -> dict[str, Any]:
    """How far the maps can be trusted: on findings that the model has found; on boxes, on all.

    Parameters
    ----------
    predicted_positive : (N, L), what the model calls in the split's first N images.
    """
    wanted, seed = run.params.gradcam, run.params.seed
    image, label = np.nonzero(predicted_positive & (split.labels[: len(predicted_positive)] == 1))
    told: dict[str, Any] = {}
    if known is not None:
        if run.origin.is_phantom:
            pairs = set(zip(image.tolist(), label.tolist(), strict=True))
            theirs = zip(known.image.tolist(), known.label.tolist(), strict=True)
            known = known.only(np.array([pair in pairs for pair in theirs], np.bool_))
        untrained = replace(target, network=sanity.untrained(target.network, seed))
        for key, each in (("localisation", target), ("localisation_untrained", untrained)):
            attribution = each.explain_pairs(known.image, known.label)
            told[key] = trust.localisation(attribution, known, seed)
    image, label = image[: wanted.max_findings], label[: wanted.max_findings]
    told["faithfulness"] = trust.faithfulness(target, image, label, seed)
    told["sanity"] = trust.sanity(target, image, label, seed)
    return told


def flat_metrics(report: dict[str, Any], maps: cam.Cam) -> dict[str, float]:
    """One model's numbers under MLflow's names; what is undefined is left out."""
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
        for order, told in report["faithfulness"][curve].items():
            values[f"gradcam/{curve}_{order}"] = told["mean"]
    if report["sanity"]["shifted"]:
        values["gradcam/alike_when_shifted"] = report["sanity"]["shifted"]["mean"]
        values["gradcam/alike_when_random"] = report["sanity"]["randomised"][-1]["mean"]
    return {key: float(value) for key, value in values.items() if value is not None}


def explain_images(
    name: str, method: Method, maps: cam.Cam, operating_point: OperatingPoint
) -> list[ModelOutput]:
    """The model's word on each image of some maps."""
    probs = operating_point.calibration.probs(maps.logits)
    return [
        ModelOutput(name, method, probs[i], operating_point.thresholds, maps.attribution[i])
        for i in range(len(probs))
    ]


def image_case(run: stage.Stage, split: Split, index: int) -> ImageCase:
    name = f"{run.params.gradcam.split} image {index}"
    return ImageCase(name, np.array(split.images[index]), np.array(split.labels[index]))


def labels_shown(run: stage.Stage, case: ImageCase, model_outputs: list[ModelOutput]) -> list[int]:
    """All labels; or what is there and, of what is not, what lies furthest above its threshold.

    Where that is nothing, the label that came nearest to being predicted_positive.
    """
    if run.params.gradcam.labels == "all":
        return list(range(len(LABELS)))
    times_threshold = np.max([each.probs / each.thresholds for each in model_outputs], axis=0)
    times_threshold = np.nan_to_num(times_threshold, nan=-1)  # without one nothing is called
    highest = np.argsort(-times_threshold, kind="stable").tolist()
    wrong = [i for i in highest if case.truth[i] == 0 and times_threshold[i] >= 1]
    return sorted({*np.flatnonzero(case.truth).tolist(), *wrong[:MOST_ERRORS]}) or highest[:1]


def draw_sheets(
    run: stage.Stage,
    name: str,
    split: Split,
    model_outputs: list[ModelOutput],
    step: Callable[[], None],
) -> None:
    """For each image a sheet of its labels, and a picture of each for MLflow's slider."""
    log = run.logs[name]
    for index, output in zip(run.params.gradcam.indices, model_outputs, strict=True):
        case, place = image_case(run, split, index), f"{SHEETS}/{name}"
        labels = labels_shown(run, case, [output])
        sheet(case, output, labels, run.origin, run.picture(f"{place}/{index}.png", log))
        for label in labels:
            path = f"{place}/{index}/{LABELS[label]}.png"
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
    """For each label a sheet of what the model typically finds, invents and misses."""
    truth = split.labels[: len(predicted_positive)] == 1
    for i, label in enumerate(LABELS):
        step()
        chosen = examples.choose(forward.pooled, truth[:, i], predicted_positive[:, i])
        rows = {
            "true positive": chosen.true_positives,
            "false positive": chosen.false_positives,
            "miss": chosen.misses,
        }
        index = np.concatenate(list(rows.values()))
        if not len(index):
            continue
        model_outputs = explain_images(name, target.method, target.explain(index), operating_point)
        word = dict(zip(index.tolist(), model_outputs, strict=True))
        example_sheet(
            i,
            {
                group: [(image_case(run, split, row), word[row]) for row in members.tolist()]
                for group, members in rows.items()
            },
            run.origin,
            run.picture(f"{SHEETS}/{name}/labels/{label}.png", run.logs[name]),
        )


def draw_side_by_side(
    run: stage.Stage, split: Split, model_outputs: dict[str, list[ModelOutput]]
) -> None:
    """For each image one sheet of all models, which every model's run shows."""
    for i, index in enumerate(run.params.gradcam.indices):
        case, words = image_case(run, split, index), [each[i] for each in model_outputs.values()]
        labels = labels_shown(run, case, words)
        path = run.picture(f"{SIDE_BY_SIDE}/{index}.png")
        side_by_side(case, words, labels, run.origin, path)


def tell(name: str, report: dict[str, Any], maps: cam.Cam) -> None:
    """What a person who watches wants to know first."""
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
            f"gradcam: {name:<12} points into {pooled['pointing']:.3f} [{low:.3f}, {high:.3f}] of "
            f"{pooled['n']} findings; the centre {pooled['pointing_centre']:.3f}, a random cell "
            f"{pooled['pointing_chance']:.3f}, untrained {untrained:.3f}"
        )


def users_file(params: Params, project: Path) -> tuple[Path, ...]:
    wanted = params.gradcam.boxes
    return () if wanted is None else (boxes.find(wanted, project),)


if __name__ == "__main__":
    stage.run(
        "gradcam",
        gradcam,
        models=stage.trained_models,
        prepare=set_up_device,
        external_files=users_file,
    )
