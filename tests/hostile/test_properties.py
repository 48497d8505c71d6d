"""What must hold of every text and every file, looked for by hypothesis."""

import io
import posixpath
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cxr.data.npz import parse_header
from cxr.documents import parse_json, parse_yaml
from cxr.errors import MOST_SHOWN, CxrError, shown, without_passwords
from cxr.lineage.records import _text
from cxr.paths import is_inside

ANYTHING = st.text(st.characters(exclude_categories=()))  # half characters, too
COMPONENTS = st.lists(st.sampled_from(["..", ".", "", "a", "b.c", "ü", "..x", "\\", "\n"]))
quick = settings(max_examples=300, deadline=None, derandomize=True)


@quick
@given(ANYTHING)
@example("\x1b[2J\u202e\ud800\x9b\r\n")
def test_a_message_is_one_printable_line(text: str) -> None:
    said = str(CxrError(text))
    assert said.isprintable() and len(said) <= 10 * (MOST_SHOWN + 3)
    if text.isprintable() and len(text) <= MOST_SHOWN:
        assert said == without_passwords(text)
    assert shown(said) == said or len(said) > MOST_SHOWN


@quick
@given(COMPONENTS.map("/".join) | ANYTHING)
@example("a/../..")
@example("/a")
@example("//")
@example("//a")
def test_a_path_that_is_inside_stays_inside(path: str) -> None:
    """Held against the operating system's own reading of it."""
    if is_inside(path):
        assert posixpath.normpath(path) == path
        assert Path("/project", path).resolve().is_relative_to("/project")
        assert posixpath.join("/project", path) == f"/project/{path}"


@quick
@given(st.lists(st.sampled_from(["a", "b.c", "ü x", "[1]"]), min_size=1).map("/".join))
def test_a_plain_path_is_inside(path: str) -> None:
    assert is_inside(path)


@quick
@given(ANYTHING)
@example("<img src=x onerror=alert(1)>|`x`")
def test_a_name_in_markdown_is_text(text: str) -> None:
    said = _text(text)
    assert "\n" not in said and "<" not in said and ">" not in said
    for mark in "|`*[]":
        assert said.count(mark) == said.count(f"\\{mark}")


@quick
@given(st.binary() | st.binary().map(lambda rest: b"\x93NUMPY\x01\x00" + rest))
def test_a_header_is_read_or_refused(content: bytes) -> None:
    try:
        shape, _, _ = parse_header(io.BytesIO(content))
    except ValueError:
        return
    assert all(isinstance(length, int) for length in shape)


@quick
@given(
    st.lists(st.integers(0, 3), min_size=1, max_size=4),
    st.sampled_from(["u1", ">i4", "<f8", "?", "<U7"]),
    st.sampled_from([(1, 0), (2, 0)]),
)
def test_a_header_is_read_as_numpy_reads_it(
    shape: list[int], dtype: str, version: tuple[int, int]
) -> None:
    array, file = np.zeros(shape, dtype), io.BytesIO()
    np.lib.format.write_array(file, array, version=version)
    file.seek(0)
    found = parse_header(file)
    assert (found[0], found[2]) == (array.shape, array.dtype)
    assert len(file.getvalue()) - file.tell() == array.nbytes


@quick
@given(st.binary())
def test_a_document_is_read_or_refused(content: bytes) -> None:
    for parse in (parse_json, parse_yaml):
        try:
            parse(content)
        except ValueError as error:
            assert str(error)


@pytest.mark.parametrize("text", ["1e999", "NaN", "-Infinity", str(2**63), "[" * 33 + "]" * 33])
def test_no_number_beyond_others_reach_is_read(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_json(text)
