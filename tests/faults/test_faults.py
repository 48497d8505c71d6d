"""The short form of `make faults`."""

from pathlib import Path

import pytest
from pipeline import create

from faults import crowd, disks, kills, stores


@pytest.fixture(scope="module")
def first_stages(tmp_path_factory: pytest.TempPathFactory) -> kills.Undisturbed:
    return kills.undisturbed(tmp_path_factory.mktemp("undisturbed"), "preprocess")


@pytest.mark.parametrize("turn", [0, 1])
def test_a_killed_stage_ends_as_if_it_had_not_been(
    first_stages: kills.Undisturbed, tmp_path: Path, turn: int
) -> None:
    """`preprocess`: at a random moment, and when its outputs are to be published."""
    for seed in range(5):  # on a busy machine a stage may have ended before a moment comes
        stage, what, moment = kills.moments(4, seed, first_stages)[2 * turn + 1]
        outcome = kills.killed(first_stages, stage, what, moment, tmp_path / str(seed))
        assert (outcome.stage, outcome.wrong) == ("preprocess", [])
        if outcome.hit:
            return
    raise AssertionError("it was never alive when it was to be killed")


@pytest.mark.slow
def test_every_stage_killed_once_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    expected = kills.undisturbed(tmp_path, kills.STAGES[-1])
    outcomes = [
        kills.killed(expected, stage, what, moment, tmp_path / str(n))
        for n, (stage, what, moment) in enumerate(kills.moments(8, 2, expected))
    ]
    assert [outcome.stage for outcome in outcomes] == list(kills.STAGES)
    assert [outcome for outcome in outcomes if outcome.wrong] == []
    assert sum(outcome.hit for outcome in outcomes) >= 6


@pytest.mark.slow
@pytest.mark.parametrize("way", stores.WAYS)
def test_a_store_that_fails_costs_no_result(way: str, tmp_path: Path) -> None:
    try:
        outcome = stores.tried(create(tmp_path / "p"), stores.WAYS[way])
    except disks.CanNotBeTried as reason:
        pytest.skip(str(reason))
    assert outcome.holds, outcome


@pytest.mark.slow
def test_eight_at_once_make_the_store_and_lose_nothing(tmp_path: Path) -> None:
    outcome = crowd.crowd(tmp_path)
    assert outcome.holds, outcome


@pytest.mark.slow
@pytest.mark.parametrize("megabytes", disks.MEGABYTES[:2])
def test_a_full_disk_is_one_line_and_leaves_nothing_half_written(
    tmp_path: Path, megabytes: int
) -> None:
    try:
        outcomes = disks.full(tmp_path, megabytes)
    except disks.CanNotBeTried as reason:
        pytest.skip(str(reason))
    assert [outcome for outcome in outcomes if not outcome.holds] == []
    assert any(outcome.status == 2 for outcome in outcomes)
