"""Malicious files of weights, models and operating points."""

import importlib
import io
import json
import os
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from valid import ROOT, operating_point, refusal

from cxr import models, params
from cxr.evaluation import decisions
from cxr.labels import CHESTMNIST
from cxr.models import SavedModel
from cxr.models.inputs import InputSpec
from cxr.models.weights import load_weights, read_weights
from cxr.training.feed import open_store

NETWORKS = [importlib.import_module(f"cxr.models.{name}") for name in params.model_names()]
Make = Callable[[Path], None]


class Call:
    """Unpickling it calls a function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.reduced = (function, arguments)

    def __reduce__(self) -> Any:
        return self.reduced


def saved(content: Any, **options: Any) -> Make:
    return lambda path: torch.save(content, path, **options)


def repacked(change: Callable[[str, bytes], bytes], method: int = zipfile.ZIP_STORED) -> Make:
    """A valid torch file, repacked after changing each member."""

    def make(path: Path) -> None:
        buffer = io.BytesIO()
        torch.save(OrderedDict(weight=torch.arange(6.0)), buffer)
        with zipfile.ZipFile(buffer) as old, zipfile.ZipFile(path, "w", method) as new:
            for info in old.infolist():
                new.writestr(info.filename, change(info.filename, old.read(info)))

    return make


def same(name: str, content: bytes) -> bytes:
    return content


def more_numbers(name: str, content: bytes) -> bytes:
    """A tensor and storage that state 60,000 numbers; the file contains 6."""
    return content.replace(b"K\x06", b"M\x60\xea") if name.endswith("data.pkl") else content


def old_with_false_size(path: Path) -> None:
    """A file in the format before torch 1.6 whose storage states 2^40 numbers."""
    torch.save({"w": torch.zeros(6)}, path, _use_new_zipfile_serialization=False, pickle_protocol=2)
    content = path.read_bytes()
    assert b"K\x06N" in content
    path.write_bytes(content.replace(b"K\x06N", b"\x8a\x06" + (2**40).to_bytes(6, "little") + b"N"))


def cut_short(path: Path) -> None:
    torch.save({"w": torch.zeros(1000)}, path)
    os.truncate(path, 2000)


def hole(n_bytes: int) -> Make:
    def make(path: Path) -> None:
        with open(path, "wb") as file:
            file.truncate(n_bytes)

    return make


def pickled(content: bytes) -> Make:
    def make(path: Path) -> None:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a/data.pkl", content)
            archive.writestr("a/version", "3\n")

    return make


def text(content: bytes) -> Make:
    return lambda path: path.write_bytes(content) and None


PLAIN, DAMAGED = "is not a file of plain tensors", "is not a readable weights file"
TORCH: dict[str, tuple[Make, str]] = {
    "a call of the system": (saved({"w": Call(os.system, "true")}), PLAIN),
    "a call by a made up name": (
        pickled(b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x04true\x85R."), PLAIN),
    "a call of the system in an old file": (
        saved({"w": Call(os.system, "true")}, _use_new_zipfile_serialization=False), PLAIN),
    "a call for a terabyte": (saved({"w": Call(bytearray, 2**40)}), "w.pt"),
    "a sparse tensor": (saved({"w": torch.eye(3).to_sparse()}), "weights of another network"),
    "a whole network": (saved(torch.nn.Linear(2, 2)), PLAIN),
    "deflated": (repacked(same, zipfile.ZIP_DEFLATED), "is a compressed zip file"),
    "packed by bzip2": (repacked(same, zipfile.ZIP_BZIP2), "is a compressed zip file"),
    "a storage longer than the file": (repacked(more_numbers), "not resizable"),
    "cut short": (cut_short, DAMAGED),
    "a pickle cut short": (pickled(b"\x80\x02}q\x00X"), DAMAGED),
    "a zip of nothing": (text(b"PK\x05\x06" + bytes(18)), "w.pt"),
    "half a zip": (text(b"PK\x03\x04" + bytes(50)), DAMAGED),
    "old and lying": (old_with_false_size, DAMAGED),
    "a bare pickle": (text(pickle.dumps({"w": 1}, 2)), "w.pt"),
    "words": (text(b"these are words\n"), "w.pt"),
    "nothing": (text(b" "), "w.pt"),
    "a gigabyte and a byte": (hole(2**30 + 1), "larger than the limit of 1,073,741,824 bytes"),
    "a folder": (Path.mkdir, "is not a regular file"),
    "a pipe": (os.mkfifo, "is not a regular file"),
}  # fmt: skip


def tensors(header: Any, body: bytes = b"", length: int | None = None) -> bytes:
    """A safetensors file with the given header."""
    content = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(content) if length is None else length) + content + body


def entry(shape: Any, start: int, end: int, dtype: str = "F32") -> dict[str, Any]:
    return {"w": {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}}


TENSORS: dict[str, bytes] = {
    "a header of 2^63 bytes": tensors(b"{}", length=2**63),
    "a header of 99 MB": tensors(b"{}", length=99_000_000),
    "a header cut short": tensors(b"{}", length=10),
    "no header": b"\x02\x00",
    "brackets without end": tensors(b"[" * 100_000),
    "a header of Latin-1": tensors(b'{"\xe9": 1}'),
    "values beyond the file": tensors(entry([2**40], 0, 2**42)),
    "fewer values than it says": tensors(entry([4], 0, 16), bytes(8)),
    "more values than it says": tensors(entry([2], 0, 8), bytes(16)),
    "values before the file": tensors(entry([2], -8, 0), bytes(8)),
    "a shape below zero": tensors(entry([-2], 0, 8), bytes(8)),
    "a shape beyond 64 bits": tensors(entry([2**63, 2**63], 0, 8), bytes(8)),
    "a shape of many": tensors(entry([2**33, 2**33], 0, 0)),
    "an unknown type": tensors(entry([2], 0, 8, "F99"), bytes(8)),
    "an object": tensors({"w": [1, 2]}),
}


def load(path: Path) -> None:
    load_weights(torch.nn.Linear(2, 2), path)


@pytest.mark.parametrize(("make", "words"), TORCH.values(), ids=TORCH)
def test_malicious_torch_files_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Make, words: str
) -> None:
    path = tmp_path / "w.pt"
    make(path)
    monkeypatch.chdir(tmp_path)
    text = refusal(load, path)
    assert words in text and "w.pt" in text
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("content", TENSORS.values(), ids=TENSORS)
def test_malicious_safetensors_files_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(content)
    assert "w.safetensors is not a readable weights file" in refusal(load, path)


def test_the_test_file_with_a_false_size_differs_from_the_valid_one(tmp_path: Path) -> None:
    """Otherwise its refusal would prove nothing."""
    repacked(same)(tmp_path / "good.pt")
    assert torch.equal(read_weights(tmp_path / "good.pt")["weight"], torch.arange(6.0))  # type: ignore[index]
    repacked(more_numbers)(tmp_path / "bad.pt")
    assert (tmp_path / "bad.pt").read_bytes() != (tmp_path / "good.pt").read_bytes()


@pytest.mark.parametrize("new", [True, False])
def test_plain_tensors_are_read_from_both_torch_formats(tmp_path: Path, new: bool) -> None:
    state = {
        "a": torch.nn.Parameter(torch.arange(4.0)),
        "b": torch.tensor(3),
        "c": torch.ones(2, dtype=torch.bfloat16),
        "d": torch.zeros(0),
    }
    torch.save(state, tmp_path / "w.pt", _use_new_zipfile_serialization=new)
    weights = read_weights(tmp_path / "w.pt")
    assert isinstance(weights, dict)
    assert all(torch.equal(weights[key], value) for key, value in state.items())


def _hyper(name: str) -> Any:
    return models.hyper_parameters(name, params.load(ROOT / "params.yaml").train.block(name))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "cnn"
    spec = InputSpec(28, "bicubic", 28, 1, (0.5,), (0.2,))
    network = models.build("cnn", _hyper("cnn"), 28, 1, len(CHESTMNIST))
    used = {"train": {"cnn": _hyper("cnn").model_dump(mode="json")}}
    models.save(SavedModel("cnn", network, spec, CHESTMNIST, used), folder)
    models.load(folder)
    return folder


MODELS: dict[str, tuple[tuple[Any, ...], Any]] = {
    "an image of a million pixels per side": (("input", "image_size"), 10**6),
    "data of a million pixels per side": (("input", "data_size"), 10**6),
    "an image of 0 pixels": (("input", "image_size"), 0),
    "an image of half a pixel": (("input", "image_size"), 0.5),
    "a boolean image size": (("input", "image_size"), True),
    "seven channels": (("input", "channels"), 7),
    "a mean of text": (("input", "mean"), "0.5"),
    "two means": (("input", "mean"), [0.5, 0.5]),
    "a standard deviation of 0": (("input", "std"), [0]),
    "a filter that is a path": (("input", "resampling"), "../x"),
    "an unknown way to become square": (("input", "fit"), "zoom"),
    "one more input": (("input", "more"), 1),
    "no input": (("input",), None),
    "a name in a parent folder": (("name",), "../cnn"),
    "a name with a submodule": (("name",), "cnn.os"),
    "another name": (("name",), "vit"),
    "a list for a name": (("name",), ["cnn"]),
    "billions of channels": (("params", "train", "cnn", "channels"), [2**40, 1, 1]),
    "no parameters": (("params",), []),
    "a list of parameters": (("params", "train"), [1]),
    "labels that are one number": (("labels",), 14),
}


@pytest.mark.parametrize(("keys", "value"), MODELS.values(), ids=MODELS)
def test_a_malicious_model_description_is_refused(
    model: Path, tmp_path: Path, keys: tuple[Any, ...], value: Any
) -> None:
    description = json.loads((model / "model.json").read_text())
    *parents, last = keys
    inner = description
    for key in parents:
        inner = inner[key]
    inner[last] = value
    folder = tmp_path / "cnn"
    folder.mkdir()
    (folder / "model.json").write_text(json.dumps(description))
    (folder / "weights.safetensors").write_bytes((model / "weights.safetensors").read_bytes())
    refusal(models.load, folder)


JSONS = ["", "[" * 100_000, "[]", "null", '{"a": NaN}', "\x00", '{"model": 1}', "9" * 5000]


@pytest.mark.parametrize("text", JSONS, ids=range(len(JSONS)))
def test_a_damaged_json_file_is_named(tmp_path: Path, text: str) -> None:
    for name in ("model.json", "features.json", "d.json"):
        (tmp_path / name).write_text(text)
    assert "model.json is damaged" in refusal(models.load, tmp_path)
    assert "features.json is damaged" in refusal(open_store, tmp_path)
    assert "d.json is damaged" in refusal(decisions.read, tmp_path / "d.json")


OPERATING_POINTS: dict[str, tuple[tuple[str, ...], Any]] = {
    "a method that is a function": (("calibration", "method"), "eval"),
    "a list for a method": (("calibration", "method"), []),
    "an unknown rule": (("rule",), "always"),
    "a threshold of text": (("thresholds", "mass"), "high"),
    "a threshold that is a list": (("thresholds", "mass"), [1]),
    "no thresholds": (("thresholds",), {}),
    "a mean of one cell": (("ood", "mean"), [0]),
    "a ragged whitening": (("ood", "whitening"), [[0] * 49] * 48 + [[0]]),
    "a mean of text": (("ood", "mean"), ["a"] * 49),
    "a limit of null": (("ood", "max_shape"), None),
    "a number for ood": (("ood",), 5),
}


@pytest.mark.parametrize(("keys", "value"), OPERATING_POINTS.values(), ids=OPERATING_POINTS)
def test_an_invalid_operating_point_is_refused(
    tmp_path: Path, keys: tuple[str, ...], value: Any
) -> None:
    path, content = tmp_path / "d.json", operating_point()
    path.write_text(json.dumps(content))
    decisions.read(path)
    *parents, last = keys
    inner: Any = content
    for key in parents:
        inner = inner[key]
    inner[last] = value
    path.write_text(json.dumps(content))
    assert "d.json is damaged" in refusal(decisions.read, path)
