"""Read the images of a table, against bare decoding and resizing in as many processes."""

import multiprocessing
import os
import tempfile
import threading
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from bench.measure import Row, faster, in_turns
from cxr.data import phantom
from cxr.data.table import reading
from cxr.params import Params

SIDE, SIZE = 1024, 64  # pixels of the files and of the images read from them
DISTINCT = 50  # files; the others are links to them
NOISE = 2.0  # grey levels; makes files as large as NIH's, 0.4 to 0.7 MB
MOST_MEGABYTES = 1000  # of all processes, above those after their imports


def measure(settings: Params, n: int, turns: int) -> list[Row]:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        paths = _files(folder, n)
        results = iter(range(10_000))
        peak = 0.0

        def ours() -> None:
            nonlocal peak
            target = folder / f"batches-{next(results)}"
            with _Memory() as memory:
                reading.read(
                    {"train": paths}, SIZE, "pad", "stop", target, settings.threads, _ignore
                )
            peak = max(peak, memory.megabytes)

        def theirs() -> None:
            context = multiprocessing.get_context("fork")
            with ProcessPoolExecutor(settings.threads, context) as pool:
                list(pool.map(_bare, paths, chunksize=reading.BATCH))

        seconds = in_turns({"ours": ours, "theirs": theirs}, turns)
    what = f"reading {n:,} PNG of {SIDE} px into {SIZE} px"
    note = f"{n / np.median(seconds['ours']):.0f} images/s with {settings.threads} processes"
    return [
        faster(what, seconds["ours"], seconds["theirs"], least=0.85, note=note),
        Row.with_limit(f"memory of {what}", peak, MOST_MEGABYTES, "MB"),
    ]


def _files(folder: Path, n: int) -> list[str]:
    rng = np.random.default_rng(0)
    images = phantom.render(0, "train", 0, DISTINCT, 224, 0.0).images
    paths = [folder / f"{i}.png" for i in range(n)]
    for i, path in enumerate(paths):
        if i < DISTINCT:
            large = Image.fromarray(images[i]).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
            noisy = np.asarray(large) + rng.normal(0, NOISE, (SIDE, SIDE))
            Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(path)
        else:
            os.link(paths[i % DISTINCT], path)
    return list(map(str, paths))


def _bare(path: str) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.resize((SIZE, SIZE), Image.Resampling.BICUBIC))


def _ignore(done: int, total: int) -> None:
    pass


class _Memory:
    """Peak anonymous memory of this process and its children, above this process at the start."""

    def __enter__(self) -> "_Memory":
        self._start, self.megabytes = _anonymous(os.getpid()), 0.0
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ends.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ends.wait(0.05):
            own = _anonymous(os.getpid()) - self._start
            children = sum(
                max(0.0, _anonymous(child.pid or 0) - self._start)
                for child in multiprocessing.active_children()
            )
            self.megabytes = max(self.megabytes, own + children)


def _anonymous(pid: int) -> float:
    """Anonymous memory of a process in megabytes, 0 if it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) for line in lines if line.startswith("RssAnon")), 0) / 1000
