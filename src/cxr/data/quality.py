"""What a careful person would want to know of a data set before believing a number made from it."""

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt

from cxr.data.splits import SPLITS, Split
from cxr.labels import LABELS

EXAMPLES = 5


@dataclass(frozen=True)
class _Images:
    digests: npt.NDArray[np.bytes_]  # (N,) 16 bytes an image
    constant: list[int]


def describe(splits: dict[str, Split]) -> dict[str, Any]:
    """Counts, prevalence, label pairs, constant images, duplicates, leaks and their sentences.

    Parameters
    ----------
    splits : the three splits by name.

    Returns
    -------
    A mapping that JSON can hold: `splits` (per split: n, no_finding, positives and prevalence by
    label, constant images, duplicates), `pairs` (training images with both labels, (L, L)),
    `across` (images, ids and patients shared by two splits), `problems` (one sentence each).
    """
    images = {name: _look_at_images(split.images) for name, split in splits.items()}
    within = {name: _describe_split(splits[name], images[name]) for name in SPLITS}
    across = {f"{a}-{b}": _shared(a, b, splits, images) for a, b in combinations(SPLITS, 2)}
    labels = splits["train"].labels.astype(np.int64)
    return {
        "splits": within,
        "pairs": (labels.T @ labels).tolist(),
        "across": across,
        "problems": [*_problems_within(within), *_problems_across(across)],
    }


def _look_at_images(images: npt.NDArray[np.uint8]) -> _Images:
    digests, constant = [], []
    for index, image in enumerate(_rows(images)):
        digests.append(blake2b(image.tobytes(), digest_size=16).digest())
        if image.min() == image.max():
            constant.append(index)
    return _Images(np.array(digests, dtype="S16"), constant)


def _rows(images: npt.NDArray[np.uint8]) -> Iterator[npt.NDArray[np.uint8]]:
    """Rows by way of chunks in memory: reading a memory map row by row is ten times slower."""
    for start in range(0, len(images), 4096):
        yield from np.array(images[start : start + 4096])


def _describe_split(split: Split, images: _Images) -> dict[str, Any]:
    _, counts = np.unique(images.digests, return_counts=True)
    positives = split.labels.sum(axis=0, dtype=np.int64)
    n = len(split.labels)
    return {
        "n": n,
        "no_finding": int((split.labels.sum(axis=1) == 0).sum()),
        "positives": dict(zip(LABELS, positives.tolist(), strict=True)),
        "prevalence": dict(zip(LABELS, (positives / n).tolist(), strict=True)),
        "patients": None if split.patients is None else len(np.unique(split.patients)),
        "constant_images": {"n": len(images.constant), "examples": images.constant[:EXAMPLES]},
        "duplicate_images": int((counts - 1).sum()),
        "duplicate_ids": 0 if split.ids is None else n - len(np.unique(split.ids)),
    }


def _shared(a: str, b: str, splits: dict[str, Split], images: dict[str, _Images]) -> dict[str, Any]:
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


def _problems_within(within: dict[str, dict[str, Any]]) -> Iterator[str]:
    for name, split in within.items():
        for label, positives in split["positives"].items():
            if positives in (0, split["n"]):
                kind = "no positive" if positives == 0 else "no negative"
                yield f"{name} has {kind} image of {label}: its AUROC is undefined there"
        if n := split["constant_images"]["n"]:
            yield f"{name} has {n} images of one grey value"
        if n := split["duplicate_images"]:
            yield f"{name} holds {n} images that repeat another of the same split exactly"
        if n := split["duplicate_ids"]:
            yield f"{name} holds {n} ids more than once"


def _problems_across(across: dict[str, dict[str, Any]]) -> Iterator[str]:
    for pair, shared in across.items():
        a, b = pair.split("-")
        for column in ("images", "ids", "patients"):
            if shared[column] and (n := shared[column]["n"]):
                yield f"{n} {column} are in both {a} and {b}: numbers on {b} are too good"
