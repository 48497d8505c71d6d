"""Tables read as text."""

from pathlib import Path

import pandas as pd
import pytest

from cxr.data import sheet
from cxr.data.sheet import read_sheet
from cxr.errors import CxrError


def parquet(folder: Path, **columns: object) -> Path:
    path = folder / "t.parquet"
    pd.DataFrame(columns).to_parquet(path)
    return path


def test_values_of_parquet_are_read_as_text(tmp_path: Path) -> None:
    path = parquet(
        tmp_path,
        whole=[1, 2, 3],
        real=[1.0, 0.5, None],
        truth=[True, False, None],
        text=[" a ", None, "Straße"],
        kind=pd.Categorical(["x", "y", None]),
        day=pd.to_datetime(["2026-01-02", None, "2026-03-04"]).date,
    )
    got = read_sheet(path)
    assert got.header == ["whole", "real", "truth", "text", "kind", "day"]
    assert [row.cells for row in got.body] == [
        ["1", "1", "true", "a", "x", "2026-01-02"],
        ["2", "0.5", "false", "", "y", ""],
        ["3", "", "", "Straße", "", "2026-03-04"],
    ]
    assert got.where(2) == f"{path}: row 2"


def test_lists_in_parquet_are_refused(tmp_path: Path) -> None:
    path = parquet(tmp_path, image=["a"], found=[["edema"]])
    with pytest.raises(CxrError, match=r"column 'found' has the type list.*; save it as text or"):
        read_sheet(path)


def test_parquet_has_the_same_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of a kilobyte may hold gigabytes."""
    path = parquet(tmp_path, x=["a" * 1000] * 100_000)
    monkeypatch.setattr(sheet, "MOST_BYTES", 10**6)
    assert path.stat().st_size < 10**6
    with pytest.raises(CxrError, match="can't be read: it has more than 1,000,000 bytes uncom"):
        read_sheet(path)
    with pytest.raises(CxrError, match="can't be read: it has more than 1,000,000 bytes uncom"):
        read_sheet(parquet(tmp_path, x=[1] * 200_000))
    wide = parquet(tmp_path, **{f"c{i}": [1] for i in range(301)})
    with pytest.raises(CxrError, match="has 301 columns; the maximum is 300"):
        read_sheet(wide)


def test_the_line_of_a_row_counts_lines_within_cells(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text('# note\nname,report\na,"two\nlines"\n\nb,one\n')
    got = read_sheet(path)
    assert got.frame.index.tolist() == [4, 6]
    assert got.column("report", "").tolist() == ["two\nlines", "one"]
    assert got.where(6) == f"{path}: line 6"


def test_a_long_table_is_read_whole(tmp_path: Path) -> None:
    n = 2 * sheet.ROWS_AT_ONCE + 7
    (tmp_path / "t.csv").write_text("i,j\n" + "".join(f"{i},{i % 7}\n" for i in range(n)))
    got = read_sheet(tmp_path / "t.csv")
    assert got.column("i", "").tolist() == [str(i) for i in range(n)]
    assert got.frame.index.tolist() == list(range(2, n + 2))
