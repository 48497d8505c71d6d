"""preprocess: write the raw file's splits as memory-mappable arrays, and the data report."""

from dataclasses import asdict

from cxr import progress
from cxr.data import boxes, companion, quality, raw, references, splits
from cxr.data.ood import OodReference
from cxr.data.table import manifest
from cxr.errors import CxrError
from cxr.formatting import count
from cxr.hashing import md5_of_file
from cxr.labels import path_names
from cxr.paths import DATA_REPORT, OOD, PROCESSED, RAW, SAMPLES, STATISTICS
from cxr.pipeline import stage
from cxr.plots.data import label_counts, sample_images


def preprocess(run: stage.Stage) -> None:
    folder = run.output(PROCESSED)
    folder.mkdir()
    raw_file = run.input(RAW) / splits.RAW_FILE
    with progress.bar(f"preprocess: {run.origin.name}"):
        settings = run.params.download.companion
        table = companion.read(settings, companion.copies(settings, run.input(RAW)))
        extracted = raw.extract(raw_file, run.origin, folder, run.params.download.fit, table)
        dataset, statistics = extracted.dataset, extracted.statistics
        opened = {name: splits.open_split(folder, name) for name in splits.SPLITS}
        is_table = run.origin.source == "table"
        files = manifest.describe(manifest.read(run.input(RAW))) if is_table else None
        report = quality.describe(opened, extracted.impossible_ages, extracted.joined, files)

    check_other_stages(run, opened)
    run.write_json(STATISTICS, asdict(statistics))
    reference = OodReference.of(opened["train"].images, opened["val"].images)
    run.write_json(OOD, reference.as_json())
    run.write_json(
        DATA_REPORT,
        {
            "data": {
                "name": dataset.origin.name,
                "source": dataset.origin.source,
                "size": dataset.size,
                "md5": md5_of_file(raw_file),
                "labels": dataset.labels,
                "train_mean": statistics.mean,
                "train_std": statistics.std,
            },
            **report,
        },
    )
    label_counts(report["splits"], run.origin, run.picture("reports/data/labels.png"))
    sample_images(opened["train"], run.origin, run.picture(SAMPLES))

    prevalence = report["splits"]["train"]["prevalence"].values()
    labels = zip(path_names(dataset.labels), prevalence, strict=True)
    run.log.metrics.update(
        {f"n/{name}": n for name, n in dataset.n.items()}
        | {f"prevalence/{label}": share for label, share in labels if share is not None}
        | {"data/problems": len(report["problems"]), "data/train_mean": statistics.mean}
    )
    progress.say(
        f"preprocess: {run.origin.name}, "
        + ", ".join(f"{n:,} {name}" for name, n in dataset.n.items())
    )
    if (joined := extracted.joined) is not None:
        progress.say(
            "preprocess: companion table: "
            f"{count(sum(joined.images_without_row.values()), 'image')} without a row, "
            f"{count(joined.rows_without_image, 'row')} without an image"
        )
    for problem in report["problems"]:
        progress.say(f"preprocess: note: {problem}")


def check_other_stages(run: stage.Stage, data: dict[str, splits.Split]) -> None:
    """Refuse what would fail after all trainings."""
    n = {name: len(split.labels) for name, split in data.items()}
    if problem := run.params.gradcam.out_of_range(n):
        raise CxrError(problem)
    tables, experts = run.params.evaluate.references, run.params.gradcam.boxes
    references.read(tables, references.files(tables, run.project), data)
    boxes.read(experts, boxes.files(experts, run.project), data)


if __name__ == "__main__":
    stage.run("preprocess", preprocess)
