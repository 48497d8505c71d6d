"""How well experts' boxes agree: what one expert scores against another."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from cxr.arrays import Doubles, Flags
from cxr.data.boxes import Box

RESAMPLES = 2000
LIMITS = (0.025, 0.975)  # of a 95% interval


def compare(experts: Mapping[str, Sequence[Box]], seed: int) -> list[dict[str, Any]]:
    """Every pair of experts on all images that both have boxed, for JSON.

    `any_finding` compares all boxes of an image. `same_finding` compares only boxes that may be
    around the same finding: those with a label in common.
    """
    return [
        {
            "a": a,
            "b": b,
            "any_finding": _agreement(experts[a], experts[b], False, seed),
            "same_finding": _agreement(experts[a], experts[b], True, seed),
        }
        for a, b in combinations(experts, 2)
    ]


def overlap(a: Doubles, b: Doubles) -> float:
    """Intersection over union of the regions of boxes (A, 4) and of boxes (B, 4), in 0..1."""
    # The edges of all boxes cut the image into cells that a box covers entirely or not at all.
    x, y = (
        np.unique([start, start + length])
        for start, length in zip(*np.split(np.concatenate([a, b]).T, 2), strict=True)
    )
    left, top = (each.ravel() for each in np.meshgrid(x[:-1], y[:-1]))
    area = np.outer(np.diff(y), np.diff(x)).ravel()
    in_a, in_b = (_inside(left, top, boxes).any(axis=1) for boxes in (a, b))
    return float(area[in_a & in_b].sum() / area[in_a | in_b].sum())


def _agreement(a: Iterable[Box], b: Iterable[Box], same: bool, seed: int) -> dict[str, Any]:
    boxes_a, boxes_b = _by_image(a), _by_image(b)
    rows = []
    for image in sorted(set(boxes_a) & set(boxes_b)):
        of_a, of_b = boxes_a[image], boxes_b[image]
        comparable = np.array(
            [[not same or not set(p.labels).isdisjoint(q.labels) for q in of_b] for p in of_a]
        )
        used_a, used_b = comparable.any(axis=1), comparable.any(axis=0)
        if not used_a.any():
            continue
        corners_a, corners_b = (np.stack([box.corners for box in each]) for each in (of_a, of_b))
        a_in_b = (_centres_inside(corners_a, corners_b) & comparable).any(axis=1)
        b_in_a = (_centres_inside(corners_b, corners_a) & comparable.T).any(axis=1)
        iou = overlap(corners_a[used_a], corners_b[used_b])
        rows.append((a_in_b.sum(), used_a.sum(), b_in_a.sum(), used_b.sum(), iou))
    hits_a, n_a, hits_b, n_b, ious = np.array(rows, np.float64).reshape(-1, 5).T
    return {
        "images": len(rows),
        "a_in_b": _share(hits_a, n_a, seed),
        "b_in_a": _share(hits_b, n_b, seed),
        "median_iou": float(np.median(ious)) if rows else None,
    }


def _by_image(boxes: Iterable[Box]) -> dict[str, list[Box]]:
    by_image = defaultdict(list)
    for box in boxes:
        by_image[box.image].append(box)
    return by_image


def _centres_inside(a: Doubles, b: Doubles) -> Flags:
    """Whether the centre of each box of a is inside each box of b: (A, 4), (B, 4) -> (A, B)."""
    x, y = (a[:, :2] + a[:, 2:] / 2).T
    return _inside(x, y, b)


def _inside(x: Doubles, y: Doubles, boxes: Doubles) -> Flags:
    """Whether each of P points is inside each box: (P,), (P,), (K, 4) -> (P, K)."""
    left, top, width, height = boxes.T
    x, y = x[:, None], y[:, None]
    inside: Flags = (left <= x) & (x < left + width) & (top <= y) & (y < top + height)
    return inside


def _share(hits: Doubles, boxes: Doubles, seed: int) -> dict[str, Any]:
    """The share of boxes that hit, with a 95% bootstrap percentile interval over images.

    Parameters
    ----------
    hits, boxes : per image, (N,). The boxes of an image are not independent.
    """
    n, rng = len(boxes), np.random.default_rng(seed)
    if n == 0:
        return {"boxes": 0, "share": None, "share_ci": None}
    drawn = (rng.integers(0, n, n) for _ in range(RESAMPLES))
    low, high = np.quantile([hits[rows].sum() / boxes[rows].sum() for rows in drawn], LIMITS)
    # No interval if all resamples are alike, as with one image or if every box hits.
    ci = [float(low), float(high)] if low < high else None
    return {"boxes": int(boxes.sum()), "share": float(hits.sum() / boxes.sum()), "share_ci": ci}
