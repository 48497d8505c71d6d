"""Properties that must hold for any text and any file, tested with hypothesis."""

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

ANYTHING = st.text(st.characters(exclude_categories=()))  # including lone surrogates
COMPONENTS = st.lists(st.sampled_from(["..", ".", "", "a", "b.c", "ü", "..x", "\\", "\n"]))
quick = settings(max_examples=300, deadline=None, derandomize=True)


@quick
@given(ANYTHING)
@example("\x1b[2J\u202e\ud800\x9b\r\n")
def test_a_message_is_one_printable_line(text: str) -> None:
    message = str(CxrError(text))
    assert message.isprintable() and len(message) <= 10 * (MOST_SHOWN + 3)
    if text.isprintable() and len(text) <= MOST_SHOWN:
        assert message == without_passwords(text)
    assert shown(message) == message or len(message) > MOST_SHOWN


@quick
@given(COMPONENTS.map("/".join) | ANYTHING)
@example("a/../..")
@example("/a")
@example("//")
@example("//a")
def test_a_path_accepted_as_inside_resolves_inside(path: str) -> None:
    """Compared with the operating system's own resolution of the path."""
    if is_inside(path):
        assert posixpath.normpath(path) == path
        assert Path("/project", path).resolve().is_relative_to("/project")
        assert posixpath.join("/project", path) == f"/project/{path}"


@quick
@given(st.lists(st.sampled_from(["a", "b.c", "ü x", "[1]"]), min_size=1).map("/".join))
def test_a_plain_path_is_accepted_as_inside(path: str) -> None:
    assert is_inside(path)


@quick
@given(ANYTHING)
@example("<img src=x onerror=alert(1)>|`x`")
def test_a_name_is_escaped_in_markdown(text: str) -> None:
    message = _text(text)
    assert "\n" not in message and "<" not in message and ">" not in message
    for mark in "|`*[]":
        assert message.count(mark) == message.count(f"\\{mark}")


@quick
@given(st.binary() | st.binary().map(lambda rest: b"\x93NUMPY\x01\x00" + rest))
def test_any_header_is_read_or_refused_with_a_valueerror(content: bytes) -> None:
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
def test_a_valid_header_is_read_as_numpy_reads_it(
    shape: list[int], dtype: str, version: tuple[int, int]
) -> None:
    array, file = np.zeros(shape, dtype), io.BytesIO()
    np.lib.format.write_array(file, array, version=version)
    file.seek(0)
    parsed = parse_header(file)
    assert (parsed[0], parsed[2]) == (array.shape, array.dtype)
    assert len(file.getvalue()) - file.tell() == array.nbytes


@quick
@given(st.binary())
def test_any_document_is_read_or_refused_with_a_valueerror(content: bytes) -> None:
    for parse in (parse_json, parse_yaml):
        try:
            parse(content)
        except ValueError as error:
            assert str(error)


@pytest.mark.parametrize("text", ["1e999", "NaN", "-Infinity", str(2**63), "[" * 33 + "]" * 33])
def test_numbers_that_other_programs_can_not_read_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_json(text)
