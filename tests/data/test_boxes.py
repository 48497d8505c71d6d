"""Files of experts' boxes: our format, NIH's and RSNA's own, and invalid files."""

import gzip
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from cxr.data import boxes, splits
from cxr.data.boxes import Box
from cxr.data.splits import Split
from cxr.errors import CxrError
from cxr.labels import CHESTMNIST
from cxr.params import Boxes as Settings

DATA = Path(__file__).parents[3] / "shared/data"
ANNOTATIONS = DATA / "annotations"
NIH, RSNA = ANNOTATIONS / "BBox_List_2017.csv.gz", ANNOTATIONS / "nih_rsna.csv"
RSNA_PART, REAL = ANNOTATIONS / "rsna_boxes_nih_real.csv", DATA / "nih_real_28.npz"
needs_real = pytest.mark.skipif(not NIH.exists(), reason=f"{NIH} does not exist")

HEADER = "image_id,split,label,x,y,width,height\n"
OPACITY = {"Lung Opacity": ["Infiltration", "Pneumonia", "Consolidation"]}
RSNAS = """image_id,split,class,x,y,width,height
a,train,Normal,,,,
b,train,No Lung Opacity / Not Normal,,,,
c,test,Lung Opacity,264.0,152.0,213.0,379.0
c,test,Lung Opacity,562.0,152.0,256.0,453.0
"""


def split_of(*ids: str, names: tuple[str, ...] = CHESTMNIST) -> Split:
    """Black images with these ids and no finding."""
    images, labels = np.zeros((len(ids), 9, 9), np.uint8), np.zeros((len(ids), len(names)), np.int8)
    return Split(images, labels, names, np.array(ids), None)


DATA_OF_ABC = {"train": split_of("a", "b"), "val": split_of("d"), "test": split_of("c")}


def read(
    path: Path, labels: dict[str, Any] | None = None, data: dict[str, Split] | None = None
) -> list[Box]:
    """The boxes of one expert, `someone`."""
    settings = {"someone": Settings(path=path.name, labels=labels or {})}
    paths = boxes.files(settings, path.parent)
    return boxes.read(settings, paths, data or DATA_OF_ABC)["someone"]


def written(folder: Path, text: str | bytes) -> Path:
    content = text if isinstance(text, bytes) else text.encode()
    (folder / "boxes.csv").write_bytes(content)
    return folder / "boxes.csv"


def test_a_box_is_read_with_our_label_names(tmp_path: Path) -> None:
    path = written(tmp_path, HEADER + "images/a.png,train,Infiltrate,209.9,568.7,213.7,254.9\n")
    (box,) = read(path)
    assert (box.image, box.labels, box.if_positive) == ("a", ("infiltration",), False)
    assert box.corners.tolist() == [209.9, 568.7, 213.7, 254.9]


def test_a_dicom_uid_is_not_shortened(tmp_path: Path) -> None:
    path = written(tmp_path, HEADER + "1.2.840.113704.5,train,Mass,1,2,3,4\n")
    data = {"train": split_of("1.2.840.113704.5")}
    assert read(path, data=data)[0].image == "1.2.840.113704.5"


@pytest.mark.parametrize("end", ["", ",,,"])
@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_nihs_own_file_is_read(tmp_path: Path, end: str, compress: Any) -> None:
    """Its header has a comma inside a name, and ends in three empty columns; its rows may."""
    text = (
        "Image Index,Finding Label,Bbox [x,y,w,h],,,\n"
        f"a.png,Atelectasis,225.08,547.01,86.77,79.18{end}\n"
    )
    (box,) = read(written(tmp_path, compress(text.encode())))
    assert (box.image, box.labels) == ("a", ("atelectasis",))
    assert box.corners.tolist() == [225.08, 547.01, 86.77, 79.18]


@pytest.mark.parametrize("name", ["class", "rsna_class"])
def test_rsnas_boxes_are_around_any_of_several_findings(tmp_path: Path, name: str) -> None:
    path = written(tmp_path, RSNAS.replace("class", name))
    first, second = read(path, OPACITY)
    assert first.image == second.image == "c"
    assert first.labels == ("infiltration", "pneumonia", "consolidation")
    assert first.if_positive and second.if_positive
    assert second.corners.tolist() == [562, 152, 256, 453]


def test_a_parquet_file_and_decimal_commas_are_read(tmp_path: Path) -> None:
    columns = {"image_id": ["a"], "label": ["Mass"], "x": [1.5], "y": [2], "w": [3], "h": [4]}
    pd.DataFrame(columns).to_parquet(tmp_path / "boxes.parquet")
    semicolons = "image_id;label;x;y;width;height\na;Mass;1,5;2;3;4\n"
    for path in (tmp_path / "boxes.parquet", written(tmp_path, semicolons)):
        assert read(path)[0].corners.tolist() == [1.5, 2, 3, 4]


def test_what_labels_says_of_a_name_comes_before_its_usual_meaning(tmp_path: Path) -> None:
    path = written(tmp_path, HEADER + "a,test,Infiltrate,1,2,3,4\n")
    (box,) = read(path, {"Infiltrate": ["Edema"]})
    assert (box.labels, box.if_positive) == (("edema",), True)


def test_labels_of_the_data_may_have_any_name(tmp_path: Path) -> None:
    data = {"train": split_of("a", names=("Effusion", "tube"))}
    path = written(tmp_path, HEADER + "a,,tube,1,2,3,4\na,,Effusion,1,2,3,4\na,,Line,1,2,3,4\n")
    found = read(path, {"Line": ["tube", "Hernia"]}, data)
    assert [box.labels for box in found] == [("tube",), ("Effusion",), ("tube", "hernia")]


def test_without_experts_the_data_needs_no_ids() -> None:
    without = Split(np.zeros((1, 9, 9), np.uint8), np.zeros((1, 14)), CHESTMNIST, None, None)
    assert boxes.read({}, {}, {"train": without}) == {}


def test_a_box_outside_of_the_split_and_the_data_is_kept(tmp_path: Path) -> None:
    path = written(tmp_path, HEADER + "elsewhere,,Mass,1,2,3,4\nc,,Mass,-5,1000,9,90\n")
    assert [box.image for box in read(path)] == ["elsewhere", "c"]


INVALID: dict[str, tuple[str | bytes, str]] = {
    "empty": ("", "is empty; expected a header"),
    "no columns": ("a,b\n", "has no column for id, label, x, y, width, height; expected image_id"),
    "two columns too few": ("image_id,label,x,y\n", "has no column for width, height"),
    "only a header": (HEADER, "has no boxes; expected a row with coordinates per box"),
    "only images without boxes": (HEADER + "a,test,Mass,,,,\n", "has no boxes"),
    "an unknown label": (
        HEADER + "a,,Mass,1,2,3,4\na,,Cough,1,2,3,4\n",
        "line 3: 'Cough' is not a label of the data; use one of atelectasis, .*, or add it to "
        r"gradcam\.boxes\.someone\.labels",
    ),
    "no label": (HEADER + "a,,,1,2,3,4\n", "line 2: '' is not a label of the data"),
    "no id": (HEADER + ",test,Mass,1,2,3,4\n", "line 2 has no image id; add it"),
    "a row too short": (HEADER + "a,test,Mass,1,2,3\n", "line 2 has 6 cells and the first row"),
    "a row too long": (HEADER + "a,test,Mass,1,2,3,4,5\n", "line 2 has 8 cells"),
    "a word": (
        HEADER + "a,test,Mass,1,2,3,4\na,test,Mass,1,2,x,4\n",
        "line 3: x, y, width and height are '1', '2', 'x', '4'; expected four numbers",
    ),
    "one coordinate missing": (HEADER + "a,test,Mass,1,2,,4\n", "are '1', '2', '', '4'"),
    "only the first coordinate": (HEADER + "a,test,Mass,1,,,\n", "are '1', '', '', ''"),
    "no width": (HEADER + "a,test,Mass,1,2,0,4\n", r"line 2 is not a box: \[1.0, 2.0, 0.0, 4.0\]"),
    "a negative height": (HEADER + "a,test,Mass,1,2,3,-4\n", "line 2 is not a box"),
    "not a number": (HEADER + "a,test,Mass,1,nan,3,4\n", "line 2 is not a box"),
    "an infinite number": (HEADER + "a,test,Mass,1,2,inf,4\n", "line 2 is not a box"),
    "right of the image": (HEADER + "a,,Mass,1024,2,3,4\n", "line 2: .* is outside of the image"),
    "below the image": (HEADER + "a,,Mass,0,2000,3,4\n", "expected pixels of an image of 1024 x"),
    "left of the image": (HEADER + "a,test,Mass,-9,2,9,4\n", "is outside of the image"),
    "above the image": (HEADER + "a,test,Mass,1,-9,9,4\n", "is outside of the image"),
    "images of other data": (
        HEADER + "x,test,Mass,1,2,3,4\n",
        "has boxes on images such as 'x', and the data has images such as 'a': none match",
    ),
    "Latin-1": (f"{HEADER}é,,Mass,1,2,3,4\n".encode("latin-1"), "line 2 is not valid UTF-8"),
    "a damaged gzip file": (gzip.compress(HEADER.encode())[:-9], "can't be read"),
    "a damaged Parquet file": (b"PAR1\0\0\0\0", "is a damaged Parquet file"),
}


@pytest.mark.parametrize(("content", "sentence"), INVALID.values(), ids=INVALID)
def test_an_invalid_file_is_refused_in_one_line(
    tmp_path: Path, content: str | bytes, sentence: str
) -> None:
    path = written(tmp_path, content)
    with pytest.raises(CxrError, match=sentence) as caught:
        read(path)
    text = str(caught.value)
    assert text.startswith("gradcam.boxes.someone: ") and str(path) in text
    assert len(text.splitlines()) == 1


@pytest.mark.parametrize("label", ["Opacity", ""])
def test_an_unknown_meaning_is_refused_even_if_no_box_has_the_name(
    tmp_path: Path, label: str
) -> None:
    path = written(tmp_path, HEADER + "a,test,Mass,1,2,3,4\n")
    sentence = rf"^gradcam\.boxes\.someone\.labels\.Lung Opacity: '{label}' is not a label of the d"
    with pytest.raises(CxrError, match=sentence):
        read(path, {"Lung Opacity": ["Pneumonia", label]})


def test_missing_files_are_named() -> None:
    settings = {"someone": Settings(path="none.csv")}
    with pytest.raises(
        CxrError, match=r"^gradcam\.boxes\.someone\.path: .*none.csv does not exist"
    ):
        boxes.files(settings, Path("/"))


def test_boxes_need_ids_that_are_not_ambiguous(tmp_path: Path) -> None:
    path = written(tmp_path, HEADER + "a,test,Mass,1,2,3,4\n")
    without = Split(np.zeros((1, 9, 9), np.uint8), np.zeros((1, 14)), CHESTMNIST, None, None)
    with pytest.raises(CxrError, match=r"gradcam\.boxes: the data has no image ids .* to \{\}"):
        read(path, data={"train": split_of("a"), "val": without})
    with pytest.raises(CxrError, match="several image ids end in frontal, so its boxes"):
        read(path, data={"train": split_of("a"), "val": split_of("1/frontal.jpg", "2/frontal.jpg")})


def test_the_same_image_may_be_in_two_splits(tmp_path: Path) -> None:
    """The data report warns of it."""
    path = written(tmp_path, HEADER + "a,test,Mass,1,2,3,4\n")
    assert len(read(path, data={"train": split_of("a"), "val": split_of("a.png")})) == 1


def real_data() -> dict[str, Split]:
    with np.load(REAL) as archive:
        return {
            name: Split(
                archive[f"{name}_images"],
                archive[f"{name}_labels"].astype(np.int8),
                CHESTMNIST,
                archive[f"{name}_ids"],
                None,
            )
            for name in splits.SPLITS
        }


@needs_real
def test_the_real_boxes_are_read() -> None:
    data = real_data()
    nih, rsna = read(NIH, data=data), read(RSNA, OPACITY, data)
    assert (len(nih), len({box.image for box in nih})) == (984, 880)
    counts = Counter(label for box in nih for label in box.labels)
    assert (counts["pneumonia"], counts["infiltration"], counts["nodule"]) == (120, 123, 79)
    assert (len(rsna), len({box.image for box in rsna})) == (9522, 5990)


@needs_real
def test_the_real_boxes_of_part_of_the_images_are_those_of_the_whole_file() -> None:
    data = real_data()
    in_data = {row for split in data.values() for row in boxes.rows_by_name(split)}
    part, whole = read(RSNA_PART, OPACITY, data), read(RSNA, OPACITY, data)
    expected = sorted((box.image, *box.corners) for box in whole if box.image in in_data)
    assert sorted((box.image, *box.corners) for box in part) == expected
    assert (len(part), len({box.image for box in part})) == (314, 197)
    small = read(DATA / "nih_boxes.csv", data=data)
    assert len(small) == len([box for box in read(NIH, data=data) if box.image in in_data]) == 61
