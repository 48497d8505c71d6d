"""Fuzzing: randomly corrupted npz files are read or refused in one line, never a traceback.

The seed is fixed. Runs for FUZZ_SECONDS (default: 5); the slow test runs for a minute.
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
    made = bytearray(content)
    for _ in range(draw.choice((1, 1, 1, 2, 4, 8))):
        start = draw.randrange(len(made) + 1)
        stop = min(len(made), start + draw.choice((1, 1, 2, 4, 16, 200)))
        how = draw.randrange(7)
        if how == 0 and start < len(made):
            made[start] ^= 1 << draw.randrange(8)
        elif how == 1:
            made[start:stop] = b""
        elif how == 2:
            made[start:start] = made[start:stop]
        elif how == 3:
            made[start:stop] = draw.choice(TOKENS)
        elif how == 4:
            made[start:start] = draw.choice(TOKENS)
        elif how == 5:
            made[start:stop] = draw.randbytes(stop - start)
        elif how == 6 and not draw.randrange(4):
            del made[start:]
    return bytes(made)


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
        return corrupted(draw, draw.choice(GOOD_NPZ))
    made = dict(GOOD_MEMBERS)
    key = draw.choice(list(made))
    if how < 0.9:  # corrupt its header, the first 128 bytes
        made[key] = corrupted(draw, made[key][:128]) + made[key][128:]
    else:
        made[draw.choice(list(made))] = made.pop(key)
    return packed(made, draw.choice(METHODS))


def read_npz(path: Path) -> None:
    folder = path.parent / "out"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    refused = None
    for read in (
        lambda: raw.check(path, folder),
        lambda: raw.extract(path, splits.Origin("fuzz", "file"), folder),
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
            path.write_bytes(bad_npz(draw))
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


@pytest.mark.parametrize("seconds", [SECONDS, pytest.param(60, marks=pytest.mark.slow)])
def test_no_corrupted_npz_causes_a_traceback(seconds: float, tmp_path: Path) -> None:
    n_read, n_refused = fuzz(tmp_path, seconds)
    print(f"{n_read:,} read, {n_refused:,} refused in {seconds:g} s")
    assert n_refused > 10 * seconds and n_read > 0
