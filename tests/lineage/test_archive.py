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
