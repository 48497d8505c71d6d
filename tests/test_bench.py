"""The bench's arithmetic: ratios, bars, and when a miss is more than noise."""

from pathlib import Path

import pytest
from bench import measure, stages
from bench.measure import Row, faster, of_the_limit


def test_ratios_are_taken_turn_by_turn_and_their_median_counts() -> None:
    row = faster("a pass", [1.0, 2.0, 4.0], [3.0, 4.0, 40.0], least=2.5)
    assert row.ratios == (3, 2, 10) and row.ratio == 3  # not 4 / 2, of the medians
    assert (row.ours, row.theirs) == (2, 4)
    row = of_the_limit("a pass", [1.0, 2.0, 4.0], [1.0, 1.0, 8.0], most=1.15)
    assert row.ratios == (1, 2, 0.5) and row.ratio == 1


@pytest.mark.parametrize(
    ("ratio", "least", "holds", "misses_widely"),
    [(2.0, 2.0, True, False), (1.99, 2.0, False, False), (1.0, 2.0, False, False),
     (0.99, 2.0, False, True)],
)  # fmt: skip
def test_bar_from_below(ratio: float, least: float, holds: bool, misses_widely: bool) -> None:
    row = Row("a pass", 1, ratio, "s", (ratio,), least=least)
    assert (row.holds, row.misses_widely) == (holds, misses_widely)


@pytest.mark.parametrize(
    ("number", "holds", "misses_widely"),
    [(1500.0, True, False), (1501.0, False, False), (3000.0, False, False), (3001.0, False, True)],
)
def test_bar_from_above(number: float, holds: bool, misses_widely: bool) -> None:
    row = Row.of_a_bar("memory", number, 1500, "MB")
    assert (row.holds, row.misses_widely) == (holds, misses_widely)
    assert row.as_json()["holds"] == holds and row.as_json()["ratio"] == number / 1500


def test_ways_take_turns_after_each_has_warmed_up(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(100))
    monkeypatch.setattr(measure.time, "perf_counter", lambda: next(clock))
    done: list[str] = []
    seconds = measure.in_turns({"a": lambda: done.append("a"), "b": lambda: done.append("b")}, 3)
    assert done == ["a", "b"] * 4
    assert seconds == {"a": [1, 1, 1], "b": [1, 1, 1]}


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux tells memory there")
def test_memory_of_a_program_is_what_it_holds_and_no_file_that_it_maps(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(200_000_000))
    idle = "import time; time.sleep(0.2)"
    maps = (
        "import mmap; file = open('file', 'rb'); "
        f"held = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ); sum(held[::4096]); {idle}"
    )
    holds = f"held = b'x' * 100_000_000; {idle}"
    programs = (["-c", text] for text in (idle, maps, holds))
    of_idle, of_map, of_held = (stages.cost(program, tmp_path) for program in programs)
    assert of_map.megabytes - of_idle.megabytes < 10
    assert of_held.megabytes - of_idle.megabytes == pytest.approx(100, abs=10)
    assert of_idle.seconds > 0.2
