"""Read npz and npy files of predictions or labels."""

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from cxr.data.column_names import ID_NAMES, PATIENT_NAMES
from cxr.data.ids import MOST_ID_CHARACTERS
from cxr.data.npz import MOST_WHOLE_BYTES, NpzReader, parse_header
from cxr.data.raw import label_names
from cxr.documents import read_within
from cxr.errors import CxrError
from cxr.labels import CHESTMNIST, UNKNOWN, bare
from cxr.scoring.submissions.columns import Column, as_ids, choose_ids
from cxr.scoring.submissions.table import Kind, Table, Texts

# In order of preference. Names in UNSTATED don't say whether the values are logits, nor do CSVs.
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
    """Whether a path ends in .npz, in any case."""
    return path.suffix.lower() == ".npz"


def has_arrays(path: Path, split: str, kinds: tuple[Kind, ...]) -> bool:
    """Whether an npz holds an array of one of these kinds with the split in its name."""
    if not is_npz(path):
        return False
    with NpzReader(path) as reader:
        return any(f"{split}_{name}" in reader.keys for kind in kinds for name in ARRAYS[kind])


def read_npz(path: Path, split: str, kind: Kind, exact: bool) -> Table:
    """An npz's array of labels or predictions, with its ids and patients.

    Parameters
    ----------
    kind : "labels", or the kind of predictions if the array's name does not say it.
    exact : read only arrays that have the split in their names.
    """
    kinds = dict.fromkeys(ARRAYS[kind] if kind == "labels" else UNSTATED, kind)
    if kind != "labels":
        kinds = {name: each for each in ("logits", "probs") for name in ARRAYS[each]} | kinds
    with NpzReader(path) as reader:
        key = _key(reader, split, tuple(kinds), exact)
        if key is None:
            expected = ["labels"] if kind == "labels" else ["logits", "probs"]
            names = " or ".join(f"`{split}_{name}`" for name in expected)
            raise CxrError(f"{path} has no {names}; it contains {', '.join(sorted(reader.keys))}")
        labels = label_names(reader)
        shape, dtype = reader.header(key)
        if len(shape) == len(labels) == 1:
            shape = (*shape, 1)
        _check_values(f"{path}: {key}", shape, dtype, labels)
        values = reader.read(key).reshape(-1, len(labels)).astype(np.float64)
        if kind == "labels":
            values[np.isnan(values)] = UNKNOWN
        split_keys = _split_keys(reader, split, exact)
        columns, unreadable = _columns(reader, split_keys, split, len(values))
        chosen, unclear = choose_ids(columns)
        if chosen is None and unreadable:
            unclear = (
                f"{unreadable[0]} may hold ids, but as pickled Python objects; save it as strings"
            )
        id_key = None if chosen is None else split_keys[bare(chosen.name)]
        patients = next((split_keys[name] for name in PATIENT_NAMES if name in split_keys), None)
        return Table(
            path,
            kinds[key.removeprefix(f"{split}_")],
            labels,
            values,
            None if chosen is None else as_ids(chosen.values),
            None if patients is None else _texts(reader, patients, len(values)),
            id_column=id_key,
            unclear_ids=unclear,
            source=key,
        )


def read_npy(path: Path, kind: Kind) -> Table:
    """The array of an npy file, without ids."""
    try:
        file = io.BytesIO(read_within(path, MOST_WHOLE_BYTES))
        shape, is_fortran, dtype = parse_header(file)
        _check_values(str(path), shape, dtype, CHESTMNIST)
        values = np.frombuffer(file.read(), dtype).reshape(shape, order="F" if is_fortran else "C")
    except FileNotFoundError:
        raise CxrError(f"{path} does not exist; check the path") from None
    except OSError as error:
        raise CxrError(f"{path} can't be read: {error.strerror}") from None
    except ValueError:
        raise CxrError(
            f"{path} is not an npy file of at most {MOST_WHOLE_BYTES:,} bytes; save it again"
        ) from None
    values = values.astype(np.float64)
    if kind == "labels":
        values[np.isnan(values)] = UNKNOWN
    return Table(path, kind, CHESTMNIST, values, None, None, source="the array")


def _check_values(
    what: str, shape: tuple[int, ...], dtype: np.dtype[np.generic], names: tuple[str, ...]
) -> None:
    if len(shape) != 2 or shape[1] != len(names) or dtype.kind not in "fiub":
        order = "ChestMNIST's label order" if names == CHESTMNIST else "the order of label_names"
        fix = "; name other labels in an array `label_names`" if names == CHESTMNIST else ""
        raise CxrError(
            f"{what} is {dtype} of shape {shape}; expected numbers of shape "
            f"(N, {len(names)}) in {order}{fix}"
        )


def _key(reader: NpzReader, split: str, names: tuple[str, ...], exact: bool) -> str | None:
    """The first of the names that exists; names that start with the split take precedence."""
    candidates = [f"{split}_{name}" for name in names] + ([] if exact else list(names))
    return next((name for name in candidates if name in reader.keys), None)


def _split_keys(reader: NpzReader, split: str, exact: bool) -> dict[str, str]:
    """Keys of the split's arrays and of arrays of no split, by name without split, separators."""
    keys = sorted(reader.keys)
    of_no_split = {} if exact else {bare(k): k for k in keys if k.split("_")[0] not in SPLITS}
    return of_no_split | {
        bare(key.removeprefix(f"{split}_")): key for key in keys if key.startswith(f"{split}_")
    }


def _columns(
    reader: NpzReader, split_keys: Mapping[str, str], split: str, n: int
) -> tuple[list[Column], list[str]]:
    """Arrays that may hold ids, one value per image, and the names of unreadable arrays."""
    columns, unreadable = [], []
    for name, key in split_keys.items():
        is_known = name in ID_NAMES or name in PATIENT_NAMES
        try:
            shape, dtype = reader.header(key)
        except CxrError:
            if is_known:
                raise
            unreadable.append(key)
            continue
        if name in ("labelnames", "attributenames", "attributes") or (
            shape == (len(CHESTMNIST),) != (n,) and name in ("name", "names")
        ):
            continue  # names of the labels
        if is_known or (shape in ((n,), (n, 1)) and dtype.kind in "iuUS"):
            texts = _texts(reader, key, n).tolist()
            columns.append(Column(key.removeprefix(f"{split}_"), texts))
    return columns, unreadable


def _texts(reader: NpzReader, key: str, n: int) -> Texts:
    shape, dtype = reader.header(key)
    if (
        shape not in ((n,), (n, 1))
        or dtype.kind not in "iuUS"
        or (dtype.kind == "S" and dtype.itemsize > MOST_ID_CHARACTERS)
    ):
        raise CxrError(
            f"{reader.path}: {key} is {dtype} of shape {shape}; expected an integer or a string "
            f"of at most {MOST_ID_CHARACTERS} characters per image ({n:,})"
        )
    values = reader.read(key).reshape(n)
    try:
        texts = np.char.decode(values, "utf-8") if dtype.kind == "S" else values.astype(str)
    except UnicodeDecodeError:
        raise CxrError(f"{reader.path}: {key} is not valid UTF-8; save it as strings") from None
    return as_ids(texts.tolist())
