"""params.yaml is read as DVC reads it, and an invalid value is reported with its dotted key."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from dvc.utils.serialize import load_yaml
from pydantic import ValidationError

from cxr import documents, models, params
from cxr.data import boxes, source
from cxr.errors import CxrError
from cxr.models import squeezenet
from cxr.params import change

COMMITTED = Path(__file__).parents[1] / "params.yaml"
MODELS = ["cnn", "squeezenet", "vit"]


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    path = tmp_path / "params.yaml"
    path.write_text(COMMITTED.read_text())
    return path


def refusal(path: Path) -> str:
    """The error message for a file, also from the schemas of the models."""
    with pytest.raises(CxrError) as caught:
        loaded = params.load(path)
        for name in MODELS:
            models.hyper_parameters(name, loaded.train.block(name))
    text = str(caught.value)
    assert len(text.splitlines()) == 1
    return text


@pytest.mark.parametrize("name", ["none.npz", "~nosuchuser/x.npz", "x" * 300, "a\0b", "."])
def test_a_missing_external_file_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(CxrError, match=r"^download\.path: .* does not exist or is not a file"):
        params.named_file("download.path", name, tmp_path)


def boxes_file(name: str, root: Path) -> Path:
    return boxes.files({"nih": params.Boxes(path=name)}, root)["nih"]


@pytest.mark.parametrize(
    "key", ["download.path", "gradcam.boxes.nih.path", "train.squeezenet.weights"]
)
def test_a_git_lfs_pointer_is_refused_with_the_fix(tmp_path: Path, key: str) -> None:
    path = tmp_path / "mine"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 83000000\n")
    find = {
        "download.path": source.user_file,
        "gradcam.boxes.nih.path": boxes_file,
        "train.squeezenet.weights": squeezenet.weights_file,
    }[key]
    with pytest.raises(CxrError) as caught:
        find("mine", tmp_path)
    assert f"{path} is a Git LFS pointer, not the file; run `git lfs pull`" in str(caught.value)


def test_external_files_are_relative_to_the_root_or_the_home_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "x.npz"
    file.touch()
    monkeypatch.setenv("HOME", str(tmp_path))
    for name, root in (("x.npz", tmp_path), (str(file), Path("/")), ("~/x.npz", Path("/"))):
        assert params.named_file("download.path", name, root) == file


def remove(path: Path, key: str) -> None:
    """Remove a dotted key from a YAML file."""
    content = documents.read_yaml(path)
    *parents, last = key.split(".")
    section = content
    for parent in parents:
        section = section[parent]
    del section[last]
    path.write_text(yaml.safe_dump(content))


def test_the_committed_file_is_valid_for_every_model() -> None:
    loaded = params.load(COMMITTED)
    assert params.model_names() == MODELS
    for name in MODELS:
        hyper = models.hyper_parameters(name, loaded.train.block(name))
        assert hyper.lr == load_yaml(str(COMMITTED))["train"][name]["lr"]


def test_the_committed_file_is_read_as_dvc_reads_it() -> None:
    assert documents.read_yaml(COMMITTED) == load_yaml(str(COMMITTED))


@pytest.mark.parametrize(
    ("text", "ours", "pyyamls"),
    [("1e-3", 0.001, "1e-3"), ("no", "no", False), ("010", 10, 8), ("1:30", "1:30", 90)],
)
def test_values_are_yaml_1_2_as_in_dvc(tmp_path: Path, text: str, ours: Any, pyyamls: Any) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(f"value: {text}\n")
    read = documents.read_yaml(path)["value"]
    dvcs = load_yaml(str(path))["value"]
    assert (read, type(read)) == (ours, type(ours)) == (dvcs, type(dvcs))
    assert yaml.safe_load(path.read_text())["value"] == pyyamls  # why we do not use PyYAML


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("sed", "seed"),
        ("thread", "threads"),
        ("download.sise", "size"),
        ("download.phantom.trian", "train"),
        ("train.protocol.epoch", "epochs"),
        ("train.cnn.augment.tranlsate", "translate"),
        ("train.cnn.chanels", "channels"),
        ("train.squeezenet.weight", "weights"),
        ("train.vit.haeds", "heads"),
        ("gradcam.index", "indices"),
    ],
)
def test_a_mistyped_key_is_refused_with_the_right_one(copy: Path, wrong: str, right: str) -> None:
    change(copy, {wrong: 1})
    assert refusal(copy) == f"params.yaml: {wrong} is not a known key; did you mean `{right}`?"


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("seed", "sed"),
        ("train.protocol.epochs", "train.protocol.epoch"),
        ("train.cnn.augment.translate", "train.cnn.augment.tranlsate"),
        ("train.vit.heads", "train.vit.haeds"),
    ],
)
def test_a_mistyped_key_is_reported_before_the_missing_one(
    copy: Path, right: str, wrong: str
) -> None:
    remove(copy, right)
    change(copy, {wrong: 1})
    last = right.rpartition(".")[2]
    assert refusal(copy) == f"params.yaml: {wrong} is not a known key; did you mean `{last}`?"


def test_an_unknown_key_like_no_other_should_be_removed(copy: Path) -> None:
    change(copy, {"evaluate.zzz": 1})
    assert refusal(copy) == "params.yaml: evaluate.zzz is not a known key; remove it"


NAN, INF = float("nan"), float("inf")


def test_mappings_of_other_texts_stay_values() -> None:
    """Dots would be sections, and MLflow allows no brackets in names."""
    labels = {"Eff. left": "a", "Erguss (li)": "b"}
    flat = params.flatten({"table": {"labels": labels, "attributes": {"sex": "c"}}})
    assert flat == {"table.labels": labels, "table.attributes.sex": "c"}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seed", -1),
        ("seed", True),
        ("seed", 1.0),
        ("seed", 2**32),
        ("threads", 0),
        ("download.source", "kaggle"),
        ("download.size", 27),
        ("download.phantom.train", 0),
        ("train.protocol.epochs", 0),
        ("train.protocol.batch_size", True),
        ("train.protocol.warmup_epochs", NAN),
        ("train.cnn.lr", "fast"),
        ("train.cnn.lr", "1e-3"),
        ("train.cnn.lr", -0.001),
        ("train.cnn.lr", 0),
        ("train.cnn.lr", NAN),
        ("train.cnn.lr", INF),
        ("train.cnn.lr", True),
        ("train.cnn.lr", None),
        ("train.vit.weight_decay", -INF),
        ("train.cnn.augment.hflip", 1),
        ("train.cnn.augment.translate", 0.6),
        ("train.cnn.augment.degrees", NAN),
        ("train.cnn.augment.scale", 1),
        ("train.cnn.channels", 3),
        ("train.cnn.dropout", 1),
        ("train.squeezenet.image_size", 16),
        ("train.vit.heads", 0),
        ("evaluate.threshold_rule", "best"),
        ("evaluate.sensitivity", 0),
        ("evaluate.sensitivity", 1.1),
        ("evaluate.calibration", "isotonic"),
        ("evaluate.resamples", 99),
        ("gradcam.split", "dev"),
        ("gradcam.method.cnn", "saliency"),
        ("gradcam.boxes", None),
        ("gradcam.boxes", "BBox_List_2017.csv"),
        ("gradcam.max_images", 0),
        ("gradcam.labels", "some"),
        ("gradcam.max_findings", 1.5),
        ("gradcam.indices", []),
    ],
)
def test_an_invalid_value_is_shown_with_its_key(copy: Path, key: str, value: Any) -> None:
    change(copy, {key: value})
    assert refusal(copy).startswith(f"params.yaml: {key} is {value!r}; ")


@pytest.mark.parametrize(
    "key", ["seed", "download.path", "train.protocol.patience", "train.vit.lr", "train.vit.patch"]
)
def test_a_missing_key_is_named(copy: Path, key: str) -> None:
    remove(copy, key)
    assert refusal(copy) == f"params.yaml: {key} is missing; add it"


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        ("BBox_List_2017.csv", " is 'BBox_List_2017.csv'; expected a section"),
        ({"path": ""}, ".path is ''; "),
        ({"labels": {}}, ".path is missing; add it"),
        ({"path": "b.csv", "label": {}}, ".label is not a known key; remove it"),
        (
            {"path": "b.csv", "labels": ["Mass"]},
            ".labels is ['Mass']; expected a section",
        ),
        ({"path": "b.csv", "labels": {"Lump": "Mass"}}, ".labels.Lump is 'Mass'; expected a list"),
        ({"path": "b.csv", "labels": {"Lump": []}}, ".labels.Lump is []; "),
    ],
)
def test_an_invalid_expert_is_refused(copy: Path, entry: Any, problem: str) -> None:
    change(copy, {"gradcam.boxes": {"nih": entry}})
    assert refusal(copy).startswith(f"params.yaml: gradcam.boxes.nih{problem}")


def test_an_experts_name_is_part_of_metric_names(copy: Path) -> None:
    change(copy, {"gradcam.boxes": {"nih/google": {"path": "b.csv"}}})
    assert "nih/google" in refusal(copy)


def test_an_expert_needs_no_labels(copy: Path) -> None:
    lumps = {"path": "c.csv", "labels": {"Lung Opacity": ["Mass", "Nodule"]}}
    change(copy, {"gradcam.boxes": {"nih": {"path": "b.csv"}, "rsna": lumps}})
    loaded = params.load(copy).gradcam.boxes
    assert loaded["nih"].labels == {}
    assert loaded["rsna"].labels == {"Lung Opacity": ("Mass", "Nodule")}


def test_a_missing_model_is_named(copy: Path) -> None:
    remove(copy, "train.vit")
    assert refusal(copy) == "params.yaml: train.vit is missing; add the model's block"


@pytest.mark.parametrize("whole", [True, False])
def test_an_unknown_model_is_refused_with_the_known_ones(copy: Path, whole: bool) -> None:
    block = documents.read_yaml(copy)["train"]["cnn"]
    change(copy, {"train.foo": block if whole else {"lr": 0.1}})
    assert refusal(copy) == (
        "params.yaml: train: unknown model `foo`; the models are cnn, squeezenet, vit"
    )


@pytest.mark.parametrize("path", [None, ""])
def test_source_file_needs_a_path(copy: Path, path: str | None) -> None:
    change(copy, {"download.source": "file", "download.path": path})
    assert refusal(copy).startswith("params.yaml: download: source `file` needs `path`")


@pytest.mark.parametrize("source", ["medmnist", "phantom"])
def test_a_path_that_the_source_ignores_is_refused(copy: Path, source: str) -> None:
    change(copy, {"download.source": source, "download.path": "mine.npz"})
    assert refusal(copy) == (
        f"params.yaml: download: path names mine.npz, but source is `{source}`, which does not "
        "read it; set source: file or table, or path: null"
    )


@pytest.mark.parametrize(("warmup", "is_refused"), [(19.5, False), (20, False), (20.1, True)])
def test_a_warmup_longer_than_the_training_is_refused(
    copy: Path, warmup: float, is_refused: bool
) -> None:
    change(copy, {"train.protocol.epochs": 20, "train.protocol.warmup_epochs": warmup})
    if not is_refused:
        params.load(copy)
    else:
        assert "warmup_epochs (20.1) is longer than the training" in refusal(copy)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"gradcam.method": {"cnn": "gradcam", "vit": "rollout"}},
         "gradcam.method.squeezenet is missing; add the model"),
        ({"gradcam.method.resnet": "gradcam"},
         "gradcam.method.resnet is not a model; remove it"),
        ({"download.source": "phantom", "download.phantom.test": 388},
         "gradcam.indices has 388, and test has 388 images; give indices below that"),
    ],
)  # fmt: skip
def test_invalid_gradcam_settings_are_refused_before_training(
    copy: Path, changes: dict[str, Any], sentence: str
) -> None:
    change(copy, changes)
    assert refusal(copy) == f"params.yaml: {sentence}"


def test_frozen_features_allow_no_augmentation_but_hflip(copy: Path) -> None:
    change(copy, {"train.squeezenet.augment.translate": 0.1})
    assert refusal(copy).startswith("params.yaml: train.squeezenet: freeze: true")
    change(copy, {"train.squeezenet.freeze": False})
    params.load(copy)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"seed: [0", "is not valid YAML"),
        (b"seed: 0\nseed: 1\n", 'found duplicate key "seed"'),
        (b"seed: !!python/object/apply:os.getcwd []\n", "could not determine a constructor"),
        (b"seed: 0\n---\nseed: 1\n", "expected a single document"),
        (b"seed: \x80\n", "is not valid YAML"),
        (b"seed: 2024-99-99\n", "month must be in 1..12"),
        (b"seed: !!int many\n", "is not valid YAML"),
        (b"{" * 2000, "is not valid YAML"),
        (b"- seed\n", "must contain a mapping"),
        (b"seed", "must contain a mapping"),
        (b"", "must contain a mapping"),
    ],
)
def test_a_file_that_is_not_a_yaml_mapping_is_refused(
    copy: Path, content: bytes, words: str
) -> None:
    copy.write_bytes(content)
    text = refusal(copy)
    assert str(copy) in text and words in text


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert refusal(tmp_path / "params.yaml").startswith(f"{tmp_path}/params.yaml is missing")


def test_params_are_frozen() -> None:
    loaded = params.load(COMMITTED)
    hyper = models.hyper_parameters("cnn", loaded.train.block("cnn"))
    for section, key in (
        (loaded, "seed"),
        (loaded.download.phantom, "train"),
        (loaded.train.protocol, "epochs"),
        (loaded.train.block("cnn"), "lr"),
        (hyper, "lr"),
        (hyper.augment, "translate"),
    ):
        with pytest.raises(ValidationError, match="frozen"):
            setattr(section, key, 1)
    assert isinstance(loaded.gradcam.indices, tuple) and isinstance(hyper.channels, tuple)


def test_flatten_gives_dotted_names_and_keeps_lists() -> None:
    nested = {"a": 1, "b": {"c": [1, 2], "d": {"e": None}}, "f": {}}
    assert params.flatten(nested) == {"a": 1, "b.c": [1, 2], "b.d.e": None}
