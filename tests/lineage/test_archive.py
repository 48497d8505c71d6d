"""A run id is resolved to the right record."""

from pathlib import Path
from types import SimpleNamespace

from cxr.lineage.archive import Archive
from cxr.lineage.repository import Repository


def found_record(*run_ids: str) -> SimpleNamespace:
    return SimpleNamespace(record=SimpleNamespace(run_ids=run_ids))


def test_earlier_records_are_searched_only_if_the_working_copy_has_no_such_run(
    tmp_path: Path,
) -> None:
    now, before = found_record("12aa", "34bb"), found_record("12cc", "34bb")
    archive = Archive(Repository(tmp_path))
    vars(archive).update(current={"evaluate": now}, _past_with=lambda text: [before])
    assert archive.find("12") == {"12aa": now}
    assert archive.find("12c") == {"12cc": before}
    assert archive.find("34bb") == {"34bb": now}
    assert archive.find("5") == {}


def test_the_maker_of_an_experiments_input_is_the_experiments_own_record(tmp_path: Path) -> None:
    """Another experiment made the same file later, but still before the result."""

    def made(experiment: str, finished: str, stage: str = "preprocess") -> SimpleNamespace:
        record = SimpleNamespace(
            stage=stage, outputs={"data/processed": SimpleNamespace(md5="ab")}, started="2026-03",
            finished=finished, dvc_experiment=experiment,
        )  # fmt: skip
        return SimpleNamespace(record=record, current=False, lock=None)

    own, other = made("mine", "2026-01"), made("theirs", "2026-02")
    archive = Archive(Repository(tmp_path))
    repository = SimpleNamespace(
        experiments=lambda: [("mine", "c1"), ("theirs", "c2")],
        lock_at={"c1": ["own"], "c2": ["other"]}.get,
    )
    vars(archive).update(
        current={}, _repository=repository, _past_with=lambda text, maker_of: [own, other],
        _named=lambda lock: [own if lock == ["own"] else other],
    )  # fmt: skip
    for experiment, maker in {"mine": own, "theirs": other, "unknown": other}.items():
        of = made(experiment, "2026-04", "train-cnn")
        assert archive.maker("data/processed", "ab", of) is maker
    own.record.finished = "2026-04"  # made again, after the result had started
    assert archive.maker("data/processed", "ab", made("mine", "2026-04", "train-cnn")) is other
