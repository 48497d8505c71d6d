"""evaluate: every trained model on validation and test, beside what "no" for everything scores."""

import csv
from typing import Any

import numpy as np
import torch

from cxr import features, metrics, models, plots, progress, stage, training
from cxr.data import splits
from cxr.labels import LABELS
from cxr.params import flatten

BATCH = 256
HELD_OUT = ("val", "test")


def evaluate(run: stage.Stage) -> None:
    labels = {name: splits.open_split(run.input(stage.PROCESSED), name).labels for name in HELD_OUT}
    results: dict[str, Any] = {}
    for name, log in run.logs.items():
        model = models.load(run.input(f"models/{name}"))
        log.params = flatten(model.params) | log.params  # its own seed and threads win
        probs = {key: metrics.sigmoid(value) for key, value in predict(run, model).items()}
        cut = metrics.thresholds(labels["val"], probs["val"], run.params.evaluate.threshold_rule)
        write_decision(run, name, cut)
        results[name] = {
            split: metrics.describe(labels[split], probs[split], cut) for split in HELD_OUT
        }
        log.metrics.update(flat_metrics(results[name]))
        test = results[name]["test"]
        progress.say(
            f"evaluate: {name:<12} test macro AUROC {shown(test['macro_auroc'])}, "
            f"macro AP {shown(test['macro_ap'])}, accuracy {test['accuracy']:.4f} "
            f"({test['accuracy_gain']:+.4f} against all-negative)"
        )
    results["all-negative"] = {split: metrics.all_negative(labels[split]) for split in HELD_OUT}
    write_reports(run, results)


def predict(run: stage.Stage, model: models.SavedModel) -> dict[str, np.ndarray[Any, Any]]:
    """Logits of validation and test, kept in `predictions/`."""
    device = torch.device(run.device)
    model.network.to(device)
    store = features.open_store(run.input(stage.FEATURES))
    logits = {}
    for split in HELD_OUT:
        network, inputs = features.feed(model, split, run.input(stage.PROCESSED), store, device)
        logits[split] = training.predict(network, inputs, device, BATCH)
    np.savez(
        run.output(f"predictions/{model.name}.npz"),
        val_logits=logits["val"],
        test_logits=logits["test"],
    )
    return logits


def write_decision(run: stage.Stage, name: str, cut: np.ndarray[Any, Any]) -> None:
    """What turns the model's probabilities into yes and no: chosen on validation alone."""
    run.write_json(
        f"decisions/{name}.json",
        {
            "model": name,
            "rule": run.params.evaluate.threshold_rule,
            "chosen_on": "val",
            "thresholds": {
                label: None if np.isnan(value) else float(value)
                for label, value in zip(LABELS, cut, strict=True)
            },
        },
    )


def write_reports(run: stage.Stage, results: dict[str, Any]) -> None:
    dataset = splits.open_dataset(run.input(stage.PROCESSED))
    digest = run.facts.dependencies[stage.PROCESSED]
    data = {
        "name": run.origin.name,
        "source": run.origin.source,
        "size": dataset.size,
        "md5": digest.md5,
        "n": {split: dataset.n[split] for split in HELD_OUT},
    }
    run.write_json("reports/metrics.json", {"data": data, "models": results})
    trained = {name: results[name] for name in run.logs}
    summary: dict[str, Any] = {
        name: {
            "val_macro_auroc": result["val"]["macro_auroc"],
            "test_macro_auroc": result["test"]["macro_auroc"],
            "test_macro_ap": result["test"]["macro_ap"],
        }
        for name, result in trained.items()
    }
    summary["all_negative_accuracy"] = results["all-negative"]["test"]["accuracy"]
    run.write_json("reports/summary.json", summary)
    with open(run.output("reports/labels.csv"), "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["label", "model", "auroc", "ap", "prevalence", "n_positive"])
        for name, result in trained.items():
            for label, values in result["test"]["labels"].items():
                if values["auroc"] is not None:
                    row = (values[key] for key in ("auroc", "ap", "prevalence", "n_positive"))
                    writer.writerow([label, name, *row])
    plots.auroc_by_label(
        {name: result["test"] for name, result in trained.items()},
        run.origin,
        run.picture("reports/auroc.png"),
    )


def flat_metrics(result: dict[str, Any]) -> dict[str, float]:
    """One model's numbers under MLflow's names; what is undefined is left out."""
    values: dict[str, float | None] = {}
    for split in HELD_OUT:
        for key in ("macro_auroc", "macro_ap", "accuracy", "accuracy_gain", "brier", "n_labels"):
            values[f"{split}/{key}"] = result[split][key]
    for label, numbers in result["test"]["labels"].items():
        values[f"test_auroc/{label}"] = numbers["auroc"]
        values[f"test_ap/{label}"] = numbers["ap"]
    return {key: value for key, value in values.items() if value is not None}


def shown(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.4f}"


if __name__ == "__main__":
    stage.run("evaluate", evaluate, models=stage.trained_models, prepare=training.prepare)
