"""Where the raw file comes from. What was asked for is what is used, or the stage says why not."""

import os
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import requests
from urllib3.exceptions import ReadTimeoutError

from cxr.data import phantom, raw
from cxr.data.npz import Array, write_npz_member
from cxr.data.splits import Origin
from cxr.errors import CxrError, one_line
from cxr.hashing import md5_of_file
from cxr.labels import LABELS
from cxr.params import Download, named_file

# Equal to medmnist.INFO["chestmnist"], which a test holds: importing medmnist imports torch.
URLS = {
    28: "https://zenodo.org/records/10519652/files/chestmnist.npz?download=1",
    64: "https://zenodo.org/records/10519652/files/chestmnist_64.npz?download=1",
    128: "https://zenodo.org/records/10519652/files/chestmnist_128.npz?download=1",
    224: "https://zenodo.org/records/10519652/files/chestmnist_224.npz?download=1",
}
MD5S = {
    28: "02c8a6516a18b556561a56cbdd36c4a8",
    64: "9de6cd0b934ebb5b7426cfba5efbae16",
    128: "db107e5590b27930b62dbaf558aebee3",
    224: "45bd33e6f06c3e8cdb481c74a89152aa",
}

WAYS_OUT = (
    "try again, or use a copy you have with download.source=file and "
    "download.path=FILE, or the synthetic data with download.source=phantom"
)

TIMEOUT_SECONDS = (10, 60)  # to connect, and between two pieces
PIECE_BYTES = 2**16  # what a broken connection loses at most
MOST_DOWNLOAD_BYTES = 2**33  # twice ChestMNIST at 224 px; a server could send without end
PHANTOM_CHUNK = 1024  # images

# Called with the number of items done so far and the number in all.
Progress = Callable[[int, int], None]


def origin(download: Download) -> Origin:
    """The name under which this source's data stands everywhere."""
    names = {
        "medmnist": f"chestmnist-{download.size}",
        "phantom": f"phantom-{download.size}",
        "file": Path(download.path or "").stem,
    }
    return Origin(names[download.source], download.source)


def get(
    download: Download,
    seed: int,
    target: Path,
    scratch: Path,
    root: Path,
    cached: Callable[[str], Path],
    progress: Progress,
) -> None:
    """Bring the raw file of the asked-for source to `target`.

    Parameters
    ----------
    scratch : folder for temporary files, and for a broken download, which resumes from there.
    root : folder that a relative `download.path` starts from.
    cached : where a file of an MD5 lies if it came before, as it has for every further seed.
    """
    if download.source == "medmnist":
        md5 = MD5S[download.size]
        if not take(cached(md5), md5, target):
            fetch(URLS[download.size], md5, target, scratch, progress)
    elif download.source == "file":
        path = user_file(download.path or "", root)
        raw.check(path, scratch)
        shutil.copyfile(path, target)
    else:
        counts = download.phantom.model_dump()
        write_phantom(seed, counts, download.size, target, progress)


def user_file(path: str, root: Path) -> Path:
    """A user's own npz; a relative path starts at the project's root."""
    return named_file("download.path", path, root)


def take(path: Path, md5: str, target: Path) -> bool:
    """Copy a file that may be there; False where it is not, or is not the one of that MD5."""
    if not os.access(path, os.R_OK):
        return False
    shutil.copyfile(path, target)
    if md5_of_file(target) == md5:
        return True
    target.unlink()
    return False


def fetch(url: str, md5: str, target: Path, scratch: Path, progress: Progress) -> None:
    """Download `url` to `target`, going on where an earlier try stopped.

    Raises
    ------
    CxrError
        With the cause and the ways out. A file whose MD5 is not `md5` is thrown away.
    """
    scratch.mkdir(parents=True, exist_ok=True)
    part = scratch / f"{md5}.part"
    try:
        _receive(url, part, progress)
    except requests.RequestException as error:
        raise CxrError(
            f"{url} could not be downloaded: {_cause(error)}; what has arrived is kept; {WAYS_OUT}"
        ) from None
    found = md5_of_file(part)
    if found != md5:
        part.unlink()
        raise CxrError(
            f"what came from {url} has MD5 {found} instead of {md5} and was thrown away; {WAYS_OUT}"
        )
    shutil.move(part, target)


def write_phantom(
    seed: int, counts: dict[str, int], size: int, target: Path, progress: Progress
) -> None:
    """Render the phantom's splits into an npz in ChestMNIST's layout."""
    total, done = sum(counts.values()), 0
    labels: list[Array] = []

    def images(split: str) -> Iterator[Array]:
        nonlocal done
        labels.clear()
        for start in range(0, counts[split], PHANTOM_CHUNK):
            stop = min(start + PHANTOM_CHUNK, counts[split])
            batch = phantom.render(seed, split, start, stop, size)
            labels.append(batch.labels)
            yield batch.images
            done += stop - start
            progress(done, total)

    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for split, n in counts.items():
            write_npz_member(archive, f"{split}_images", (n, size, size), np.uint8, images(split))
            write_npz_member(archive, f"{split}_labels", (n, len(LABELS)), np.uint8, iter(labels))


def _receive(url: str, part: Path, progress: Progress) -> None:
    have = part.stat().st_size if part.exists() else 0
    headers = {"Range": f"bytes={have}-"} if have else {}
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT_SECONDS) as answer:
        if answer.status_code == requests.codes.requested_range_not_satisfiable:
            return  # all of it is here already; the MD5 decides
        answer.raise_for_status()
        resumed = answer.status_code == requests.codes.partial_content
        done = have if resumed else 0
        length = answer.headers.get("Content-Length", "")
        total = done + (int(length) if length.isdecimal() and len(length) < 16 else 0)
        with open(part, "ab" if resumed else "wb") as file:
            for piece in answer.iter_content(PIECE_BYTES):
                file.write(piece)
                done += len(piece)
                if done > MOST_DOWNLOAD_BYTES:
                    raise requests.exceptions.ContentDecodingError(
                        f"it sends more than {MOST_DOWNLOAD_BYTES:,} bytes"
                    )
                progress(done, total)
            file.flush()
            os.fsync(file.fileno())
    if done < total:
        raise requests.exceptions.ChunkedEncodingError(f"{done} of {total} bytes")


def _cause(error: requests.RequestException) -> str:
    if error.response is not None:
        return f"the server answered {error.response.status_code} {error.response.reason}"
    cause = error.args[0] if error.args else None
    if isinstance(error, requests.Timeout) or isinstance(cause, ReadTimeoutError):
        return "the server did not answer in time"
    if isinstance(error, requests.exceptions.ProxyError):
        return "the proxy can't be reached"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "it broke off on the way"
    if isinstance(error, requests.ConnectionError):
        return "no connection to the server"
    return one_line(error)
