"""gradcam: where each model looks, and how far that is to be trusted."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cxr import cam, decisions, models, progress, stage, training
from cxr.augment import normalise, on_unit_scale
from cxr.cam import sanity, trust, truth
from cxr.cam.trust import Subject
from cxr.cam.truth import Truth
from cxr.data import boxes, splits
from cxr.data.splits import Split
from cxr.decisions import Decision
from cxr.errors import CxrError
from cxr.labels import LABELS
from cxr.params import Params, flatten
from cxr.plots.gradcam import grad_cam


def gradcam(run: stage.Stage) -> None:
    wanted = run.params.gradcam
    split = splits.open_split(run.input(stage.PROCESSED), wanted.split)
    beyond = [index for index in wanted.indices if index >= len(split.labels)]
    if beyond:
        raise CxrError(
            f"gradcam.indices: {beyond[0]} is not in {wanted.split}, which has "
            f"{len(split.labels)} images; give indices below that"
        )
    known = find_truth(run, split)
    report: dict[str, Any] = {}
    for name, log in run.logs.items():
        model = models.load(run.input(f"models/{name}"))
        log.params = flatten(model.params) | log.params  # its own seed and threads win
        subject = subject_of(run, model, split)
        decision = decisions.read(run.input(f"decisions/{name}.json"))
        maps = explain(run, name, subject)
        report[name] = {"method": subject.method, **describe(maps, wanted.indices)}
        report[name] |= judge(run, subject, decision, split, known)
        log.metrics |= flat_metrics(report[name], maps)
        draw(run, name, split, maps, decision)
        tell(name, report[name], maps)
    run.write_json("reports/gradcam.json", {"split": wanted.split, "models": report})


def find_truth(run: stage.Stage, split: Split) -> Truth | None:
    """Where findings are, as far as the data or a file of boxes knows it."""
    wanted = run.params.gradcam
    if wanted.boxes is not None:
        return truth.of_boxes(split, boxes.read(boxes.find(wanted.boxes, run.project)))
    if run.origin.is_phantom:
        return truth.of_phantom(split, wanted.split, wanted.located, run.params.seed)
    return None


def subject_of(run: stage.Stage, model: models.SavedModel, split: Split) -> Subject:
    method = run.params.gradcam.method.get(model.name)
    if method is None:
        raise CxrError(f"params.yaml: gradcam.method.{model.name} is missing; add the model")
    device = torch.device(run.device)
    return Subject(
        model.network.to(device),
        method,
        torch.from_numpy(np.array(split.images)).to(device),
        lambda images: normalise(on_unit_scale(images), model.input),
    )


def explain(run: stage.Stage, name: str, subject: Subject) -> cam.Cam:
    """Maps of the images that get a sheet, kept as they are."""
    index = np.array(run.params.gradcam.indices)
    maps = subject.explain(index)
    np.savez(
        run.output(f"reports/maps/{name}.npz"),
        indices=index,
        logits=maps.logits,
        evidence=maps.evidence,
    )
    return maps


def describe(maps: cam.Cam, indices: tuple[int, ...]) -> dict[str, Any]:
    """Per image and label, the range of the evidence: what is empty is told, not stretched."""
    low, high = maps.evidence.min(axis=(2, 3)), maps.evidence.max(axis=(2, 3))
    return {
        "grid": list(maps.evidence.shape[2:]),
        "empty": int((high <= 0).sum()),
        "images": {
            str(index): {
                label: {"min": float(low[i, j]), "max": float(high[i, j])}
                for j, label in enumerate(LABELS)
            }
            for i, index in enumerate(indices)
        },
    }


def judge(
    run: stage.Stage, subject: Subject, decision: Decision, split: Split, known: Truth | None
) -> dict[str, Any]:
    """How far the maps can be trusted: on findings that the model has found; on boxes, on all."""
    wanted, seed = run.params.gradcam, run.params.seed
    image, label = found_by(subject, decision, split, wanted.located)
    told: dict[str, Any] = {}
    if known is not None:
        if run.origin.is_phantom:
            pairs = set(zip(image.tolist(), label.tolist(), strict=True))
            theirs = zip(known.image.tolist(), known.label.tolist(), strict=True)
            known = known.only(np.array([pair in pairs for pair in theirs], np.bool_))
        untrained = replace(subject, network=sanity.untrained(subject.network, seed))
        for key, each in (("localisation", subject), ("localisation_untrained", untrained)):
            evidence = each.explain_pairs(known.image, known.label)
            told[key] = trust.localisation(evidence, known, seed)
    image, label = image[: wanted.probed], label[: wanted.probed]
    told["faithfulness"] = trust.faithfulness(subject, image, label, seed)
    told["sanity"] = trust.sanity(subject, image, label, seed)
    return told


def found_by(
    subject: Subject, decision: Decision, split: Split, n: int
) -> tuple[truth.Indices, truth.Indices]:
    """Pairs of image and label among the first `n` images that the data and the model both see."""
    index = np.flatnonzero(split.labels[:n].any(axis=1))
    probs = decision.calibration.probs(subject.logits(index))
    row, label = np.nonzero((probs >= decision.thresholds) & (split.labels[index] == 1))
    return index[row], label


def flat_metrics(report: dict[str, Any], maps: cam.Cam) -> dict[str, float]:
    """One model's numbers under MLflow's names; what is undefined is left out."""
    values: dict[str, float | None] = {
        "gradcam/maps": maps.logits.size,
        "gradcam/without_positive_evidence": report["empty"],
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


def draw(run: stage.Stage, name: str, split: Split, maps: cam.Cam, decision: Decision) -> None:
    probs = decision.calibration.probs(maps.logits)
    for i, index in enumerate(run.params.gradcam.indices):
        grad_cam(
            split.images[index],
            split.labels[index],
            probs[i],
            decision.thresholds,
            maps.evidence[i],
            f"{name}, {run.params.gradcam.split} image {index}",
            run.origin,
            run.picture(f"reports/gradcam/{name}/{index}.png", run.logs[name]),
        )


def tell(name: str, report: dict[str, Any], maps: cam.Cam) -> None:
    """What a person who watches wants to know first."""
    n, n_labels, height, width = maps.evidence.shape
    progress.say(
        f"gradcam: {name:<12} {n} images x {n_labels} labels on a grid of {height}x{width}, "
        f"{report['empty']} maps without positive evidence"
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
        prepare=training.prepare,
        foreign=users_file,
    )
