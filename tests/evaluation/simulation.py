"""Simulated studies of known AUROC, to measure how often intervals cover it.

Scores are normal with variance 1 and a higher mean for positives, so that
AUROC = Phi(difference / sqrt(2)).
"""

from dataclasses import dataclass

import numpy as np
from scipy.stats import norm

from cxr.evaluation import intervals
from cxr.evaluation.comparisons import paired

N_RESAMPLES = 1000
BATCH = 50  # trials evaluated together; those of one design have the same number of images


@dataclass(frozen=True)
class Design:
    """One kind of study."""

    auroc: float
    n_patients: int
    n_positive: int  # patients
    images_of_patient: int = 1
    shared: float = 0.0  # fraction of a score's variance due to the patient
    common: float = 0.5  # fraction of it that two equally good models have in common

    def draw(self, rng: np.random.Generator) -> tuple[np.ndarray, list[np.ndarray]]:
        """Labels (N,) of one study, and the scores (N,) of two equally good models."""
        of_patient = np.zeros(self.n_patients, np.uint8)
        of_patient[: self.n_positive] = 1
        y = np.repeat(of_patient, self.images_of_patient)
        difference = np.sqrt(2) * norm.ppf(self.auroc)
        noise = self._noise(rng)
        return y, [
            difference * y
            + np.sqrt(self.common) * noise
            + np.sqrt(1 - self.common) * self._noise(rng)
            for _ in range(2)
        ]

    def patients(self) -> np.ndarray | None:
        if self.images_of_patient == 1:
            return None
        return np.repeat(np.arange(self.n_patients), self.images_of_patient)

    def _noise(self, rng: np.random.Generator) -> np.ndarray:
        of_patient = np.repeat(rng.normal(size=self.n_patients), self.images_of_patient)
        own = rng.normal(size=len(of_patient))
        return np.sqrt(self.shared) * of_patient + np.sqrt(1 - self.shared) * own


@dataclass(frozen=True)
class Coverage:
    covered: float  # fraction of trials whose interval holds the true AUROC
    covered_by_delong: float
    false_positive: float  # fraction of trials with p < 0.05 for two equal models


def simulate(design: Design, n_trials: int, seed: int) -> Coverage:
    rng = np.random.default_rng(seed)
    covered, delong, different = [], [], []
    for start in range(0, n_trials, BATCH):
        trials = [design.draw(rng) for _ in range(BATCH)]
        labels = np.stack([y for y, _ in trials], axis=1)
        scores = {
            name: np.stack([both[i] for _, both in trials], axis=1) for i, name in enumerate("ab")
        }
        resamples = intervals.draw(
            len(labels), design.patients(), N_RESAMPLES, seed * n_trials + start
        )
        estimates = intervals.estimate(labels, scores, resamples, lambda done, total: None)
        a = estimates["a"]["auroc"]
        difference = a.minus(estimates["b"]["auroc"])
        for i in range(BATCH):
            low, high = intervals.interval(float(a.values[i]), a.resampled[:, i])
            covered.append(low <= design.auroc <= high)
            auroc, variance = intervals.delong(labels[:, i], scores["a"][:, i][None])
            low, high = intervals.delong_interval(float(auroc[0]), float(variance[0, 0]))
            delong.append(low <= design.auroc <= high)
            p = paired(float(difference.values[i]), difference.resampled[:, i])["p"]
            different.append(p < 0.05)
    return Coverage(*(float(np.mean(each)) for each in (covered, delong, different)))
