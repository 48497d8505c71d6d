"""Layouts that plainly mean ChestMNIST's are read as it is; others are refused with what to do."""

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
from cxr.labels import LABELS

Arrays = dict[str, Any]
Change = Callable[[Any], Any]

MAKER = Path(__file__).parents[3] / "shared/cases/make_npz.py"
SPLITS = ("train", "val", "test")


def arrays(n: int = 6, side: int = 9) -> Arrays:
    rng = np.random.default_rng(0)
    made: Arrays = {}
    for split in SPLITS:
        images = rng.integers(0, 256, (n, side, side), dtype=np.uint8)
        images[0, 0, :2] = 0, 255
        made[f"{split}_images"] = images
        made[f"{split}_labels"] = rng.integers(0, 2, (n, len(LABELS)), dtype=np.uint8)
        made[f"{split}_ids"] = np.array([f"{split}-Ünï-{i}.png" for i in range(n)])
        made[f"{split}_patients"] = np.arange(n)
    return made


def changed(kind: str, change: Change) -> Arrays:
    return {k: change(v) if k.endswith(kind) else v for k, v in arrays().items()}


def laid_down(path: Path, folder: Path) -> dict[str, str]:
    """MD5 of each file of data/processed."""
    folder.mkdir()
    raw.check(path, folder)
    assert not list(folder.iterdir())
    raw.extract(path, Origin("mine", "file"), folder)
    return {each.name: hashlib.md5(each.read_bytes()).hexdigest() for each in folder.iterdir()}


LAYOUTS: dict[str, tuple[str, Change]] = {
    "channels last": ("images", lambda a: a[..., None]),
    "channels first": ("images", lambda a: a[:, None]),
    "Fortran": ("images", np.asfortranarray),
    "Fortran and channels last": ("images", lambda a: np.asfortranarray(a[..., None])),
    "float labels": ("labels", lambda a: a.astype(np.float32)),
    "double labels": ("labels", lambda a: a.astype(">f8")),
    "truths": ("labels", lambda a: a.astype(bool)),
    "labels of one more axis": ("labels", lambda a: a[..., None]),
    "labels of an axis between": ("labels", lambda a: a[:, None]),
    "Fortran labels": ("labels", np.asfortranarray),
    "ids of bytes": ("ids", lambda a: np.char.encode(a, "utf-8")),
    "ids in a column": ("ids", lambda a: a[:, None]),
    "patients in a column": ("patients", lambda a: a[:, None]),
}


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("chunk_bytes", [100, 2**24])
@pytest.mark.parametrize(("kind", "change"), LAYOUTS.values(), ids=LAYOUTS)
def test_a_layout_that_means_the_same_is_laid_down_as_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, save: Callable[..., None], chunk_bytes: int,
    kind: str, change: Change,
) -> None:  # fmt: skip
    monkeypatch.setattr(npz, "CHUNK_BYTES", chunk_bytes)
    np.savez(tmp_path / "plain.npz", **arrays())
    save(tmp_path / "other.npz", **changed(kind, change))
    plain = laid_down(tmp_path / "plain.npz", tmp_path / "a")
    assert laid_down(tmp_path / "other.npz", tmp_path / "b") == plain


def wide(bits: int) -> Change:
    """The same pictures with a greater range, as many cameras store them."""
    return lambda a: (a.astype(np.uint32) * (2**bits - 1) // 255).astype(np.uint16)


CONVERTED: dict[str, tuple[Change, str]] = {
    "0 to 1": (lambda a: a / 255, "is float64 from 0 to 1"),
    "0 to 255": (lambda a: a.astype(np.float32), "is float32 from 0 to 255"),
    "int32": (lambda a: a.astype(np.int32), "is int32 from 0 to 255"),
    "10 bits": (wide(10), "is uint16 from 0 to 1023"),
    "12 bits": (wide(12), "is uint16 from 0 to 4095"),
    "16 bits": (lambda a: a.astype(np.uint16) * 257, "is uint16 from 0 to 65535"),
    "-1 to 1": (lambda a: a / 127.5 - 1, "is float64 from -1 to 1"),
    "overshoot": (lambda a: a / 250, "is float64 from 0 to 1.02"),
    "int8": (lambda a: (a.astype(int) - 128).astype(np.int8), "is int8 from -128 to 127"),
    "int16": (
        lambda a: (a.astype(int) * 257 - 32768).astype(np.int16),
        "is int16 from -32768 to 32767",
    ),
    "colour": (lambda a: np.stack([a] * 3, -1), "has shape (6, 9, 9, 3)"),
    "colour first": (lambda a: np.stack([a] * 3, 1), "has shape (6, 3, 9, 9)"),
}


@pytest.mark.parametrize(("change", "words"), CONVERTED.values(), ids=CONVERTED)
def test_the_line_of_numpy_in_a_refusal_converts_the_images(
    tmp_path: Path, change: Change, words: str
) -> None:
    made = changed("images", change)
    np.savez(tmp_path / "mine.npz", **made)
    with pytest.raises(CxrError) as caught:
        raw.check(tmp_path / "mine.npz", tmp_path)
    said, code, _ = str(caught.value).split("`")
    assert said.startswith(f"{tmp_path / 'mine.npz'}: train_images {words}; ")
    for split in SPLITS:
        values = {"np": np, "train_images": made[f"{split}_images"]}
        made[f"{split}_images"] = eval(code, values)
    for split, expected in ((s, arrays()[f"{s}_images"]) for s in SPLITS):
        np.testing.assert_array_equal(made[f"{split}_images"], expected, strict=True)
    np.savez(tmp_path / "mine.npz", **made)
    raw.check(tmp_path / "mine.npz", tmp_path)


def test_images_that_lost_their_grey_levels_are_refused(tmp_path: Path) -> None:
    """As of 0 to 1 that became uint8 without a factor."""
    made = changed("images", lambda a: (a / 255).astype(np.uint8))
    np.savez(tmp_path / "mine.npz", **made)
    with pytest.raises(CxrError, match="train_images holds only 0 and 1, of 0 to 255"):
        raw.check(tmp_path / "mine.npz", tmp_path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda a: a.astype(bool), "is bool from 0 to 1; "),
        (lambda a: np.where(a == 0, np.nan, a), "NaN; images must be uint8, 0 to 255; convert"),
        (lambda a: np.full(a.shape, np.nan), "NaN; images must be uint8, 0 to 255; give every"),
        (lambda a: np.where(a == 0, np.inf, a), "; give every pixel a finite value"),
        (lambda a: a.astype(complex), "is complex128; images must be uint8, 0 to 255"),
        (lambda a: np.zeros((6, 0, 0)), "is float64; images must be uint8, 0 to 255"),
        (lambda a: a.astype(str), "images must be uint8, 0 to 255"),
        (lambda a: a[:, :, :5], "crop, pad or resize the images"),
        (lambda a: a[:, :1, :1], "has shape (6, 1, 1); grey square images are needed"),
    ],
)
def test_what_no_line_converts_for_sure_is_refused_too(
    tmp_path: Path, change: Change, words: str
) -> None:
    np.savez(tmp_path / "mine.npz", **changed("images", change))
    with pytest.raises(CxrError) as caught:
        raw.check(tmp_path / "mine.npz", tmp_path)
    assert words in str(caught.value) and str(caught.value).isprintable()


def test_a_wrong_label_is_named_by_its_row_whatever_the_chunks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(npz, "CHUNK_BYTES", 2 * len(LABELS))
    made = arrays()
    made["val_labels"][3, 1] = made["val_labels"][5, 2] = 7
    np.savez(tmp_path / "mine.npz", **made)
    words = rf"val_labels holds 7 at row 3, {LABELS[1]} \(2 such values\)"
    with pytest.raises(CxrError, match=words):
        raw.check(tmp_path / "mine.npz", tmp_path)


def test_all_that_is_missing_is_named_with_what_is_needed(tmp_path: Path) -> None:
    np.savez(tmp_path / "mine.npz", **{k: v for k, v in arrays().items() if k[:3] != "val"})
    with pytest.raises(CxrError) as caught:
        raw.check(tmp_path / "mine.npz", tmp_path)
    assert str(caught.value) == (
        f"{tmp_path / 'mine.npz'} has no `val_images`, `val_labels`; it holds test_ids, "
        "test_images, test_labels, test_patients, train_ids, train_images, train_labels, "
        "train_patients; save `{split}_images` and `{split}_labels` of each split "
        "(train, val, test) with np.savez"
    )


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("key", arrays())
def test_every_value_is_read_once_before_a_file_is_taken(
    tmp_path: Path, save: Callable[..., None], key: str
) -> None:
    """So that a damaged file is named for what it is, and not found in the pipeline's copy."""
    path = tmp_path / "mine.npz"
    save(path, **arrays(1000))  # small ones are read whole with their headers
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
    made = {}
    for split in SPLITS:  # 49 MB of images and 34 MB of labels each
        made[f"{split}_images"] = change(np.tile(arrays()[f"{split}_images"], (100_000, 1, 1)))
        made[f"{split}_labels"] = np.tile(arrays()[f"{split}_labels"], (100_000, 1)).astype("f4")
    np.savez(tmp_path / "mine.npz", **made)
    del made
    (tmp_path / "out").mkdir()
    tracemalloc.start()
    raw.check(tmp_path / "mine.npz", tmp_path / "out")
    of_check = tracemalloc.get_traced_memory()[1]
    tracemalloc.reset_peak()
    raw.extract(tmp_path / "mine.npz", Origin("mine", "file"), tmp_path / "out")
    of_extract = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # A chunk, its bytes and a copy; the histogram of a chunk's grey values takes 8 bytes a pixel.
    assert of_check < 4 * npz.CHUNK_BYTES and of_extract < 11 * npz.CHUNK_BYTES


SPOILT: dict[str, Callable[[Path], object]] = {
    "cut short": lambda path: path.write_bytes(path.read_bytes()[:-100]),
    "empty": lambda path: path.write_bytes(b""),
    "a flipped bit": lambda path: path.write_bytes(
        path.read_bytes().replace(b"train_images.npy", b"train_imagez.npy")
    ),
    "missing": Path.unlink,
    "other types": lambda path: np.savez(path, **changed("images", lambda a: a / 255)),
    "arrays missing": lambda path: np.savez(path, x=np.zeros(3)),
}


@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT)
def test_a_damaged_copy_in_the_clone_is_one_line(
    tmp_path: Path, spoil: Callable[[Path], object]
) -> None:
    path = tmp_path / "chest.npz"
    np.savez(path, **arrays())
    spoil(path)
    with pytest.raises(CxrError) as caught:
        raw.extract(path, Origin("mine", "file"), tmp_path)
    assert str(caught.value).startswith(f"{path} is damaged (it is not as")


def test_the_stages_name_the_users_own_file_and_keep_its_bytes(tmp_path: Path) -> None:
    pipeline = create(tmp_path / "p")
    mine = tmp_path / "my data (1).npz"
    pipeline.change(download__source="file", download__path=str(mine))
    np.savez(mine, **arrays() | {"test_labels": np.full((6, 14), 2)})
    done = pipeline.run("python", "stages/download.py")
    assert (done.returncode, done.stderr) == (
        2,
        f"download: {mine}: test_labels holds 2 at row 0, atelectasis (84 such values); labels "
        "must be 0 or 1\n",
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
        f"preprocess: {copied} is damaged (it is not as download wrote it); restore it with `dvc "
        f"checkout --force {copied}` or make it again with `dvc repro`\n",
    )  # fmt: skip


READ_AS_OK = (
    "ok_compressed", "lab_int64", "lab_bool", "lab_bigendian", "lab_float", "lab_n14_1",
    "img_nhw1", "img_n1hw", "img_fortran", "my data (1)", "données-ü", "a,b", "a=b", "[x]", "100%",
    "it's", "a#b", "{y}",
)  # fmt: skip
READ = (
    "ids_bytes", "patients_train_only", "patients_text_leak", "test_all_grey", "val_no_positive",
    "train_no_positive", "test_no_positive",
)  # fmt: skip
SENTENCES = {
    "img_float01": "`(train_images * 255).round().astype(np.uint8)`",
    "img_float255": "`train_images.round().astype(np.uint8)`",
    "img_int32": "`train_images.astype(np.uint8)`",
    "img_u16": "`(train_images >> 8).astype(np.uint8)`",
    "img_rgb": "`train_images.mean(axis=-1).round().astype(np.uint8)`",
    "img_nonsquare": "crop, pad or resize the images",
    "lab_n1": "14 labels are needed",
    "lab_n15": "14 labels are needed",
    "lab_minus1": "holds -1 at row 0, nodule (1 such value); labels must be 0 or 1",
    "lab_obj": "holds pickled Python objects, which are never loaded; save it with a plain dtype",
    "ids_obj": "holds pickled Python objects, which are never loaded; save it with a plain dtype",
    "patients_float_nan": "one integer or text per image is needed, or leave the array out",
    "no_val": "has no `val_images`, `val_labels`; it holds",
    "names_x_y": "has no `train_images`, `train_labels`, `val_images`,",
    "one_array": "it holds images, labels; save `{split}_images` and `{split}_labels`",
    "in_folder": "it holds chest/test_images,",
    "saved": "is one array (.npy); save all arrays into one file with np.savez",
    "bz2": "is packed in another way than numpy packs; save it with np.savez",
    "lzma": "is packed in another way than numpy packs; save it with np.savez",
    "pickled": "is not an npz file, or it is cut short; get the file again",
    "truncated": "is not an npz file, or it is cut short; get the file again",
    "html": "is not an npz file, or it is cut short; get the file again",
    "empty": "is not an npz file, or it is cut short; get the file again",
    "lfs_pointer": "is a Git LFS pointer, not the file; run `git lfs pull`",
}


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The forms in which people save such data, by a program that is not part of this project."""
    if not MAKER.exists():
        pytest.skip(f"{MAKER} is not on this machine")
    folder = tmp_path_factory.mktemp("cases")
    subprocess.run([sys.executable, str(MAKER), str(folder)], check=True)
    return folder


def test_each_form_in_which_people_save_data_is_read_or_refused_by_its_name(
    cases: Path, tmp_path: Path
) -> None:
    paths = {path.stem: path for path in cases.iterdir()}
    assert set(paths) == {"ok", *READ_AS_OK, *READ, *SENTENCES}
    expected = laid_down(paths["ok"], tmp_path / "ok")
    for name in READ_AS_OK:
        assert laid_down(paths[name], tmp_path / "out") == expected, name
        shutil.rmtree(tmp_path / "out")
    for name in READ:
        laid_down(paths[name], tmp_path / "out")
        theirs = np.load(paths[name])
        for split in SPLITS:
            ours = splits.open_split(tmp_path / "out", split)
            np.testing.assert_array_equal(ours.images, theirs[f"{split}_images"])
            np.testing.assert_array_equal(ours.labels, theirs[f"{split}_labels"])
            if f"{split}_ids" in theirs and ours.ids is not None:
                assert ours.ids.tolist() == [each.decode() for each in theirs[f"{split}_ids"]]
        shutil.rmtree(tmp_path / "out")
    for name, words in SENTENCES.items():
        with pytest.raises(CxrError) as caught:
            raw.check(paths[name], tmp_path)
        assert str(caught.value).startswith(str(paths[name])), name
        assert words in str(caught.value) and str(caught.value).isprintable(), name
