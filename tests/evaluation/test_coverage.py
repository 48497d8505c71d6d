"""Intervals cover the true value at their nominal rate; equal models and groups rarely differ."""

from dataclasses import replace

import pytest
from simulation import Design, GapDesign, simulate, simulate_gaps

INDEPENDENT = Design(auroc=0.75, n_patients=300, n_positive=30)
CLUSTERED = Design(auroc=0.75, n_patients=250, n_positive=50, images_of_patient=4, shared=0.5)

OF_TWO_GROUPS = GapDesign(aurocs=(0.85, 0.75), n_positive=50, n_negative=200)
IN_BOTH_GROUPS = replace(OF_TWO_GROUPS, images_of_patient=2, in_both=True, shared=0.5)
GAPS = {"two groups": OF_TWO_GROUPS, "patients in both groups": IN_BOTH_GROUPS}


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


@pytest.mark.slow
@pytest.mark.parametrize("design", GAPS.values(), ids=GAPS.keys())
def test_intervals_of_a_gap_cover_it_at_their_nominal_rate(design: GapDesign) -> None:
    coverage = simulate_gaps(design, 2000, seed=1)
    print(design, coverage)
    assert 0.93 <= coverage.covered <= 0.97
    assert coverage.undefined == 0
    if design.in_both:  # independent resamples would not know that
        assert coverage.covered_unpaired > 0.985


@pytest.mark.slow
@pytest.mark.parametrize("design", GAPS.values(), ids=GAPS.keys())
def test_equal_groups_are_rarely_called_different(design: GapDesign) -> None:
    coverage = simulate_gaps(replace(design, aurocs=(0.8, 0.8)), 2000, seed=1)
    print(design, coverage)
    assert 0.93 <= coverage.covered <= 0.97
    assert coverage.different <= 0.065


def test_few_trials_cover_the_gap_of_patients_in_both_groups_about_as_often() -> None:
    """The standard error of a share of 95% in 100 trials is 2.2%."""
    coverage = simulate_gaps(replace(IN_BOTH_GROUPS, images_of_patient=1), 100, seed=1)
    assert coverage.covered >= 0.89
    assert coverage.covered < coverage.covered_unpaired
    assert coverage.different > 0.6
