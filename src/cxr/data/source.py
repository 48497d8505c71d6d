"""Sources of the raw file: a download, a user's own file, or the phantom."""

import os
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow
import requests
from urllib3.exceptions import ReadTimeoutError

from cxr.data import companion, phantom, raw
from cxr.data.npz import Array, write_npz_arrays, write_npz_member
from cxr.data.splits import SPLITS
from cxr.errors import CxrError, one_line
from cxr.hashing import md5_of_file
from cxr.params import Download, Params, Phantom, named_file

# A copy of medmnist.INFO["chestmnist"] (a test compares them): importing medmnist imports torch.
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

ALTERNATIVES = (
    "try again, or use a local copy with download.source=file and "
    "download.path=FILE, or synthetic data with download.source=phantom"
)

TIMEOUT_SECONDS = (10, 60)  # to connect, and between two chunks of data
PIECE_BYTES = 2**16  # the most that an interrupted connection loses
MOST_DOWNLOAD_BYTES = 2**33  # twice ChestMNIST at 224 px; guards against endless responses
PHANTOM_CHUNK = 1024  # images

# Called with the number of items done so far and the total.
Progress = Callable[[int, int], None]


def get(
    params: Params,
    target: Path,
    scratch: Path,
    root: Path,
    cached: Callable[[str], Path],
    progress: Progress,
) -> None:
    """Write the raw file of the configured source to `target`, and its companion next to it.

    Parameters
    ----------
    scratch : folder for temporary files and interrupted downloads, which resume from there.
    root : folder that a relative `download.path` is relative to.
    cached : maps an MD5 to the path that the file has if it was downloaded before.
    """
    download = params.download
    tables = companion.files(download.companion, root)
    table = companion.read(download.companion, tables)
    if download.source == "medmnist":
        md5 = MD5S[download.size]
        if not copy_if_valid(cached(md5), md5, target):
            fetch(URLS[download.size], md5, target, scratch, progress)
    elif download.source == "file":
        path = user_file(download.path or "", root)
        raw.check(path, scratch)
        shutil.copyfile(path, target)
    elif download.source == "table":
        write_table(params, target, scratch, root, progress)
        raw.check(target, scratch)
    else:
        write_phantom(download.seed, download.phantom, download.size, target, progress)
    if table is not None:
        raw.check_companion(target, table)
    for key, copy in companion.copies(download.companion, target.parent).items():
        copy.parent.mkdir()
        shutil.copyfile(tables[key], copy)


def own_files(download: Download, root: Path) -> list[Path]:
    """The user's own files that the parameters name, without images; relative to `root`."""
    files = [*companion.files(download.companion, root).values()]
    if download.source == "file":
        files.append(user_file(download.path or "", root))
    elif download.source == "table":
        from cxr.data.table import listing

        files += listing.files(download.table, download.path or "", root).values()
    return files


def user_file(path: str, root: Path) -> Path:
    """The path of a user's own npz file; a relative path is relative to `root`."""
    return named_file("download.path", path, root)


def write_table(
    params: Params, target: Path, scratch: Path, root: Path, progress: Progress
) -> None:
    """Write the raw file of the images that a table lists."""
    from cxr.data.table import listing, raw_file  # decoders take a second to import

    settings = params.download.table
    paths = listing.files(settings, params.download.path or "", root)
    images = listing.read(settings, paths, root, params.download.seed)
    pyarrow.default_memory_pool().release_unused()  # what pandas has freed
    raw_file.write(images, params.download, target, scratch, params.threads, progress)


def copy_if_valid(path: Path, md5: str, target: Path) -> bool:
    """Copy a file to `target`; False if it can't be read or does not have that MD5."""
    if not os.access(path, os.R_OK):
        return False
    shutil.copyfile(path, target)
    if md5_of_file(target) == md5:
        return True
    target.unlink()
    return False


def fetch(url: str, md5: str, target: Path, scratch: Path, progress: Progress) -> None:
    """Download `url` to `target`, resuming an interrupted download.

    Raises
    ------
    CxrError
        With the cause and the alternatives. A file with another MD5 than `md5` is deleted.
    """
    scratch.mkdir(parents=True, exist_ok=True)
    part = scratch / f"{md5}.part"
    try:
        _receive(url, part, progress)
    except requests.RequestException as error:
        raise CxrError(
            f"{url} could not be downloaded: {_cause(error)}; the next try resumes the download; "
            f"{ALTERNATIVES}"
        ) from None
    actual = md5_of_file(part)
    if actual != md5:
        part.unlink()
        raise CxrError(
            f"the file from {url} has MD5 {actual}, expected {md5}, and was deleted; {ALTERNATIVES}"
        )
    shutil.move(part, target)


def write_phantom(
    seed: int, settings: Phantom, size: int, target: Path, progress: Progress
) -> None:
    """Render the phantom's splits to an npz file in ChestMNIST's layout."""
    counts = {split: getattr(settings, split) for split in SPLITS}
    total, done = sum(counts.values()), 0
    parts: list[tuple[Array, Array, Array]] = []  # labels, patients, attributes

    def images(split: str) -> Iterator[Array]:
        nonlocal done
        parts.clear()
        for start in range(0, counts[split], PHANTOM_CHUNK):
            stop = min(start + PHANTOM_CHUNK, counts[split])
            batch = phantom.render(seed, split, start, stop, size, settings.uncertain)
            parts.append((batch.labels, batch.patients, batch.attributes))
            yield batch.images
            done += stop - start
            progress(done, total)

    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for split, n in counts.items():
            write_npz_member(archive, f"{split}_images", (n, size, size), np.uint8, images(split))
            labels, patients, attributes = (
                np.concatenate(each) for each in zip(*parts, strict=True)
            )
            columns = {
                f"{split}_ids": np.array([f"phantom-{split}-{i:06}" for i in range(n)]),
                f"{split}_labels": labels,
                f"{split}_patients": patients,
                f"{split}_attributes": attributes,
            }
            write_npz_arrays(archive, columns)
        write_npz_arrays(archive, {"attribute_names": np.array(phantom.ATTRIBUTES)})


def _receive(url: str, part: Path, progress: Progress) -> None:
    n_received = part.stat().st_size if part.exists() else 0
    headers = {"Range": f"bytes={n_received}-"} if n_received else {}
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT_SECONDS) as response:
        if response.status_code == requests.codes.requested_range_not_satisfiable:
            return  # the file is already complete; the caller checks its MD5
        response.raise_for_status()
        resumed = response.status_code == requests.codes.partial_content
        done = n_received if resumed else 0
        length = response.headers.get("Content-Length", "")
        total = done + (int(length) if length.isdecimal() and len(length) < 16 else 0)
        with open(part, "ab" if resumed else "wb") as file:
            for piece in response.iter_content(PIECE_BYTES):
                file.write(piece)
                done += len(piece)
                if done > MOST_DOWNLOAD_BYTES:
                    raise requests.exceptions.ContentDecodingError(
                        f"the server sent more than {MOST_DOWNLOAD_BYTES:,} bytes"
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
        return "the server did not respond in time"
    if isinstance(error, requests.exceptions.ProxyError):
        return "could not connect to the proxy"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "the connection was interrupted"
    if isinstance(error, requests.ConnectionError):
        return "could not connect to the server"
    return one_line(error)
