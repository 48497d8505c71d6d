"""evaluate: metrics of every trained model and of trivial baselines on validation and test."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cxr.pipeline import stage  # before torch, whose import may lack memory

# isort: split


import numpy as np
import torch

from cxr import models, paths, progress
from cxr.arrays import Floats, Labels
from cxr.data import references, splits
from cxr.data.ood import OodReference
from cxr.data.splits import Split
from cxr.documents import read_output
from cxr.evaluation import attributes_only, decisions, significance, subgroups
from cxr.evaluation import evaluate as evaluation
from cxr.evaluation import references as readers
from cxr.evaluation.curves import Curve, precision_recall, roc
from cxr.evaluation.description import (
    ALL_NEGATIVE,
    ATTRIBUTES_ONLY,
    BASELINES,
    PREVALENCE,
    Predicted,
)
from cxr.evaluation.evaluate import Evaluation
from cxr.evaluation.flat_metrics import flat_metrics
from cxr.evaluation.hard_examples import find_hard_examples
from cxr.evaluation.metrics import has_both_classes, known
from cxr.formatting import comparison, count, number, signed, widest_gap, with_interval
from cxr.params import Params, flatten
from cxr.plots import evaluation as figures
from cxr.plots.evaluation import Curves
from cxr.training import feed
from cxr.training.device import set_up_device
from cxr.training.feed import open_feed, open_store

BATCH = 256
HELD_OUT = ("val", "test")
N_HARD_EXAMPLES = 24
BINS = ("mean_prob", "share_positive", "n")


def evaluate(run: stage.Stage) -> None:
    data = {name: splits.open_split(run.input(paths.PROCESSED), name) for name in splits.SPLITS}
    ood = read_output(run.input(paths.OOD), OodReference.from_json)
    predicted: dict[str, dict[str, Predicted]] = {split: {} for split in HELD_OUT}
    trained = {
        name: models.load(run.input(f"{paths.MODELS}/{name}"))
        for name in stage.trained_models(run.folder)
    }
    logits = {name: predict(run, model) for name, model in trained.items()}
    of_attributes = attributes_only.logits(
        data["train"].labels,
        data["train"].attributes,
        {split: data[split].attributes for split in HELD_OUT},
    )
    if of_attributes is not None:
        logits[ATTRIBUTES_ONLY] = of_attributes
    for name, of_split in logits.items():
        options = run.params.evaluate
        operating_point = decisions.decide(
            name, data["val"].labels, data["val"].names, of_split["val"],
            options.calibration, options.threshold_rule, options.sensitivity, ood,
        )  # fmt: skip
        if name in trained:
            run.write_json(f"{paths.DECISIONS}/{name}.json", operating_point.as_json())
        for split in HELD_OUT:
            predicted[split][name] = Predicted.from_logits(operating_point, of_split[split])
    evaluated = {split: measure(run, split, data[split], predicted[split]) for split in HELD_OUT}
    of_readers = compare_with_readers(run, data, predicted["test"])
    write_reports(run, evaluated, of_readers, data)
    shown = {name: predicted["test"][name] for name in trained}
    draw(run, evaluated["test"], shown, data["test"])
    log_models(run, evaluated, of_readers, trained)
    report_progress(evaluated["test"])
    report_readers(of_readers)


def predict(run: stage.Stage, model: models.SavedModel) -> dict[str, np.ndarray[Any, Any]]:
    """Logits of validation and test, also written to `predictions/`."""
    device = torch.device(run.device)
    model.network.to(device)
    store = open_store(run.input(paths.FEATURES))
    logits = {}
    for split in HELD_OUT:
        network, inputs = open_feed(model, split, run.input(paths.PROCESSED), store, device)
        logits[split] = feed.predict(network, inputs, device, BATCH)
    np.savez(
        run.output(f"{paths.PREDICTIONS}/{model.name}.npz"),
        val_logits=logits["val"],
        test_logits=logits["test"],
        label_names=np.array(model.labels),
    )
    return logits


def measure(
    run: stage.Stage, split: str, data: Split, predicted: dict[str, Predicted]
) -> Evaluation:
    options = run.params.evaluate
    has_groups = split == "test" and data.attributes
    with progress.bar(f"evaluate: resamples of {split}") as advance:
        return evaluation.evaluate(
            data.labels, data.names, predicted, data.patients, options.resamples, run.params.seed,
            advance, subgroups.group(data.attributes, options.bands) if has_groups else None,
        )  # fmt: skip


def log_models(
    run: stage.Stage,
    evaluated: dict[str, Evaluation],
    of_readers: dict[str, Any],
    trained: dict[str, models.SavedModel],
) -> None:
    """Log each model and baseline to a run of its own, and register the models."""
    for name in evaluated["test"].models:
        of_split = {split: evaluated[split].models[name] for split in HELD_OUT}
        metrics = flat_metrics(name, of_split, evaluated["test"].subgroups, of_readers)
        if name not in trained:
            run.log_model(name, {}, metrics)
            continue
        model = trained[name]
        metrics["parameters/trainable"] = models.n_parameters(model.network)["trainable"]
        log = run.log_model(name, flatten(model.params), metrics)
        score = evaluated["val"].models[name]["macro_auroc"]
        if score is not None:
            run.register(log, f"{paths.MODELS}/{name}", f"{paths.DECISIONS}/{name}.json", score)


def compare_with_readers(
    run: stage.Stage, data: dict[str, Split], predicted: dict[str, Predicted]
) -> dict[str, Any]:
    """Labels of all splits, and models on the test split, against `evaluate.references`."""
    options = run.params.evaluate
    if not options.references:
        return {}
    files = references.files(options.references, run.project)
    read = references.read(options.references, files, data)
    return readers.describe(read, data, predicted, options.resamples, run.params.seed)


def write_reports(
    run: stage.Stage,
    evaluated: dict[str, Evaluation],
    of_readers: dict[str, Any],
    data: dict[str, Split],
) -> None:
    data_info = {
        "name": run.origin.name,
        "source": run.origin.source,
        "size": splits.open_dataset(run.input(paths.PROCESSED)).size,
        "md5": run.facts.dependencies[paths.PROCESSED].md5,
        "n": {split: len(data[split].labels) for split in HELD_OUT},
    }
    names = evaluated["test"].models
    metrics = {name: {s: evaluated[s].models[name] for s in HELD_OUT} for name in names}
    run.write_json(
        paths.METRICS,
        {
            "data": data_info,
            "models": metrics,
            "comparisons": evaluated["test"].comparisons,
            "subgroups": evaluated["test"].subgroups,
            "references": of_readers,
        },
    )
    summary: dict[str, Any] = {
        name: {
            "val_macro_auroc": each["val"]["macro_auroc"],
            "test_macro_auroc": each["test"]["macro_auroc"],
            "test_macro_ap": each["test"]["macro_ap"],
        }
        for name, each in metrics.items()
        if name not in BASELINES
    }
    summary["all_negative_accuracy"] = metrics[ALL_NEGATIVE]["test"]["accuracy"]
    summary["prevalence_macro_ap"] = metrics[PREVALENCE]["test"]["macro_ap"]
    if ATTRIBUTES_ONLY in metrics:
        of_attributes = metrics[ATTRIBUTES_ONLY]["test"]["macro_auroc"]
        summary["attributes_only_macro_auroc"] = of_attributes
    run.write_json(paths.SUMMARY, summary)


def draw(
    run: stage.Stage, evaluated: Evaluation, predicted: dict[str, Predicted], test: Split
) -> None:
    """Draw the figures, which are also logged to MLflow."""
    tests = {name: evaluated.models[name] for name in predicted}
    for metric in ("auroc", "ap"):
        figures.forest(tests, metric, run.origin, run.picture(f"{paths.EVALUATION}/{metric}.png"))
    if evaluated.subgroups is not None and evaluated.subgroups["attributes"]:
        path = run.picture(f"{paths.EVALUATION}/subgroups.png")
        figures.subgroups(evaluated.subgroups, tests, run.origin, path)
    curves = {
        "roc": curves_of(roc, test, predicted),
        "precision_recall": curves_of(precision_recall, test, predicted),
    }
    figures.roc(curves["roc"], tests, run.origin, run.picture(f"{paths.EVALUATION}/roc.png"))
    figures.precision_recall(
        curves["precision_recall"],
        tests,
        run.origin,
        run.picture(f"{paths.EVALUATION}/precision_recall.png"),
    )
    figures.reliability(tests, run.origin, run.picture(f"{paths.EVALUATION}/reliability.png"))
    predicted_positive = {name: each.probs >= each.thresholds for name, each in predicted.items()}
    figures.label_pairs(
        test.labels,
        test.names,
        predicted_positive,
        run.origin,
        run.picture(f"{paths.EVALUATION}/label_pairs.png"),
    )
    probs = {name: each.probs for name, each in predicted.items()}
    examples = find_hard_examples(test.labels, list(probs.values()), N_HARD_EXAMPLES)
    titles = [f"#{i}" if test.ids is None else f"#{i} {test.ids[i]}" for i in examples.index]
    figures.hard_examples(
        examples,
        test.images[examples.index],
        test.labels[examples.index],
        test.names,
        {name: each[examples.index] for name, each in probs.items()},
        titles,
        run.origin,
        run.picture(f"{paths.EVALUATION}/hard_examples.png"),
    )
    write_tables(run, evaluated, tests, curves)


def curves_of(
    curve: Callable[[Labels, Floats], Curve], test: Split, predicted: dict[str, Predicted]
) -> Curves:
    """Curves by label and model; none for a label with one class only."""
    has_both = has_both_classes(test.labels)
    return {
        label: {
            name: curve(*known(test.labels[:, i], each.scores[:, i]))
            for name, each in predicted.items()
        }
        if has_both[i]
        else {}
        for i, label in enumerate(test.names)
    }


def write_tables(
    run: stage.Stage, evaluated: Evaluation, tests: dict[str, Any], curves: dict[str, Curves]
) -> None:
    """Write the tables that `dvc plots` draws."""
    aurocs = [
        ["(macro)", name, *[metrics["macro_auroc"]] * 3]
        for name, metrics in evaluated.models.items()
        if name in BASELINES
    ]
    aurocs += [
        [label, name, each["auroc"], *each["auroc_ci"]]
        for name, test in tests.items()
        for label, each in {"(macro)": macro(test), **test["labels"]}.items()
        if each["auroc"] is not None and each["auroc_ci"] is not None
    ]
    write_table(run, "auroc", ("auroc", "low", "high"), aurocs)
    axes = {
        "roc": ("false_positive_rate", "sensitivity"),
        "precision_recall": ("recall", "precision"),
    }
    for kind, of_label in curves.items():
        points = [
            [label, name, x, y]
            for label, of_model in of_label.items()
            for name, curve in of_model.items()
            for x, y in zip(curve.x, curve.y, strict=True)
        ]
        write_table(run, kind, axes[kind], points)
    bins = [
        [label, name, *row]
        for name, test in tests.items()
        for label, each in test["labels"].items()
        for row in zip(*(each["reliability"][key] for key in BINS), strict=True)
    ]
    write_table(run, "reliability", BINS, bins)


def macro(test: dict[str, Any]) -> dict[str, Any]:
    return {"auroc": test["macro_auroc"], "auroc_ci": test["macro_auroc_ci"]}


def write_table(
    run: stage.Stage, name: str, columns: tuple[str, ...], rows: list[list[Any]]
) -> None:
    with open(run.output(f"{paths.CURVES}/{name}.csv"), "w", newline="") as file:
        csv.writer(file).writerows([["label", "model", *columns], *rows])


def report_progress(test: Evaluation) -> None:
    """Print the main test metrics, the comparisons and the note on intervals."""
    for name, metrics in test.models.items():
        progress.say(
            f"evaluate: {name:<12} test macro AUROC {with_interval(metrics, 'macro_auroc')}, "
            f"macro AP {with_interval(metrics, 'macro_ap')}, "
            f"accuracy {number(metrics['accuracy'])} "
            f"({signed(metrics['accuracy_gain'])} vs all-negative)"
        )
    for each in test.comparisons:
        if each["metric"] == "macro_auroc" and each["p"] is not None:
            progress.say(f"evaluate: {each['a']} minus {each['b']}: macro AUROC {comparison(each)}")
    image_models = [name for name in test.models if name not in BASELINES]
    if ATTRIBUTES_ONLY in test.models:
        for name in image_models:
            if not significance.is_better(test.comparisons, name, ATTRIBUTES_ONLY):
                progress.say(
                    f"evaluate: note: {name} is not shown to be better than {ATTRIBUTES_ONLY}, "
                    "which sees no pixel"
                )
    if test.subgroups is not None:
        for name in image_models:
            gap = significance.widest_gap(test.subgroups, name)
            attributes = list(test.subgroups["attributes"])
            progress.say(f"evaluate: {name}: {widest_gap(gap, attributes)}")
    interval_info = next(m["intervals"] for m in test.models.values() if "intervals" in m)
    if "note" in interval_info:
        progress.say(f"evaluate: note: {interval_info['note']}")


def report_readers(references: dict[str, Any]) -> None:
    """Print each model's AUROC by other readers, and by the labels on the same images."""
    for reference, readings in references.items():
        for reading, compared in readings.items():
            test = compared["test"]
            progress.say(
                f"evaluate: {reference}, {reading}: {count(test['n'], 'test image')}, positive: "
                f"{test['n_positive']:,} by readers, {test['n_positive_labels']:,} by labels"
            )
            for name, measured in test["models"].items():
                progress.say(
                    f"evaluate: {name:<12} AUROC {with_interval(measured, 'auroc')} by readers, "
                    f"{with_interval(measured, 'auroc_labels')} by labels"
                )


def users_files(params: Params, project: Path) -> tuple[Path, ...]:
    return tuple(references.files(params.evaluate.references, project).values())


if __name__ == "__main__":
    stage.run("evaluate", evaluate, prepare=set_up_device, external_files=users_files)
