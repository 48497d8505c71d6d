"""Read image files into small squares, in parallel and in batches that a later try can use."""

import hashlib
import json
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np

from cxr.data.images import files
from cxr.data.images.picture import Topic
from cxr.data.npz import Array
from cxr.documents import write_atomically
from cxr.errors import CxrError
from cxr.params import Fit, OnBadImage

BATCH = 64  # images; those of an interrupted batch are read again
RESAMPLING = "bicubic"  # as MedMNIST resized ChestMNIST, and as the models' input_spec says


@dataclass(frozen=True)
class Source:
    """What is known of the file that an image was read from."""

    md5: str  # empty if the file can't be opened
    assumed: dict[Topic, str]
    problem: str  # why the image can't be used, empty if it can


def read(
    paths: Mapping[str, Sequence[str]],
    size: int,
    fit: Fit,
    on_bad_image: OnBadImage,
    folder: Path,
    n_processes: int,
    progress: Callable[[int, int], None],
) -> dict[str, list[Path]]:
    """Read files into batches below `folder`, except batches that an earlier try has written.

    Memory does not grow with the number of images.

    Parameters
    ----------
    paths : the files of each split.

    Returns
    -------
    The batches of each split, in order.

    Raises
    ------
    CxrError
        If an image can't be used and should stop the reading, or a process was killed.
    """
    folder.mkdir(exist_ok=True)
    some = {split: _in_batches(of_split) for split, of_split in paths.items()}
    batches = {
        split: [folder / f"{_key(size, fit, each)}.npz" for each in of_split]
        for split, of_split in some.items()
    }
    jobs = {
        batch: each
        for split in paths
        for batch, each in zip(batches[split], some[split], strict=True)
        if not batch.exists()
    }
    total = sum(map(len, paths.values()))
    done = total - sum(map(len, jobs.values()))
    progress(done, total)
    if jobs:
        read_batch = partial(_read_batch, size, fit, on_bad_image)
        with closing(_in_processes(read_batch, jobs, min(n_processes, len(jobs)))) as finished:
            for n in finished:
                done += n
                progress(done, total)
    return batches


def _in_batches(paths: Sequence[str]) -> list[Sequence[str]]:
    return [paths[start : start + BATCH] for start in range(0, len(paths), BATCH)]


def _in_processes(
    work: Callable[[Path, Sequence[str]], int],
    jobs: Mapping[Path, Sequence[str]],
    n_processes: int,
) -> Generator[int, None, None]:
    """The number of images in batches that are done, again and again."""
    # Forked, since each new interpreter would first import the stage.
    context = multiprocessing.get_context("fork")
    pool = ProcessPoolExecutor(n_processes, context, _prepare_process)
    waiting, running = iter(jobs.items()), set[Future[int]]()
    try:
        while True:
            # Few at once, so that hardly any are left to do after an interrupt.
            for batch, paths in islice(waiting, 2 * n_processes - len(running)):
                running.add(pool.submit(work, batch, paths))
            if not running:
                return
            finished, running = wait(running, return_when=FIRST_COMPLETED)
            yield sum(each.result() for each in finished)
    except BrokenProcessPool:
        raise CxrError(
            "a process that reads images was killed, usually because memory is full; close other "
            "programs, and run again to resume"
        ) from None
    except BaseException:
        for process in multiprocessing.active_children():
            process.terminate()  # else each would finish its batches first
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def sources(batches: Sequence[Path]) -> Iterator[Source]:
    """The sources of the images in batches, in order."""
    for texts in _members(batches, "sources"):
        yield from (Source(**each) for each in json.loads(str(texts)))


def images(batches: Sequence[Path]) -> Iterator[Array]:
    """The images in batches without those that can't be used, (B, S, S) each."""
    return _members(batches, "images")


def _members(batches: Sequence[Path], key: str) -> Iterator[Array]:
    for file in batches:
        with np.load(file, allow_pickle=False) as content:
            yield content[key]


def _key(size: int, fit: Fit, paths: Sequence[str]) -> str:
    """Differs if a batch has other images, or a file has changed."""
    digest = hashlib.blake2b(f"{size} {fit}".encode(), digest_size=16)
    for path in paths:
        try:
            stat = os.stat(path)  # noqa: PTH116 - three times as fast as by a Path
        except OSError:  # reported when the file is read
            continue
        digest.update(
            f"\0{path}\0{stat.st_size} {stat.st_mtime_ns}".encode(errors="surrogateescape")
        )
    return digest.hexdigest()


def _read_batch(
    size: int, fit: Fit, on_bad_image: OnBadImage, target: Path, paths: Sequence[str]
) -> int:
    """Write a batch; returns its number of images."""
    images, found = [], []
    for path in paths:
        image, source = _read(Path(path), size, fit)
        if image is not None:
            images.append(image)
        elif on_bad_image == "stop":
            raise CxrError(f"{source.problem}; or set download.table.on_bad_image to skip")
        found.append(asdict(source))
    squares = np.stack(images) if images else np.empty((0, size, size), np.uint8)
    text = np.array(json.dumps(found))
    write_atomically(target, lambda file: np.savez(file, images=squares, sources=text))
    return len(paths)


def _read(path: Path, size: int, fit: Fit) -> tuple[Array | None, Source]:
    md5 = ""
    try:
        content = files.content(path)
        md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
        picture = files.decode(content, path)
    except CxrError as error:
        return None, Source(md5, {}, str(error))
    return picture.square(size, RESAMPLING, fit), Source(md5, picture.notes.assumed, "")


def _prepare_process() -> None:
    """Leave Ctrl-C and the terminal to the parent, and end if it is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for each in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(each) != signal.SIG_IGN:  # as under nohup
            signal.signal(each, signal.SIG_DFL)
    # A thread of the parent that draws the progress bar may have locked them.
    sys.stdout, sys.stderr = None, None
    parent = multiprocessing.parent_process()

    def end() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=end, daemon=True).start()
