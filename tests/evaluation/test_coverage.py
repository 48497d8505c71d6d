"""An interval covers the truth as often as it says; equal models are rarely called different."""

import pytest
from simulation import Design, simulate

INDEPENDENT = Design(auroc=0.75, n_patients=300, n_positive=30)
CLUSTERED = Design(auroc=0.75, n_patients=250, n_positive=50, images_of_patient=4, shared=0.5)


@pytest.mark.slow
@pytest.mark.parametrize("design", [INDEPENDENT, CLUSTERED], ids=["independent", "clustered"])
def test_intervals_cover_and_equal_models_are_equal(design: Design) -> None:
    found = simulate(design, 4000, seed=0)
    print(design, found)
    assert 0.93 <= found.covered <= 0.97
    assert found.called_different <= 0.065
    if design is CLUSTERED:  # what taking images as independent would do
        assert found.covered_by_delong < 0.85
    else:
        assert 0.93 <= found.covered_by_delong <= 0.97
