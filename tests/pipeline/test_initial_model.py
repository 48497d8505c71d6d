"""`train.<model>.init` names a folder or one version of a registered model."""

from pathlib import Path

import pytest

from cxr.errors import CxrError
from cxr.pipeline import initial_model
from cxr.pipeline.initial_model import find_initial_model
from cxr.tracking.saved_models import FILES

KEY = "train.cnn.init"


def model_folder(path: Path) -> Path:
    path.mkdir(parents=True)
    for name in FILES:
        (path / name).write_text(name)
    return path


def test_a_folder_is_relative_to_the_project(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "elsewhere/cnn")
    project = tmp_path / "project"
    project.mkdir()
    assert find_initial_model("../elsewhere/cnn", KEY, project).resolve() == folder
    assert find_initial_model(str(folder), KEY, project) == folder


@pytest.mark.parametrize(
    ("init", "sentence"),
    [
        ("models/cnn", "train.cnn.init: models/cnn is an output of this pipeline, which DVC delet"),
        ("./models/vit", "is an output of this pipeline"),
        ("nowhere", "nowhere/model.json does not exist or is not a file; relative paths"),
        ("half", "half/weights.safetensors does not exist"),
        ("~nobody-here/cnn", "~nobody-here/cnn/model.json does not exist"),
        ("models:/cxr-mine@champion", "the alias in models:/cxr-mine@champion can move"),
        ("models:/cxr-mine/1", "no MLflow store"),
        ("models:/" + "x" * 300 + "/1", "no MLflow store"),
        ("a\0b", "does not exist or is not a file"),
        ("runs:/0123/model", "no MLflow store"),
    ],
)
def test_other_names_are_refused(tmp_path: Path, init: str, sentence: str) -> None:
    (tmp_path / "half").mkdir()
    (tmp_path / "half/model.json").write_text("{}")
    with pytest.raises(CxrError, match=sentence):
        find_initial_model(init, KEY, tmp_path)


def test_a_model_of_mlflow_is_kept_for_replays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = model_folder(tmp_path / "store/cnn")
    monkeypatch.setattr(initial_model, "find", lambda address, project: stored)
    kept = find_initial_model("models:/cxr-mine/3", KEY, tmp_path)
    assert kept.is_relative_to(tmp_path / ".scratch")
    assert [(kept / name).read_text() for name in FILES] == list(FILES)

    def fails(address: str, project: Path) -> Path:
        raise AssertionError("the store was asked again")

    monkeypatch.setattr(initial_model, "find", fails)
    assert find_initial_model("models:/cxr-mine/3", KEY, tmp_path) == kept
    with pytest.raises(AssertionError, match="asked again"):  # not the same, though alike
        find_initial_model("models:/cxr.mine/3", KEY, tmp_path)
    assert [path.name for path in kept.parent.iterdir()] == [kept.name]  # nothing left over
