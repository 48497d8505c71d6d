"""gradcam: where each model looks, for every label of a few images."""

from typing import Any

import numpy as np
import torch

from cxr import cam, decisions, models, progress, stage, training
from cxr.augment import ImageBatches
from cxr.data import splits
from cxr.errors import CxrError
from cxr.labels import LABELS
from cxr.params import flatten
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
    report: dict[str, Any] = {}
    for name, log in run.logs.items():
        model = models.load(run.input(f"models/{name}"))
        log.params = flatten(model.params) | log.params  # its own seed and threads win
        maps = explain(run, model, split)
        report[name] = describe(maps, wanted.indices)
        log.metrics["gradcam/maps"] = maps.logits.size
        log.metrics["gradcam/without_positive_evidence"] = report[name]["empty"]
        draw(run, name, split, maps)
        progress.say(
            f"gradcam: {name:<12} {len(wanted.indices)} images x {len(LABELS)} labels on a grid of "
            f"{maps.evidence.shape[2]}x{maps.evidence.shape[3]}, "
            f"{report[name]['empty']} maps without positive evidence"
        )
    run.write_json("reports/gradcam.json", {"split": wanted.split, "models": report})


def explain(run: stage.Stage, model: models.SavedModel, split: splits.Split) -> cam.Cam:
    indices = list(run.params.gradcam.indices)
    device = torch.device(run.device)
    images = torch.from_numpy(split.images[indices]).to(device)
    inputs = ImageBatches(images, model.input).batch(
        torch.arange(len(indices), device=device), None
    )
    maps = cam.grad_cam(model.network.to(device), inputs)
    np.savez(
        run.output(f"reports/maps/{model.name}.npz"),
        indices=np.array(indices),
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


def draw(run: stage.Stage, name: str, split: splits.Split, maps: cam.Cam) -> None:
    decision = decisions.read(run.input(f"decisions/{name}.json"))
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


if __name__ == "__main__":
    stage.run("gradcam", gradcam, models=stage.trained_models, prepare=training.prepare)
