"""A table of own images through the pipeline: the same weights as from an npz, and a hospital."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from image_files import dicom, truncated
from PIL import Image
from pipeline import TINY, Pipeline, create

from cxr.data import phantom
from cxr.data.splits import SPLITS
from cxr.evaluation import decisions
from cxr.hashing import md5_of_file

pytestmark = pytest.mark.slow

REAL = Path(__file__).parents[2] / "shared/data/nih_real_64.npz"
NIH_NAMES = (
    "Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Mass", "Nodule", "Pneumonia",
    "Pneumothorax", "Consolidation", "Edema", "Emphysema", "Fibrosis", "Pleural_Thickening",
    "Hernia",
)  # fmt: skip


def stage(pipeline: Pipeline, *command: str) -> None:
    done = pipeline.run("python", f"stages/{command[0]}.py", *command[1:])
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not REAL.exists(), reason=f"{REAL} does not exist")
def test_files_with_a_table_give_the_same_weights_as_the_npz(tmp_path: Path) -> None:
    """In the columns of NIH's table, in the order of the npz."""
    rows: list[tuple[object, ...]] = []
    scans = tmp_path / "images"
    scans.mkdir()
    with np.load(REAL) as real:
        for split in SPLITS:
            columns = (real[f"{split}_{key}"] for key in ("images", "ids", "labels", "patients"))
            for image, name, labels, patient in zip(*columns, strict=True):
                Image.fromarray(image).save(scans / f"{name}.png", compress_level=1)
                findings = [each for each, value in zip(NIH_NAMES, labels, strict=True) if value]
                rows.append((f"{name}.png", "|".join(findings) or "No Finding", patient, split))
    with open(tmp_path / "table.csv", "w", newline="") as file:
        header = ("Image Index", "Finding Labels", "Patient ID", "Split")
        csv.writer(file).writerows([header, *rows])
    training = {"download.size": 64, "train.protocol.epochs": 1, "gradcam.indices": [0]}
    by_table = {
        "download.source": "table", "download.path": "../table.csv",
        "download.table.folders": ["../images"], "download.table.split": "Split",
        "download.table.attributes": {},
    }  # fmt: skip
    by_npz = {"download.source": "file", "download.path": str(REAL)}
    made = {
        name: create(tmp_path / name, TINY | training | source)
        for name, source in (("table", by_table), ("npz", by_npz))
    }
    for pipeline in made.values():
        for command in (("download",), ("preprocess",), ("train", "cnn")):
            stage(pipeline, *command)
    a, b = (pipeline.folder for pipeline in made.values())
    arrays = sorted(path.name for path in (a / "data/processed").glob("*.npy"))
    assert arrays == sorted(path.name for path in (b / "data/processed").glob("*.npy"))
    for name in arrays:
        ours, theirs = (np.load(each / "data/processed" / name) for each in (a, b))
        assert np.array_equal(ours, theirs), name
    weights = "models/cnn/weights.safetensors"
    assert md5_of_file(a / weights) == md5_of_file(b / weights)


LABELS = {"heart": 1, "Pleural Effusion": 2, "opacity": 3}  # the phantom's columns


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    """120 images as DICOM and PNG, also portrait, in two folders; a file missing, one damaged."""
    folder = tmp_path_factory.mktemp("hospital")
    batch = phantom.render(0, "train", 0, 120, 64, 0.1)
    rows: list[tuple[object, ...]] = []
    for i, image in enumerate(batch.images):
        archive = folder / "archive" / str(2019 + i % 2)
        archive.mkdir(parents=True, exist_ok=True)
        name = f"IM{i:04}"
        if i % 3:
            dicom(archive / name, image[:, :56].astype(np.uint16) << 4)
        else:
            Image.fromarray(image).save(archive / f"{name}.png")
        labels = [("0", "1", "")[value] for value in batch.labels[i, [*LABELS.values()]]]
        rows.append((name, batch.patients[i], batch.attributes[i, 0], *labels))
    truncated(folder / "archive/2019/IM0006.png")
    rows.append(("IM0999", "x", "F", "0", "0", "0"))
    with open(folder / "Befunde.csv", "w", newline="", encoding="utf-8-sig") as file:
        header = ("Bild", "Patient", "Geschlecht", *LABELS)
        csv.writer(file, delimiter=";").writerows([header, *rows])
    pipeline = create(folder / "p", TINY | {"gradcam.indices": [0]})
    done = pipeline.run("cxr", "table", "../Befunde.csv", "--images", "../archive", "--json")
    proposed = json.loads(done.stdout)["table"]
    changes = {"attributes": {"sex": "Geschlecht"}, "on_bad_image": "skip"}
    fractions = {"fractions": {"val": 0.25, "test": 0.25}}
    pipeline.change(
        download__source="table",
        download__path=str(folder / "Befunde.csv"),
        download__fit="crop",
        download__table=proposed | changes | fractions,
    )
    pipeline.repro("evaluate")
    return pipeline


def test_the_proposed_parameters_read_the_table(hospital: Pipeline) -> None:
    report = hospital.json("reports/data.json")
    assert report["data"]["source"] == "table" and report["data"]["name"] == "Befunde"
    assert report["data"]["labels"] == ["effusion", "heart", "opacity"]
    files = report["files"]
    assert (files["read"], files["without_file"], files["unreadable"]) == (119, 1, 1)
    assert list(files["left_out"]) == ["IM0006", "IM0999"]
    assert files["assumed"] == {"window": 80}
    assert any("1 unreadable image left out" in each for each in report["problems"])
    assert sum(split["n"] for split in report["splits"].values()) == 119
    assert report["across"]["train-test"]["patients"]["n"] == 0
    assert set(report["splits"]["train"]["attributes"]["sex"]["values"]) == {"F", "M"}


def test_models_say_how_other_images_become_square(hospital: Pipeline) -> None:
    for name in ("cnn", "squeezenet", "vit"):
        assert hospital.json(f"models/{name}/model.json")["input"]["fit"] == "crop"


def test_the_evaluation_is_over_the_tables_patients(hospital: Pipeline) -> None:
    found = hospital.json("reports/metrics.json")["models"]["cnn"]["test"]["intervals"]
    patients = np.load(hospital.folder / "data/processed/test_patients.npy")
    assert (found["unit"], found["n_units"]) == ("patient", len(set(patients.tolist())))


def test_predict_reads_an_original_as_the_training_did(hospital: Pipeline) -> None:
    image_id = np.load(hospital.folder / "data/processed/test_ids.npy")[0]
    (original,) = (hospital.folder.parent / "archive").rglob(f"{image_id}*")
    done = hospital.run("cxr", "predict", str(original), "--model", "cnn", "--json")
    answer = json.loads(done.stdout)["images"][0]["labels"]
    logits = np.load(hospital.folder / "predictions/cnn.npz")["test_logits"][:1]
    operating_point = decisions.read(hospital.folder / "decisions/cnn.json")
    probs = operating_point.calibration.probs(logits)[0]
    assert [each["probability"] for each in answer.values()] == pytest.approx(probs.tolist(), 1e-5)


def test_audit_names_the_images_that_changed_since(hospital: Pipeline, tmp_path: Path) -> None:
    def audited() -> tuple[str, dict[str, str]]:
        answer = json.loads(hospital.run("cxr", "audit", "data/raw/chest.npz", "--json").stdout)
        findings = answer["stages"][0]["findings"]
        (finding,) = (each for each in findings if "image file" in each["says"])
        return answer["verdict"], finding

    verdict, finding = audited()
    assert (verdict, finding["verdict"]) == ("holds", "holds")
    assert finding["says"] == f"120 image files of {hospital.folder.parent}/Befunde.csv, unchanged"
    archive = hospital.folder.parent / "archive"
    original = archive / "2019/IM0000.png"
    shutil.copy2(original, tmp_path / "kept")
    Image.fromarray(np.zeros((64, 64), np.uint8)).save(original)
    verdict, finding = audited()
    assert verdict == finding["verdict"] == "fails"
    assert finding["says"] == f"1 image file changed since: {original}"
    assert finding["fix"] == "dvc repro --force download"
    original.unlink()
    verdict, finding = audited()
    assert (verdict, finding["verdict"]) == ("note", "note")
    assert finding["says"] == "1 of 120 image files are not on this machine"
    shutil.copy2(tmp_path / "kept", original)
    assert audited()[1]["verdict"] == "holds"


def test_a_replay_reads_the_images_again(hospital: Pipeline) -> None:
    done = hospital.run("cxr", "replay", hospital.run_id("download"))
    assert done.returncode == 0, done.stdout + done.stderr
