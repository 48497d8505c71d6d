"""Fuzzing: randomly corrupted npz files are read or refused in one line, never a traceback.

The seed is fixed. Runs for FUZZ_SECONDS (default: 5); the slow test runs for 20 seconds.
"""

import io
import os
import random
import resource
import shutil
import signal
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import numpy as np
import pytest
from valid import arrays

from cxr.data import raw, splits
from cxr.errors import CxrError
from cxr.scoring.submissions import read_labels, read_predictions

SECONDS = float(os.environ.get("FUZZ_SECONDS", 5))
LONGEST = 10  # seconds per input
MOST_BYTES = 2**29  # of memory beyond the current use of the process

Draw = random.Random


class TimedOut(BaseException):
    """Not an Exception, so that no reader mistakes it for a damaged file."""


def _alarm(signum: int, frame: FrameType | None) -> None:
    raise TimedOut


@contextmanager
def limits() -> Iterator[None]:
    """Limit memory; a reader that allocates more gets a MemoryError."""
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


TOKENS = [
    b"", b"\x00", b"\xff", b"\n", b" ", b"[", b"]", b"{", b"}", b",", b":", b'"', b"'", b"9" * 400,
    b"\\", b"\xed\xa0\x80", b"../", b"(" * 400, b"-" * 400, b"PK\x03\x04", b"PK\x05\x06",
    b"\x93NUMPY", b"|O", b"<U9", b"<f8", b"True",
]  # fmt: skip


def corrupted(draw: Draw, content: bytes) -> bytes:
    """The content with a few bytes flipped, removed, duplicated, inserted or replaced."""
    data = bytearray(content)
    for _ in range(draw.choice((1, 1, 1, 2, 4, 8))):
        start = draw.randrange(len(data) + 1)
        stop = min(len(data), start + draw.choice((1, 1, 2, 4, 16, 200)))
        how = draw.randrange(7)
        if how == 0 and start < len(data):
            data[start] ^= 1 << draw.randrange(8)
        elif how == 1:
            data[start:stop] = b""
        elif how == 2:
            data[start:start] = data[start:stop]
        elif how == 3:
            data[start:stop] = draw.choice(TOKENS)
        elif how == 4:
            data[start:start] = draw.choice(TOKENS)
        elif how == 5:
            data[start:stop] = draw.randbytes(stop - start)
        elif how == 6 and not draw.randrange(4):
            del data[start:]
    return bytes(data)


def packed(members: dict[str, bytes], method: int) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def members() -> dict[str, bytes]:
    members_by_name = {}
    for key, array in arrays().items():
        buffer = io.BytesIO()
        np.lib.format.write_array(buffer, array)
        members_by_name[f"{key}.npy"] = buffer.getvalue()
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.full((3, 14), 0.5), version=(2, 0))
    return members_by_name | {"test_probs.npy": buffer.getvalue()}


VALID_MEMBERS = members()
VALID_NPZ = [packed(VALID_MEMBERS, how) for how in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)]
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)


def corrupted_npz(draw: Draw) -> bytes:
    how = draw.random()
    if how < 0.4:
        return corrupted(draw, draw.choice(VALID_NPZ))
    changed = dict(VALID_MEMBERS)
    key = draw.choice(list(changed))
    if how < 0.9:  # corrupt its header, the first 128 bytes
        changed[key] = corrupted(draw, changed[key][:128]) + changed[key][128:]
    else:
        changed[draw.choice(list(changed))] = changed.pop(key)
    return packed(changed, draw.choice(METHODS))


def read_npz(path: Path) -> None:
    folder = path.parent / "out"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    refused = None
    for read in (
        lambda: raw.check(path, folder),
        lambda: raw.extract(path, splits.Origin("fuzz", "file"), folder, "pad"),
        lambda: read_predictions(path, "test", False),
        lambda: read_labels(path, "test"),
    ):
        try:
            read()
        except CxrError as error:
            refused = error
    if refused is not None:
        raise refused
    for split in splits.SPLITS:
        splits.open_split(folder, split)


def fuzz(folder: Path, seconds: float) -> tuple[int, int]:
    """The numbers of inputs that were read and that were refused within `seconds`."""
    path, draw = folder / "a.npz", Draw(0)
    n_read = n_refused = 0
    end = time.monotonic() + seconds
    with limits():
        while time.monotonic() < end:
            path.write_bytes(corrupted_npz(draw))
            signal.setitimer(signal.ITIMER_REAL, LONGEST)
            try:
                read_npz(path)
                n_read += 1
            except CxrError as error:
                assert str(error).isprintable() and str(error)
                n_refused += 1
            except BaseException:
                shutil.copy(path, folder / "found")  # pytest keeps the folder of a failed test
                raise
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
    return n_read, n_refused


@pytest.mark.parametrize("seconds", [SECONDS, pytest.param(20, marks=pytest.mark.slow)])
def test_no_corrupted_npz_causes_a_traceback(seconds: float, tmp_path: Path) -> None:
    n_read, n_refused = fuzz(tmp_path, seconds)
    print(f"{n_read:,} read, {n_refused:,} refused in {seconds:g} s")
    assert n_refused > 10 * seconds and n_read > 0
