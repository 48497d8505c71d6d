"""Bad input to the stages: exit status 2, one line that names the problem, nothing published."""

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


def run_stage(project: Pipeline, *command: str, **options: Any) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"PYTHONPATH": str(project.folder / "src")}
    env |= {"HTTPS_PROXY": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}
    for name in ("MLFLOW_TRACKING_URI", "DVC_ROOT"):
        env.pop(name, None)
    return subprocess.run(
        [sys.executable, *command], cwd=project.folder, env=env, capture_output=True, text=True,
        **options,
    )  # fmt: skip


def check_refused(
    project: Pipeline, done: subprocess.CompletedProcess[str], *fragments: str
) -> None:
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
    for fragment in fragments:
        assert fragment in done.stderr
    scratch = project.folder / ".scratch"
    assert [p.name for p in scratch.glob("publishing-*")] == []


def arrays(n: int = 6) -> Arrays:
    """Valid arrays with n images per split."""
    rng = np.random.default_rng(0)
    data: Arrays = {}
    for split in ("train", "val", "test"):
        data[f"{split}_images"] = rng.integers(0, 256, (n, 28, 28), dtype=np.uint8)
        data[f"{split}_labels"] = (np.arange(n * 14).reshape(n, 14) % 2).astype(np.uint8)
    return data


def with_array(data: Arrays, key: str, value: Any) -> Arrays:
    return data | {key: value}


def with_two(data: Arrays) -> Arrays:
    data["val_labels"][3, 6] = 2
    return data


def with_nan(data: Arrays) -> Arrays:
    images = data["test_images"] / 255
    images[0, 0, 0] = np.nan
    return with_array(data, "test_images", images)


BAD_ARRAYS: dict[str, tuple[Callable[[Arrays], Arrays], list[str]]] = {
    "floats": (
        lambda a: with_array(a, "train_images", a["train_images"] / 255),
        ["train_images has dtype float64", "uint8"],
    ),
    "NaN": (with_nan, ["test_images has dtype float64 with 1 NaN value;"]),
    "13 labels": (
        lambda a: with_array(a, "val_labels", a["val_labels"][:, :13]),
        ["val_labels has shape (6, 13)", "expected (N, 14)"],
    ),
    "labels of 2": (with_two, ["val_labels contains 2 at row 3, pneumonia", "0, 1 or -1"]),
    "labels of NaN": (
        lambda a: with_array(a, "val_labels", np.full((6, 14), np.nan)),
        ["val_labels contains nan at row 0", "(84 invalid values); labels must be 0, 1 or -1"],
    ),
    "different lengths": (
        lambda a: with_array(a, "test_labels", a["test_labels"][:5]),
        ["test_images has 6 rows and test_labels has 5"],
    ),
    "different sizes": (
        lambda a: with_array(a, "val_images", a["val_images"][:, :20, :20]),
        ["different sizes"],
    ),
    "not square": (
        lambda a: with_array(a, "val_images", a["val_images"][:, :20]),
        ["shape (6, 20, 28)", "square"],
    ),
    "an empty split": (
        lambda a: {**a, "val_images": a["val_images"][:0], "val_labels": a["val_labels"][:0]},
        ["val_images is empty"],
    ),
}


@pytest.mark.parametrize(("corrupt", "fragments"), BAD_ARRAYS.values(), ids=BAD_ARRAYS)
def test_invalid_arrays_are_refused_with_the_problem(
    tmp_path: Path, corrupt: Callable[[Arrays], Arrays], fragments: list[str]
) -> None:
    from cxr.data import raw
    from cxr.errors import CxrError

    np.savez(tmp_path / "bad.npz", **corrupt(arrays()))
    with pytest.raises(CxrError) as caught:
        raw.check(tmp_path / "bad.npz", tmp_path)
    assert "\n" not in str(caught.value)
    for fragment in [*fragments, "bad.npz"]:
        assert fragment in str(caught.value)


def test_valid_arrays_are_extracted_as_numpy_reads_them(tmp_path: Path) -> None:
    from cxr.data import raw, splits

    good = arrays() | {f"{s}_patients": np.arange(6) for s in ("train", "val", "test")}
    np.savez_compressed(tmp_path / "good.npz", **good)
    extracted = raw.extract(tmp_path / "good.npz", splits.Origin("good", "file"), tmp_path, "pad")
    dataset, statistics = extracted.dataset, extracted.statistics
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
def test_a_header_with_the_wrong_size_is_refused(tmp_path: Path, stated: tuple[int, int]) -> None:
    from cxr.data.npz import NpzReader, write_npz_member
    from cxr.errors import CxrError

    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        rows = np.zeros((3, 4), np.uint8)
        write_npz_member(archive, "x", stated, np.uint8, iter([rows]))
    with (
        NpzReader(tmp_path / "a.npz") as reader,
        pytest.raises(CxrError, match="its header states"),
    ):
        reader.header("x")


def test_a_flipped_byte_is_detected(tmp_path: Path) -> None:
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
    "a word for a number": ("lr: 1e-3", "lr: fast", ["train.vit.lr", "'fast'"]),
    "a negative learning rate": ("lr: 1e-3", "lr: -1e-3", ["train.vit.lr", "-0.001"]),
    "not a number": ("lr: 1e-3", "lr: .nan", ["train.vit.lr"]),
    "a boolean for a count": ("batch_size: 64", "batch_size: true", ["train.protocol.batch_size"]),
    "an unknown model": ("  vit:", "  bert:", ["unknown model `bert`", "cnn, squeezenet, vit"]),
    "an unknown source": ("source: phantom", "source: web", ["download.source", "'web'"]),
    "a file without path": ("source: phantom", "source: file", ["download", "path"]),
    "an unsupported size": ("size: 28", "size: 30", ["download.size", "30"]),
    "not YAML": ("seed: 0", "seed: [0", ["params.yaml is not valid YAML"]),
}


@pytest.mark.parametrize(("old", "new", "fragments"), BAD_PARAMS.values(), ids=BAD_PARAMS)
def test_invalid_params_are_refused_with_the_key_and_value(
    project: Pipeline, tmp_path: Path, old: str, new: str, fragments: list[str]
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
    for fragment in fragments:
        assert fragment in str(caught.value)


def test_a_networks_own_parameters_are_checked_before_training(project: Pipeline) -> None:
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


def test_numbers_with_exponents_are_parsed_as_dvc_parses_them(project: Pipeline) -> None:
    import yaml
    from dvc.utils.serialize import load_yaml

    from cxr import params

    path = project.folder / "params.yaml"
    ours = params.load(path).train.block("vit").lr
    assert ours == 0.001
    assert load_yaml(str(path))["train"]["vit"]["lr"] == ours
    assert yaml.safe_load(path.read_text())["train"]["vit"]["lr"] == "1e-3"


def test_a_download_without_network_names_the_alternatives(project: Pipeline) -> None:
    project.change(download__source="medmnist")
    done = run_stage(project, "stages/download.py")
    project.change(download__source="phantom")
    check_refused(project, done, "could not be downloaded", "try again", "file", "phantom")
    assert not (project.folder / "data/raw").exists()


FILES: dict[str, tuple[bytes | None, str]] = {
    "missing": (None, "does not exist"),
    "truncated": (b"PK\x03\x04" + bytes(2000), "truncated"),
    "text": (b"this is text and not an image", "is not an npz file"),
}


@pytest.mark.parametrize(("content", "fragment"), FILES.values(), ids=FILES)
def test_the_download_stage_refuses_an_invalid_file(
    project: Pipeline, tmp_path: Path, content: bytes | None, fragment: str
) -> None:
    path = tmp_path / "mine.npz"
    if content is not None:
        path.write_bytes(content)
    project.change(download__source="file", download__path=str(path))
    done = run_stage(project, "stages/download.py")
    project.change(download__source="phantom", download__path=None)
    check_refused(project, done, "mine.npz", fragment)
    assert not (project.folder / "data/raw").exists()


def test_the_train_stage_refuses_an_unknown_model(project: Pipeline) -> None:
    check_refused(
        project, run_stage(project, "stages/train.py", "nosuch"), "no stage `train-nosuch`"
    )


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    from cxr.errors import CxrError
    from cxr.models import squeezenet

    torch.save({"conv1.weight": torch.zeros(3)}, tmp_path / "other.pt")
    with pytest.raises(CxrError, match="weights of another network"):
        squeezenet.backbone("other.pt", tmp_path)
    with pytest.raises(CxrError, match="does not exist"):
        squeezenet.backbone("none.pt", tmp_path)
    (tmp_path / "text.pt").write_text("some text")
    with pytest.raises(CxrError, match=r"text\.pt"):
        squeezenet.backbone("text.pt", tmp_path)


def test_weights_that_contain_code_are_not_loaded(tmp_path: Path) -> None:
    from cxr.errors import CxrError
    from cxr.models import squeezenet

    marker = tmp_path / "ran"
    torch.save({"features": Marker(marker)}, tmp_path / "evil.pt")
    (tmp_path / "bare.pt").write_bytes(pickle.dumps(Marker(marker)))
    for name in ("evil.pt", "bare.pt"):
        with pytest.raises(CxrError, match=name):
            squeezenet.backbone(name, tmp_path)
    assert not marker.exists()


def test_a_full_disk_keeps_the_previous_result(tmp_path: Path) -> None:
    """A limit on the file size simulates a full disk; the tracking store already exists."""
    project = create(tmp_path)
    assert run_stage(project, "stages/download.py").returncode == 0
    before = (project.folder / "data/raw/chest.npz").read_bytes()
    project.change(download__phantom__train=4000)

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, 2_000_000))

    done = run_stage(project, "stages/download.py", preexec_fn=limit)
    check_refused(project, done, "too large")
    assert (project.folder / "data/raw/chest.npz").read_bytes() == before


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    """A project with preprocessed data and two invalid weights files."""
    project = create(tmp_path_factory.mktemp("prepared"), {**TINY, "download.phantom.train": 2200})
    for name in ("download", "preprocess"):
        assert run_stage(project, f"stages/{name}.py").returncode == 0
    torch.save({"conv1.weight": torch.zeros(3)}, project.folder / "other.pt")
    torch.save({"features": Marker(project.folder / "ran")}, project.folder / "code.pt")
    return project


FEATURES: dict[str, tuple[str, int | None, str]] = {
    "another network's weights": ("other.pt", None, "contains the weights of another network"),
    "weights that contain code": ("code.pt", None, "is not a file of plain tensors"),
    # larger than the store and the backbone, smaller than the 4.5 MB of features
    "a disk full for numpy": ("none", 3_500_000, "written"),
}


@pytest.mark.slow
@pytest.mark.parametrize(("weights", "limit", "fragment"), FEATURES.values(), ids=FEATURES)
def test_the_features_stage_refuses_bad_weights_and_a_full_disk(
    prepared: Pipeline, weights: str, limit: int | None, fragment: str
) -> None:
    def restrict() -> None:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    prepared.change(train__squeezenet__weights=weights)
    done = run_stage(prepared, "stages/features.py", preexec_fn=restrict)
    prepared.change(train__squeezenet__weights="none")
    check_refused(prepared, done, fragment)
    assert not (prepared.folder / "data/features").exists()
    assert not (prepared.folder / "ran").exists()


@pytest.mark.slow
def test_the_train_stage_refuses_a_mistyped_parameter(prepared: Pipeline) -> None:
    original = (prepared.folder / "params.yaml").read_text()
    prepared.change(train__cnn__chanels=[8])
    done = run_stage(prepared, "stages/train.py", "cnn")
    (prepared.folder / "params.yaml").write_text(original)
    check_refused(prepared, done, "train.cnn.chanels", "`channels`")
    assert not (prepared.folder / "models/cnn").exists()
