"""Stage train-<model>: train one network and keep the epoch that is best on validation."""

import csv
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path

from cxr.pipeline import stage  # before torch, whose import can run out of memory

# isort: split


import numpy as np
import torch

from cxr import models, progress
from cxr.data import splits
from cxr.errors import CxrError
from cxr.formatting import count
from cxr.models.weights import fill
from cxr.params import ModelParams, Params
from cxr.paths import FEATURES, MODELS, PROCESSED, REPORTS, STATISTICS
from cxr.pipeline.checkpoint import FileCheckpoint
from cxr.pipeline.initial_model import find_initial_model
from cxr.plots.training import learning_curves
from cxr.tracking.saved_models import FILES
from cxr.training import feed, loop
from cxr.training.device import set_up_device
from cxr.training.feed import FeatureStore, open_feed

MLFLOW_NAMES = {
    "epoch": "epoch",
    "train_loss": "loss/train",
    "val_loss": "loss/val",
    "val_macro_auroc": "val/macro_auroc",
    "val_macro_ap": "val/macro_ap",
    "lr": "schedule/lr",
    "seconds": "speed/seconds_per_epoch",
    "images_per_second": "speed/images_per_second",
}


def train(run: stage.Stage, name: str) -> None:
    hyper = models.hyper_parameters(name, run.params.train.block(name))
    device = torch.device(run.device)
    store = open_store(run)
    model = new_model(run, name, hyper, store)
    network = model.network.to(device)
    train_labels = labels_of(run, "train", device)
    loop.set_prior_bias(network.head(), train_labels)
    start(run, model, device)
    processed = run.input(PROCESSED)
    trained, train_inputs = open_feed(model, "train", processed, store, device, hyper.augment)
    _, val_inputs = open_feed(model, "val", processed, store, device)
    n_parameters = models.n_parameters(network)
    progress.say(
        f"{run.name}: training {n_parameters['trainable']:,} of {n_parameters['total']:,} "
        f"parameters on {len(train_inputs):,} images of {run.origin.name}, {run.device}"
    )
    with progress.bar(run.name) as advance:
        fit = loop.fit(
            trained,
            loop.Examples(train_inputs, train_labels),
            loop.Examples(val_inputs, labels_of(run, "val", device)),
            run.params.train.protocol,
            hyper,
            run.params.seed,
            on_epoch=partial(show_epoch, run),
            on_batch=training_progress(run, advance),
            checkpoint=FileCheckpoint(run.work / "training.pt", run.say),
        )
    models.save(model, run.output(f"{MODELS}/{name}"))
    report(run, name, fit, n_parameters)


def training_progress(run: stage.Stage, advance: progress.Advance) -> progress.Advance:
    """Convert progress within an epoch to progress of the training, assuming it runs all epochs."""

    def advance_epoch(done: int, total: int) -> None:
        epochs = run.params.train.protocol.epochs
        advance(len(run.log.history) * total + done, epochs * total)

    return advance_epoch


def open_store(run: stage.Stage) -> FeatureStore | None:
    """The feature store, for a model whose stage depends on it."""
    if FEATURES not in run.declared.dependencies:
        return None
    return feed.open_store(run.input(FEATURES))


def new_model(
    run: stage.Stage, name: str, hyper: ModelParams, store: FeatureStore | None
) -> models.SavedModel:
    dataset = splits.open_dataset(run.input(PROCESSED))
    statistics = splits.open_statistics(run.input(STATISTICS))
    spec = models.input_spec(name, hyper, dataset.size, statistics, dataset.fit)
    network = models.build(name, hyper, spec.image_size, spec.channels, len(dataset.labels))
    if store is not None:
        fill(network.get_submodule("features"), store.backbone(), str(store.folder))
    settings = {
        "seed": run.params.seed,
        "threads": run.params.threads,
        "train": {
            "protocol": run.params.train.protocol.model_dump(mode="json"),
            name: hyper.model_dump(mode="json"),
        },
    }
    return models.SavedModel(name, network, spec, dataset.labels, settings)


def start(run: stage.Stage, model: models.SavedModel, device: torch.device) -> None:
    """Start from the weights of the model that `init` names, if any."""
    folder = initial_model(run.params, run.project, model.name)
    if folder is None:
        return
    source = models.load(folder)
    source.network.to(device)
    try:
        kept = models.start_from(source, model)
    except CxrError as error:
        raise CxrError(f"train.{model.name}.init: {folder} does not fit: {error}") from None
    fresh = [label for label in model.labels if label not in kept]
    heads = f"keeping the head of {count(len(kept), 'label')}"
    new = f"; new: {', '.join(fresh)}" if fresh else ""
    progress.say(f"{run.name}: starting from {folder}, {heads}{new}")


def initial_model(params: Params, project: Path, name: str) -> Path | None:
    init = getattr(params.train.block(name), "init", None)  # checked with the model's other keys
    return (
        find_initial_model(init, f"train.{name}.init", project) if isinstance(init, str) else None
    )


def users_model(params: Params, project: Path, name: str) -> tuple[Path, ...]:
    folder = initial_model(params, project, name)
    return tuple(folder / file for file in FILES) if folder else ()


def labels_of(run: stage.Stage, split: str, device: torch.device) -> torch.Tensor:
    labels = splits.open_split(run.input(PROCESSED), split).labels
    return torch.from_numpy(labels.astype(np.float32)).to(device)


def show_epoch(run: stage.Stage, epoch: loop.Epoch) -> None:
    run.log_epoch({MLFLOW_NAMES[key]: value for key, value in asdict(epoch).items()})
    progress.say(
        f"{run.name}: epoch {epoch.epoch:>2}/{run.params.train.protocol.epochs}"
        f"  loss {epoch.train_loss:.4f}  val loss {epoch.val_loss:.4f}"
        f"  val macro AUROC {epoch.val_macro_auroc:.4f}"
        f"  {epoch.seconds:.1f} s, {epoch.images_per_second:,.0f} images/s"
    )


def report(run: stage.Stage, name: str, fit: loop.Fit, n_parameters: dict[str, int]) -> None:
    best = fit.history[fit.best_epoch - 1]
    seconds = sum(epoch.seconds for epoch in fit.history)
    rows = [asdict(epoch) for epoch in fit.history]
    with open(run.output(f"{REPORTS}/{name}/history.csv"), "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    run.write_json(
        f"{REPORTS}/{name}/train.json",
        {
            "model": name,
            "data": run.origin.name,
            "parameters": n_parameters,
            "best_epoch": fit.best_epoch,
            "epochs": len(fit.history),
            "stopped_early": fit.stopped_early,
            "val_macro_auroc": best.val_macro_auroc,
            "val_macro_ap": best.val_macro_ap,
            "seconds": seconds,
            "device": run.device,
        },
    )
    learning_curves(
        fit.history, fit.best_epoch, name, run.origin, run.picture(f"{REPORTS}/{name}/curves.png")
    )
    run.log.metrics.update(
        {
            "best/epoch": fit.best_epoch,
            "best/val_macro_auroc": best.val_macro_auroc,
            "best/val_macro_ap": best.val_macro_ap,
            "parameters/total": n_parameters["total"],
            "parameters/trainable": n_parameters["trainable"],
            "speed/training_seconds": seconds,
        }
    )
    progress.say(
        f"{run.name}: best epoch {fit.best_epoch}, val macro AUROC {best.val_macro_auroc:.4f}"
    )


def main() -> None:
    if len(sys.argv) != 2:
        print("usage: python stages/train.py MODEL", file=sys.stderr)
        sys.exit(2)
    name = sys.argv[1]
    stage.run(
        f"train-{name}",
        partial(train, name=name),
        prepare=set_up_device,
        external_files=partial(users_model, name=name),
    )


if __name__ == "__main__":
    main()
