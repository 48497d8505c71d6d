"""A shorter `make faults`."""

from pathlib import Path

import pytest
from pipeline import create

from faults import crowd, disks, kills, stores


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> kills.Reference:
    """The first two stages."""
    return kills.run_reference(tmp_path_factory.mktemp("reference"), "preprocess")


def kill_and_repeat(number: int, reference: kills.Reference, folder: Path) -> str:
    """Carry out one kill of the plan, compare the results, and return the stage.

    A stage may end before it can be killed, as when it runs beside less than the reference did;
    then another moment is tried.
    """
    for seed in range(5):
        stage, when, trigger = kills.plan(number + 1, seed, reference)[number]
        outcome = kills.kill_and_repeat(reference, stage, when, trigger, folder / str(seed))
        assert outcome.differences == []
        if outcome.was_alive:
            return stage
    raise AssertionError(f"{stage} always ended before it could be killed")


@pytest.mark.parametrize("turn", [0, 1])
def test_preprocess_killed_and_repeated_equals_a_run_without_a_kill(
    reference: kills.Reference, tmp_path: Path, turn: int
) -> None:
    """Turn 0 kills at a random time, turn 1 just before the outputs are published."""
    assert kill_and_repeat(2 * turn + 1, reference, tmp_path) == "preprocess"


@pytest.mark.slow
def test_every_kind_of_stage_killed_and_repeated_equals_a_run_without_a_kill(
    tmp_path: Path,
) -> None:
    """The first of each kind; `make faults` kills all of them."""
    reference = kills.run_reference(tmp_path, "maps-cnn")
    for stage in ("download", "features", "train-cnn", "evaluate", "maps-cnn"):
        number = kills.STAGES.index(stage)
        assert kill_and_repeat(number, reference, tmp_path / stage) == stage


@pytest.mark.slow
@pytest.mark.parametrize("failure", stores.FAILURES)
def test_a_broken_store_loses_no_result(failure: str, tmp_path: Path) -> None:
    try:
        outcome = stores.run_and_sync(create(tmp_path / "p"), stores.FAILURES[failure])
    except disks.NotPossibleHere as reason:
        pytest.skip(str(reason))
    assert outcome.as_expected, outcome


@pytest.mark.slow
def test_eight_processes_create_the_store_at_once_and_lose_no_run(tmp_path: Path) -> None:
    outcome = crowd.run_round(tmp_path)
    assert outcome.as_expected, outcome


@pytest.mark.slow
@pytest.mark.parametrize("megabytes", disks.MEGABYTES[:2])
def test_a_full_disk_gives_a_one_line_error_and_no_partial_output(
    tmp_path: Path, megabytes: int
) -> None:
    try:
        outcomes = disks.run_on_small_disk(tmp_path, megabytes)
    except disks.NotPossibleHere as reason:
        pytest.skip(str(reason))
    assert [outcome for outcome in outcomes if not outcome.as_expected] == []
    assert any(outcome.status == 2 for outcome in outcomes)
