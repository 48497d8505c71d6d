"""A table joined to images by their ids: patients, attributes and further labels."""

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cxr.data import attributes, companion, quality, raw, splits
from cxr.data.splits import Origin
from cxr.errors import CxrError
from cxr.params import Companion as Settings

DATA = Path(__file__).parents[3] / "shared/data"
NIH_TABLE = DATA / "annotations/Data_Entry_2017_v2020.csv.gz"
REAL = DATA / "nih_real_28.npz"
needs_nih = pytest.mark.skipif(not NIH_TABLE.exists(), reason=f"{NIH_TABLE} does not exist")

IDS = {"train": ["a_0", "a_1", "b_0"], "val": ["c_0"], "test": ["d_0", "e_0"]}
LABELS = ["edema", "mass"]
TABLE = """image,patient,sex,age,opacity
e_0.png,5,F,61,0
a_0.png,1,M,30,1
a_1.png,1,M,31,-1
x_9.png,9,F,20,1
b_0.png,2,,150,yes
d_0.png,4,F,058Y,
"""
COLUMNS: dict[str, Any] = {
    "path": "table.csv",
    "image_ids": None,
    "id": "image",
    "patient": "patient",
    "attributes": {"sex": "sex", "age": "age"},
    "labels": ["opacity"],
}


def arrays() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    content: dict[str, Any] = {"label_names": np.array(LABELS)}
    for split, ids in IDS.items():
        content[f"{split}_images"] = rng.integers(0, 256, (len(ids), 9, 9), np.uint8)
        content[f"{split}_labels"] = rng.integers(0, 2, (len(ids), 2), np.uint8)
        content[f"{split}_ids"] = np.array(ids)
    return content


def extracted(
    folder: Path,
    table: str | bytes = TABLE,
    data: dict[str, Any] | None = None,
    image_ids: str | None = None,
    **changes: Any,
) -> raw.Extracted:
    """Check and join as the stages download and preprocess do, into `folder`."""
    content = table if isinstance(table, bytes) else table.encode()
    (folder / "table.csv").write_bytes(content)
    if image_ids is not None:
        (folder / "image_ids.csv").write_text(image_ids)
        changes["image_ids"] = "image_ids.csv"
    settings = Settings(**COLUMNS | changes)
    np.savez(folder / "mine.npz", **(arrays() if data is None else data))
    raw.check(folder / "mine.npz", folder)
    joined = companion.read(settings, companion.files(settings, folder))
    assert joined is not None
    raw.check_companion(folder / "mine.npz", joined)
    return raw.extract(folder / "mine.npz", Origin("mine", "file"), folder, "pad", joined)


def opened(folder: Path) -> dict[str, splits.Split]:
    return {name: splits.open_split(folder, name) for name in splits.SPLITS}


def test_rows_are_joined_by_id_in_the_order_of_the_images(tmp_path: Path) -> None:
    result = extracted(tmp_path)
    of = opened(tmp_path)
    assert result.dataset.attributes == ("sex", "age")
    assert of["train"].attributes["sex"].tolist() == ["M", "M", ""]
    assert of["train"].attributes["age"].tolist() == ["30", "31", ""]  # 150 is impossible
    assert of["test"].attributes["age"].tolist() == ["58", "61"]
    assert of["val"].attributes["sex"].tolist() == [""]  # no row
    assert of["train"].patients is not None
    assert of["train"].patients.tolist() == [1, 1, 2]
    assert of["val"].patients is not None
    assert of["val"].patients.tolist() == ["image c_0"]  # its own patient
    assert result.joined is not None
    assert result.joined.rows_without_image == 1
    report = quality.describe(of, result.impossible_ages, result.joined)
    assert report["companion"] == {
        "images_without_row": {"train": 0, "val": 1, "test": 0},
        "rows_without_image": 1,
    }
    assert report["splits"]["train"]["impossible_ages"] == 1
    assert report["splits"]["train"]["attributes"]["sex"] == {"known": 2, "values": {"M": 2}}
    assert any("1 image of val without a row" in each for each in report["problems"])
    assert any("train has 1 age that no patient" in each for each in report["problems"])


def test_no_value_is_cut_off_and_labels_stay_small(tmp_path: Path) -> None:
    """A week is 0.0191 years, which is longer than `001W`."""
    table = TABLE.replace("058Y", "001W").replace("150", "99").replace("F", "x")
    extracted(tmp_path, table, labels=[], attributes={"age": "age"})
    of = opened(tmp_path)
    assert of["test"].attributes["age"].tolist() == ["0.019165", "61"]
    assert of["train"].labels.dtype == np.int8
    (tmp_path / "b").mkdir()
    extracted(tmp_path / "b", table, attributes={})
    of = opened(tmp_path / "b")
    assert of["train"].labels.dtype == np.int8
    assert of["train"].attributes == {}


def test_further_labels_follow_those_of_the_data(tmp_path: Path) -> None:
    own = arrays()
    assert extracted(tmp_path).dataset.labels == ("mass", "edema", "opacity")
    of = opened(tmp_path)
    for split in splits.SPLITS:
        np.testing.assert_array_equal(of[split].labels[:, :2], own[f"{split}_labels"][:, ::-1])
    assert of["train"].labels[:, 2].tolist() == [1, -1, 1]
    assert of["val"].labels[:, 2].tolist() == [-1]  # no row
    assert of["test"].labels[:, 2].tolist() == [-1, 0]


def test_a_finding_in_another_spelling_takes_its_usual_place(tmp_path: Path) -> None:
    table = TABLE.replace("opacity", "Pleural Effusion")
    labels = extracted(tmp_path, table, labels=["Pleural Effusion"]).dataset.labels
    assert labels == ("effusion", "mass", "edema")


MEDMNIST = """split,index,image_id
test,1,e_0.png
test,0,d_0.png
train,0,a_0.png
train,2,b_0.png
train,1,a_1.png
val,0,c_0.png
"""


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in arrays().items() if not key.endswith(name)}


def test_medmnists_csv_gives_ids_to_images_that_have_none(tmp_path: Path) -> None:
    extracted(tmp_path, data=without("_ids"), image_ids=MEDMNIST)
    of = opened(tmp_path)
    assert of["train"].ids is not None
    assert of["train"].ids.tolist() == ["a_0.png", "a_1.png", "b_0.png"]
    assert of["test"].attributes["age"].tolist() == ["58", "61"]


@pytest.mark.parametrize(
    "write",
    [
        lambda text: text.encode("utf-8-sig"),
        lambda text: text.encode("utf-16"),
        lambda text: text.replace("\n", "\r\n").encode(),
        lambda text: text.replace(",", ";").encode(),
        lambda text: text.replace(",", "\t").encode(),
        lambda text: gzip.compress(text.encode()),
        lambda text: text.replace("\n", ",,\n").encode(),
        lambda text: (text + text.splitlines()[1] + "\n").encode(),
        lambda text: text.replace("a_0.png", "folder/a_0.jpeg").encode(),
    ],
    ids=[
        "byte order mark", "UTF-16", "CRLF", "semicolons", "tabs", "gzip", "empty columns",
        "an equal row twice", "paths",
    ],
)  # fmt: skip
def test_a_table_reads_the_same_however_it_is_saved(
    tmp_path: Path, write: Callable[[str], bytes]
) -> None:
    extracted(tmp_path, write(TABLE))
    of = opened(tmp_path)
    assert of["train"].attributes["age"].tolist() == ["30", "31", ""]
    assert of["test"].labels[:, 2].tolist() == [-1, 0]


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no such column": ({"patient": "Patient ID"}, r"companion\.patient: .* has no column 'Patient"),
    "no id column": ({"id": "Image Index"}, r"its columns are 'image', 'patient', 'sex'"),
    "a column twice": (
        {"table": TABLE.replace("patient,sex", "sex,sex"), "patient": None},
        "two columns 'sex'",
    ),
    "ids twice": (
        {"table": TABLE + "a_0.png,1,F,30,1\n"},
        "lines 3 and 8 differ for id 'a_0.png'; remove one",
    ),
    "the patient as id": ({"id": "patient"}, "lines 3 and 4 differ for id '1'"),
    "no id in common": ({"table": TABLE.replace("_", "-")}, "ids such as 'e-0.png', .* none match"),
    "an id missing": ({"table": TABLE.replace("x_9.png", "")}, "line 5: 'image' is empty"),
    "an endless id": ({"table": TABLE.replace("x_9.png", "x" * 600)}, "has 600 characters"),
    "latin-1": ({"table": TABLE.replace("F", "ä").encode("latin-1")}, "line 2 is not valid UTF-8"),
    "empty": ({"table": ""}, "is empty"),
    "a header alone": ({"table": TABLE.splitlines()[0]}, "has no rows"),
    "a short row": ({"table": TABLE + "z\n"}, "line 8 has 1 cells"),
    "a damaged gzip": ({"table": gzip.compress(TABLE.encode())[:-9]}, "can't be read"),
    "a long attribute": ({"table": TABLE.replace("F", "F" * 65)}, "line 2: 'sex' has 65 charact"),
    "a long patient": ({"table": TABLE.replace(",5,F", f",{'5' * 65},F")}, "'patient' has 65 char"),
    "an unknown label value": (
        {"table": TABLE.replace("20,1", "20,2")},
        "line 5: 'opacity' is '2'; expected 0 or 1, -1",
    ),
    "a label in words": ({"table": TABLE.replace("yes", "maybe")}, "line 6: 'opacity' is 'maybe'"),
    "a label that exists": (
        {"table": TABLE.replace("opacity", "Oedema"), "labels": ["Oedema"]},
        "'edema' and 'Oedema' are the same",
    ),
    "a label with a long name": (
        {"table": TABLE.replace("opacity", "o" * 61), "labels": ["o" * 61]},
        "can't be the name of a label",
    ),
    "no column of the label": ({"labels": ["Opacity"]}, "companion.labels: .* no column 'Opacity'"),
    "an endless image id": (
        {"data": without("_ids"), "image_ids": MEDMNIST.replace("a_1.png", "a" * 600)},
        "line 6 has an image_id of 600 characters",
    ),
    "ids of other folders": (
        {
            "table": TABLE.replace("\n", "\nnih/").removesuffix("nih/"),
            "data": arrays() | {f"{s}_ids": np.array([f"cxp/{i}" for i in IDS[s]]) for s in IDS},
        },
        "none match",
    ),
    "images without ids": ({"data": without("_ids")}, "images of train, val, test have no ids"),
    "a split without ids": ({"data": without("val_ids")}, "images of val have no ids"),
    "ids twice given": ({"image_ids": MEDMNIST}, "the images have ids of their own"),
    "other data's ids": (
        {"data": without("_ids"), "image_ids": MEDMNIST.replace("test,1,e_0.png\n", "")},
        "the file has 1 rows of test, and the data 2 images",
    ),
    "an index missing": (
        {"data": without("_ids"), "image_ids": MEDMNIST.replace("train,1", "train,7")},
        "train has no index 1; expected each from 0 to 2",
    ),
    "an index twice": (
        {"data": without("_ids"), "image_ids": MEDMNIST.replace("train,1", "train,0")},
        "line 6 has the index 0 of train again",
    ),
    "an unknown split": (
        {"data": without("_ids"), "image_ids": MEDMNIST.replace("val", "valid")},
        "line 7: the split is 'valid'",
    ),
    "patients twice": (
        {"data": arrays() | {f"{s}_patients": np.arange(len(IDS[s])) for s in IDS}},
        "companion.patient: the data have patients already",
    ),
    "an attribute twice": (
        {
            "data": arrays()
            | {"attribute_names": np.array(["sex"])}
            | {f"{s}_attributes": np.array([["F"]] * len(IDS[s])) for s in IDS}
        },
        "the data have an attribute 'sex' already",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_table_that_does_not_fit_is_refused_with_the_fix(tmp_path: Path, case: str) -> None:
    arguments, sentence = REFUSED[case]
    with pytest.raises(CxrError, match=sentence) as caught:
        extracted(tmp_path, **arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("age", "expected"),
    [
        ("58", "58"), ("058Y", "58"), ("006M", "0.5"), ("0", "0"), ("120", "120"), ("", ""),
        ("52W", "0.996578"), ("121", None), ("414", None), ("-1", None), ("old", None),
        ("5e1", None),
    ],
)  # fmt: skip
def test_ages_are_read_in_years(age: str, expected: str | None) -> None:
    assert attributes.years(age) == expected


def test_an_attribute_of_numbers_is_described_by_its_quartiles() -> None:
    ages = np.array([str(age) for age in range(21, 62)] + [""])
    assert attributes.describe(ages) == {"known": 41, "quartiles": [21.0, 31.0, 41.0, 51.0, 61.0]}
    assert attributes.describe(np.array(["PA", "AP", "", "AP"])) == {
        "known": 3,
        "values": {"AP": 2, "PA": 1},
    }
    sites = attributes.describe(np.array([f"site {i}" for i in range(30)]))
    assert (sites["n_values"], len(sites["values"])) == (30, 20)


def test_attributes_can_also_be_arrays_of_the_raw_file(tmp_path: Path) -> None:
    data = arrays() | {"attribute_names": np.array(["view", "age"])}
    for split, ids in IDS.items():
        data[f"{split}_attributes"] = np.array([["PA", "44"], ["AP", "300"], ["", " 7 "]])[
            : len(ids)
        ]
    np.savez(tmp_path / "mine.npz", **data)
    raw.check(tmp_path / "mine.npz", tmp_path)
    result = raw.extract(tmp_path / "mine.npz", Origin("mine", "file"), tmp_path, "pad")
    assert result.impossible_ages == {"train": 1, "val": 0, "test": 1}
    train = splits.open_split(tmp_path, "train").attributes
    assert {name: values.tolist() for name, values in train.items()} == {
        "view": ["PA", "AP", ""],
        "age": ["44", "", "7"],
    }


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"val_attributes": None}, "has no `val_attributes`"),
        ({"attribute_names": None}, "has no `attribute_names`"),
        ({"attribute_names": np.array([["view", "age"]])}, "expected 1 to 20 different strings"),
        ({"attribute_names": np.array(["a", "a"])}, "expected 1 to 20 different strings"),
        ({"attribute_names": np.array(["a", "b/c"])}, "has 'b/c'; use up to 40 letters"),
        ({"train_attributes": np.zeros((3, 2))}, "expected strings of shape"),
        ({"test_attributes": np.array([["a"], ["b"]])}, "expected strings of shape"),
        ({"test_attributes": np.array([["a", "b" * 65]] * 2)}, "'age' of test has 65 characters"),
    ],
)
def test_invalid_attributes_of_the_raw_file_are_refused(
    tmp_path: Path, change: dict[str, Any], sentence: str
) -> None:
    data = arrays() | {"attribute_names": np.array(["view", "age"])}
    for split, ids in IDS.items():
        data[f"{split}_attributes"] = np.array([["PA", "44"]] * len(ids))
    data |= change
    np.savez(tmp_path / "mine.npz", **{k: v for k, v in data.items() if v is not None})
    with pytest.raises(CxrError, match=sentence):
        raw.check(tmp_path / "mine.npz", tmp_path)


NIH = COLUMNS | {
    "path": str(NIH_TABLE),
    "id": "Image Index",
    "patient": "Patient ID",
    "attributes": {"sex": "Patient Gender", "age": "Patient Age", "view": "View Position"},
    "labels": [],
}


@needs_nih
def test_nihs_own_table_gives_its_patients_and_attributes_back(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    content = dict(np.load(REAL))
    np.savez(tmp_path / "mine.npz", **{k: v for k, v in content.items() if "patients" not in k})
    settings = Settings(**NIH)
    table = companion.read(settings, companion.files(settings, tmp_path))
    result = raw.extract(tmp_path / "mine.npz", Origin("mine", "file"), tmp_path, "pad", table)
    of = opened(tmp_path)
    report = quality.describe(of, result.impossible_ages, result.joined)
    theirs = pandas.read_csv(NIH_TABLE).set_index("Image Index")
    for split in splits.SPLITS:
        patients = of[split].patients
        assert patients is not None
        assert patients.dtype.kind == "i"  # as in the file, so that resamples are the same
        np.testing.assert_array_equal(patients, content[f"{split}_patients"])
        rows = theirs.loc[[f"{each}.png" for each in content[f"{split}_ids"]]]
        described = report["splits"][split]["attributes"]
        for name, column in (("sex", "Patient Gender"), ("view", "View Position")):
            assert described[name]["values"] == rows[column].value_counts().to_dict()
        ages = rows["Patient Age"]
        assert report["splits"][split]["impossible_ages"] == (ages > 120).sum()
        valid = ages[ages <= 120]
        assert described["age"]["known"] == len(valid)
        assert described["age"]["quartiles"] == valid.quantile([0, 0.25, 0.5, 0.75, 1]).tolist()
    assert report["companion"]["rows_without_image"] == len(theirs) - 2344
