"""Good inputs, spoilt at random from a fixed seed: read, or refused in one line; nothing else.

Five seconds for each reader, or as many as FUZZ_SECONDS says; the slow test takes a minute.
"""

import copy
import io
import json
import os
import random
import resource
import shutil
import signal
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
from valid import LOCK, MD5, ROOT, arrays, record

from cxr import documents, models, params
from cxr.data import raw, splits
from cxr.errors import CxrError
from cxr.lineage import records
from cxr.lineage.records import Record
from cxr.lineage.repository import Repository
from cxr.scoring.submissions import read_labels, read_predictions

SECONDS = float(os.environ.get("FUZZ_SECONDS", 5))
LONGEST = 10  # seconds of one input
MOST_BYTES = 2**29  # of memory beyond what the process has

Draw = random.Random
Spoil = Callable[[Draw], bytes]


class Hangs(BaseException):
    """Not an Exception, so that no reader takes it for a damaged file."""


def _alarm(signum: int, frame: FrameType | None) -> None:
    raise Hangs


@contextmanager
def limits() -> Iterator[None]:
    """Little memory; a reader that asks for more gets a MemoryError."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MOST_BYTES, hard))
    earlier = signal.signal(signal.SIGALRM, _alarm)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, earlier)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 2**31, 2**63 - 1, 2**63, -(2**70), 0.5, -0.0, 1e308,
    float("nan"), float("inf"), "", "x", ".", "..", "../x", "/etc/passwd", "a\\b", "a\x00b",
    "\x1b[2J", "\u202e", "\ud800", MD5, MD5 + ".dir", "9" * 5000, [], {}, [[]], [None], {"": None},
    {"a": {"b": []}}, ["a"] * 100, "a" * 10_000, "2024-05-01", "2024-05-01T10:00:00+00:00",
]  # fmt: skip
TOKENS = [
    b"", b"\x00", b"\xff", b"\n", b" ", b"\t", b"[", b"]", b"{", b"}", b",", b":", b"-", b"- ",
    b"? ", b'"', b"'", b"&a ", b"*a", b"!!python/object:x ", b"!!binary ", b"!!set ",
    b"!!timestamp ", b"|", b">", b"%YAML 1.1\n", b"---\n", b"...\n", b"<<: ", b"null", b"true",
    b"0x1f", b"0o17", b"1e999", b".inf", b".nan", b"2001-01-01", b"1_000", b"9" * 400, b"1:30",
    b"#", b"\\", b"\\u0000", b"\xed\xa0\x80", b"\xe2\x80\xae", b"\xef\xbb\xbf", b"../", b"/",
    b"a: &a [*a]\n", b"[" * 400, b"(" * 400, b"-" * 400, b"PK\x03\x04", b"PK\x05\x06",
    b"\x93NUMPY", b"|O", b"<U9", b"<f8", b"True",
]  # fmt: skip


def spoilt_bytes(draw: Draw, content: bytes) -> bytes:
    """A few bytes flipped, cut out, doubled, put in or exchanged."""
    made = bytearray(content)
    for _ in range(draw.choice((1, 1, 1, 2, 4, 8))):
        here = draw.randrange(len(made) + 1)
        there = min(len(made), here + draw.choice((1, 1, 2, 4, 16, 200)))
        how = draw.randrange(7)
        if how == 0 and here < len(made):
            made[here] ^= 1 << draw.randrange(8)
        elif how == 1:
            made[here:there] = b""
        elif how == 2:
            made[here:here] = made[here:there]
        elif how == 3:
            made[here:there] = draw.choice(TOKENS)
        elif how == 4:
            made[here:here] = draw.choice(TOKENS)
        elif how == 5:
            made[here:there] = draw.randbytes(there - here)
        elif how == 6 and not draw.randrange(4):
            del made[here:]
    return bytes(made)


def places(content: Any) -> list[tuple[Any, Any]]:
    """Every place in nested mappings and lists: what holds it, and its key."""
    found: list[tuple[Any, Any]] = []
    todo = [content]
    while todo:
        each = todo.pop()
        keys = list(each) if isinstance(each, dict) else range(len(each))
        for key in keys:
            found.append((each, key))
            if isinstance(each[key], dict | list):
                todo.append(each[key])
    return found


def spoilt_tree(draw: Draw, content: Any) -> Any:
    """A few values exchanged, moved or taken out, and keys renamed."""
    made = copy.deepcopy(content)
    for _ in range(draw.choice((1, 1, 2, 5))):
        found = places(made)
        if not found:
            break
        holder, key = draw.choice(found)
        other, place = draw.choice(found)
        how = draw.randrange(5)
        if how == 0:
            holder[key] = copy.deepcopy(other[place])
        elif how == 1:
            del holder[key]
        elif how == 2 and isinstance(holder, dict):
            holder[str(draw.choice(VALUES))] = holder.pop(key)
        else:
            holder[key] = copy.deepcopy(draw.choice(VALUES))
    return made


GOOD_RECORD = record()


def bad_record(draw: Draw) -> bytes:
    text = json.dumps(spoilt_tree(draw, GOOD_RECORD)).encode(errors="surrogatepass")
    return spoilt_bytes(draw, text) if draw.random() < 0.3 else text


def read_record(path: Path) -> None:
    found = records.read(path)
    assert isinstance(found, Record)
    for run_id in found.run_ids:
        assert all(line.isprintable() for line in records.card(found, run_id).splitlines())
    assert len(found.facts.fingerprint) == 64
    for name in found.outputs:
        assert records.is_inside(name)
    json.dumps(found.as_json(), allow_nan=False)


GOOD_PARAMS = (ROOT / "params.yaml").read_bytes()
GOOD_TREE = documents.read_yaml(ROOT / "params.yaml")


def bad_params(draw: Draw) -> bytes:
    if draw.random() < 0.5:
        return spoilt_bytes(draw, GOOD_PARAMS)
    # JSON is YAML, but for its escapes of half characters.
    return json.dumps(spoilt_tree(draw, GOOD_TREE)).encode()


def read_params(path: Path) -> None:
    train = params.load(path).train
    for name in params.model_names():
        models.hyper_parameters(name, train.block(name))


GOOD_LOCK = LOCK.encode()
GOOD_LOCK_TREE = documents.parse_yaml(LOCK)


def bad_lock(draw: Draw) -> bytes:
    if draw.random() < 0.5:
        return spoilt_bytes(draw, GOOD_LOCK)
    return json.dumps(spoilt_tree(draw, GOOD_LOCK_TREE)).encode()


def read_lock(path: Path) -> None:
    for stage in Repository(path.parent).lock().values():
        for name in [*stage.outputs, *stage.dependencies]:
            assert records.is_inside(name)


def packed(members: dict[str, bytes], method: int) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def members() -> dict[str, bytes]:
    made = {}
    for key, array in arrays().items():
        buffer = io.BytesIO()
        np.lib.format.write_array(buffer, array)
        made[f"{key}.npy"] = buffer.getvalue()
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.full((3, 14), 0.5), version=(2, 0))
    return made | {"test_probs.npy": buffer.getvalue()}


GOOD_MEMBERS = members()
GOOD_NPZ = [packed(GOOD_MEMBERS, how) for how in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)]
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)


def bad_npz(draw: Draw) -> bytes:
    how = draw.random()
    if how < 0.4:
        return spoilt_bytes(draw, draw.choice(GOOD_NPZ))
    made = dict(GOOD_MEMBERS)
    key = draw.choice(list(made))
    if how < 0.9:  # in its header, which has the first 128 bytes
        made[key] = spoilt_bytes(draw, made[key][:128]) + made[key][128:]
    else:
        made[draw.choice(list(made))] = made.pop(key)
    return packed(made, draw.choice(METHODS))


def read_npz(path: Path) -> None:
    folder = path.parent / "out"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    wrong = None
    for read in (
        lambda: raw.check(path, folder),
        lambda: raw.extract(path, splits.Origin("fuzz", "file"), folder),
        lambda: read_predictions(path, "test", False),
        lambda: read_labels(path, "test"),
    ):
        try:
            read()
        except CxrError as error:
            wrong = error
    if wrong is not None:
        raise wrong
    for split in splits.SPLITS:
        splits.open_split(folder, split)


READERS: dict[str, tuple[str, Spoil, Callable[[Path], None]]] = {
    "record": ("r.json", bad_record, read_record),
    "params": ("params.yaml", bad_params, read_params),
    "lock": ("dvc.lock", bad_lock, read_lock),
    "npz": ("a.npz", bad_npz, read_npz),
}


def fuzz(name: str, folder: Path, seconds: float) -> tuple[int, int]:
    """How many inputs were read and how many refused in so many seconds."""
    file, spoil, read = READERS[name]
    path, draw = folder / file, Draw(0)
    n_read = n_refused = 0
    end = time.monotonic() + seconds
    with limits():
        while time.monotonic() < end:
            content = spoil(draw)
            path.write_bytes(content)
            signal.setitimer(signal.ITIMER_REAL, LONGEST)
            try:
                read(path)
                n_read += 1
            except CxrError as error:
                assert str(error).isprintable() and str(error)
                n_refused += 1
            except BaseException:
                shutil.copy(path, folder / "found")  # pytest keeps it, with the traceback
                raise
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
    return n_read, n_refused


def check(name: str, folder: Path, seconds: float) -> None:
    n_read, n_refused = fuzz(name, folder, seconds)
    print(f"{name}: {n_read:,} read, {n_refused:,} refused in {seconds:g} s")
    assert n_refused > 10 * seconds and n_read > 0


@pytest.mark.parametrize("name", READERS)
def test_no_spoilt_input_is_a_traceback(name: str, tmp_path: Path) -> None:
    check(name, tmp_path, SECONDS)


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_no_spoilt_input_is_a_traceback_in_a_minute(name: str, tmp_path: Path) -> None:
    check(name, tmp_path, 60)
