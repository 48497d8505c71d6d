"""Files of radiologists' boxes: our format, NIH's own, and invalid files."""

from pathlib import Path

import pytest

from cxr.data import boxes
from cxr.errors import CxrError
from cxr.labels import CHESTMNIST

SHARED = Path(__file__).parents[3] / "shared" / "data" / "nih_boxes.csv"
HEADER = "image_id,split,label,x,y,width,height\n"


def written(folder: Path, text: str) -> Path:
    (folder / "boxes.csv").write_text(text)
    return folder / "boxes.csv"


def test_a_box_is_read_with_our_label_names(tmp_path: Path) -> None:
    path = written(tmp_path, HEADER + "00000181_061,train,Infiltrate,209.9,568.7,213.7,254.9\n")
    (box,) = boxes.read(path, CHESTMNIST)
    assert (box.image, box.label) == ("00000181_061", "infiltration")
    assert box.corners.tolist() == [209.9, 568.7, 213.7, 254.9]


def test_a_dicom_uid_is_not_shortened(tmp_path: Path) -> None:
    path = written(tmp_path, HEADER + "1.2.840.113704.5,train,Mass,1,2,3,4\n")
    assert boxes.read(path, CHESTMNIST)[0].image == "1.2.840.113704.5"


def test_nihs_own_file_is_read(tmp_path: Path) -> None:
    """Its header has a comma inside a name, and its rows end in three empty columns."""
    path = written(
        tmp_path,
        "Image Index,Finding Label,Bbox [x,y,w,h],,,\n"
        "00013118_008.png,Atelectasis,225.08,547.01,86.77,79.18,,,\n",
    )
    (box,) = boxes.read(path, CHESTMNIST)
    assert (box.image, box.label) == ("00013118_008", "atelectasis")
    assert box.corners.tolist() == [225.08, 547.01, 86.77, 79.18]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "has no column for id, label, x, y, width, height"),
        ("image_id,label,x,y\n", "has no column for width, height"),
        (HEADER + "a,test,Cough,1,2,3,4\n", "line 2 of .*: 'Cough' is not a label of the data"),
        (HEADER + "a,test,Mass,1,2,3\n", "line 2 of .* has 6 columns; expected at least 7"),
        (
            HEADER + "a,test,Mass,1,2,3,4\na,test,Mass,1,2,x,4\n",
            "line 3 of .*: x, y, width and height must be",
        ),
        (HEADER + "a,test,Mass,1,2,0,4\n", "line 2 of .* is not a box"),
        (HEADER + "a,test,Mass,1,nan,3,4\n", "line 2 of .* is not a box"),
    ],
)
def test_an_invalid_box_is_refused_with_its_line(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(CxrError, match=sentence):
        boxes.read(written(tmp_path, text), CHESTMNIST)


def test_a_missing_file_and_a_binary_file_are_refused(tmp_path: Path) -> None:
    for name in ("none.csv", "."):
        with pytest.raises(CxrError, match=r"gradcam.boxes: .* does not exist or is not a file"):
            boxes.find(name, tmp_path)
    path = written(tmp_path, HEADER)
    assert boxes.find("boxes.csv", tmp_path) == boxes.find(str(path), Path("/")) == path
    path.write_bytes(b"\xff\xfe\0")
    with pytest.raises(CxrError, match="is not a CSV file"):
        boxes.read(path, CHESTMNIST)


@pytest.mark.skipif(not SHARED.is_file(), reason=f"{SHARED} does not exist")
def test_the_real_boxes_are_read() -> None:
    found = boxes.read(SHARED, CHESTMNIST)
    assert len(found) == 61
    assert sum(box.label == "pneumonia" for box in found) == 42
