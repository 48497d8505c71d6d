"""The recipes of docs/your-own-images.md, on small tables in each release's own columns."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from ruamel.yaml import YAML

from cxr import documents, params
from cxr.data.table import listing
from cxr.data.table.listing import Listing

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/your-own-images.md").read_text()
SECTIONS = dict(re.findall(r"^### (.+?)\n(.*?)(?=^### |\Z)", PAGE, re.MULTILINE | re.DOTALL))
MOST_LINES = 15  # of Python


def write(folder: Path, name: str, text: str) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if name.endswith(".gz"):
        pd.read_csv(pd.io.common.StringIO(text)).to_csv(path, index=False)
    else:
        path.write_text(text)


def nih(data: Path) -> None:
    header = (
        "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,"
        "View Position,OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],\n"
    )
    rows, lists = "", {"train_val_list.txt": "", "test_list.txt": ""}
    for i in range(12):
        name = f"{i // 2 + 1:08}_{i % 2:03}.png"
        write(data, f"nih/images_{i + 1:03}/images/{name}", "")
        findings = ("No Finding", "Pleural_Thickening|Hernia", "Effusion")[i % 3]
        rows += f"{name},{findings},{i % 2},{i // 2 + 1},{50 + i:03}Y,M,PA,2682,2749,0.143,0.143,\n"
        lists["test_list.txt" if i >= 10 else "train_val_list.txt"] += f"{name}\n"
    write(data, "nih/Data_Entry_2017_v2020.csv", header + rows)
    for name, text in lists.items():
        write(data, f"nih/{name}", text)


CHEXPERT = (
    "No Finding,Enlarged Cardiomediastinum,Cardiomegaly,Lung Opacity,Lung Lesion,Edema,"
    "Consolidation,Pneumonia,Atelectasis,Pneumothorax,Pleural Effusion,Pleural Other,Fracture,"
    "Support Devices"
)


def chexpert(data: Path) -> None:
    for split, patients in (("train", range(1, 7)), ("valid", range(64541, 64543))):
        text = f"Path,Sex,Age,Frontal/Lateral,AP/PA,{CHEXPERT}\n"
        for patient in patients:
            for view in ("view1_frontal", "view2_lateral"):
                path = f"CheXpert-v1.0-small/{split}/patient{patient:05}/study1/{view}.jpg"
                write(data, path, "")
                side = "Frontal" if "frontal" in view else "Lateral"
                values = f"{['', '1.0'][patient % 2]},,1.0,-1.0,,0.0,,,,,,,,1.0"
                text += f"{path},Female,68,{side},AP,{values}\n"
        write(data, f"CheXpert-v1.0-small/{split}.csv", text)


def mimic(data: Path) -> None:
    names = sorted(set(CHEXPERT.split(",")))
    metadata = "dicom_id,subject_id,study_id,ViewPosition,Rows,Columns,StudyDate,StudyTime\n"
    split, labels = (
        "dicom_id,study_id,subject_id,split\n",
        f"subject_id,study_id,{','.join(names)}\n",
    )
    for i in range(9):
        subject, study, dicom = 10000000 + i, 50000000 + i, f"{i:08x}-aaaa-bbbb"
        write(data, f"mimic-cxr-jpg/files/p10/p{subject}/s{study}/{dicom}.jpg", "")
        view = ("PA", "AP", "LATERAL")[i % 3]
        metadata += f"{dicom},{subject},{study},{view},3056,2544,21800506,213014.5\n"
        split += f"{dicom},{study},{subject},{('train', 'validate', 'test')[i // 3]}\n"
        values = {"Edema": "1.0", "Fracture": "-1.0", "Pneumonia": "0.0"}
        labels += f"{subject},{study},{','.join(values.get(name, '') for name in names)}\n"
    for name, text in (("metadata", metadata), ("split", split), ("chexpert", labels)):
        write(data, f"mimic-cxr-jpg/mimic-cxr-2.0.0-{name}.csv.gz", text)


def padchest(data: Path) -> None:
    header = ",ImageID,ImageDir,StudyDate_DICOM,StudyID,PatientID,PatientBirth,PatientSex_DICOM,"
    header += "ViewPosition_DICOM,Projection,MethodLabel,Labels,Localizations\n"
    rows = ""
    for i in range(1200):
        name = f"{i:045}_00-078-079.png"
        if i < 30:
            write(data, f"padchest/{i % 3}/{name}", "")
        found = ("['cardiomegaly', ' pneumonia']", "['pleural effusion', 'normal']")[i % 2]
        view = "L" if i % 20 == 9 else "PA"
        found = '"' + found + '"'
        rows += f"{i},{name},{i % 3},20140915,{i},{i // 2},1938.0,F,POSTEROANTERIOR,{view},"
        rows += f"RNN,{found},[]\n"
    write(data, "padchest/PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv", header + rows)


def vindr(data: Path) -> None:
    names = "Aortic enlargement,Atelectasis,Cardiomegaly,Pleural effusion,Pneumothorax,No finding"
    train, test = f"image_id,rad_id,{names}\n", f"image_id,{names}\n"
    for i in range(8):
        write(data, f"vindr-cxr/train/{i:031x}a.dicom", "")
        for reader in range(3):
            train += f"{i:031x}a,R{reader},{int(reader < 2)},{int(reader < 1)},0,{i % 2},0,0\n"
    for i in range(8, 10):
        write(data, f"vindr-cxr/test/{i:031x}a.dicom", "")
        test += f"{i:031x}a,0,1,0,1,0,0\n"
    write(data, "vindr-cxr/annotations/image_labels_train.csv", train)
    write(data, "vindr-cxr/annotations/image_labels_test.csv", test)


def hospital(data: Path) -> None:
    text = "file;patient;sex;age;ward;findings\n"
    for i in range(12):
        write(data, f"archive/{2023 + i % 2}/ward/IM{i:05}", "")
        findings = ("effusion; rib fracture", "", "Effusion")[i % 3]
        text += f'IM{i:05};P{i};f;{30 + i};ICU;"{findings}"\n'
    write(data, "archive/findings.csv", text)


RELEASES = {
    "NIH ChestX-ray14": nih,
    "CheXpert": chexpert,
    "MIMIC-CXR-JPG": mimic,
    "PadChest": padchest,
    "VinDr-CXR": vindr,
    "A hospital's own table": hospital,
}


@pytest.fixture
def read(tmp_path: Path) -> Any:
    def read(release: str) -> Listing:
        """Follow a recipe with /data in another folder."""
        RELEASES[release](tmp_path)
        blocks = re.findall(r"```(\w+)\n(.*?)```", SECTIONS[release], re.DOTALL)
        local = {kind: text.replace("/data/", f"{tmp_path}/") for kind, text in blocks}
        if "python" in local:
            assert len(local["python"].splitlines()) <= MOST_LINES
            exec(local["python"], {})
        content = documents.read_yaml(ROOT / "params.yaml")
        content["download"] |= YAML(typ="safe").load(local["yaml"])["download"]
        download = params.Download.model_validate(content["download"])
        paths = listing.files(download.table, download.path or "", ROOT)
        return listing.read(download.table, paths, ROOT, 0)

    return read


def test_every_recipe_is_tested() -> None:
    assert list(SECTIONS) == list(RELEASES)


def values(read: Listing, image: str) -> dict[str, int]:
    (row,) = np.flatnonzero(np.char.find(np.array(read.ids), image) >= 0)
    return dict(zip(read.label_names, read.labels[row].tolist(), strict=True))


def test_nih(read: Any) -> None:
    got = read("NIH ChestX-ray14")
    assert got.label_names == ("effusion", "hernia", "pleural")
    assert values(got, "00000001_001") == {"effusion": 0, "hernia": 1, "pleural": 1}
    assert values(got, "00000001_000") == {"effusion": 0, "hernia": 0, "pleural": 0}
    assert np.array(got.ids)[got.splits == "test"].tolist() == ["00000006_000", "00000006_001"]
    assert got.n["val"] == 2  # a patient of the training list
    assert got.patients.tolist() == [i // 2 + 1 for i in range(12)]
    assert got.attributes["age"][0] == "050Y"


def test_chexpert(read: Any) -> None:
    got = read("CheXpert")
    assert len(got.label_names) == 13 and len(got.ids) == 8  # frontal
    found = values(got, "patient00003")
    assert (found["cardiomegaly"], found["Lung Opacity"], found["edema"]) == (1, -1, 0)
    assert (found["fracture" if "fracture" in found else "Fracture"], found["effusion"]) == (0, 0)
    assert got.n["test"] == 2 and got.n["val"] >= 1
    assert sorted(got.patients[got.splits == "test"]) == ["patient64541", "patient64542"]


def test_mimic(read: Any) -> None:
    got = read("MIMIC-CXR-JPG")
    assert got.n == {"train": 2, "val": 2, "test": 2}
    found = values(got, "00000000")
    assert (found["edema"], found["Fracture"], found["pneumonia"]) == (1, -1, 0)
    assert found["atelectasis"] == 0  # a blank
    assert got.patients[0] == 10000000


def test_padchest(read: Any) -> None:
    got = read("PadChest")
    assert got.label_names == ("cardiomegaly", "effusion", "pneumonia")
    assert len(got.ids) == 28 and len(got.missing) == 1140 - 28  # without lateral ones
    assert values(got, f"{0:045}") == {"cardiomegaly": 1, "effusion": 0, "pneumonia": 1}


def test_vindr(read: Any) -> None:
    got = read("VinDr-CXR")
    found = values(got, f"{1:031x}a")
    assert (found["Aortic enlargement"], found["atelectasis"], found["effusion"]) == (1, 0, 1)
    assert got.n["test"] == 2 and got.n["val"] >= 1 and got.patients is None


def test_a_hospital(read: Any) -> None:
    got = read("A hospital's own table")
    assert got.label_names == ("effusion", "rib fracture")
    assert values(got, "IM00000") == {"effusion": 1, "rib fracture": 1}
    assert values(got, "IM00001") == {"effusion": 0, "rib fracture": 0}
    assert got.attributes["site"][0] == "ICU"
