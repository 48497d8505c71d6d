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


@dataclass(frozen=True)
class GapDesign:
    """A study of two groups of images, such as two views, in which a model's AUROC is known."""

    aurocs: tuple[float, float]
    n_positive: int  # patients in each group
    n_negative: int
    images_of_patient: int = 1  # in each group
    in_both: bool = False  # whether the patients of one group are those of the other
    shared: float = 0.0  # fraction of a score's variance due to the patient

    @property
    def gap(self) -> float:
        return self.aurocs[0] - self.aurocs[1]

    @property
    def groups(self) -> np.ndarray:
        """The group of each image, 0 or 1, (N,)."""
        return np.repeat([0, 1], self._n_patients * self.images_of_patient)

    @property
    def patients(self) -> np.ndarray | None:
        """The patient of each image, (N,)."""
        if self.images_of_patient == 1 and not self.in_both:
            return None
        of_group = np.repeat(np.arange(self._n_patients), self.images_of_patient)
        return np.hstack([of_group, of_group if self.in_both else of_group + self._n_patients])

    def draw(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Labels (N,) of one study and the model's scores (N,)."""
        of_patient = np.zeros(self._n_patients, np.int8)
        of_patient[: self.n_positive] = 1
        y = np.tile(np.repeat(of_patient, self.images_of_patient), 2)
        effects = rng.normal(size=(2, self._n_patients))
        if self.in_both:
            effects[1] = effects[0]
        effect = np.repeat(effects, self.images_of_patient, axis=1).ravel()
        own = rng.normal(size=len(y))
        difference = np.sqrt(2) * norm.ppf(self.aurocs)[self.groups]
        return y, difference * y + np.sqrt(self.shared) * effect + np.sqrt(1 - self.shared) * own

    @property
    def _n_patients(self) -> int:
        return self.n_positive + self.n_negative


@dataclass(frozen=True)
class GapCoverage:
    covered: float  # fraction of trials whose interval holds the true gap
    covered_unpaired: float  # the same if the groups were resampled independently
    different: float  # fraction of trials with p < 0.05
    undefined: float  # fraction of trials without an interval, which count as not covered


def simulate_gaps(design: GapDesign, n_trials: int, seed: int) -> GapCoverage:
    """Gaps as `subgroups.describe` finds them: images outside a group have an unknown label."""
    rng = np.random.default_rng(seed)
    covered, unpaired, different, undefined = [], [], [], []
    for start in range(0, n_trials, BATCH):
        trials = [design.draw(rng) for _ in range(min(BATCH, n_trials - start))]
        labels, scores = (np.stack(each, axis=1) for each in zip(*trials, strict=True))
        in_group = [(design.groups == group)[:, None] for group in (0, 1)]
        columns = np.hstack([np.where(mask, labels, np.int8(-1)) for mask in in_group])
        resamples = intervals.draw(
            len(labels), design.patients, N_RESAMPLES, seed * n_trials + start
        )
        estimate = intervals.estimate(
            columns, {"a": np.tile(scores, 2)}, resamples, lambda done, total: None
        )["a"]["auroc"]
        a, b = np.hsplit(estimate.resampled, 2)
        differences = np.subtract(*np.hsplit(estimate.values, 2))
        errors = np.hypot(np.nanstd(a, axis=0, ddof=1), np.nanstd(b, axis=0, ddof=1))
        for i, difference in enumerate(differences.tolist()):
            found = paired(difference, a[:, i] - b[:, i])
            low, high = found["ci"] or (np.nan, np.nan)
            covered.append(low <= design.gap <= high)
            unpaired.append(abs(difference - design.gap) <= intervals.QUANTILE * errors[i])
            different.append(found["p"] is not None and found["p"] < 0.05)
            undefined.append(found["ci"] is None)
    return GapCoverage(*(float(np.mean(e)) for e in (covered, unpaired, different, undefined)))
