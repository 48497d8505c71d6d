"""The benchmark's arithmetic: ratios, limits, and when a miss is more than noise."""

from pathlib import Path

import pytest
from bench import measure, stages
from bench.measure import Row, faster, relative_to


def test_the_ratio_is_the_median_of_the_ratios_of_each_turn() -> None:
    row = faster("a pass", [1.0, 2.0, 4.0], [3.0, 4.0, 40.0], least=2.5)
    assert row.ratios == (3, 2, 10) and row.ratio == 3  # not 4 / 2, the ratio of the medians
    assert (row.ours, row.theirs) == (2, 4)
    row = relative_to("a pass", [1.0, 2.0, 4.0], [1.0, 1.0, 8.0], most=1.15)
    assert row.ratios == (1, 2, 0.5) and row.ratio == 1


@pytest.mark.parametrize(
    ("ratio", "least", "holds", "misses_by_factor_two"),
    [(2.0, 2.0, True, False), (1.99, 2.0, False, False), (1.0, 2.0, False, False),
     (0.99, 2.0, False, True)],
)  # fmt: skip
def test_a_ratio_below_half_of_a_lower_limit_misses_by_factor_two(
    ratio: float, least: float, holds: bool, misses_by_factor_two: bool
) -> None:
    row = Row("a pass", 1, ratio, "s", (ratio,), least=least)
    assert (row.holds, row.misses_by_factor_two) == (holds, misses_by_factor_two)


@pytest.mark.parametrize(
    ("number", "holds", "misses_by_factor_two"),
    [(1500.0, True, False), (1501.0, False, False), (3000.0, False, False), (3001.0, False, True)],
)
def test_a_number_above_twice_an_upper_limit_misses_by_factor_two(
    number: float, holds: bool, misses_by_factor_two: bool
) -> None:
    row = Row.with_limit("memory", number, 1500, "MB")
    assert (row.holds, row.misses_by_factor_two) == (holds, misses_by_factor_two)
    assert row.as_json()["holds"] == holds and row.as_json()["ratio"] == number / 1500


def test_variants_run_in_turns_after_one_warm_up_each(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(100))
    monkeypatch.setattr(measure.time, "perf_counter", lambda: next(clock))
    done: list[str] = []
    seconds = measure.in_turns({"a": lambda: done.append("a"), "b": lambda: done.append("b")}, 3)
    assert done == ["a", "b"] * 4
    assert seconds == {"a": [1, 1, 1], "b": [1, 1, 1]}


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_a_programs_memory_includes_allocations_but_not_mapped_files(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(200_000_000))
    idle = "import time; time.sleep(0.2)"
    maps = (
        "import mmap; file = open('file', 'rb'); "
        f"held = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ); sum(held[::4096]); {idle}"
    )
    allocates = f"held = b'x' * 100_000_000; {idle}"
    programs = (["-c", text] for text in (idle, maps, allocates))
    idle_cost, map_cost, allocation_cost = (stages.cost(program, tmp_path) for program in programs)
    assert map_cost.megabytes - idle_cost.megabytes < 10
    assert allocation_cost.megabytes - idle_cost.megabytes == pytest.approx(100, abs=10)
    assert idle_cost.seconds > 0.2
