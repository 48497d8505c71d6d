"""Write the images that a table lists to a raw file, and where each came from."""

import json
import zipfile
from collections.abc import Callable
from itertools import chain
from pathlib import Path

import numpy as np

from cxr.data.npz import Array, write_npz_arrays, write_npz_member
from cxr.data.raw import ATTRIBUTE_NAMES, NAMES
from cxr.data.splits import SPLITS
from cxr.data.table import manifest, reading
from cxr.data.table.listing import Listing
from cxr.errors import CxrError
from cxr.params import Download


def write(
    listing: Listing,
    download: Download,
    target: Path,
    scratch: Path,
    n_processes: int,
    progress: Callable[[int, int], None],
) -> None:
    """Read all images, and write the raw file and `images.csv` next to it.

    Parameters
    ----------
    scratch : folder for batches of images, from which an interrupted reading resumes.
    """
    rows = {split: np.flatnonzero(listing.splits == split) for split in SPLITS}
    paths = {split: [listing.files[row] for row in rows[split]] for split in SPLITS}
    size, fit, on_bad_image = download.size, download.fit, download.table.on_bad_image
    folder = scratch / "images"
    batches = reading.read(paths, size, fit, on_bad_image, folder, n_processes, progress)
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for split in SPLITS:
            sources = reading.sources(batches[split])
            usable = rows[split][[not each.problem for each in sources]]
            if not len(usable):
                first = next(reading.sources(batches[split]))
                raise CxrError(f"no image of {split} can be read: {first.problem}")
            shape = (len(usable), size, size)
            images = reading.images(batches[split])
            write_npz_member(archive, f"{split}_images", shape, np.uint8, images)
            write_npz_arrays(archive, _columns(listing, split, usable))
        write_npz_arrays(archive, {NAMES: np.array(listing.label_names)})
        if listing.attributes:
            write_npz_arrays(archive, {ATTRIBUTE_NAMES: np.array([*listing.attributes])})
    entries = (
        manifest.Entry(
            image=listing.ids[row],
            split=split,
            file=listing.file_as_written(row),
            md5=each.md5,
            assumed=json.dumps(each.assumed) if each.assumed else "",
            problem=each.problem,
        )
        for split in SPLITS
        for row, each in zip(rows[split].tolist(), reading.sources(batches[split]), strict=True)
    )
    missing = (manifest.Entry(name, "", "", "", "", manifest.NO_FILE) for name in listing.missing)
    manifest.write(chain(entries, missing), target.parent)


def _columns(listing: Listing, split: str, rows: Array) -> dict[str, Array]:
    columns = {
        f"{split}_ids": np.array([listing.ids[row] for row in rows]),
        f"{split}_labels": listing.labels[rows],
    }
    if listing.patients is not None:
        columns[f"{split}_patients"] = listing.patients[rows]
    if listing.attributes:
        attributes = [each[rows] for each in listing.attributes.values()]
        columns[f"{split}_attributes"] = np.stack(attributes, axis=1)
    return columns
