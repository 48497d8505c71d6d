"""Intervals cover the true value at their nominal rate; equal models rarely differ."""

import pytest
from simulation import Design, simulate

INDEPENDENT = Design(auroc=0.75, n_patients=300, n_positive=30)
CLUSTERED = Design(auroc=0.75, n_patients=250, n_positive=50, images_of_patient=4, shared=0.5)


@pytest.mark.slow
@pytest.mark.parametrize("design", [INDEPENDENT, CLUSTERED], ids=["independent", "clustered"])
def test_coverage_and_false_positive_rate_are_nominal(design: Design) -> None:
    coverage = simulate(design, 4000, seed=0)
    print(design, coverage)
    assert 0.93 <= coverage.covered <= 0.97
    assert coverage.false_positive <= 0.065
    if design is CLUSTERED:  # images are not independent
        assert coverage.covered_by_delong < 0.85
    else:
        assert 0.93 <= coverage.covered_by_delong <= 0.97
