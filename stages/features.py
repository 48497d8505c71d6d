"""Stage features: compute the frozen backbone's output for every image once."""

from pathlib import Path
from typing import cast

from cxr.pipeline import stage  # before torch, whose import can run out of memory

# isort: split


import torch

from cxr import models, progress
from cxr.data import splits
from cxr.models import squeezenet
from cxr.params import Params
from cxr.paths import FEATURES, PROCESSED, STATISTICS
from cxr.training import features
from cxr.training.device import set_up_device

MODEL = "squeezenet"


def compute(run: stage.Stage) -> None:
    hyper = hyper_parameters(run.params)
    dataset = splits.open_dataset(run.input(PROCESSED))
    spec = squeezenet.input_spec(hyper, dataset.size, splits.open_statistics(run.input(STATISTICS)))
    backbone = squeezenet.backbone(hyper.weights, run.project)
    store = run.output(FEATURES)
    features.create_store(store, MODEL, hyper.freeze, backbone)
    if not hyper.freeze:
        progress.say("features: not computed, because train.squeezenet.freeze is false")
        return
    views = [(name, False) for name in splits.SPLITS]
    views += [("train", True)] if hyper.augment.hflip else []
    for name, hflip in views:
        split = splits.open_split(run.input(PROCESSED), name)
        title = f"{name}_hflip" if hflip else name
        with progress.bar(f"features: {title}") as advance:
            parts = features.compute_in_parts(
                backbone, split.images, spec, torch.device(run.device), hflip,
                run.work / title, advance,
            )  # fmt: skip
            n = features.join(parts, store / f"{title}.npy")
        progress.say(f"features: {title}, {n:,} images at {spec.image_size} px")
        run.log.metrics[f"n/{title}"] = n


def hyper_parameters(params: Params) -> squeezenet.Hyper:
    return cast(squeezenet.Hyper, models.hyper_parameters(MODEL, params.train.block(MODEL)))


def users_weights(params: Params, project: Path) -> tuple[Path, ...]:
    path = squeezenet.weights_file(hyper_parameters(params).weights, project)
    return (path,) if path else ()


if __name__ == "__main__":
    stage.run("features", compute, prepare=set_up_device, external_files=users_weights)
