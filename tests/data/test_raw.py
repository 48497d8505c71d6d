"""Layouts equivalent to ChestMNIST's are accepted; others are refused with the fix."""

import hashlib
import shutil
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pipeline import create

from cxr.data import npz, raw, splits
from cxr.data.splits import Origin
from cxr.errors import CxrError
from cxr.labels import CHESTMNIST

Arrays = dict[str, Any]
Change = Callable[[Any], Any]

MAKER = Path(__file__).parents[3] / "shared/cases/make_npz.py"
SPLITS = ("train", "val", "test")


def arrays(n: int = 6, side: int = 9) -> Arrays:
    """Valid arrays with n images per split."""
    rng = np.random.default_rng(0)
    data: Arrays = {}
    for split in SPLITS:
        images = rng.integers(0, 256, (n, side, side), dtype=np.uint8)
        images[0, 0, :2] = 0, 255
        data[f"{split}_images"] = images
        data[f"{split}_labels"] = rng.integers(0, 2, (n, len(CHESTMNIST)), dtype=np.uint8)
        data[f"{split}_ids"] = np.array([f"{split}-Ünï-{i}.png" for i in range(n)])
        data[f"{split}_patients"] = np.arange(n)
    return data


def changed(kind: str, change: Change) -> Arrays:
    return {k: change(v) if k.endswith(kind) else v for k, v in arrays().items()}


def extracted(path: Path, folder: Path) -> dict[str, str]:
    """Check and extract a raw file; returns the MD5 of each file written."""
    folder.mkdir()
    raw.check(path, folder)
    assert not list(folder.iterdir())
    raw.extract(path, Origin("mine", "file"), folder, "pad")
    return {each.name: hashlib.md5(each.read_bytes()).hexdigest() for each in folder.iterdir()}


LAYOUTS: dict[str, tuple[str, Change]] = {
    "channels last": ("images", lambda a: a[..., None]),
    "channels first": ("images", lambda a: a[:, None]),
    "Fortran": ("images", np.asfortranarray),
    "Fortran and channels last": ("images", lambda a: np.asfortranarray(a[..., None])),
    "float labels": ("labels", lambda a: a.astype(np.float32)),
    "double labels": ("labels", lambda a: a.astype(">f8")),
    "boolean labels": ("labels", lambda a: a.astype(bool)),
    "labels with a trailing axis": ("labels", lambda a: a[..., None]),
    "labels with a middle axis": ("labels", lambda a: a[:, None]),
    "Fortran labels": ("labels", np.asfortranarray),
    "ids as bytes": ("ids", lambda a: np.char.encode(a, "utf-8")),
    "ids in a column": ("ids", lambda a: a[:, None]),
    "patients in a column": ("patients", lambda a: a[:, None]),
}


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("chunk_bytes", [100, 2**24])
@pytest.mark.parametrize(("kind", "change"), LAYOUTS.values(), ids=LAYOUTS)
def test_equivalent_layouts_are_extracted_to_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, save: Callable[..., None], chunk_bytes: int,
    kind: str, change: Change,
) -> None:  # fmt: skip
    monkeypatch.setattr(npz, "CHUNK_BYTES", chunk_bytes)
    np.savez(tmp_path / "plain.npz", **arrays())
    save(tmp_path / "other.npz", **changed(kind, change))
    plain = extracted(tmp_path / "plain.npz", tmp_path / "a")
    assert extracted(tmp_path / "other.npz", tmp_path / "b") == plain


def wide(bits: int) -> Change:
    """The same images with more bits, as many detectors store them."""
    return lambda a: (a.astype(np.uint32) * (2**bits - 1) // 255).astype(np.uint16)


CONVERTED: dict[str, tuple[Change, str]] = {
    "0 to 1": (lambda a: a / 255, "has dtype float64 with values from 0 to 1"),
    "0 to 255": (lambda a: a.astype(np.float32), "has dtype float32 with values from 0 to 255"),
    "int32": (lambda a: a.astype(np.int32), "has dtype int32 with values from 0 to 255"),
    "10 bits": (wide(10), "has dtype uint16 with values from 0 to 1023"),
    "12 bits": (wide(12), "has dtype uint16 with values from 0 to 4095"),
    "16 bits": (
        lambda a: a.astype(np.uint16) * 257,
        "has dtype uint16 with values from 0 to 65535",
    ),
    "-1 to 1": (lambda a: a / 127.5 - 1, "has dtype float64 with values from -1 to 1"),
    "overshoot": (lambda a: a / 250, "has dtype float64 with values from 0 to 1.02"),
    "int8": (
        lambda a: (a.astype(int) - 128).astype(np.int8),
        "has dtype int8 with values from -128 to 127",
    ),
    "int16": (
        lambda a: (a.astype(int) * 257 - 32768).astype(np.int16),
        "has dtype int16 with values from -32768 to 32767",
    ),
    "colour": (lambda a: np.stack([a] * 3, -1), "has shape (6, 9, 9, 3)"),
    "colour first": (lambda a: np.stack([a] * 3, 1), "has shape (6, 3, 9, 9)"),
}


@pytest.mark.parametrize(("change", "words"), CONVERTED.values(), ids=CONVERTED)
def test_the_suggested_numpy_code_converts_the_images(
    tmp_path: Path, change: Change, words: str
) -> None:
    data = changed("images", change)
    np.savez(tmp_path / "mine.npz", **data)
    with pytest.raises(CxrError) as caught:
        raw.check(tmp_path / "mine.npz", tmp_path)
    message, code, _ = str(caught.value).split("`")
    assert message.startswith(f"{tmp_path / 'mine.npz'}: train_images {words}; ")
    for split in SPLITS:
        values = {"np": np, "train_images": data[f"{split}_images"]}
        data[f"{split}_images"] = eval(code, values)
    for split, expected in ((s, arrays()[f"{s}_images"]) for s in SPLITS):
        np.testing.assert_array_equal(data[f"{split}_images"], expected, strict=True)
    np.savez(tmp_path / "mine.npz", **data)
    raw.check(tmp_path / "mine.npz", tmp_path)


def test_images_that_lost_their_grey_levels_are_refused(tmp_path: Path) -> None:
    """For example values of 0 to 1 that were converted to uint8 without scaling."""
    data = changed("images", lambda a: (a / 255).astype(np.uint8))
    np.savez(tmp_path / "mine.npz", **data)
    with pytest.raises(CxrError, match="train_images contains only 0 and 1; expected 0 to 255"):
        raw.check(tmp_path / "mine.npz", tmp_path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda a: a.astype(bool), "has dtype bool with values from 0 to 1; "),
        (
            lambda a: np.where(a == 0, np.nan, a),
            "expected uint8 with values from 0 to 255; convert",
        ),
        (
            lambda a: np.full(a.shape, np.nan),
            "NaN values; expected uint8 with values from 0 to 255; give every",
        ),
        (lambda a: np.where(a == 0, np.inf, a), "; give every pixel a finite value"),
        (
            lambda a: a.astype(complex),
            "has dtype complex128; expected uint8 with values from 0 to 255",
        ),
        (
            lambda a: np.zeros((6, 0, 0)),
            "has dtype float64; expected uint8 with values from 0 to 255",
        ),
        (lambda a: a.astype(str), "; expected uint8 with values from 0 to 255"),
        (lambda a: a[:, :, :5], "crop, pad or resize the images"),
        (lambda a: a[:, :1, :1], "has shape (6, 1, 1); expected square grey images"),
    ],
)
def test_images_that_can_not_be_converted_safely_are_refused(
    tmp_path: Path, change: Change, words: str
) -> None:
    np.savez(tmp_path / "mine.npz", **changed("images", change))
    with pytest.raises(CxrError) as caught:
        raw.check(tmp_path / "mine.npz", tmp_path)
    assert words in str(caught.value) and str(caught.value).isprintable()


def test_an_invalid_label_is_named_with_its_row_for_any_chunk_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(npz, "CHUNK_BYTES", 2 * len(CHESTMNIST))
    data = arrays()
    data["val_labels"][3, 1] = data["val_labels"][5, 2] = 7
    np.savez(tmp_path / "mine.npz", **data)
    words = rf"val_labels contains 7 at row 3, {CHESTMNIST[1]} \(2 invalid values\)"
    with pytest.raises(CxrError, match=words):
        raw.check(tmp_path / "mine.npz", tmp_path)


def test_all_missing_arrays_are_named_with_the_required_ones(tmp_path: Path) -> None:
    np.savez(tmp_path / "mine.npz", **{k: v for k, v in arrays().items() if k[:3] != "val"})
    with pytest.raises(CxrError) as caught:
        raw.check(tmp_path / "mine.npz", tmp_path)
    assert str(caught.value) == (
        f"{tmp_path / 'mine.npz'} has no `val_images`, `val_labels`; it contains test_ids, "
        "test_images, test_labels, test_patients, train_ids, train_images, train_labels, "
        "train_patients; save `{split}_images` and `{split}_labels` for each split "
        "(train, val, test) with np.savez"
    )


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("key", arrays())
def test_a_damaged_value_is_detected_before_a_file_is_copied(
    tmp_path: Path, save: Callable[..., None], key: str
) -> None:
    """So that the message names the user's file and not the pipeline's copy."""
    path = tmp_path / "mine.npz"
    save(path, **arrays(1000))  # small arrays are read together with their headers
    content = bytearray(path.read_bytes())
    start = content.index(f"{key}.npy".encode())
    ends = [content.find(mark, start) for mark in (b"PK\x03\x04", b"PK\x01\x02")]
    content[min(end for end in ends if end > 0) - 9] ^= 1
    path.write_bytes(content)
    with pytest.raises(CxrError) as caught:
        raw.check(path, tmp_path)
    assert str(caught.value).startswith(str(path)) and str(caught.value).isprintable()
    assert not {"CRC", "decompress", "Error"} & set(str(caught.value).split())


@pytest.mark.parametrize(
    "change",
    [lambda a: a, np.asfortranarray, lambda a: a[..., None]],
    ids=["plain", "Fortran", "channels last"],
)
def test_memory_does_not_grow_with_the_data(tmp_path: Path, change: Change) -> None:
    data = {}
    for split in SPLITS:  # 49 MB of images and 34 MB of labels each
        data[f"{split}_images"] = change(np.tile(arrays()[f"{split}_images"], (100_000, 1, 1)))
        data[f"{split}_labels"] = np.tile(arrays()[f"{split}_labels"], (100_000, 1)).astype("f4")
    np.savez(tmp_path / "mine.npz", **data)
    del data
    (tmp_path / "out").mkdir()
    tracemalloc.start()
    raw.check(tmp_path / "mine.npz", tmp_path / "out")
    of_check = tracemalloc.get_traced_memory()[1]
    tracemalloc.reset_peak()
    raw.extract(tmp_path / "mine.npz", Origin("mine", "file"), tmp_path / "out", "pad")
    of_extract = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # A chunk, its bytes and a copy; the histogram of a chunk takes 8 bytes per pixel.
    assert of_check < 4 * npz.CHUNK_BYTES and of_extract < 11 * npz.CHUNK_BYTES


CORRUPTED: dict[str, Callable[[Path], object]] = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-100]),
    "empty": lambda path: path.write_bytes(b""),
    "a flipped bit": lambda path: path.write_bytes(
        path.read_bytes().replace(b"train_images.npy", b"train_imagez.npy")
    ),
    "missing": Path.unlink,
    "other dtypes": lambda path: np.savez(path, **changed("images", lambda a: a / 255)),
    "arrays missing": lambda path: np.savez(path, x=np.zeros(3)),
}


@pytest.mark.parametrize("corrupt", CORRUPTED.values(), ids=CORRUPTED)
def test_a_damaged_raw_file_in_the_project_gives_one_line(
    tmp_path: Path, corrupt: Callable[[Path], object]
) -> None:
    path = tmp_path / "chest.npz"
    np.savez(path, **arrays())
    corrupt(path)
    with pytest.raises(CxrError) as caught:
        raw.extract(path, Origin("mine", "file"), tmp_path, "pad")
    assert str(caught.value).startswith(f"{path} is damaged (it is not the file that")


def test_the_stages_name_the_users_file_and_keep_its_bytes(tmp_path: Path) -> None:
    pipeline = create(tmp_path / "p")
    mine = tmp_path / "my data (1).npz"
    pipeline.change(download__source="file", download__path=str(mine))
    np.savez(mine, **arrays() | {"test_labels": np.full((6, 14), 2)})
    done = pipeline.run("python", "stages/download.py")
    assert (done.returncode, done.stderr) == (
        2,
        f"download: {mine}: test_labels contains 2 at row 0, atelectasis (84 invalid values); "
        "labels must be 0, 1 or -1 (unknown)\n",
    )
    assert not (pipeline.folder / "data").exists()
    np.savez(mine, **changed("images", np.asfortranarray))
    assert pipeline.run("python", "stages/download.py").returncode == 0
    copied = pipeline.folder / "data/raw/chest.npz"
    assert copied.read_bytes() == mine.read_bytes()
    copied.unlink()
    copied.write_bytes(mine.read_bytes()[:-100])
    done = pipeline.run("python", "stages/preprocess.py")
    assert (done.returncode, done.stderr) == (
        2,
        f"preprocess: {copied} is damaged (it is not the file that the download stage wrote); "
        f"restore it with `dvc checkout --force {copied}` or make it again with `dvc repro`\n",
    )  # fmt: skip


READ_AS_OK = (
    "ok_compressed", "lab_int64", "lab_bool", "lab_bigendian", "lab_float", "lab_n14_1",
    "img_nhw1", "img_n1hw", "img_fortran", "my data (1)", "données-ü", "a,b", "a=b", "[x]", "100%",
    "it's", "a#b", "{y}",
)  # fmt: skip
READ = (
    "ids_bytes", "patients_train_only", "patients_text_leak", "test_all_grey", "val_no_positive",
    "train_no_positive", "test_no_positive", "lab_minus1",
)  # fmt: skip
REFUSED = {
    "img_float01": "`(train_images * 255).round().astype(np.uint8)`",
    "img_float255": "`train_images.round().astype(np.uint8)`",
    "img_int32": "`train_images.astype(np.uint8)`",
    "img_u16": "`(train_images >> 8).astype(np.uint8)`",
    "img_rgb": "`train_images.mean(axis=-1).round().astype(np.uint8)`",
    "img_nonsquare": "crop, pad or resize the images",
    "lab_n1": "expected (N, 14), one column per label",
    "lab_n15": "expected (N, 14), one column per label",
    "lab_obj": "contains pickled Python objects, which are never loaded; "
    "save it with a plain dtype",
    "ids_obj": "contains pickled Python objects, which are never loaded; "
    "save it with a plain dtype",
    "patients_float_nan": "expected one integer or string per image; fix the array or remove it",
    "no_val": "has no `val_images`, `val_labels`; it contains",
    "names_x_y": "has no `train_images`, `train_labels`, `val_images`,",
    "one_array": "it contains images, labels; save `{split}_images` and `{split}_labels`",
    "in_folder": "it contains chest/test_images,",
    "saved": "is a single array (.npy); save all arrays to one npz file with np.savez",
    "bz2": "is compressed by a method that numpy does not use; save it with np.savez",
    "lzma": "is compressed by a method that numpy does not use; save it with np.savez",
    "pickled": "is not an npz file or is truncated; get a new copy of the file",
    "truncated": "is not an npz file or is truncated; get a new copy of the file",
    "html": "is not an npz file or is truncated; get a new copy of the file",
    "empty": "is not an npz file or is truncated; get a new copy of the file",
    "lfs_pointer": "is a Git LFS pointer, not the file; run `git lfs pull`",
}


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The formats that users save such data in, created by a script outside this project."""
    if not MAKER.exists():
        pytest.skip(f"{MAKER} is not on this machine")
    folder = tmp_path_factory.mktemp("cases")
    subprocess.run([sys.executable, str(MAKER), str(folder)], check=True)
    return folder


def test_each_common_format_is_read_or_refused_with_the_problem(
    cases: Path, tmp_path: Path
) -> None:
    paths = {path.stem: path for path in cases.iterdir()}
    assert set(paths) == {"ok", *READ_AS_OK, *READ, *REFUSED}
    expected = extracted(paths["ok"], tmp_path / "ok")
    for name in READ_AS_OK:
        assert extracted(paths[name], tmp_path / "out") == expected, name
        shutil.rmtree(tmp_path / "out")
    for name in READ:
        extracted(paths[name], tmp_path / "out")
        reference = np.load(paths[name])
        for split in SPLITS:
            ours = splits.open_split(tmp_path / "out", split)
            np.testing.assert_array_equal(ours.images, reference[f"{split}_images"])
            np.testing.assert_array_equal(ours.labels, reference[f"{split}_labels"])
            if f"{split}_ids" in reference and ours.ids is not None:
                assert ours.ids.tolist() == [each.decode() for each in reference[f"{split}_ids"]]
        shutil.rmtree(tmp_path / "out")
    for name, words in REFUSED.items():
        with pytest.raises(CxrError) as caught:
            raw.check(paths[name], tmp_path)
        assert str(caught.value).startswith(str(paths[name])), name
        assert words in str(caught.value) and str(caught.value).isprintable(), name
