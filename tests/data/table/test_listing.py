"""The images, labels, patients and splits that a table lists."""

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from cxr.data.columns import InvalidTable
from cxr.data.table import divide, listing
from cxr.data.table.listing import Listing
from cxr.errors import CxrError
from cxr.labels import CHESTMNIST
from cxr.params import Table as Settings

DATA = Path(__file__).parents[4] / "shared/data"
NIH_TABLE = DATA / "annotations/Data_Entry_2017_v2020.csv.gz"
needs_nih = pytest.mark.skipif(not NIH_TABLE.exists(), reason=f"{NIH_TABLE} does not exist")

TABLE = """file,edema,mass,patient,split,sex
a.png,1,0,7,train,F
b.png,0,-1,7,train,F
c.png,,1,8,train,M
d.png,0,0,9,val,
e.png,1,1,10,test,M
"""
SETTINGS: dict[str, Any] = {
    "image": "file",
    "folders": ["scans"],
    "labels": ["edema", "mass"],
    "separator": "|",
    "uncertain": "unknown",
    "blank": "unknown",
    "patient": "patient",
    "split": "split",
    "fractions": {"val": 0.2, "test": 0.2},
    "attributes": {"sex": "sex"},
    "on_bad_image": "stop",
}
NAMES = "abcde"
SPLIT = np.array(["train", "train", "train", "val", "test"])


def read(folder: Path, table: str | bytes = TABLE, name: str = "t.csv", **changes: Any) -> Listing:
    """Read a table next to empty image files a.png to e.png."""
    scans = folder / "scans"
    scans.mkdir(exist_ok=True)
    for each in NAMES:
        (scans / f"{each}.png").touch()
    if table:
        (folder / name).write_bytes(table if isinstance(table, bytes) else table.encode())
    settings = Settings.model_validate(SETTINGS | changes)
    return listing.read(settings, listing.files(settings, name, folder), folder, 0)


def problems(folder: Path, table: str | bytes = TABLE, **changes: Any) -> list[str]:
    with pytest.raises(CxrError) as caught:
        read(folder, table, **changes)
    found = caught.value.problems if isinstance(caught.value, InvalidTable) else [str(caught.value)]
    assert str(caught.value) == found[0]
    assert all(len(each.splitlines()) == 1 and len(each) < 700 for each in found)
    return [*found]


def test_every_column_is_read_as_the_parameters_say(tmp_path: Path) -> None:
    got = read(tmp_path)
    assert got.ids == [*NAMES]
    assert got.files == [str(tmp_path / f"scans/{each}.png") for each in NAMES]
    assert got.label_names == ("edema", "mass")
    assert got.labels.tolist() == [[1, 0], [0, -1], [-1, 1], [0, 0], [1, 1]]
    assert got.labels.dtype == np.int8
    assert got.patients is not None and got.patients.tolist() == [7, 7, 8, 9, 10]
    assert got.splits.tolist() == ["train", "train", "train", "val", "test"]
    assert got.attributes["sex"].tolist() == ["F", "F", "M", "", "M"]
    assert got.n == {"train": 3, "val": 1, "test": 1}
    assert got.missing == {}


SAME = {
    "a BOM": lambda text: b"\xef\xbb\xbf" + text.encode(),
    "CRLF": lambda text: text.replace("\n", "\r\n").encode(),
    "old Mac line ends": lambda text: text.replace("\n", "\r").encode(),
    "UTF-16": lambda text: text.encode("utf-16"),
    "gzip": lambda text: gzip.compress(text.encode()),
    "tabs": lambda text: text.replace(",", "\t").encode(),
    "semicolons": lambda text: text.replace(",", ";").encode(),
    "Excel's sep= line": lambda text: ("sep=;\n" + text.replace(",", ";")).encode(),
    "a comment": lambda text: ("# exported\n" + text).encode(),
    "blank lines": lambda text: text.replace("\n", "\n\n").encode(),
    "spaces": lambda text: text.replace(",", " , ").encode(),
    "quotes": lambda text: text.replace("a.png", '"a.png"').encode(),
    "words": lambda text: text.replace(",1,0,", ",Yes,NO,").encode(),
    "floats, as pandas writes them": lambda text: (
        text.replace(",1,0,", ",1.0,0.0,").replace(",-1,", ",-1.0,").encode()
    ),
    "decimal commas": lambda text: text.replace(",", ";").replace(";1;0;", ";1,0;0,0;").encode(),
    "a word for unknown": lambda text: text.replace(",-1,", ",uncertain,").encode(),
    "a further column": lambda text: text.replace(",", ",x,").encode(),
    "empty cells at the end": lambda text: text.replace("F\n", "F,,\n").encode(),
    "a row twice": lambda text: (text + "a.png,1,0,7,train,F\n").encode(),
    "other names of splits": lambda text: (
        text.replace("val,", "Validation,").replace("test,", "testing,").encode()
    ),
}  # fmt: skip


@pytest.mark.parametrize("how", SAME)
def test_usual_ways_to_write_a_table_are_the_same(tmp_path: Path, how: str) -> None:
    change: Callable[[str], bytes] = SAME[how]
    got, plain = read(tmp_path, change(TABLE)), read(tmp_path)
    assert got.ids == plain.ids
    assert got.labels.tolist() == plain.labels.tolist()
    assert got.splits.tolist() == plain.splits.tolist()
    assert got.patients is not None and plain.patients is not None
    assert got.patients.tolist() == plain.patients.tolist()
    assert got.attributes["sex"].tolist() == plain.attributes["sex"].tolist()


@pytest.mark.parametrize("text", [False, True])
def test_parquet_is_the_same(tmp_path: Path, text: bool) -> None:
    """With numbers and missing values as pandas stores them, and with text."""
    read(tmp_path)
    frame = pd.read_csv(tmp_path / "t.csv", dtype=str if text else None)
    frame.to_parquet(tmp_path / "t.parquet")
    got, plain = read(tmp_path, "", "t.parquet"), read(tmp_path)
    assert got.labels.tolist() == plain.labels.tolist()
    assert got.patients is not None and got.patients.tolist() == [7, 7, 8, 9, 10]
    assert got.attributes["sex"].tolist() == plain.attributes["sex"].tolist()
    frame["edema"] = ["1", "0", "x", "0", "1"]
    frame.to_parquet(tmp_path / "t.parquet")
    with pytest.raises(CxrError, match=r"t\.parquet: row 3: 'edema' is 'x'"):
        read(tmp_path, "", "t.parquet")


@pytest.mark.parametrize(
    ("uncertain", "blank", "expected"),
    [("positive", "negative", [[0, 1], [0, 1]]), ("negative", "positive", [[0, 0], [1, 1]])],
)
def test_uncertain_and_blank_mean_what_the_parameters_say(
    tmp_path: Path, uncertain: str, blank: str, expected: list[list[int]]
) -> None:
    got = read(tmp_path, uncertain=uncertain, blank=blank)
    assert got.labels[1:3].tolist() == expected


def test_labels_can_be_renamed_and_get_known_spellings(tmp_path: Path) -> None:
    got = read(tmp_path, labels={"Pleural Effusion": "edema", "fracture of a rib": "mass"})
    assert got.label_names == ("effusion", "fracture of a rib")


NAMED = """file,findings,patient
a.png,Edema|Mass,1
b.png,No Finding,2
c.png,"['mass', 'Rib fracture']",3
d.png,,4
e.png,Pulmonary Edema,5
"""


def test_a_column_can_name_the_positive_labels(tmp_path: Path) -> None:
    text = NAMED.replace("Edema|Mass", '"Edema, Mass"')
    columns = {"labels": "findings", "separator": ",", "split": None, "attributes": {}}
    got = read(tmp_path, text, **columns)
    assert got.label_names == ("edema", "mass", "Rib fracture")
    by_id = dict(zip(got.ids, got.labels.tolist(), strict=True))
    assert by_id == {
        "a": [1, 1, 0], "b": [0, 0, 0], "c": [0, 1, 1], "d": [-1, -1, -1], "e": [1, 0, 0],
    }  # fmt: skip
    got = read(tmp_path, text, **columns, blank="negative")
    assert got.labels[3].tolist() == [0, 0, 0]


def test_the_patient_can_be_a_part_of_the_file_name(tmp_path: Path) -> None:
    (tmp_path / "scans").mkdir()
    text = "file,edema\n"
    for i, patient in enumerate((11, 11, 12, 13)):
        name = f"patient{patient}/study{i}/view.png"
        (tmp_path / "scans" / name).parent.mkdir(parents=True)
        (tmp_path / "scans" / name).touch()
        text += f"data/scans/{name},1\n".replace("data/scans", "scans")
    columns = {"labels": ["edema"], "split": None, "attributes": {}}
    got = read(tmp_path, text, **columns, patient={"regex": r"patient(\d+)/"})
    assert got.patients is not None and got.patients.tolist() == [11, 11, 12, 13]
    assert len(set(got.splits[:2].tolist())) == 1
    got = read(tmp_path, text, **columns, patient={"regex": r"patient\d+"})
    assert got.patients is not None and got.patients[0] == "patient11"


def test_an_image_without_a_patient_is_its_own(tmp_path: Path) -> None:
    got = read(tmp_path, TABLE.replace(",9,val", ",,val"))
    assert got.patients is not None and got.patients.tolist()[3] == "image d"
    assert read(tmp_path, patient=None).patients is None


def test_labels_and_patients_stay_with_their_images_if_others_are_missing(tmp_path: Path) -> None:
    lines = TABLE.splitlines(keepends=True)
    got = read(
        tmp_path, "".join([lines[0], "z.png,1,1,3,test,x\n", *lines[1:]]), on_bad_image="skip"
    )
    plain = read(tmp_path)
    assert got.labels.tolist() == plain.labels.tolist()
    assert got.splits.tolist() == plain.splits.tolist()
    assert got.patients is not None and got.patients.tolist() == [7, 7, 8, 9, 10]


def lists(folder: Path, **names: str) -> dict[str, str]:
    for split, text in names.items():
        (folder / f"{split}.txt").write_text(text)
    return {split: f"{split}.txt" for split in names}


def test_lists_of_images_give_the_split(tmp_path: Path) -> None:
    split = lists(tmp_path, train="a.png\nb.png\nc.png\n", val="d.png\n", test="e.png\nz.png\n")
    assert read(tmp_path, split=split).splits.tolist() == read(tmp_path).splits.tolist()
    split = lists(tmp_path, val="d", test="scans/e.png")
    assert read(tmp_path, split=split).splits.tolist() == read(tmp_path).splits.tolist()


def test_a_list_with_folders_does_not_match_images_of_other_folders(tmp_path: Path) -> None:
    split = lists(tmp_path, val="d.png", test="e.png")
    text = TABLE.replace("e.png", "scans/e.png")
    assert read(tmp_path, text, split=split).splits.tolist()[-1] == "test"
    split = lists(tmp_path, val="d.png", test="2020/e.png")
    assert "none of its images is in" in problems(tmp_path, text, split=split)[0]


def test_a_split_that_the_lists_lack_is_drawn_from_the_training_patients(tmp_path: Path) -> None:
    split = lists(tmp_path, train="a.png\nb.png\nc.png\nd.png", test="e.png")
    got = read(tmp_path, split=split)
    assert got.splits[4] == "test"
    assert sorted(set(got.splits[:4].tolist())) == ["train", "val"]
    assert got.splits[0] == got.splits[1]  # one patient


def test_unknown_labels_are_not_positive_in_the_draw(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = []
    monkeypatch.setattr(
        divide, "draw", lambda patients, positive, *_: drawn.append(positive) or SPLIT
    )
    read(tmp_path, split=None)
    assert drawn[0].tolist() == [[1, 0], [0, 0], [0, 1], [0, 0], [1, 1]]


def test_all_splits_are_drawn_if_none_is_given(tmp_path: Path) -> None:
    got = read(tmp_path, split=None)
    assert set(got.splits.tolist()) == {"train", "val", "test"}
    assert got.splits[0] == got.splits[1]
    lines = TABLE.splitlines(keepends=True)
    turned = read(tmp_path, "".join([lines[0], *reversed(lines[1:])]), split=None)
    assert turned.splits[::-1].tolist() == got.splits.tolist()


def test_rows_without_a_file_are_left_out_on_request(tmp_path: Path) -> None:
    text = TABLE + "f.png,1,0,11,train,F\n"
    assert problems(tmp_path, text) == [
        f"{tmp_path}/t.csv: line 7: no file for 'f.png' in scans; add it, or set "
        "download.table.on_bad_image to skip"
    ]
    got = read(tmp_path, text, on_bad_image="skip")
    assert got.missing == {"f.png": 7}
    assert got.ids == [*NAMES]
    assert len(got.labels) == len(got.splits) == len(got.attributes["sex"]) == 5


def test_a_split_whose_files_are_missing_is_not_drawn_instead(tmp_path: Path) -> None:
    text = TABLE.replace("e.png", "z.png")
    assert problems(tmp_path, text, on_bad_image="skip") == [
        "no image is in test; correct download.table.split"
    ]


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no image column": ({"image": "x"}, "table.image: .* has no column 'x'; its columns are 'f"),
    "no label column": ({"labels": ["edema", "x"]}, r"table\.labels\.x: .* has no column 'x'"),
    "no patient column": ({"patient": "x"}, r"table\.patient: .* has no column 'x'"),
    "no split column": ({"split": "x"}, r"table\.split: .* has no column 'x'"),
    "no attribute column": ({"attributes": {"age": "x"}}, r"attributes\.age: .* has no column 'x'"),
    "a column twice": ({"table": TABLE.replace("sex", "edema")}, "has two columns 'edema'"),
    "the same label twice": (
        {"labels": {"Edema": "edema", "oedema": "mass"}}, "'Edema' and 'oedema' are the same label"
    ),
    "an empty file": ({"table": "\n"}, "t.csv is empty; expected a header and one row per image"),
    "only a header": ({"table": TABLE.splitlines()[0]}, "has no rows; expected a header"),
    "another separator": (
        {"table": TABLE.replace(",", ":")}, r"table.image: .* has no column 'file'; its columns are"
    ),
    "Latin-1": ({"table": TABLE.replace("sex", "Straße").encode("latin-1")}, "line 1 is not valid"),
    "a cell too few": ({"table": TABLE.replace(",0,0,9", ",0,9")}, "line 5 has 5 cells and the f"),
    "a cell too many": ({"table": TABLE + "f.png,1,0,7,train,F,x"}, "line 7 has 7 cells and the"),
    "an open quotation mark": (
        {"table": TABLE.replace("b.png", '"b.png') + "x" * 140_000}, "for a missing quotation mark"
    ),
    "an image twice": (
        {"table": TABLE + "a.png,0,0,7,train,F\n"}, "lines 2 and 7 differ for id 'a.png'; remove on"
    ),
    "an image in two types": ({"table": TABLE + "a.jpg,1,0,7,train,F\n"}, "'a.jpg' differs from"),
    "a row without an image": ({"table": TABLE + ",1,0,7,train,F\n"}, "line 7: 'file' is empty"),
    "a long name": ({"table": TABLE + "x" * 600 + ",1,0,7,train,F\n"}, "'file' has 600 characters"),
    "an unknown value": (
        {"table": TABLE.replace(",1,0,7", ",maybe,0,7")}, "line 2: 'edema' is 'maybe'; expected 0 o"
    ),
    "a value above 1": ({"table": TABLE.replace(",1,0,7", ",2,0,7")}, "'edema' is '2'; expected"),
    "a probability": ({"table": TABLE.replace(",1,0,7", ",0.7,0,7")}, "'edema' is '0.7'"),
    "a long attribute": ({"table": TABLE + f"f,1,0,7,train,{'x' * 65}\n"}, "'sex' has 65 charact"),
    "a long patient": ({"table": TABLE + f"f,1,0,{'x' * 65},train,F\n"}, "'patient' has 65 char"),
    "an unknown split": (
        {"table": TABLE.replace(",val,", ",fold 3,")}, "line 5: 'split' is 'fold 3'; expected train"
    ),
    "no split": ({"table": TABLE.replace(",val,", ",,")}, "line 5: 'split' is ''; expected train"),
    "a patient in two splits": (
        {"table": TABLE.replace(",9,val", ",7,val")}, "line 5: patient 7 is in val and in train; "
    ),
    "no patient in the name": ({"patient": {"regex": "p[0-9]"}}, "'a.png' has no match for"),
    "an optional group": ({"patient": {"regex": r"a|(b)"}}, "'a.png' has no match for the patient"),
    "no file for a row": ({"table": TABLE + "f.png,1,0,11,train,F"}, "no file for 'f.png'"),
    "other files": (
        {"table": TABLE.replace(".png", "_0.png")}, r"5 of 5 images\); correct download.table.fold"
    ),
    "no file at all, though others are skipped": (
        {"table": TABLE.replace(".png", "_0.png"), "on_bad_image": "skip"},
        r"5 of 5 images\); correct download.table.fold",
    ),
    "no folder": ({"folders": ["none"]}, "none is not a folder"),
    "a file instead of a folder": ({"folders": ["t.csv"]}, "t.csv is not a folder"),
    "a folder instead of a file": ({"name": "scans", "table": ""}, "scans does not exist or is"),
    "no table": ({"name": "none.csv", "table": ""}, r"none\.csv does not exist"),
    "no list": ({"split": {"test": "none.txt"}}, r"split\.test: .*none\.txt does not"),
    "a list of other images": ({"split": {"test": "other.txt"}}, "none of its images is in"),
    "overlapping lists": (
        {"split": {"val": "list.txt", "test": "overlap.txt"}}, "both list 'd.png'; remove it from"
    ),
    "an image in no list": (
        {"split": {"train": "list.txt", "test": "most.txt"}}, "line 2: no list in .* has 'a.png'; "
    ),
    "too few patients": (
        {"table": "\n".join(TABLE.splitlines()[:4]), "split": None},
        "2 patients can't be divided into train, val and test",
    ),
    "no training images": (
        {"table": TABLE.replace("train", "test")}, "no image is in train; correct"
    ),
    "an empty label column of names": (
        {"labels": "sex", "table": TABLE.replace("F", "").replace("M", "No Finding")},
        "no cell of 'sex' names a label",
    ),
    "far too many labels": (
        {
            "labels": "sex", "attributes": {},
            "table": TABLE.replace(",F\n", ",F;" + ";".join(f"l{i}" for i in range(101)) + "\n"),
            "separator": ";",
        },
        r"has 103 different labels \('F', .*at most 100 are possible",
    ),
    "a Git LFS pointer": (
        {"table": "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\n"}, "git lfs pull"
    ),
    "damaged gzip": ({"table": gzip.compress(TABLE.encode())[:40]}, "can't be read"),
    "damaged Parquet": ({"table": b"PAR1" + bytes(40)}, "is a damaged Parquet file"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_a_bad_table_is_refused_in_one_line_with_the_fix(tmp_path: Path, case: str) -> None:
    arguments, sentence = REFUSED[case]
    lists(tmp_path, list="d.png\n", overlap="d.png\ne.png\n", other="x.png\n", most="b\nc\ne")
    found = problems(tmp_path, **arguments)
    assert pd.Series(found).str.contains(sentence).any(), found


def test_all_problems_of_a_kind_are_found_at_once(tmp_path: Path) -> None:
    found = problems(tmp_path, image="x", labels=["y"], patient="z")
    assert [each.split("'")[1] for each in found] == ["x", "y", "z"]
    text = TABLE.replace(",1,0,7", ",maybe,?,7").replace("e.png,1", "e.png,maybe")
    assert problems(tmp_path, text) == [
        f"{tmp_path}/t.csv: line 2: 'edema' is 'maybe' (2 rows); expected 0 or 1, -1 if it is "
        "uncertain, yes or no, or nothing",
        f"{tmp_path}/t.csv: line 2: 'mass' is '?'; expected 0 or 1, -1 if it is uncertain, yes or "
        "no, or nothing",
    ]


def read_nih(folder: Path) -> Listing:
    """Read NIH's own table next to image files, most of which are not there."""
    nih = {
        "image": "Image Index", "folders": [str(folder)], "labels": "Finding Labels",
        "patient": "Patient ID", "split": None, "on_bad_image": "skip",
        "attributes": {"sex": "Patient Gender", "age": "Patient Age"},
    }  # fmt: skip
    settings = Settings.model_validate(SETTINGS | nih)
    return listing.read(settings, {"path": NIH_TABLE}, folder, 0)


@needs_nih
def test_nihs_table_gives_the_right_labels_to_the_images_that_exist(tmp_path: Path) -> None:
    """Against pandas; 112,120 rows, and 3 images."""
    frame = pd.read_csv(NIH_TABLE).set_index("Image Index")
    names = ["00000001_000.png", "00000013_005.png", "00030801_001.png"]
    for name in names:
        (tmp_path / name).touch()
    got = read_nih(tmp_path)
    assert len(got.label_names) == 14
    assert len(got.missing) == 112_117
    for i, name in enumerate(names):
        row = frame.loc[name]
        positive = {
            label for label, value in zip(got.label_names, got.labels[i], strict=True) if value
        }
        expected = row["Finding Labels"].lower().split("|")
        assert positive == {
            "pleural" if each == "pleural_thickening" else each for each in expected
        }
        assert got.attributes["age"][i] == str(row["Patient Age"])
        assert got.patients is not None and got.patients[i] == row["Patient ID"]


@pytest.mark.slow
@needs_nih
def test_nihs_table_differs_from_chestmnist_in_26_cells(tmp_path: Path) -> None:
    """NIH corrected labels since: 25 pneumonias and an effusion, all absent before."""
    theirs: dict[str, dict[str, int]] = {}
    with np.load(DATA / "nih_real_64.npz") as real:
        for split in ("train", "val", "test"):
            for name, labels in zip(real[f"{split}_ids"], real[f"{split}_labels"], strict=True):
                theirs[str(name)] = dict(zip(CHESTMNIST, labels.tolist(), strict=True))
                (tmp_path / f"{name}.png").touch()
    got = read_nih(tmp_path)
    different = [
        (label, theirs[name][label], int(value))
        for name, values in zip(got.ids, got.labels, strict=True)
        for label, value in zip(got.label_names, values, strict=True)
        if theirs[name][label] != value
    ]
    assert len(got.ids) == len(theirs) == 2344
    assert sorted(different) == [("effusion", 0, 1), *[("pneumonia", 0, 1)] * 25]
