"""npz and npy files of predictions or labels."""

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from cxr.data.npz import MOST_WHOLE_BYTES, NpzReader, parse_header
from cxr.documents import read_within
from cxr.errors import CxrError
from cxr.labels import LABELS, bare
from cxr.scoring.submissions.columns import ID_NAMES, PATIENT_NAMES, Column, as_ids, choose_ids
from cxr.scoring.submissions.layouts import MOST_ID
from cxr.scoring.submissions.table import Kind, Table, Texts

# In order of preference. The names in UNSTATED don't say whether they are logits; a CSV's don't.
ARRAYS: dict[Kind, tuple[str, ...]] = {
    "logits": ("logits",),
    "probs": ("probs", "probabilities"),
    "labels": ("labels", "label", "y_true", "targets", "target", "arr_0"),
}
UNSTATED = (
    "y_score", "y_scores", "y_prob", "scores", "outputs", "preds", "predictions", "pred", "y_pred",
    "arr_0",
)  # fmt: skip
SPLITS = ("train", "val", "test")


def is_npz(path: Path) -> bool:
    """Whether a path's name ends as an npz's does."""
    return path.suffix.lower() == ".npz"


def has_arrays(path: Path, split: str, kinds: tuple[Kind, ...]) -> bool:
    """Whether an npz holds one of these kinds for the split, under the split's own name."""
    if not is_npz(path):
        return False
    with NpzReader(path) as reader:
        return any(f"{split}_{name}" in reader.keys for kind in kinds for name in ARRAYS[kind])


def read_npz(path: Path, split: str, kind: Kind, exact: bool) -> Table:
    """An npz's array of labels, or of predictions, and the ids and patients beside it.

    Parameters
    ----------
    kind : "labels", or what an array of predictions is if its name does not say it.
    exact : read only arrays that have the split in their names.
    """
    kinds = dict.fromkeys(ARRAYS[kind] if kind == "labels" else UNSTATED, kind)
    if kind != "labels":
        kinds = {name: each for each in ("logits", "probs") for name in ARRAYS[each]} | kinds
    with NpzReader(path) as reader:
        key = _key(reader, split, tuple(kinds), exact)
        if key is None:
            wanted = ["labels"] if kind == "labels" else ["logits", "probs"]
            names = " or ".join(f"`{split}_{name}`" for name in wanted)
            raise CxrError(f"{path} has no {names}; it holds {', '.join(sorted(reader.keys))}")
        shape, dtype = reader.header(key)
        _check_values(f"{path}: {key}", shape, dtype)
        values = reader.read(key).astype(np.float64)
        own = _own_keys(reader, split, exact)
        columns, unread = _columns(reader, own, split, len(values))
        chosen, unclear = choose_ids(columns)
        if chosen is None and unread:
            unclear = f"{unread[0]} may hold ids, but as Python objects; save it as text"
        of_ids = None if chosen is None else own[bare(chosen.name)]
        patients = next((own[name] for name in PATIENT_NAMES if name in own), None)
        return Table(
            path,
            kinds[key.removeprefix(f"{split}_")],
            values,
            None if chosen is None else as_ids(chosen.values),
            None if patients is None else _texts(reader, patients, len(values)),
            id_column=of_ids,
            unclear_ids=unclear,
            source=key,
        )


def read_npy(path: Path, kind: Kind) -> Table:
    """The one array of an npy file, which has no ids."""
    try:
        file = io.BytesIO(read_within(path, MOST_WHOLE_BYTES))
        shape, is_fortran, dtype = parse_header(file)
        _check_values(str(path), shape, dtype)
        values = np.frombuffer(file.read(), dtype).reshape(shape, order="F" if is_fortran else "C")
    except FileNotFoundError:
        raise CxrError(f"{path} does not exist; check the path") from None
    except OSError as error:
        raise CxrError(f"{path} can't be read: {error.strerror}") from None
    except ValueError:
        raise CxrError(
            f"{path} is not an npy file of at most {MOST_WHOLE_BYTES:,} bytes; save it again"
        ) from None
    return Table(path, kind, values.astype(np.float64), None, None, source="the array")


def _check_values(what: str, shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> None:
    if len(shape) != 2 or shape[1] != len(LABELS) or dtype.kind not in "fiub":
        raise CxrError(
            f"{what} is {dtype} of shape {shape}; expected numbers of shape (N, {len(LABELS)}) in "
            "ChestMNIST's order of labels"
        )


def _key(reader: NpzReader, split: str, names: tuple[str, ...], exact: bool) -> str | None:
    """The first of the names that is there, with the split in front before any without."""
    wanted = [f"{split}_{name}" for name in names] + ([] if exact else list(names))
    return next((name for name in wanted if name in reader.keys), None)


def _own_keys(reader: NpzReader, split: str, exact: bool) -> dict[str, str]:
    """The split's arrays and those of no split, by their names without split and separators."""
    keys = sorted(reader.keys)
    plain = {} if exact else {bare(k): k for k in keys if k.split("_")[0] not in SPLITS}
    return plain | {
        bare(key.removeprefix(f"{split}_")): key for key in keys if key.startswith(f"{split}_")
    }


def _columns(
    reader: NpzReader, own: Mapping[str, str], split: str, n: int
) -> tuple[list[Column], list[str]]:
    """Arrays that may hold ids, one value per image, and the names of those that can't be read."""
    found, unread = [], []
    for name, key in own.items():
        is_known = name in ID_NAMES or name in PATIENT_NAMES
        try:
            shape, dtype = reader.header(key)
        except CxrError:
            if is_known:
                raise
            unread.append(key)
            continue
        if shape == (len(LABELS),) != (n,) and name in ("name", "names"):
            continue  # of the labels
        if is_known or (shape in ((n,), (n, 1)) and dtype.kind in "iuUS"):
            texts = _texts(reader, key, n).tolist()
            found.append(Column(key.removeprefix(f"{split}_"), texts))
    return found, unread


def _texts(reader: NpzReader, key: str, n: int) -> Texts:
    shape, dtype = reader.header(key)
    if (
        shape not in ((n,), (n, 1))
        or dtype.kind not in "iuUS"
        or (dtype.kind == "S" and dtype.itemsize > MOST_ID)
    ):
        raise CxrError(
            f"{reader.path}: {key} is {dtype} of shape {shape}; expected a whole number or a text "
            f"of at most {MOST_ID} characters for each of the {n:,} images"
        )
    values = reader.read(key).reshape(n)
    try:
        texts = np.char.decode(values, "utf-8") if dtype.kind == "S" else values.astype(str)
    except UnicodeDecodeError:
        raise CxrError(f"{reader.path}: {key} is not text in UTF-8; save it as str") from None
    return as_ids(texts.tolist())
