"""Bootstrap of all AUROCs and average precisions of a test split, compared to a scikit-learn loop.

The size is ChestMNIST's: 22,433 images, 14 labels, three models, 2,000 resamples. The loop is
timed on a few resamples of one label and model and extrapolated, because it takes ten minutes.
"""

import time

import numpy as np
from scipy.stats import norm
from sklearn.metrics import average_precision_score, roc_auc_score

from bench.measure import Row
from cxr.evaluation import intervals

N, MODELS, RESAMPLES = 22_433, 3, 2000
POSITIVES = (2420, 582, 2754, 3938, 1133, 1335, 242, 1089, 957, 413, 509, 362, 734, 42)


def measure(timed: int) -> list[Row]:
    """Parameters
    ----------
    timed : number of resamples of the loop to time.
    """
    rng = np.random.default_rng(0)
    labels = np.zeros((N, len(POSITIVES)), np.uint8)
    for label, n_positive in enumerate(POSITIVES):
        labels[rng.choice(N, n_positive, replace=False), label] = 1
    scores = {
        str(model): (rng.normal(size=labels.shape) + labels * norm.ppf(0.75)).astype(np.float32)
        for model in range(MODELS)
    }
    start = time.perf_counter()
    resamples = intervals.draw(N, None, RESAMPLES, 0)
    intervals.estimate(labels, scores, resamples, lambda done, total: None)
    ours = time.perf_counter() - start

    start = time.perf_counter()
    for label in range(labels.shape[1]):
        both = np.stack([model[:, label] for model in scores.values()])
        intervals.delong(labels[:, label], both)
    delong = time.perf_counter() - start

    y, column = labels[:, 0], scores["0"][:, 0]
    start = time.perf_counter()
    for _ in range(timed):
        rows = rng.integers(0, N, N)
        roc_auc_score(y[rows], column[rows])
        average_precision_score(y[rows], column[rows])
    loop = (time.perf_counter() - start) / timed * RESAMPLES * labels.shape[1] * MODELS
    note = f"extrapolated from {timed} resamples of one label"
    return [
        Row("bootstrap vs. loop over scikit-learn", ours, loop, "s", (loop / ours,), 20, note=note),
        Row.with_limit("bootstrap, limit 30 s", ours, 30),
        Row.with_limit("DeLong, limit 1 s", delong, 1),
    ]
