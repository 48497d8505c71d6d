"""The splits on disk equal the raw file's, and an unusable raw file is refused by name."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cxr.data import npz, raw, splits
from cxr.data.splits import SPLITS, Origin
from cxr.errors import CxrError
from cxr.labels import CHESTMNIST, UNKNOWN

Arrays = dict[str, Any]

COUNTS = {"train": 9, "val": 5, "test": 7}
REAL = Path(__file__).parents[3] / "shared/data/nih_real_28.npz"


@pytest.fixture
def arrays() -> Arrays:
    """A valid raw file with all columns; the splits differ in brightness and length."""
    rng = np.random.default_rng(0)
    data: Arrays = {}
    for darkest, (split, n) in zip((0, 60, 120), COUNTS.items(), strict=True):
        data[f"{split}_images"] = rng.integers(darkest, 256, (n, 10, 10)).astype(np.uint8)
        data[f"{split}_labels"] = rng.integers(0, 2, (n, len(CHESTMNIST))).astype(np.int64)
        data[f"{split}_ids"] = np.array([f"{split}-{i}.png" for i in range(n)])
        data[f"{split}_patients"] = np.arange(n, dtype=np.int32)
    return data


def extract(arrays: Arrays, folder: Path, save: Callable[..., None] = np.savez) -> raw.Extracted:
    save(folder / "mine.npz", **arrays)
    raw.check(folder / "mine.npz", folder)
    return raw.extract(folder / "mine.npz", Origin("mine", "file"), folder, "pad")


def refusal(arrays: Arrays, folder: Path) -> str:
    with pytest.raises(CxrError) as caught:
        extract(arrays, folder)
    text = str(caught.value)
    assert text.startswith(f"{folder / 'mine.npz'}: ") and len(text.splitlines()) == 1
    assert not (folder / "dataset.json").exists()
    return text


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("chunk_bytes", [250, 2**24])
def test_the_arrays_equal_those_that_numpy_reads(
    arrays: Arrays,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    save: Callable[..., None],
    chunk_bytes: int,
) -> None:
    monkeypatch.setattr(npz, "CHUNK_BYTES", chunk_bytes)
    extract(arrays, tmp_path, save)
    theirs = np.load(tmp_path / "mine.npz")
    for name in SPLITS:
        split = splits.open_split(tmp_path, name)
        np.testing.assert_array_equal(split.images, theirs[f"{name}_images"], strict=True)
        np.testing.assert_array_equal(split.labels, theirs[f"{name}_labels"])
        np.testing.assert_array_equal(split.ids, theirs[f"{name}_ids"], strict=True)
        np.testing.assert_array_equal(split.patients, theirs[f"{name}_patients"], strict=True)
        assert split.labels.dtype == np.int8


def test_images_stay_on_disk_until_they_are_read(arrays: Arrays, tmp_path: Path) -> None:
    extract(arrays, tmp_path)
    images = splits.open_split(tmp_path, "train").images
    assert isinstance(images, np.memmap)
    before = images[0, 0, 0]
    images[0, 0, 0] = before + 1
    assert splits.open_split(tmp_path, "train").images[0, 0, 0] == before


def test_ids_and_patients_may_be_absent_as_in_chestmnist(arrays: Arrays, tmp_path: Path) -> None:
    extract({k: v for k, v in arrays.items() if k.endswith(("images", "labels"))}, tmp_path)
    for name in SPLITS:
        split = splits.open_split(tmp_path, name)
        assert split.ids is None and split.patients is None


@pytest.mark.parametrize("chunk_bytes", [250, 2**24])
def test_statistics_equal_numpys_over_the_training_pixels(
    arrays: Arrays, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk_bytes: int
) -> None:
    monkeypatch.setattr(npz, "CHUNK_BYTES", chunk_bytes)
    statistics = extract(arrays, tmp_path).statistics
    grey = arrays["train_images"].astype(np.float64) / 255
    assert statistics.mean == pytest.approx(grey.mean(), rel=1e-13)
    assert statistics.std == pytest.approx(grey.std(), rel=1e-13)


def test_statistics_of_a_hand_computed_case(arrays: Arrays, tmp_path: Path) -> None:
    arrays["train_images"][:] = 0
    arrays["train_images"][:, :5] = 255  # half white
    statistics = extract(arrays, tmp_path).statistics
    assert (statistics.mean, statistics.std) == (0.5, 0.5)


def test_the_dataset_is_described_and_read_back(arrays: Arrays, tmp_path: Path) -> None:
    dataset = extract(arrays, tmp_path).dataset
    assert dataset == splits.Dataset(Origin("mine", "file"), 10, COUNTS, CHESTMNIST, (), "pad")
    assert splits.open_dataset(tmp_path) == dataset


@pytest.mark.parametrize("source", ["medmnist", "file", "phantom"])
def test_the_origin_is_read_back(tmp_path: Path, source: str) -> None:
    origin = Origin("näme", source)
    splits.write_origin(origin, tmp_path)
    assert splits.read_origin(tmp_path) == origin
    assert origin.is_phantom == (source == "phantom")


@pytest.mark.parametrize("dtype", ["?", "i1", "u2", ">i4", "u8"])
def test_labels_of_any_integer_dtype_are_read(arrays: Arrays, tmp_path: Path, dtype: str) -> None:
    labels = arrays["val_labels"].copy()
    arrays["val_labels"] = labels.astype(dtype)
    extract(arrays, tmp_path)
    np.testing.assert_array_equal(splits.open_split(tmp_path, "val").labels, labels)


def test_unknown_labels_are_kept(arrays: Arrays, tmp_path: Path) -> None:
    arrays["val_labels"][2, 3] = arrays["val_labels"][0, 13] = -1
    extract(arrays, tmp_path)
    found = splits.open_split(tmp_path, "val").labels
    np.testing.assert_array_equal(found, arrays["val_labels"])
    assert (found == UNKNOWN).sum() == 2


@pytest.mark.parametrize("kind", [str, np.bytes_])
def test_known_findings_get_their_names_and_come_first(
    arrays: Arrays, tmp_path: Path, kind: type
) -> None:
    names = ["Fractured Rib", "Hiatal_Hernia", "Öd/ém", "PLEURAL EFFUSION"]
    arrays["label_names"] = np.char.encode(names, "utf-8") if kind is np.bytes_ else np.array(names)
    for split in SPLITS:
        arrays[f"{split}_labels"] = arrays[f"{split}_labels"][:, :4]
    dataset = extract(arrays, tmp_path).dataset
    assert dataset.labels == ("effusion", "hernia", "Fractured Rib", "Öd/ém")
    split = splits.open_split(tmp_path, "val")
    assert split.names == dataset.labels
    np.testing.assert_array_equal(split.labels, arrays["val_labels"][:, [3, 1, 0, 2]])


@pytest.mark.parametrize("shape", [(-1, 1), (-1,)])
def test_a_single_label_is_read(arrays: Arrays, tmp_path: Path, shape: tuple[int, ...]) -> None:
    arrays["label_names"] = np.array(["fracture"])
    for split in SPLITS:
        arrays[f"{split}_labels"] = arrays[f"{split}_labels"][:, 0].reshape(shape)
    extract(arrays, tmp_path)
    assert splits.open_split(tmp_path, "val").labels.shape == (COUNTS["val"], 1)


def named(position: int, name: str) -> Callable[[object], np.ndarray]:
    """ChestMNIST's names with another one at a position."""
    names = [*CHESTMNIST]
    names[position] = name
    return lambda _: np.array(names)


def with_nan(values: np.ndarray) -> np.ndarray:
    values = values.astype(np.float32)
    values[2, 3] = np.nan
    return values


def with_value(value: int) -> Callable[[np.ndarray], np.ndarray]:
    def corrupt(labels: np.ndarray) -> np.ndarray:
        labels[3, CHESTMNIST.index("edema")] = labels[4, 0] = value
        return labels

    return corrupt


REFUSALS: dict[str, tuple[str, Callable[[np.ndarray], Any], str]] = {
    "float images": (
        "train_images",
        lambda a: a / 255,
        "; expected uint8 with values from 0 to 255; convert the images of each split with "
        "`(train_images * 255).round().astype(np.uint8)`",
    ),
    "images with NaN": ("test_images", with_nan, "has dtype float32 with 10 NaN values;"),
    "wide integers": ("val_images", lambda a: a.astype(int), "; expected uint8 with values from 0"),
    "colour": (
        "val_images",
        lambda a: np.stack([a] * 3, -1),
        "val_images has shape (5, 10, 10, 3); expected square grey images",
    ),
    "flat images": ("val_images", lambda a: a.reshape(5, 100), "has shape (5, 100); expected"),
    "oblong images": ("val_images", lambda a: a[:, :9], "has shape (5, 9, 10); expected"),
    "tiny images": ("val_images", lambda a: a[:, :7, :7], "has shape (5, 7, 7); expected"),
    "no images": ("val_images", lambda a: a[:0], "val_images is empty; every split needs at"),
    "another size": ("val_images", lambda a: a[:, :9, :9], "of different sizes: [9, 10]"),
    "object images": ("val_images", lambda a: a.astype(object), "`val_images` contains pickled"),
    "soft labels": (
        "train_labels",
        lambda a: a * 0.7 + 0.15,
        " (126 invalid values); labels must be 0, 1 or -1",
    ),
    "labels with NaN": (
        "test_labels",
        with_nan,
        "test_labels contains nan at row 2, infiltration (1 invalid value); labels must be",
    ),
    "text labels": ("val_labels", lambda a: a.astype(str), "val_labels has dtype <U21; labels"),
    "13 labels": (
        "val_labels",
        lambda a: a[:, :13],
        "val_labels has shape (5, 13); expected (N, 14), one column per label",
    ),
    "one label": ("val_labels", lambda a: a[:, 0], "val_labels has shape (5,); expected"),
    "labels of 2": (
        "val_labels",
        with_value(2),
        "val_labels contains 2 at row 3, edema (2 invalid values); labels must be 0, 1 or -1",
    ),
    "labels of -2": ("val_labels", with_value(-2), "contains -2 at row 3, edema (2 invalid"),
    "labels without a name": (
        "label_names",
        lambda _: np.array(["Cough", "Fever"]),
        "labels has shape (9, 14); expected (N, 2), one column per label as in label_names",
    ),
    "no names": ("label_names", lambda _: np.array([], str), "expected 1 to 100 strings"),
    "101 names": ("label_names", lambda _: np.arange(101).astype(str), "expected 1 to 100"),
    "names that are numbers": ("label_names", lambda _: np.arange(14), "dtype int64 and shape"),
    "names in a table": ("label_names", lambda _: np.array([["a"], ["b"]]), "and shape (2, 1)"),
    "an empty name": ("label_names", named(5, "  "), "label_names: '  ' can't be the name"),
    "a long name": ("label_names", named(2, "x" * 61), "a label; use 1 to 60 printable"),
    "a name of two lines": ("label_names", named(2, "a\nb"), "label_names: 'a\\nb' can't be the"),
    "a name of a column": ("label_names", named(0, "assumed"), "can't be named 'assumed'; rename"),
    "doubled names": (
        "label_names",
        named(13, "Pleural Effusion"),
        "label_names: 'effusion' and 'Pleural Effusion' are the same label, 'effusion'; merge",
    ),
    "names that are not UTF-8": (
        "label_names",
        lambda _: np.array([b"\xff"] * 14),
        "label_names contains bytes that are not UTF-8",
    ),
    "object labels": ("val_labels", lambda a: a.astype(object), "`val_labels` contains pickled"),
    "fewer labels": (
        "test_labels",
        lambda a: a[:6],
        "test_images has 7 rows and test_labels has 6; expected one row per image",
    ),
    "more ids": ("val_ids", lambda a: np.append(a, "x"), "has 5 rows and val_ids has 6; expected"),
    "fewer patients": ("val_patients", lambda a: a[1:], "has 5 rows and val_patients has 4; "),
    "bytes that are not UTF-8": (
        "val_ids",
        lambda a: np.array([b"caf\xe9"] * 5),
        "val_ids contains bytes that are not UTF-8; save it with .astype(str)",
    ),
    "infinite patients": (
        "val_patients",
        lambda a: np.full(5, np.inf),
        "val_patients has dtype float64 and shape",
    ),
    "dates for ids": ("val_ids", lambda a: np.zeros(5, "M8[D]"), "val_ids has dtype datetime64[D]"),
    "two ids an image": (
        "val_ids",
        lambda a: np.stack([a, a], 1),
        "and shape (5, 2); expected one",
    ),
    "object ids": ("val_ids", lambda a: a.astype(object), "`val_ids` contains pickled"),
}


@pytest.mark.parametrize(("key", "corrupt", "words"), REFUSALS.values(), ids=REFUSALS)
def test_an_unusable_array_is_refused_with_the_problem(
    arrays: Arrays, tmp_path: Path, key: str, corrupt: Callable[[np.ndarray], Any], words: str
) -> None:
    arrays[key] = corrupt(arrays.get(key))
    assert words in refusal(arrays, tmp_path)


@pytest.mark.parametrize("key", [f"{s}_{kind}" for s in SPLITS for kind in ("images", "labels")])
def test_a_missing_array_is_named(arrays: Arrays, tmp_path: Path, key: str) -> None:
    del arrays[key]
    with pytest.raises(CxrError, match=rf"mine\.npz has no `{key}`; it contains "):
        extract(arrays, tmp_path)


def test_training_images_of_one_grey_value_are_refused(arrays: Arrays, tmp_path: Path) -> None:
    arrays["train_images"][:] = 7
    with pytest.raises(CxrError, match=r"mine\.npz: every pixel of train_images is 7;"):
        extract(arrays, tmp_path)


@pytest.mark.skipif(not REAL.exists(), reason=f"{REAL} does not exist")
def test_real_x_rays_are_extracted_as_numpy_reads_them(tmp_path: Path) -> None:
    raw.check(REAL, tmp_path)
    extracted = raw.extract(REAL, Origin("nih_real_28", "file"), tmp_path, "pad")
    dataset, statistics = extracted.dataset, extracted.statistics
    assert (dataset.size, dataset.n) == (28, {"train": 1462, "val": 171, "test": 711})
    theirs = np.load(REAL)
    for name in SPLITS:
        split = splits.open_split(tmp_path, name)
        for column in ("images", "labels", "ids", "patients"):
            np.testing.assert_array_equal(getattr(split, column), theirs[f"{name}_{column}"])
    assert statistics.mean == pytest.approx((theirs["train_images"] / 255).mean(), rel=1e-12)
    assert statistics.std == pytest.approx((theirs["train_images"] / 255).std(), rel=1e-12)
    positives = splits.open_split(tmp_path, "val").labels.sum(axis=0)
    assert [label for label, n in zip(CHESTMNIST, positives, strict=True) if n == 0] == ["hernia"]
