"""Good npz files, spoilt at random from a fixed seed: read, or refused in one line; nothing else.

For five seconds, or as many as FUZZ_SECONDS says; the slow test takes a minute.
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
LONGEST = 10  # seconds of one input
MOST_BYTES = 2**29  # of memory beyond what the process has

Draw = random.Random


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


TOKENS = [
    b"", b"\x00", b"\xff", b"\n", b" ", b"[", b"]", b"{", b"}", b",", b":", b'"', b"'", b"9" * 400,
    b"\\", b"\xed\xa0\x80", b"../", b"(" * 400, b"-" * 400, b"PK\x03\x04", b"PK\x05\x06",
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


def fuzz(folder: Path, seconds: float) -> tuple[int, int]:
    """How many inputs were read and how many refused in so many seconds."""
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
                shutil.copy(path, folder / "found")  # pytest keeps it, with the traceback
                raise
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
    return n_read, n_refused


@pytest.mark.parametrize("seconds", [SECONDS, pytest.param(60, marks=pytest.mark.slow)])
def test_no_spoilt_npz_is_a_traceback(seconds: float, tmp_path: Path) -> None:
    n_read, n_refused = fuzz(tmp_path, seconds)
    print(f"{n_read:,} read, {n_refused:,} refused in {seconds:g} s")
    assert n_refused > 10 * seconds and n_read > 0
