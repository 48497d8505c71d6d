"""Splits drawn by patient."""

from fractions import Fraction

import numpy as np
import pytest

from cxr.data.table.draw import draw

SHARES = {"train": 0.7, "val": 0.1, "test": 0.2}


def cohort(n_patients: int = 3000, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Patients with 1 to 12 images, and two labels, one of them of 1% of the patients."""
    rng = np.random.default_rng(seed)
    patients = np.repeat(np.arange(n_patients), rng.integers(1, 13, n_patients))
    risk = rng.random((n_patients, 2)) < [0.2, 0.01]
    return patients, risk[patients] & (rng.random((len(patients), 2)) < 0.8)


def test_no_patient_is_in_two_splits() -> None:
    patients, positive = cohort()
    splits = draw(patients, positive, SHARES, 0)
    assert all(len(set(splits[patients == each])) == 1 for each in range(patients.max() + 1))


def test_every_label_has_the_same_share_in_each_split() -> None:
    """A plain draw of patients misses the rare label's share by a third in half of the cases."""
    patients, positive = cohort()
    splits = draw(patients, positive, SHARES, 0)
    for split, share in SHARES.items():
        assert np.mean(splits == split) == pytest.approx(share, abs=0.003)
        for label in positive.T:
            assert np.mean(splits[label] == split) == pytest.approx(share, abs=0.02)


def test_the_draw_depends_on_the_seed_alone() -> None:
    patients, positive = cohort()
    first = draw(patients, positive, SHARES, 0)
    assert (first == draw(patients, positive, SHARES, 0)).all()
    assert (first != draw(patients, positive, SHARES, 1)).mean() > 0.1
    order = np.random.default_rng(0).permutation(len(patients))
    assert (draw(patients[order], positive[order], SHARES, 0) == first[order]).all()


def test_few_patients_still_fill_every_split() -> None:
    positive = np.zeros((3, 1), bool)
    splits = draw(np.arange(3), positive, {"train": 0.98, "val": 0.01, "test": 0.01}, 0)
    assert sorted(splits) == ["test", "train", "val"]


def test_a_perfect_division_is_found() -> None:
    """10 patients of each of 4 kinds into halves: 5 of each kind in both, by symmetry."""
    patients = np.arange(40)
    positive = np.stack([patients % 4 == kind for kind in range(3)], axis=1)
    splits = draw(patients, positive, {"train": 0.5, "test": 0.5}, 3)
    for kind in range(4):
        assert Fraction(int((splits[patients % 4 == kind] == "test").sum()), 10) == Fraction(1, 2)
