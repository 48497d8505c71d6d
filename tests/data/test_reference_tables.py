"""Tables of other readers' labels, joined to images by their ids."""

import gzip
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from cxr import documents, params
from cxr.data import references
from cxr.data.references import Reading
from cxr.data.splits import Split
from cxr.errors import CxrError
from cxr.labels import UNKNOWN
from cxr.params import Reference

DATA = Path(__file__).parents[3] / "shared/data"
RSNA = DATA / "annotations/nih_rsna.csv"
REAL = DATA / "nih_real_28.npz"
PARAMS = Path(__file__).parents[2] / "params.yaml"

NAMES = ("mass", "nodule", "effusion", "shadow")
IDS = {"train": ["a_0", "a_1", "b_0"], "val": ["c_0"], "test": ["d_0", "e_0"]}
TABLE = """image,Effusion,class,note
e_0.png,NO,Lung Opacity,x
a_0.png,YES,Normal,y
x_9.png,YES,Normal,
b_0.png,,Not Normal,
d_0.png,-1,Lung Opacity,z
"""
READINGS: dict[str, Any] = {
    "Effusion": {"labels": ["effusion"]},
    "opacity": {
        "labels": ["mass", "nodule"],
        "column": "class",
        "positive": ["Lung Opacity"],
        "negative": ["Normal", "Not Normal"],
    },
}


def splits(ids: dict[str, list[str]] | None = None) -> dict[str, Split]:
    ids = IDS if ids is None else ids
    return {
        split: Split(
            images=np.zeros((len(each), 2, 2), np.uint8),
            labels=np.zeros((len(each), len(NAMES)), np.int8),
            names=NAMES,
            ids=np.array(each),
            patients=None,
        )
        for split, each in ids.items()
    }


def read(
    folder: Path,
    table: str | bytes = TABLE,
    data: dict[str, Split] | None = None,
    **changes: Any,
) -> dict[str, Reading]:
    """The readings of a table by name."""
    (folder / "table.csv").write_bytes(table if isinstance(table, bytes) else table.encode())
    content = {"path": "table.csv", "id": "image", "readings": READINGS} | changes
    settings = {"readers": Reference.model_validate(content)}
    paths = references.files(settings, folder)
    assert paths == {"readers": folder / "table.csv"}
    found = references.read(settings, paths, splits() if data is None else data)
    assert {each.reference for each in found} == {"readers"}
    assert [each.name for each in found] == list(settings["readers"].readings)
    return {each.name: each for each in found}


def values(reading: Reading) -> dict[str, list[int]]:
    assert {each.dtype for each in reading.values.values()} == {np.dtype(np.int8)}
    return {split: each.tolist() for split, each in reading.values.items()}


EFFUSION = {"train": [1, -1, -1], "val": [-1], "test": [-1, 0]}
OPACITY = {"train": [0, -1, 0], "val": [-1], "test": [1, 1]}


def test_readings_are_joined_by_id_in_the_order_of_the_images(tmp_path: Path) -> None:
    """Yes and no, an empty cell, an uncertain one, and images without a row are all here."""
    found = read(tmp_path)
    assert values(found["Effusion"]) == EFFUSION
    assert values(found["opacity"]) == OPACITY
    assert (found["Effusion"].labels, found["opacity"].labels) == ((2,), (0, 1))


@pytest.mark.parametrize(
    "write",
    [
        lambda text: gzip.compress(text.encode()),
        lambda text: text.replace(".png", "").encode(),
        lambda text: text.replace("a_0.png", "folder/a_0.jpeg").encode(),
        lambda text: (text + "a_0.png,YES,Normal,another note\n").encode(),
        lambda text: text.replace("\n", "\r\n").replace(",", ";").encode("utf-8-sig"),
        lambda text: text.replace("YES", "1").replace("NO", "0").encode(),
        lambda text: text.replace("YES", "true").replace("NO", "False").encode(),
        lambda text: text.replace("b_0.png,,Not Normal", "b_0.png, nan ,Not Normal").encode(),
    ],
    ids=[
        "gzip", "no suffix", "paths", "an equal row twice", "semicolons", "numbers", "booleans",
        "what pandas writes for nothing",
    ],
)  # fmt: skip
def test_a_table_reads_the_same_however_it_is_saved(
    tmp_path: Path, write: Callable[[str], bytes]
) -> None:
    found = read(tmp_path, write(TABLE))
    assert (values(found["Effusion"]), values(found["opacity"])) == (EFFUSION, OPACITY)


def test_cells_that_are_neither_positive_nor_negative_are_unknown(tmp_path: Path) -> None:
    opacity = READINGS["opacity"] | {"negative": ["Normal"]}
    found = read(tmp_path, readings={"opacity": opacity})
    assert values(found["opacity"]) == {"train": [0, -1, -1], "val": [-1], "test": [1, 1]}


def test_several_images_may_have_one_row_and_splits_may_be_empty_of_rows(tmp_path: Path) -> None:
    """The same id in two splits: a table can't tell them apart."""
    data = splits({"train": ["a_0"], "val": ["q_0"], "test": ["e_0", "a_0"]})
    assert values(read(tmp_path, data=data)["Effusion"]) == {
        "train": [1], "val": [-1], "test": [0, 1],
    }  # fmt: skip


def test_labels_may_be_named_in_other_spellings_and_own_labels_as_they_are(tmp_path: Path) -> None:
    readings = {
        "Effusion": {"labels": ["Pleural_Effusion", "shadow", "Pulmonary Mass"]},
    }
    assert read(tmp_path, readings=readings)["Effusion"].labels == (2, 3, 0)


def test_two_readings_may_use_one_column_and_several_tables_are_kept_apart(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(TABLE)
    (tmp_path / "b.csv").write_text("key,found\nd_0,yes\n")
    column = {"labels": ["mass"], "column": "Effusion"}
    settings = {
        "a": Reference.model_validate(
            {"path": "a.csv", "id": "image", "readings": {"Effusion": column, "again": column}}
        ),
        "b": Reference.model_validate(
            {"path": str(tmp_path / "b.csv"), "id": "key", "readings": {"found": column | {
                "column": None}}}
        ),
    }  # fmt: skip
    found = references.read(settings, references.files(settings, tmp_path), splits())
    assert [(each.reference, each.name) for each in found] == [
        ("a", "Effusion"), ("a", "again"), ("b", "found"),
    ]  # fmt: skip
    assert [values(each) for each in found] == [
        EFFUSION, EFFUSION, {"train": [-1] * 3, "val": [-1], "test": [1, -1]},
    ]  # fmt: skip


def test_without_tables_there_are_no_readings_even_of_images_without_ids() -> None:
    data = {
        "train": Split(np.zeros((1, 2, 2), np.uint8), np.zeros((1, 4), np.int8), NAMES, None, None)
    }
    assert references.read({}, {}, data) == []


def without_ids(data: dict[str, Split]) -> dict[str, Split]:
    val = data["val"]
    return data | {"val": Split(val.images, val.labels, val.names, None, None)}


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no such column": (
        {"readings": {"effusion": {"labels": ["effusion"]}}},
        r"evaluate\.references\.readers\.readings\.effusion: .*table\.csv has no column 'effusion';"
        r" its columns are 'image', 'Effusion', 'class', 'note'",
    ),
    "no such column that is named": (
        {"readings": {"x": {"labels": ["effusion"], "column": "Class"}}},
        r"evaluate\.references\.readers\.readings\.x: .* has no column 'Class'",
    ),
    "a column twice": (
        {"table": TABLE.replace("note", "class")},
        r"evaluate\.references\.readers\.readings\.opacity: .* has two columns 'class'",
    ),
    "no id column": (
        {"id": "Image Index"},
        r"evaluate\.references\.readers\.id: .* has no column 'Image Index'",
    ),
    "an unknown label": (
        {"readings": {"Effusion": {"labels": ["effusion", "fracture"]}}},
        r"evaluate\.references\.readers\.readings\.Effusion: 'fracture' is not a label of the "
        "data: mass, nodule, effusion, shadow",
    ),
    "a finding that the data lack": (
        {"readings": {"Effusion": {"labels": ["hernia"]}}},
        r"readings\.Effusion: 'hernia' is not a label of the data",
    ),
    "no id in common": (
        {"table": TABLE.replace("_", "-")},
        r"evaluate\.references\.readers: 'image' of .*table\.csv holds ids such as 'e-0\.png', and "
        r"the images have ids such as 'a_0': none match; set evaluate\.references\.readers\.id",
    ),
    "differing rows of one id": (
        {"table": TABLE + "a_0.png,NO,Normal,y\n"},
        r"lines 3 and 7 differ for id 'a_0\.png'; remove one, or set "
        r"evaluate\.references\.readers\.id",
    ),
    "differing categories of one id": (
        {"table": TABLE + "a_0.png,YES,Lung Opacity,y\n"},
        r"lines 3 and 7 differ for id 'a_0\.png'",
    ),
    "images without ids": (
        {"data": without_ids(splits())},
        r"evaluate\.references: the images have no ids to match the tables with; set it to \{\}",
    ),
    "a category that no cell has": (
        {"readings": {"opacity": READINGS["opacity"] | {"positive": ["lung opacity"]}}},
        r"evaluate\.references\.readers\.readings\.opacity\.positive: no cell of 'class' has this "
        "value; it has 'Lung Opacity', 'Normal', 'Not Normal'",
    ),
    "a negative category that no cell has": (
        {"readings": {"opacity": READINGS["opacity"] | {"negative": ["normal"]}}},
        r"evaluate\.references\.readers\.readings\.opacity\.negative: no cell of 'class'",
    ),
    "words that are not yes or no": (
        {"readings": {"class": {"labels": ["mass"]}}},
        r"line 2: 'class' is 'Lung Opacity' \(2 rows\); expected 0 or 1",
    ),
    "an empty file": ({"table": ""}, r"evaluate\.references\.readers: .*table\.csv is empty"),
    "no rows": ({"table": TABLE.splitlines()[0]}, "has no rows"),
    "an empty id": ({"table": TABLE.replace("x_9.png", "")}, "line 4: 'image' is empty"),
}


@pytest.mark.parametrize(("changes", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_a_table_that_can_not_be_used_is_refused_with_the_parameter(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(CxrError, match=message) as caught:
        read(tmp_path, **changes)
    assert len(str(caught.value).splitlines()) == 1


def test_a_file_that_does_not_exist_is_named(tmp_path: Path) -> None:
    content = {"path": "none.csv", "id": "image", "readings": READINGS}
    with pytest.raises(
        CxrError, match=r"evaluate\.references\.readers\.path: .*none\.csv does not exist"
    ):
        references.files({"readers": Reference.model_validate(content)}, tmp_path)


INVALID: dict[str, tuple[dict[str, Any], str]] = {
    "positive without negative": (
        {"readings": {"x": {"labels": ["mass"], "positive": ["a"]}}},
        "params.yaml: evaluate.references.readers.readings.x: set both positive and negative, or "
        "neither",
    ),
    "negative without positive": (
        {"readings": {"x": {"labels": ["mass"], "negative": ["a"]}}},
        "params.yaml: evaluate.references.readers.readings.x: set both positive and negative, or "
        "neither",
    ),
    "no readings": ({"readings": {}}, "params.yaml: evaluate.references.readers.readings is {}"),
    "no labels": (
        {"readings": {"x": {"labels": []}}},
        "params.yaml: evaluate.references.readers.readings.x.labels is []",
    ),
    "no path": ({"path": None}, "params.yaml: evaluate.references.readers.path is None"),
    "a typo": (
        {"reading": {}},
        "params.yaml: evaluate.references.readers.reading is not a known key",
    ),
}


def written(folder: Path, reference: dict[str, Any]) -> Path:
    path = folder / "params.yaml"
    path.write_text(PARAMS.read_text())
    params.change(path, {"evaluate.references": {"readers": reference}})
    assert documents.read_yaml(path)["evaluate"]["references"]["readers"] == reference
    return path


@pytest.mark.parametrize(("changes", "message"), INVALID.values(), ids=INVALID.keys())
def test_invalid_parameters_are_refused_by_name(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    reference = {"path": "table.csv", "id": "image", "readings": READINGS} | changes
    with pytest.raises(CxrError) as caught:
        params.load(written(tmp_path, reference))
    assert str(caught.value).startswith(message)
    assert len(str(caught.value).splitlines()) == 1


def test_parameters_of_a_table_are_read(tmp_path: Path) -> None:
    path = written(tmp_path, {"path": "table.csv", "id": "image", "readings": READINGS})
    (reference,) = params.load(path).evaluate.references.values()
    assert reference.readings["opacity"].positive == ("Lung Opacity",)
    assert reference.readings["Effusion"].column is None
    assert params.load(PARAMS).evaluate.references == {}


def test_any_of_several_labels_by_a_truth_table() -> None:
    """Positive if one is; else unknown if one is; else negative."""
    rows = list(itertools.product([UNKNOWN, 0, 1], repeat=3))
    expected = [1 if 1 in row else UNKNOWN if UNKNOWN in row else 0 for row in rows]
    found = references.any_of(np.array(rows, np.int8))
    assert found.tolist() == expected
    assert found.dtype == np.int8
    single = np.array([[1], [0], [UNKNOWN]], np.int8)
    assert references.any_of(single).tolist() == [1, 0, UNKNOWN]


@pytest.mark.skipif(
    not (RSNA.exists() and REAL.exists()), reason=f"{RSNA} or {REAL} does not exist"
)
def test_radiologists_classes_of_real_images_are_those_of_a_pandas_join() -> None:
    """RSNA's table has a row per box, equal in the class."""
    reading = {
        "labels": ["pneumonia", "consolidation"],
        "column": "class",
        "positive": ["Lung Opacity"],
        "negative": ["Normal"],
    }
    settings = {
        "rsna": Reference.model_validate(
            {"path": str(RSNA), "id": "image_id", "readings": {"opacity": reading}}
        )
    }
    arrays = dict(np.load(REAL))
    names = ("pneumonia", "consolidation")
    data = {
        split: Split(
            arrays[f"{split}_images"],
            arrays[f"{split}_labels"],
            names,
            arrays[f"{split}_ids"],
            None,
        )
        for split in ("train", "val", "test")
    }
    (found,) = references.read(settings, {"rsna": RSNA}, data)
    classes = pd.read_csv(RSNA).drop_duplicates("image_id").set_index("image_id")["class"]
    codes = {"Lung Opacity": 1, "Normal": 0}
    n_known = 0
    for split, each in data.items():
        expected = classes.reindex(each.ids).map(codes).fillna(UNKNOWN)
        assert found.values[split].tolist() == expected.tolist()
        n_known += int((expected != UNKNOWN).sum())
    assert n_known > 300
