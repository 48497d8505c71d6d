"""Parameters that are guessed from a table, and its preview."""

import re
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from image_files import dicom, gradient
from PIL import Image
from ruamel.yaml import YAML
from typer.testing import CliRunner

from cxr import cli, params
from cxr.data import proposal
from cxr.data.sheet import read_sheet
from cxr.params import Table as Settings

ROOT = Path(__file__).parents[2]
PARAMS = params.load(ROOT / "params.yaml")
BASE = PARAMS.download.table

# Tables in the column layouts of public releases, and what a person would write for them.
TABLES: dict[str, tuple[str, dict[str, Any]]] = {
    "NIH ChestX-ray14": (
        "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,"
        "View Position,OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]\n"
        + "".join(
            f"{i:08}_000.png,{('Edema|Mass', 'No Finding', 'Hernia')[i % 3]},0,{i},{50 + i},"
            f"{'MF'[i % 2]},PA,2682,2749,0.143,0.143\n"
            for i in range(9)
        ),
        {
            "image": "Image Index", "labels": "Finding Labels", "separator": "|",
            "patient": "Patient ID", "split": None,
            "attributes": {"sex": "Patient Gender", "age": "Patient Age", "view": "View Position"},
        },
    ),
    "CheXpert": (
        "Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding,Enlarged Cardiomediastinum,Pneumonia,"
        "Pleural Effusion\n"
        + "".join(
            f"CheXpert-v1.0-small/train/patient{i // 2:05}/study{i % 2 + 1}/view1_frontal.jpg,"
            f"Female,{50 + i},Frontal,AP,{('1.0', '')[i % 2]},{('', '1.0', '-1.0')[i % 3]},"
            f"{('0.0', '1.0')[i % 2]},{('1.0', '', '0.0')[i % 3]}\n"
            for i in range(9)
        ),
        {
            "image": "Path", "patient": {"regex": r"(?:^|/)(patient\d+)/"}, "split": None,
            "labels": {
                name: name
                for name in ("Enlarged Cardiomediastinum", "Pneumonia", "Pleural Effusion")
            },
            "blank": "unknown",
            "attributes": {"sex": "Sex", "age": "Age", "view": "AP/PA"},
        },
    ),
    "VinDr-CXR": (
        "image_id,Aortic enlargement,Atelectasis,No finding,split\n"
        + "".join(f"{i:032x},{i % 2},{int(i == 3)},{(i + 1) % 2},{('train', 'test')[i % 2]}\n"
                  for i in range(9)),
        {
            "image": "image_id", "split": "split", "patient": None,
            "labels": {"Aortic enlargement": "Aortic enlargement", "Atelectasis": "Atelectasis"},
            "attributes": {},
        },
    ),
    "a hospital": (
        "Nr;Datei;Pat-ID;Geschlecht;Bericht;Erguss;Stauung\n"
        + "".join(f"{i};bild{i}.dcm;P{i // 2};{'wm'[i % 2]};Nr. {i};{i % 2};{('yes', '')[i % 2]}\n"
                  for i in range(9)),
        {
            "image": "Datei", "patient": "Pat-ID", "split": None,
            "labels": {"Erguss": "Erguss", "Stauung": "Stauung"},
        },
    ),
    "findings by a separator": (
        "file\tpatient\tfindings\n"
        + "".join(f"{i}.png\t{i}\t{('effusion; mass', '', 'rib fracture')[i % 3]}\n"
                  for i in range(9)),
        {"image": "file", "patient": "patient", "labels": "findings", "separator": ";"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TABLES)
def test_the_columns_of_common_tables_are_recognised(tmp_path: Path, name: str) -> None:
    text, expected = TABLES[name]
    (tmp_path / "t.csv").write_text(text)
    for image in read_sheet(tmp_path / "t.csv").column(expected["image"], ""):
        (tmp_path / Path(image).parent).mkdir(parents=True, exist_ok=True)
        (tmp_path / image).touch()
    got = proposal.propose(tmp_path / "t.csv", [tmp_path], BASE).model_dump()
    assert {key: got[key] for key in expected} == expected


def test_the_image_column_is_the_one_that_names_the_files(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("image,key,mass\n1,x7,0\n2,x8,1\n3,x9,0\n")
    assert proposal.propose(tmp_path / "t.csv", [tmp_path], BASE).image == "image"
    (tmp_path / "x8.png").touch()
    assert proposal.propose(tmp_path / "t.csv", [tmp_path], BASE).image == "key"


def test_nihs_lists_next_to_the_table_are_its_split(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(TABLES["NIH ChestX-ray14"][0])
    for name in proposal.LISTS.values():
        (tmp_path / name).touch()
    got = proposal.propose(tmp_path / "t.csv", [tmp_path], BASE)
    assert got.split == {split: str(tmp_path / name) for split, name in proposal.LISTS.items()}


def test_a_table_without_labels_is_a_problem_and_not_an_error(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("image,weight\na.png,70\nb.png,81\n")
    settings = proposal.propose(tmp_path / "t.csv", [tmp_path], BASE)
    shown = proposal.preview(settings, str(tmp_path / "t.csv"), tmp_path, PARAMS)
    assert shown.listing is None and len(shown.problems) == 1
    assert shown.problems[0] == (
        "no column was recognised for download.table.labels; the columns are 'image', 'weight'"
    )


@pytest.mark.parametrize(
    ("column", "is_label"),
    [
        ("0101", True),
        ("1 1 ", True),
        ("1111", False),
        ("0000", False),
        ("0123", False),
    ],
)
def test_only_columns_of_truth_values_are_labels(
    tmp_path: Path, column: str, is_label: bool
) -> None:
    rows = [f"{i}.png,{i % 2},{cell}" for i, cell in enumerate(column)]
    (tmp_path / "t.csv").write_text("\n".join(["image,edema,x", *rows]))
    labels = proposal.propose(tmp_path / "t.csv", [tmp_path], BASE).labels
    assert isinstance(labels, dict) and ("x" in labels) == is_label


def test_dates_and_words_in_names_are_not_patients(tmp_path: Path) -> None:
    for names in (["cap20200101_1.png", "cap20200102_1.png"], ["inpatient2/a", "inpatient3/b"], []):
        rows = [f"{name},{i % 2}" for i, name in enumerate(names)]
        (tmp_path / "t.csv").write_text("\n".join(["image,edema", *rows]))
        assert proposal.propose(tmp_path / "t.csv", [tmp_path], BASE).patient is None


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A clone with 12 images of 6 patients; one image is damaged, and one row has no file."""
    folder = tmp_path / "clone"
    (folder / "scans").mkdir(parents=True)
    (folder / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    (folder / "dvc.yaml").write_text("stages: {}\n")
    rows = ["file,patient,edema,mass"]
    for i in range(12):
        rows.append(f"{i},{i // 2},{('1', '0', '')[i % 3]},{int(i == 0)}")
        Image.fromarray(gradient(40, 40 + i)).save(folder / f"scans/{i}.png")
    dicom(folder / "scans/0.dcm", gradient(64, 64).astype(np.uint16) << 4)
    (folder / "scans/0.png").unlink()
    (folder / "scans/5.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (folder / "labels.csv").write_text("\n".join([*rows, "12,6,0,0"]))
    monkeypatch.chdir(folder)
    return folder


def run(*arguments: str) -> Any:
    return CliRunner().invoke(cli.app, ["table", *arguments])


def test_the_command_shows_counts_problems_and_parameters(clone: Path) -> None:
    done = run("labels.csv", "--images", "scans")
    assert done.exit_code == 1  # a row has no file
    lines = [" ".join(line.split()) for line in done.output.splitlines()]
    assert lines[0].endswith("labels.csv: 13 rows")
    assert "images 8 2 2" in lines and "patients 4 1 1" in lines
    text = done.output
    assert "line 14: no file for '12' in" in text
    assert len(re.findall("no positive image in .*mass", text)) == 2
    assert "4 empty cells of labels read as unknown; see `blank`" in text
    assert "scans/5.png is not a supported image" in text
    assert "11 not square (see download.fit)" not in text  # 9 of those read
    assert "not square (see download.fit)" in text
    assert "assumed to read them: window (1)" in text, text


def test_the_printed_parameters_can_be_pasted_into_params_yaml(clone: Path) -> None:
    text = run("labels.csv", "--images", "scans").output
    block = YAML(typ="safe").load(text[text.index("download:\n") :])
    changes = {f"download.{key}": value for key, value in block["download"].items()}
    changes["download.table"]["on_bad_image"] = "skip"
    params.change(clone / "params.yaml", changes)
    done = run()
    assert (done.exit_code, "gradcam.indices has 388, and test has 2 images" in done.output) == (
        1,
        True,
    )
    changes["gradcam.indices"] = [0]
    params.change(clone / "params.yaml", changes)
    loaded = params.load(clone / "params.yaml").download
    assert (loaded.source, loaded.path) == ("table", str(clone / "labels.csv"))
    assert isinstance(loaded.table, Settings)
    assert loaded.table.folders == (str(clone / "scans"),)
    done = run()
    assert done.exit_code == 0, done.output
    assert "params.yaml fits the table; run `make repro`" in done.output
    assert "1 row without a file, left out, such as '12'" in done.output


def test_without_a_table_in_params_yaml_the_command_asks_for_a_file(clone: Path) -> None:
    done = subprocess.run(["cxr", "table"], cwd=clone, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "cxr: params.yaml has no table; name one: cxr table FILE\n"


@pytest.mark.parametrize("name", ["none.csv", "scans", "scans/1.png"])
def test_a_file_that_is_not_a_table_is_refused_in_one_line(clone: Path, name: str) -> None:
    done = subprocess.run(["cxr", "table", name], cwd=clone, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1 and name in done.stderr
