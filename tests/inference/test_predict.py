"""Predicted images get the pipeline's probabilities; files that can't be read are refused."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Cxr
from image_files import dicom, text, truncated
from matplotlib import image as png
from PIL import Image

from cxr import models, params
from cxr.data import phantom
from cxr.data.images.picture import Picture
from cxr.data.ood import OodReference
from cxr.data.splits import Statistics
from cxr.errors import CxrError
from cxr.evaluation import decisions
from cxr.inference import predict
from cxr.labels import CHESTMNIST
from cxr.models.inputs import InputSpec
from cxr.scoring.submissions import read_predictions
from cxr.training.feed import ImageBatches

PARAMS = params.load(Path(__file__).parents[2] / "params.yaml")
CHESTS = phantom.render(0, "test", 0, 20, 28).images
HERNIA = CHESTMNIST.index("hernia")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone with a calibrated CNN of random weights and no threshold for hernia."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "dvc.yaml").write_text("stages: {}\n")
    (folder / "params.yaml").write_text("seed: 0\n")
    torch.manual_seed(0)
    hyper = models.hyper_parameters("cnn", PARAMS.train.block("cnn"))
    spec = models.input_spec("cnn", hyper, 28, Statistics(0.5, 0.2))
    network = models.build("cnn", hyper, 28, 1, len(CHESTMNIST)).eval()
    block = {"train": {"cnn": hyper.model_dump(mode="json")}}
    models.save(models.SavedModel("cnn", network, spec, CHESTMNIST, block), folder / "models/cnn")
    rng = np.random.default_rng(0)
    labels = (rng.random((20, 14)) < 0.4).astype(np.uint8)
    labels[:, HERNIA] = 0
    logits = pipeline_logits(network, spec)
    train, val = (phantom.render(0, split, 0, 200, 28).images for split in ("train", "val"))
    operating_point = decisions.decide(
        "cnn", labels, CHESTMNIST, logits, "platt", "youden", 0.9, OodReference.of(train, val)
    )
    (folder / "decisions").mkdir()
    (folder / "decisions/cnn.json").write_text(json.dumps(operating_point.as_json()))
    return folder


def pipeline_logits(network: models.Network, spec: InputSpec) -> np.ndarray:
    batches = ImageBatches(torch.from_numpy(CHESTS), spec)
    with torch.no_grad():
        logits: np.ndarray = network(batches.batch(torch.arange(20), None)).numpy()
    return logits


def write(folder: Path, n: int = 20) -> list[Path]:
    """Write chest X-rays as PNG files."""
    paths = [folder / f"chest{i:02}.png" for i in range(n)]
    for path, chest in zip(paths, CHESTS, strict=False):
        Image.fromarray(chest).save(path)
    return paths


def predictions(project: Path, paths: list[Path], folder: Path | None = None) -> list:
    maps = predict.map_paths(paths, folder) if folder else {}
    return list(predict.predict(predict.load("cnn", project), paths, maps))


@pytest.mark.parametrize("with_maps", [False, True])
def test_probabilities_equal_the_pipelines(project: Path, tmp_path: Path, with_maps: bool) -> None:
    model = predict.load("cnn", project)
    expected = model.operating_point.calibration.probs(
        pipeline_logits(model.saved.network, model.saved.input)
    )
    done = predictions(project, write(tmp_path), tmp_path / "maps" if with_maps else None)
    assert [each.path.stem for each in done] == [f"chest{i:02}" for i in range(20)]
    np.testing.assert_allclose([each.probs for each in done], expected, atol=1e-6)
    for each, probs in zip(done, expected, strict=True):
        for i, threshold in enumerate(model.operating_point.thresholds):
            if abs(probs[i] - threshold) > 1e-6:  # a threshold is the probability of an image
                assert each.predicted_positive[i] == (
                    None if i == HERNIA else bool(probs[i] >= threshold)
                )
        assert (tmp_path / f"maps/{each.path.stem}.maps.png").is_file() == with_maps


def test_a_bad_file_does_not_stop_the_others(project: Path, tmp_path: Path) -> None:
    good = write(tmp_path, 12)
    bad = [text(tmp_path / "text.png"), truncated(tmp_path / "cut.png"), tmp_path / "none.png"]
    mixed = [*good[:5], bad[0], *good[5:9], bad[1], bad[2], *good[9:]]
    done = predictions(project, mixed)
    assert [each.path for each in done] == mixed
    refused = [each for each in done if isinstance(each, predict.Refused)]
    assert [each.path for each in refused] == bad
    alone = [each.probs for each in predictions(project, good)]
    np.testing.assert_allclose(
        [e.probs for e in done if isinstance(e, predict.Prediction)], alone, atol=1e-6
    )


def test_an_image_unlike_the_training_images_is_warned_of_with_its_distance(
    project: Path, tmp_path: Path
) -> None:
    Image.fromarray(255 - CHESTS[0]).save(tmp_path / "a.png")
    Image.fromarray(CHESTS[0]).save(tmp_path / "b.png")
    inverted, chest = predictions(project, [tmp_path / "a.png", tmp_path / "b.png"])
    (warning,) = inverted.warnings
    assert "unlike the training images" in warning
    assert f"distance {inverted.ood.shape:.1f}" in warning
    assert chest.warnings == [] and chest.ood.shape < inverted.ood.shape


def test_a_model_is_found_by_name_or_folder(project: Path, tmp_path: Path) -> None:
    by_name = predict.load("cnn", project)
    by_folder = predict.load(str(project / "models/cnn"), None)
    assert by_name.operating_point.as_json() == by_folder.operating_point.as_json()
    with pytest.raises(CxrError, match="model resnet does not exist; available: cnn"):
        predict.load("resnet", project)
    with pytest.raises(CxrError, match="model cnn does not exist; run `dvc repro` to train models"):
        predict.load("cnn", None)


def test_a_model_and_an_operating_point_of_other_labels_are_refused(
    project: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "project"
    shutil.copytree(project, folder)
    file = folder / "models/cnn/model.json"
    description = json.loads(file.read_text())
    description["labels"][0] = "cough"
    file.write_text(json.dumps(description))
    with pytest.raises(CxrError, match=r"cnn.json have different labels; run `dvc repro`"):
        predict.load("cnn", folder)


def test_the_command_writes_table_json_and_maps(cxr: Cxr, project: Path, tmp_path: Path) -> None:
    big = np.asarray(Image.fromarray(CHESTS[0]).resize((400, 320)))
    Image.fromarray(big).save(tmp_path / "a.png")
    dicom(tmp_path / "b.dcm", CHESTS[1])
    out = [str(tmp_path), "--model", "cnn", "--cam", str(tmp_path / "maps")]
    done = cxr("predict", *out, "--csv", str(tmp_path / "t.csv"), "--json", cwd=project)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["model"] == "cnn" and result["calibration"] == "platt"
    assert "Not a medical device" in result["notice"]
    first, second = result["images"]
    assert (first["width"], first["height"]) == (400, 320)
    with open(tmp_path / "t.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["image"] for row in rows] == [first["image"], second["image"]]
    assert first["assumed"] == {}
    assert second["assumed"] == {"window": "none, 8-bit values are grey levels"}
    assert [row["assumed"] for row in rows] == ["", "window: none, 8-bit values are grey levels"]
    for row, image in zip(rows, result["images"], strict=True):
        for label in CHESTMNIST:
            prob = image["labels"][label]["probability"]
            assert float(row[f"prob_{label}"]) == prob
            positive = image["labels"][label]["predicted_positive"]
            expected = "" if positive is None else str(int(positive))
            assert row[f"predicted_positive_{label}"] == expected
    table = read_predictions(tmp_path / "t.csv", "test", are_logits=False)
    np.testing.assert_array_equal(
        table.of_labels(CHESTMNIST).values,
        [[float(row[f"prob_{label}"]) for label in CHESTMNIST] for row in rows],
    )
    pixels = png.imread(tmp_path / "maps/a.maps.png")
    assert pixels.shape[1] >= 2 * 400 and pixels.shape[0] > 320
    assert (tmp_path / "maps/b.maps.png").is_file()


def test_the_left_panel_shows_the_image_at_its_own_resolution(
    project: Path, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (300, 300), np.uint8)).save(tmp_path / "a.png")
    predictions(project, [tmp_path / "a.png"], tmp_path / "maps")
    drawn = np.asarray(Image.open(tmp_path / "maps/a.maps.png").convert("L"))
    given = np.asarray(Image.open(tmp_path / "a.png"))
    assert np.abs(drawn[48:348, :300].astype(int) - given).max() <= 1


def test_the_command_prints_a_line_per_image_and_per_error(
    cxr: Cxr, project: Path, tmp_path: Path
) -> None:
    write(tmp_path, 2)
    text(tmp_path / "z.png")
    done = cxr("predict", str(tmp_path / "*.png"), "--model", "cnn", cwd=project)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        f"cxr: {tmp_path / 'z.png'} is not a supported image or is far too large; "
        "save it as PNG, JPEG, TIFF, BMP, WebP or DICOM"
    ]
    lines = done.stdout.splitlines()
    assert lines[0].startswith(f"{tmp_path / 'chest00.png'}: ")
    assert "Not a medical device" in lines[-1]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["{}"], "contains no images"),
        (["{}/*.png"], "no file matches"),
        (["x.png", "--model", "resnet"], "model resnet does not exist; available: cnn"),
    ],
)
def test_invalid_arguments_are_refused_in_one_line(
    cxr: Cxr, project: Path, tmp_path: Path, arguments: list[str], sentence: str
) -> None:
    given = [each.format(tmp_path) for each in arguments]
    model = [] if "--model" in given else ["--model", "cnn"]
    done = cxr("predict", *given, *model, cwd=project)
    assert done.returncode == 2 and done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("cxr: ") and sentence in line


def test_images_that_are_not_square_keep_their_aspect_ratio() -> None:
    tall = Picture(Path("tall.png"), np.full((90, 30), 200, np.uint8))
    assert tall.square(30, "bicubic", "pad")[:, 12:18].min() > 190


def test_maps_overwrite_neither_images_nor_each_other(
    cxr: Cxr, project: Path, tmp_path: Path
) -> None:
    (path, other) = write(tmp_path, 2)
    before = path.read_bytes()
    done = cxr("predict", str(path), "--model", "cnn", "--cam", str(tmp_path), cwd=project)
    assert done.returncode == 0, done.stderr
    assert path.read_bytes() == before
    assert (tmp_path / "chest00.maps.png").read_bytes()[:4] == b"\x89PNG"
    image = other.rename(tmp_path / "chest00.maps.png")
    before = image.read_bytes()
    both = [str(path), str(image)]
    done = cxr("predict", *both, "--model", "cnn", "--cam", str(tmp_path), cwd=project)
    assert done.returncode == 2 and f"would overwrite the image {image}" in done.stderr
    assert image.read_bytes() == before
    dicom(tmp_path / "chest00.dcm", CHESTS[3])
    both = [str(path), str(tmp_path / "chest00.dcm")]
    done = cxr("predict", *both, "--model", "cnn", "--cam", str(tmp_path / "maps"), cwd=project)
    assert done.returncode == 2 and "two images are named" in done.stderr
    assert not (tmp_path / "maps").exists()


def test_maps_of_images_with_the_same_name_keep_their_folders(
    cxr: Cxr, project: Path, tmp_path: Path
) -> None:
    for i, study in enumerate(("ST1/SE1", "ST2/SE1")):
        (tmp_path / "disc" / study).mkdir(parents=True)
        dicom(tmp_path / "disc" / study / "IM0", CHESTS[i])
    (tmp_path / "disc/._IM0").touch()
    out = ["--model", "cnn", "--cam", str(tmp_path / "maps"), "--json"]
    done = cxr("predict", str(tmp_path / "disc"), *out, cwd=project)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines() == ["predict: found 2 DICOM, skipped 1 hidden"]
    folders = {"taken": {"DICOM": 2}, "skipped": {"hidden": 1}}
    assert json.loads(done.stdout)["folders"] == folders
    maps = sorted((tmp_path / "maps").rglob("*.png"))
    assert [path.relative_to(tmp_path / "maps").as_posix() for path in maps] == [
        "ST1/SE1/IM0.maps.png", "ST2/SE1/IM0.maps.png",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("option", "path", "sentence"),
    [
        ("--csv", "nowhere/t.csv", "t.csv can't be written"),
        ("--csv", ".", "can't be written: it is a folder"),
        ("--csv", "chest00.png", "is one of the images"),
        ("--cam", "file", "can't create the folder"),
    ],
)
def test_output_paths_that_can_not_be_written_are_refused_before_predicting(
    cxr: Cxr, project: Path, tmp_path: Path, option: str, path: str, sentence: str
) -> None:
    (image,) = write(tmp_path, 1)
    (tmp_path / "file").touch()
    before = image.read_bytes()
    done = cxr("predict", str(image), "--model", "cnn", option, str(tmp_path / path), cwd=project)
    assert done.returncode == 2 and done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert sentence in line
    assert image.read_bytes() == before


def test_file_names_may_contain_markup(cxr: Cxr, project: Path, tmp_path: Path) -> None:
    path = tmp_path / "a$_$b[red].png"
    Image.fromarray(CHESTS[0]).save(path)
    done = cxr("predict", str(path), "--model", "cnn", "--cam", str(tmp_path / "maps"), cwd=project)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(path))
    assert (tmp_path / "maps" / f"{path.stem}.maps.png").is_file()


def test_a_damaged_decisions_file_is_refused(project: Path, tmp_path: Path) -> None:
    for content in ("{", "{}", json.dumps({"model": "cnn"})):
        (tmp_path / "cnn.json").write_text(content)
        with pytest.raises(CxrError, match=r"cnn\.json is damaged"):
            decisions.read(tmp_path / "cnn.json")
