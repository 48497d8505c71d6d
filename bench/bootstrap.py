"""Resampling all of a test split's AUROCs and average precisions, against a loop over sklearn.

ChestMNIST's size: 22,433 images, 14 labels, three models, 2,000 resamples. The loop is timed on 50
resamples of one label of one model and extrapolated, since all of it takes ten minutes.
"""

import resource
import time

import numpy as np
from scipy.stats import norm
from sklearn.metrics import average_precision_score, roc_auc_score

from cxr.evaluation import intervals

N, MODELS, RESAMPLES, TIMED = 22_433, 3, 2000, 50
POSITIVES = (2420, 582, 2754, 3938, 1133, 1335, 242, 1089, 957, 413, 509, 362, 734, 42)


def main() -> None:
    rng = np.random.default_rng(0)
    labels = np.zeros((N, len(POSITIVES)), np.uint8)
    for label, n_positive in enumerate(POSITIVES):
        labels[rng.choice(N, n_positive, replace=False), label] = 1
    scores = {
        str(model): (rng.normal(size=labels.shape) + labels * norm.ppf(0.75)).astype(np.float32)
        for model in range(MODELS)
    }
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    start = time.perf_counter()
    resamples = intervals.draw(N, None, RESAMPLES, 0)
    intervals.estimate(labels, scores, resamples, lambda done, total: None)
    ours = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    start = time.perf_counter()
    for label in range(labels.shape[1]):
        both = np.stack([model[:, label] for model in scores.values()])
        intervals.delong(labels[:, label], both)
    delong = time.perf_counter() - start

    y, column = labels[:, 0], scores["0"][:, 0]
    start = time.perf_counter()
    for _ in range(TIMED):
        rows = rng.integers(0, N, N)
        roc_auc_score(y[rows], column[rows])
        average_precision_score(y[rows], column[rows])
    loop = (time.perf_counter() - start) / TIMED * RESAMPLES * labels.shape[1] * MODELS

    print(f"bootstrap: {ours:.1f} s, {after - before:.0f} MiB more at the peak")
    print(f"DeLong's covariances: {delong:.2f} s")
    print(f"loop over sklearn, extrapolated from {TIMED} resamples of one label: {loop:.0f} s")
    print(f"ratio: {loop / ours:.0f}")


if __name__ == "__main__":
    main()
