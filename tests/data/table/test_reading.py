"""Images of a table: read as `cxr predict` reads them, in parallel, and resumed after a kill."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from image_files import deep_png, dicom, gradient, saved, truncated
from PIL import Image, ImageOps

from cxr import models, params
from cxr.data.images.picture import Picture
from cxr.data.npz import NpzReader
from cxr.data.splits import SPLITS, Statistics
from cxr.data.table import listing, manifest, raw_file, reading
from cxr.errors import CxrError
from cxr.evaluation.decisions import OperatingPoint
from cxr.hashing import md5_of_file
from cxr.inference import predict

ROOT = Path(__file__).parents[3]
DEFAULTS = params.load(ROOT / "params.yaml")


def ignore(done: int, total: int) -> None:
    pass


def read(
    paths: list[Path],
    folder: Path,
    fit: Any = "pad",
    on_bad_image: Any = "stop",
    n_processes: int = 2,
    progress: Any = ignore,
) -> np.ndarray:
    names = {"train": list(map(str, paths))}
    made = reading.read(names, 32, fit, on_bad_image, folder, n_processes, progress)
    return np.concatenate(list(reading.images(made["train"])))


def colourful(path: Path) -> Path:
    rng = np.random.default_rng(0)
    return saved(path, Image.fromarray(rng.integers(0, 256, (70, 50, 3), np.uint8)))


def any_files(folder: Path) -> list[Path]:
    """One of each: DICOM, 16 bits, JPEG, colour, portrait, landscape, rotated by EXIF."""
    rotated = Image.Exif()
    rotated[0x0112] = 6
    stored = (gradient(64, 64).astype(np.uint16) << 4) + 7
    return [
        dicom(folder / "window.dcm", stored, WindowCenter=2000, WindowWidth=1000),
        dicom(folder / "inverted", stored, PhotometricInterpretation="MONOCHROME1"),
        deep_png(folder / "deep.png", (gradient(48, 64).astype(np.uint16) * 200)),
        saved(folder / "photo.jpg", Image.fromarray(gradient(64, 48)), quality=80, exif=rotated),
        colourful(folder / "colour.png"),
        saved(folder / "portrait.png", Image.fromarray(gradient(90, 40))),
        saved(folder / "landscape.tif", Image.fromarray(gradient(40, 91))),
    ]


@pytest.mark.parametrize("fit", ["pad", "crop", "stretch"])
def test_an_image_is_the_same_in_training_and_in_predict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fit: Any
) -> None:
    paths = any_files(tmp_path)
    trained = read(paths, tmp_path / "batches", fit)
    hyper = models.hyper_parameters("cnn", DEFAULTS.train.block("cnn"))
    spec = models.input_spec("cnn", hyper, 32, Statistics(0.5, 0.2), fit)
    network = models.build("cnn", hyper, 32, 1, 14)
    models.save(models.SavedModel("cnn", network, spec, tuple("abcdefghijklmn"), {
        "train": {"cnn": hyper.model_dump(mode="json")}
    }), tmp_path / "model")  # fmt: skip
    loaded = models.load(tmp_path / "model")
    seen = []

    def network_input(images: torch.Tensor, spec: Any) -> torch.Tensor:
        seen.append(images.numpy().copy())
        raise KeyboardInterrupt

    monkeypatch.setattr(predict, "to_network_input", network_input)
    model = predict.Model(loaded, OperatingPoint)
    with pytest.raises(KeyboardInterrupt):
        list(predict.predict(model, paths, {}))
    assert np.array_equal(seen[0], trained)


def test_crop_and_stretch_are_pillows(tmp_path: Path) -> None:
    grey = gradient(90, 40)
    image = Image.fromarray(grey)
    crop = ImageOps.fit(image, (30, 30), Image.Resampling.BICUBIC)
    stretch = image.resize((30, 30), Image.Resampling.BICUBIC)
    picture = Picture(tmp_path, grey)
    assert np.array_equal(picture.square(30, "bicubic", "crop"), np.asarray(crop))
    assert np.array_equal(picture.square(30, "bicubic", "stretch"), np.asarray(stretch))
    wide = Picture(tmp_path, grey.T).square(30, "bicubic", "crop")
    assert np.array_equal(wide, picture.square(30, "bicubic", "crop").T)


def numbered(folder: Path, n: int) -> list[Path]:
    """Images of a single grey value each: their position."""
    folder.mkdir(exist_ok=True)
    return [
        saved(folder / f"{i:03}.png", Image.fromarray(np.full((32, 32), i, np.uint8)))
        for i in range(n)
    ]


@pytest.mark.parametrize("n_processes", [1, 2, 5])
def test_the_order_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_processes: int
) -> None:
    monkeypatch.setattr(reading, "BATCH", 4)
    done: list[tuple[int, int]] = []
    images = read(
        numbered(tmp_path / "files", 30), tmp_path / "b", n_processes=n_processes,
        progress=lambda *each: done.append(each),
    )  # fmt: skip
    assert images[:, 0, 0].tolist() == list(range(30))
    assert done[0] == (0, 30) and done[-1] == (30, 30) and done == sorted(done)
    assert not multiprocessing.active_children()


def test_only_missing_batches_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "BATCH", 4)
    paths = numbered(tmp_path / "files", 30)
    first = read(paths, tmp_path / "b")
    sorted((tmp_path / "b").iterdir())[3].unlink()
    done: list[tuple[int, int]] = []
    assert np.array_equal(read(paths, tmp_path / "b", progress=lambda *e: done.append(e)), first)
    assert done[0] in ((26, 30), (28, 30)) and done[1:] == [(30, 30)]


def test_a_batch_of_other_images_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when a file is added or changed between two tries, or other parameters are set."""
    monkeypatch.setattr(reading, "BATCH", 4)
    paths = numbered(tmp_path / "files", 12)
    assert read(paths[1:], tmp_path / "b")[:, 0, 0].tolist() == list(range(1, 12))
    assert read(paths, tmp_path / "b")[:, 0, 0].tolist() == list(range(12))
    saved(paths[5], Image.fromarray(np.full((32, 40), 99, np.uint8)))
    assert read(paths, tmp_path / "b")[:, 16, 16].tolist() == [*range(5), 99, *range(6, 12)]
    assert read(paths, tmp_path / "b", fit="crop")[5].min() == 99
    assert read(paths, tmp_path / "b")[5].min() == 0


def test_an_unreadable_image_stops_the_reading_or_is_left_out(tmp_path: Path) -> None:
    paths = numbered(tmp_path / "files", 5)
    truncated(paths[2])
    with pytest.raises(CxrError, match=r"002\.png is damaged .* set download\.table\.on_bad_image"):
        read(paths, tmp_path / "b")
    images = read(paths, tmp_path / "b", on_bad_image="skip")
    assert images[:, 0, 0].tolist() == [0, 1, 3, 4]
    sources = list(reading.sources(list((tmp_path / "b").iterdir())))
    assert [bool(each.problem) for each in sources] == [False, False, True, False, False]
    assert [each.md5 for each in sources] == [md5_of_file(path) for path in paths]


def test_a_killed_process_is_reported_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "_read", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(CxrError, match="a process that reads images was killed, usually because"):
        read(numbered(tmp_path / "files", 5), tmp_path / "b")
    assert not multiprocessing.active_children()


def test_a_bad_image_stops_the_other_processes_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = numbered(tmp_path / "files", 100)
    truncated(paths[0])
    fast = reading._read

    def slow(path: Path, *settings: Any) -> Any:
        time.sleep(0.0 if path == paths[0] else 1.0)
        return fast(path, *settings)

    monkeypatch.setattr(reading, "_read", slow)
    started = time.monotonic()
    with pytest.raises(CxrError, match=r"000\.png is damaged"):
        read(paths, tmp_path / "b")
    assert time.monotonic() - started < 30  # a batch takes a minute
    assert not multiprocessing.active_children()


def test_an_interrupt_ends_the_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "BATCH", 2)

    def interrupt(done: int, total: int) -> None:
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        read(numbered(tmp_path / "files", 30), tmp_path / "b", progress=interrupt)
    assert not multiprocessing.active_children()


SLOW_READER = """
import sys, time
from pathlib import Path
from cxr.data.table import reading
reading.BATCH = 4
fast = reading._read
def slow(path, size, fit):
    time.sleep(0.05)
    with open(sys.argv[2] + "/log", "a") as log:
        log.write(path.name + "\\n")
    return fast(path, size, fit)
reading._read = slow
paths = {"train": sorted(map(str, Path(sys.argv[1]).iterdir()))}
reading.read(paths, 32, "pad", "stop", Path(sys.argv[2]) / "b", 2, lambda *each: None)
"""


def test_after_kill_9_only_interrupted_batches_are_read_again(tmp_path: Path) -> None:
    paths = numbered(tmp_path / "files", 60)
    command = [sys.executable, "-c", SLOW_READER, str(tmp_path / "files"), str(tmp_path)]
    process = subprocess.Popen(command, cwd=ROOT / "src")
    batches = tmp_path / "b"
    deadline = time.monotonic() + 60
    while len(list(batches.glob("*.npz"))) < 4:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.01)
    workers = psutil.Process(process.pid).children()
    process.kill()
    process.wait()
    assert len(workers) == 2
    assert not psutil.wait_procs(workers, timeout=10)[1], "they outlive their parent"
    subprocess.run(command, cwd=ROOT / "src", check=True)
    images = np.concatenate([np.load(each)["images"] for each in batches.iterdir()])
    assert sorted(images[:, 0, 0].tolist()) == list(range(60))
    read_names = (tmp_path / "log").read_text().splitlines()
    assert sorted(set(read_names)) == [path.name for path in paths]
    assert len(read_names) <= 60 + 2 * 4  # one batch per process was interrupted


def test_the_raw_file_has_what_the_table_says(tmp_path: Path) -> None:
    """Left out: an unreadable image, and one without a file."""
    scans = tmp_path / "scans"
    numbered(scans, 6)
    dicom(scans / "006.dcm", gradient(40, 40), PhotometricInterpretation="MONOCHROME1")
    truncated(scans / "001.png")
    rows = ["file,edema,p,split,sex"]
    rows += [f"{i:03},{i % 2},{i // 2},{SPLITS[i % 3]},{'FMM'[i // 3]}" for i in range(8)]
    (tmp_path / "t.csv").write_text("\n".join(rows))
    table = DEFAULTS.download.table.model_dump() | {
        "image": "file", "folders": ["scans"], "labels": ["edema"], "patient": None,
        "split": "split", "attributes": {"sex": "sex"}, "on_bad_image": "skip",
    }  # fmt: skip
    download = params.Download.model_validate(
        DEFAULTS.download.model_dump()
        | {"source": "table", "path": "t.csv", "size": 32, "table": table}
    )
    paths = listing.files(download.table, "t.csv", tmp_path)
    listed = listing.read(download.table, paths, tmp_path, 0)
    target = tmp_path / "raw" / "chest.npz"
    target.parent.mkdir()
    raw_file.write(listed, download, target, tmp_path, 2, ignore)
    with NpzReader(target) as made:
        assert made.read("train_ids").tolist() == ["000", "003", "006"]
        assert made.read("val_ids").tolist() == ["004"]
        assert made.read("test_ids").tolist() == ["002", "005"]
        assert made.read("test_images")[:, 0, 0].tolist() == [2, 5]
        assert made.read("test_labels").tolist() == [[0], [1]]
        assert made.read("test_attributes").tolist() == [["F"], ["M"]]
        assert made.read("label_names").tolist() == ["edema"]
        assert made.read("attribute_names").tolist() == ["sex"]
        assert "train_patients" not in made.keys
    entries = {each.image: each for each in manifest.read(target.parent)}
    assert len(entries) == 8
    assert entries["006"].file == "scans/006.dcm"
    assert entries["006"].md5 == md5_of_file(scans / "006.dcm")
    assert json.loads(entries["006"].assumed)["inverted"] == "MONOCHROME1"
    assert "damaged" in entries["001"].problem
    report = manifest.describe(manifest.read(target.parent))
    assert (report["read"], report["without_file"], report["unreadable"]) == (6, 1, 1)
    assert list(report["left_out"]) == ["001", "007"]
    assert report["assumed"] == {"depth": 5, "inverted": 1, "window": 1}  # 5 are of one grey
