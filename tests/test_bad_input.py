"""Bad input to the stages: status 2, one line that names what, nothing published."""

import os
import pickle
import resource
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pipeline import TINY, Pipeline, create

Arrays = dict[str, Any]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    return create(tmp_path_factory.mktemp("project"))


def run_stage(project: Pipeline, *command: str, **more: Any) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"PYTHONPATH": str(project.folder / "src")}
    env |= {"HTTPS_PROXY": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}
    for name in ("MLFLOW_TRACKING_URI", "DVC_ROOT"):
        env.pop(name, None)
    return subprocess.run(
        [sys.executable, *command], cwd=project.folder, env=env, capture_output=True, text=True,
        **more,
    )  # fmt: skip


def is_refused(project: Pipeline, done: subprocess.CompletedProcess[str], *words: str) -> None:
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
    for word in words:
        assert word in done.stderr
    scratch = project.folder / ".scratch"
    assert [p.name for p in scratch.glob("publishing-*")] == []


def arrays(n: int = 6) -> Arrays:
    """A good file of n images a split."""
    rng = np.random.default_rng(0)
    made: Arrays = {}
    for split in ("train", "val", "test"):
        made[f"{split}_images"] = rng.integers(0, 256, (n, 28, 28), dtype=np.uint8)
        made[f"{split}_labels"] = (np.arange(n * 14).reshape(n, 14) % 2).astype(np.uint8)
    return made


def put(made: Arrays, key: str, value: Any) -> Arrays:
    return made | {key: value}


def with_two(made: Arrays) -> Arrays:
    made["val_labels"][3, 6] = 2
    return made


def with_nan(made: Arrays) -> Arrays:
    images = made["test_images"] / 255
    images[0, 0, 0] = np.nan
    return put(made, "test_images", images)


BAD_ARRAYS: dict[str, tuple[Callable[[Arrays], Arrays], list[str]]] = {
    "floats": (
        lambda a: put(a, "train_images", a["train_images"] / 255),
        ["train_images is float64", "uint8"],
    ),
    "NaN": (with_nan, ["test_images is float64 with 1 NaN"]),
    "13 labels": (
        lambda a: put(a, "val_labels", a["val_labels"][:, :13]),
        ["val_labels has shape (6, 13)", "14 labels"],
    ),
    "labels of 2": (with_two, ["val_labels holds 2 at row 3, pneumonia", "0 or 1"]),
    "labels of NaN": (
        lambda a: put(a, "val_labels", np.full((6, 14), np.nan)),
        ["val_labels holds nan at row 0", "(84 such values); labels must be 0 or 1"],
    ),
    "different lengths": (
        lambda a: put(a, "test_labels", a["test_labels"][:5]),
        ["test_images has 6 rows and test_labels has 5"],
    ),
    "different sizes": (
        lambda a: put(a, "val_images", a["val_images"][:, :20, :20]),
        ["different sizes"],
    ),
    "not square": (
        lambda a: put(a, "val_images", a["val_images"][:, :20]),
        ["shape (6, 20, 28)", "square"],
    ),
    "an empty split": (
        lambda a: {**a, "val_images": a["val_images"][:0], "val_labels": a["val_labels"][:0]},
        ["val_images is empty"],
    ),
}


@pytest.mark.parametrize(("spoil", "words"), BAD_ARRAYS.values(), ids=BAD_ARRAYS)
def test_bad_arrays_are_refused(
    tmp_path: Path, spoil: Callable[[Arrays], Arrays], words: list[str]
) -> None:
    from cxr.data import raw
    from cxr.errors import CxrError

    np.savez(tmp_path / "bad.npz", **spoil(arrays()))
    with pytest.raises(CxrError) as caught:
        raw.check(tmp_path / "bad.npz", tmp_path)
    assert "\n" not in str(caught.value)
    for word in [*words, "bad.npz"]:
        assert word in str(caught.value)


def test_good_arrays_are_what_numpy_reads(tmp_path: Path) -> None:
    from cxr.data import raw, splits

    good = arrays() | {f"{s}_patients": np.arange(6) for s in ("train", "val", "test")}
    np.savez_compressed(tmp_path / "good.npz", **good)
    dataset, statistics = raw.extract(
        tmp_path / "good.npz", splits.Origin("good", "file"), tmp_path
    )
    assert dataset.n == {"train": 6, "val": 6, "test": 6}
    train = good["train_images"] / 255
    assert statistics.mean == pytest.approx(train.mean(), abs=1e-12)
    assert statistics.std == pytest.approx(train.std(), abs=1e-12)
    for name in ("train", "val", "test"):
        split = splits.open_split(tmp_path, name)
        np.testing.assert_array_equal(split.images, good[f"{name}_images"])
        np.testing.assert_array_equal(split.labels, good[f"{name}_labels"])
        np.testing.assert_array_equal(split.patients, good[f"{name}_patients"])
        assert split.ids is None
    assert splits.open_dataset(tmp_path) == dataset


class Marker:
    """Unpickling it writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def test_pickled_arrays_are_refused_and_never_loaded(tmp_path: Path) -> None:
    from cxr.data.npz import NpzReader
    from cxr.errors import CxrError

    marker = tmp_path / "ran"
    np.savez(tmp_path / "a.npz", train_images=np.array([Marker(marker)], dtype=object))
    with NpzReader(tmp_path / "a.npz") as reader:
        with pytest.raises(CxrError, match="pickled"):
            reader.header("train_images")
        with pytest.raises(CxrError, match="has no `val_images`"):
            reader.header("val_images")
    assert not marker.exists()


@pytest.mark.parametrize("stated", [(2, 4), (4, 4)], ids=["too few", "too many"])
def test_a_header_that_lies_is_refused(tmp_path: Path, stated: tuple[int, int]) -> None:
    from cxr.data.npz import NpzReader, write_npz_member
    from cxr.errors import CxrError

    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        rows = np.zeros((3, 4), np.uint8)
        write_npz_member(archive, "x", stated, np.uint8, iter([rows]))
    with NpzReader(tmp_path / "a.npz") as reader, pytest.raises(CxrError, match="states"):
        reader.header("x")


def test_a_flipped_byte_is_found(tmp_path: Path) -> None:
    from cxr.data.npz import NpzReader
    from cxr.errors import CxrError

    path = tmp_path / "a.npz"
    np.savez(path, x=np.zeros((50, 50), np.uint8))
    content = bytearray(path.read_bytes())
    content[1000] ^= 1
    path.write_bytes(content)
    with pytest.raises(CxrError, match="damaged"), NpzReader(path) as reader:
        reader.read("x")


BAD_PARAMS: dict[str, tuple[str, str, list[str]]] = {
    "a typo": ("batch_size:", "batchsize:", ["train.protocol.batch", "batch_size"]),
    "a word": ("lr: 1e-3", "lr: fast", ["train.vit.lr", "'fast'"]),
    "a negative rate": ("lr: 1e-3", "lr: -1e-3", ["train.vit.lr", "-0.001"]),
    "not a number": ("lr: 1e-3", "lr: .nan", ["train.vit.lr"]),
    "a truth for a count": ("batch_size: 64", "batch_size: true", ["train.protocol.batch_size"]),
    "an unknown model": ("  vit:", "  bert:", ["unknown model `bert`", "cnn, squeezenet, vit"]),
    "an unknown source": ("source: phantom", "source: web", ["download.source", "'web'"]),
    "a file without path": ("source: phantom", "source: file", ["download", "path"]),
    "a size between": ("size: 28", "size: 30", ["download.size", "30"]),
    "no YAML": ("seed: 0", "seed: [0", ["params.yaml is not valid YAML"]),
}


@pytest.mark.parametrize(("old", "new", "words"), BAD_PARAMS.values(), ids=BAD_PARAMS)
def test_bad_params_are_refused(
    project: Pipeline, tmp_path: Path, old: str, new: str, words: list[str]
) -> None:
    from cxr import params
    from cxr.errors import CxrError

    text = (project.folder / "params.yaml").read_text()
    assert text.count(old) >= 1
    path = tmp_path / "params.yaml"
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(CxrError) as caught:
        params.load(path)
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_a_networks_own_parameter_is_checked_before_its_work(project: Pipeline) -> None:
    text = (project.folder / "params.yaml").read_text()
    (project.folder / "params.yaml").write_text(text.replace("heads: 4", "haeds: 4"))
    try:
        from cxr import models, params
        from cxr.errors import CxrError

        block = params.load(project.folder / "params.yaml").train.block("vit")
        with pytest.raises(CxrError, match=r"train\.vit\.haeds is not a known key"):
            models.hyper_parameters("vit", block)
    finally:
        (project.folder / "params.yaml").write_text(text)


def test_exponents_read_as_dvc_reads_them(project: Pipeline) -> None:
    import yaml
    from dvc.utils.serialize import load_yaml

    from cxr import params

    path = project.folder / "params.yaml"
    ours = params.load(path).train.block("vit").lr
    assert ours == 0.001
    assert load_yaml(str(path))["train"]["vit"]["lr"] == ours
    assert yaml.safe_load(path.read_text())["train"]["vit"]["lr"] == "1e-3"


def test_no_network(project: Pipeline) -> None:
    project.change(download__source="medmnist")
    done = run_stage(project, "stages/download.py")
    project.change(download__source="phantom")
    is_refused(project, done, "could not be downloaded", "try again", "file", "phantom")
    assert not (project.folder / "data/raw").exists()


FILES: dict[str, tuple[bytes | None, str]] = {
    "missing": (None, "does not exist"),
    "cut short": (b"PK\x03\x04" + bytes(2000), "cut short"),
    "text": (b"these are words, and no images at all", "is not an npz file"),
}


@pytest.mark.parametrize(("content", "words"), FILES.values(), ids=FILES)
def test_a_bad_file_at_the_stage(
    project: Pipeline, tmp_path: Path, content: bytes | None, words: str
) -> None:
    path = tmp_path / "mine.npz"
    if content is not None:
        path.write_bytes(content)
    project.change(download__source="file", download__path=str(path))
    done = run_stage(project, "stages/download.py")
    project.change(download__source="phantom", download__path=None)
    is_refused(project, done, "mine.npz", words)
    assert not (project.folder / "data/raw").exists()


def test_an_unknown_model_at_the_stage(project: Pipeline) -> None:
    is_refused(project, run_stage(project, "stages/train.py", "nosuch"), "no stage `train-nosuch`")


def test_weights_of_another_network(tmp_path: Path) -> None:
    from cxr.errors import CxrError
    from cxr.models import squeezenet

    torch.save({"conv1.weight": torch.zeros(3)}, tmp_path / "other.pt")
    with pytest.raises(CxrError, match="weights of another network"):
        squeezenet.backbone("other.pt", tmp_path)
    with pytest.raises(CxrError, match="does not exist"):
        squeezenet.backbone("none.pt", tmp_path)
    (tmp_path / "words.pt").write_text("words")
    with pytest.raises(CxrError, match=r"words\.pt"):
        squeezenet.backbone("words.pt", tmp_path)


def test_weights_that_carry_code_are_not_loaded(tmp_path: Path) -> None:
    from cxr.errors import CxrError
    from cxr.models import squeezenet

    marker = tmp_path / "ran"
    torch.save({"features": Marker(marker)}, tmp_path / "evil.pt")
    (tmp_path / "bare.pt").write_bytes(pickle.dumps(Marker(marker)))
    for name in ("evil.pt", "bare.pt"):
        with pytest.raises(CxrError, match=name):
            squeezenet.backbone(name, tmp_path)
    assert not marker.exists()


def test_a_full_disk_while_writing(tmp_path: Path) -> None:
    """A limit on the size of a file stands for the full disk; the store is there already."""
    project = create(tmp_path)
    assert run_stage(project, "stages/download.py").returncode == 0
    before = (project.folder / "data/raw/chest.npz").read_bytes()
    project.change(download__phantom__train=4000)

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, 2_000_000))

    done = run_stage(project, "stages/download.py", preexec_fn=limit)
    is_refused(project, done, "too large")
    assert (project.folder / "data/raw/chest.npz").read_bytes() == before


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    """Data preprocessed, and files of weights that are none."""
    project = create(tmp_path_factory.mktemp("prepared"), {**TINY, "download.phantom.train": 2200})
    for name in ("download", "preprocess"):
        assert run_stage(project, f"stages/{name}.py").returncode == 0
    torch.save({"conv1.weight": torch.zeros(3)}, project.folder / "other.pt")
    torch.save({"features": Marker(project.folder / "ran")}, project.folder / "code.pt")
    return project


FEATURES: dict[str, tuple[str, int | None, str]] = {
    "another network's weights": ("other.pt", None, "contains the weights of another network"),
    "weights that carry code": ("code.pt", None, "is not a file of plain tensors"),
    # above the size of the store and the backbone, below that of the 4.5 MB of features
    "a disk full for numpy": ("none", 3_500_000, "written"),
}


@pytest.mark.slow
@pytest.mark.parametrize(("weights", "limit", "words"), FEATURES.values(), ids=FEATURES)
def test_features_at_the_stage(
    prepared: Pipeline, weights: str, limit: int | None, words: str
) -> None:
    def restrict() -> None:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    prepared.change(train__squeezenet__weights=weights)
    done = run_stage(prepared, "stages/features.py", preexec_fn=restrict)
    prepared.change(train__squeezenet__weights="none")
    is_refused(prepared, done, words)
    assert not (prepared.folder / "data/features").exists()
    assert not (prepared.folder / "ran").exists()


@pytest.mark.slow
def test_a_networks_mistyped_parameter_at_the_stage(prepared: Pipeline) -> None:
    original = (prepared.folder / "params.yaml").read_text()
    prepared.change(train__cnn__chanels=[8])
    done = run_stage(prepared, "stages/train.py", "cnn")
    (prepared.folder / "params.yaml").write_text(original)
    is_refused(prepared, done, "train.cnn.chanels", "`channels`")
    assert not (prepared.folder / "models/cnn").exists()
