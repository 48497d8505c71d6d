"""Data quality: counts, prevalence, duplicates, leaks between splits, and distribution shift."""

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt

from cxr.data import attributes
from cxr.data.companion import Joined
from cxr.data.splits import SPLITS, Split

Doubles = npt.NDArray[np.float64]

EXAMPLES = 5
CHUNK = 256  # images; their standard deviations take 100 MB at 224 pixels
# Standardised difference above which groups count as imbalanced (Austin, "Balance diagnostics for
# comparing the distribution of baseline covariates", 2009).
IMBALANCE = 0.1
Z_95 = 1.96  # standard errors


@dataclass(frozen=True)
class _Images:
    digests: npt.NDArray[np.bytes_]  # (N,) 16 bytes per image
    constant: list[int]
    brightness: Doubles  # (N,) mean of an image's grey values, 0 to 255
    contrast: Doubles  # (N,) their standard deviation


def describe(
    splits: dict[str, Split],
    impossible_ages: dict[str, int] | None = None,
    joined: Joined | None = None,
    files: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Counts, prevalence, label pairs, constant images, duplicates, leaks, shifts and problems.

    Parameters
    ----------
    splits : the three splits by name.
    impossible_ages : their number in each split.
    joined : the companion table as joined to the images.
    files : of images read from a table, see `manifest.describe`.

    Returns
    -------
    A mapping that can be written as JSON: `splits` (per split: n, no_finding, images with a
    known value, positives and prevalence by label, attributes, constant images, duplicates),
    `pairs` (training images with both labels, (L, L)), `across` (images, ids and patients shared by
    two splits), `shift` (standardised differences to train), `problems` (one sentence each);
    with a companion table `companion` (images without a row, rows without an image), and with a
    table of images `files`.
    """
    images = {name: _image_statistics(split.images) for name, split in splits.items()}
    within = {name: _describe_split(splits[name], images[name]) for name in SPLITS}
    for name, n in (impossible_ages or {}).items():
        within[name]["impossible_ages"] = n
    across = {f"{a}-{b}": _overlap(a, b, splits, images) for a, b in combinations(SPLITS, 2)}
    shift = {name: _shift(name, splits, images) for name in SPLITS[1:]}
    without_row = joined.images_without_row if joined else {}
    positive = (splits["train"].labels == 1).astype(np.int64)
    report = {
        "splits": within,
        "pairs": (positive.T @ positive).tolist(),
        "across": across,
        "shift": shift,
        "problems": [
            *_problems_within(within),
            *_problems_across(across),
            *_problems_of_shift(shift, within),
            *_problems_of_companion(without_row),
            *_problems_of_files(files or {}),
        ],
    }
    if files:
        report["files"] = files
    if joined:
        report["companion"] = {
            "images_without_row": without_row,
            "rows_without_image": joined.rows_without_image,
        }
    return report


def _image_statistics(images: npt.NDArray[np.uint8]) -> _Images:
    digests: list[bytes] = []
    brightness, contrast = np.empty(len(images)), np.empty(len(images))
    # In chunks: reading a memory map row by row is ten times slower.
    for start in range(0, len(images), CHUNK):
        rows = np.array(images[start : start + CHUNK]).reshape(
            len(images[start : start + CHUNK]), -1
        )
        digests += (blake2b(row.tobytes(), digest_size=16).digest() for row in rows)
        brightness[start : start + CHUNK] = rows.mean(axis=1)
        contrast[start : start + CHUNK] = rows.std(axis=1)
    constant = np.flatnonzero(contrast == 0).tolist()
    return _Images(np.array(digests, dtype="S16"), constant, brightness, contrast)


def _describe_split(split: Split, images: _Images) -> dict[str, Any]:
    _, counts = np.unique(images.digests, return_counts=True)
    known, positives = ((split.labels >= 0).sum(axis=0), (split.labels == 1).sum(axis=0))
    n = len(split.labels)
    return {
        "n": n,
        "no_finding": int((split.labels == 0).all(axis=1).sum()),
        "known": dict(zip(split.names, known.tolist(), strict=True)),
        "positives": dict(zip(split.names, positives.tolist(), strict=True)),
        "prevalence": {
            name: int(positive) / int(total) if total else None
            for name, positive, total in zip(split.names, positives, known, strict=True)
        },
        "attributes": {k: attributes.describe(v) for k, v in split.attributes.items()},
        "patients": None if split.patients is None else len(np.unique(split.patients)),
        "constant_images": {"n": len(images.constant), "examples": images.constant[:EXAMPLES]},
        "duplicate_images": int((counts - 1).sum()),
        "duplicate_ids": 0 if split.ids is None else n - len(np.unique(split.ids)),
    }


def _overlap(
    a: str, b: str, splits: dict[str, Split], images: dict[str, _Images]
) -> dict[str, Any]:
    same = np.flatnonzero(np.isin(images[b].digests, images[a].digests))
    shared: dict[str, Any] = {
        "images": {"n": len(same), f"examples_in_{b}": same[:EXAMPLES].tolist()}
    }
    for column in ("ids", "patients"):
        of_a, of_b = getattr(splits[a], column), getattr(splits[b], column)
        both = None if of_a is None or of_b is None else np.intersect1d(of_a, of_b)
        shared[column] = (
            None if both is None else {"n": len(both), "examples": both[:EXAMPLES].tolist()}
        )
    return shared


def _shift(name: str, splits: dict[str, Split], images: dict[str, _Images]) -> dict[str, Any]:
    """Standardised differences of a split to train, and the standard error of those of images."""
    train, other = splits["train"], splits[name]
    label_shift = {
        label: _standardised_difference(*(each[each >= 0] for each in (of_train, of_other)))
        for label, of_train, of_other in zip(
            train.names, train.labels.T, other.labels.T, strict=True
        )
    }
    image_shift = {
        key: _standardised_difference(getattr(images["train"], key), getattr(images[name], key))
        for key in ("brightness", "contrast")
    }
    error = _standard_error(len(train.labels), len(other.labels))
    return {"labels": label_shift, "images": image_shift, "standard_error": error}


def _standard_error(n_train: int, n_other: int) -> float:
    """Standard error of a standardised difference of equal groups."""
    return float(np.sqrt(1 / n_train + 1 / n_other))


def _threshold(n_train: int, n_other: int) -> float:
    return IMBALANCE + Z_95 * _standard_error(n_train, n_other)


def _standardised_difference(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> float | None:
    """None if one of the two is empty."""
    if not (len(a) and len(b)):
        return None
    difference, spread = b.mean() - a.mean(), np.sqrt((a.var() + b.var()) / 2)
    return float(difference / spread) if spread else float(np.sign(difference))


def _problems_within(within: dict[str, dict[str, Any]]) -> Iterator[str]:
    for name, split in within.items():
        for label, positives in split["positives"].items():
            if not split["known"][label]:
                yield f"{name} has no known value of {label}; its metrics on {name} are undefined"
            elif positives in (0, split["known"][label]):
                kind = "no positive" if positives == 0 else "no negative"
                yield f"{name} has {kind} image of {label}; its AUROC on {name} is undefined"
        if n := split["constant_images"]["n"]:
            yield f"{name} has {_counted(n, 'image')} with a single grey value"
        if n := split["duplicate_images"]:
            yield f"{name} has {_counted(n, 'exact duplicate image')}"
        if n := split["duplicate_ids"]:
            yield f"{name} has {_counted(n, 'duplicate id')}"
        if n := split.get("impossible_ages"):
            yield (
                f"{name} has {_counted(n, 'age')} that no patient can have (valid: 0 to "
                f"{attributes.OLDEST} years); counted as unknown"
            )


def _problems_of_companion(without_row: dict[str, int]) -> Iterator[str]:
    for name, n in without_row.items():
        if n:
            yield f"{_counted(n, 'image')} of {name} without a row in the companion table"


def _problems_of_files(files: dict[str, Any]) -> Iterator[str]:
    if n := files.get("without_file"):
        yield f"{_counted(n, 'row')} of the table without an image file"
    if n := files.get("unreadable"):
        first, problem = next(iter(files["left_out"].items()))
        yield f"{_counted(n, 'unreadable image')} left out, the first {first}: {problem}"


def _counted(n: int, noun: str) -> str:  # in data.json, so not by reporting-only code
    return f"{n} {noun}{'' if n == 1 else 's'}"


def _problems_across(across: dict[str, dict[str, Any]]) -> Iterator[str]:
    for pair, shared in across.items():
        a, b = pair.split("-")
        for column in ("images", "ids", "patients"):
            if shared[column] and (n := shared[column]["n"]):
                verb = "appears" if n == 1 else "appear"
                yield (
                    f"{_counted(n, column.removesuffix('s'))} {verb} in both {a} and {b}; "
                    f"{b} metrics are optimistic"
                )


def _problems_of_shift(
    shifts: dict[str, dict[str, Any]], within: dict[str, dict[str, Any]]
) -> Iterator[str]:
    """Shifts that exceed IMBALANCE by more than sampling error explains."""
    for name, shift in shifts.items():
        for label, difference in shift["labels"].items():
            n_train, n_split = (within[s]["known"][label] for s in ("train", name))
            if difference is not None and abs(difference) > _threshold(n_train, n_split):
                of_train, of_split = (within[s]["prevalence"][label] for s in ("train", name))
                yield (
                    f"prevalence of {label} shifts from {of_train:.1%} in train to {of_split:.1%} "
                    f"in {name}"
                )
        for key, difference in shift["images"].items():
            if abs(difference) > _threshold(within["train"]["n"], within[name]["n"]):
                yield f"{key} of {name} differs from train by {difference:+.2f} standard deviations"
