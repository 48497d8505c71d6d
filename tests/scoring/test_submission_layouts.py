"""Every supported layout is read into the same numbers; others are refused in one line."""

import csv
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from cxr.errors import CxrError
from cxr.labels import CHESTMNIST
from cxr.scoring.submissions import Matched, match, read_labels, read_predictions

MAKE = Path(__file__).parents[2].parent / "shared" / "cases" / "make_csvs.py"
ANSWER = 0.8743  # macro AUROC of the cases' predictions

NO_IDS = "lab_noid.npz"
ID_COLUMNS = (
    "file_name", "dicom_id", "ImageID", "image_path", "img", "Image_Index", "study_id", "name",
    "image_name", "Image_ID", "FileName", "patientId",
)  # fmt: skip

# Each file of predictions with its file of labels and the expected matching.
READ = {
    **{f"pred_idcol_{name}.csv": ("lab.csv", "id") for name in ID_COLUMNS},
    **{
        f"pred_{name}": ("lab.csv", "id")
        for name in (
            "bom.csv", "utf16.csv", "semicolon.csv", "semicolon_comma.csv", "tab.csv", "tab.tsv",
            "quoted.csv", "lf.csv", "cr.csv", "spaces.csv", "sep.csv", "comment.csv",
            "trailing_comma.csv", "trailing_comma_rows_only.csv", "blank_lines.csv",
            "blank_last_row.csv", "dup.csv", "string.csv", "kaggle_long.csv", "xrv.csv",
            "xrv_nih.csv", "pleural_effusion.csv", "dotted.csv", "swap_two.csv",
        )
    },
    **{
        f"pred_{name}.csv": ("lab.csv", "stem")
        for name in ("win", "url", "tif", "dcm_gz", "swapcase")
    },
    "pred_chexpath.csv": ("lab_chexpath.csv", "id"),
    "pred_numeric_ids.csv": ("lab_numeric_ids.csv", "id"),
    "pred_excel_sci.csv": ("lab_uid.csv", "id"),
    "pred_leadzero_lost.csv": ("lab_leadzero.csv", "number"),
    "pred_with_labels.csv": ("pred_with_labels.csv", "id"),
    "pred_gt_suffix.csv": ("pred_gt_suffix.csv", "id"),
    **dict.fromkeys(
        (
            "pred.npy", "pred_arr0.npz", "pred_preds.npz", "pred_probs_noid.npz",
            "pred_y_score.npz", "pred_xrv_nih_noid.csv",
            "chestmnist_test_[AUC]0.769_[ACC]0.947@run1.csv",
        ),
        (NO_IDS, "order"),
    ),
}  # fmt: skip
LABELS_READ = (
    "lab.csv", "lab.npz", "lab_nofinding.csv", "lab_float.csv", "lab_bool.csv", "lab_hf.csv",
    "lab_hf_names.csv", "lab_bytes_ids.npz", "Data_Entry_2017.csv", "Data_Entry_2017_v2020.csv",
)  # fmt: skip
REFUSED = {
    ("pred.csv", NO_IDS): "lab_noid.npz has no ids, but {}pred.csv does ('Image Index'); add ids",
    (
        "pred_pandas_index.csv",
        NO_IDS,
    ): "pred_pandas_index.csv does (''); add ids, or add --by-order",
    ("pred_pandas_index.csv", "lab.csv"): "no ids match: the unnamed column of",
    ("pred_xrv_nih_noid.csv", "lab.csv"): "pred_xrv_nih_noid.csv has no ids, but",
    ("pred_percent.csv", "lab.csv"): "line 2: 'Atelectasis' is '54.8%'; divide by 100 and drop the",
    ("pred_0_100.csv", "lab.csv"): "if the numbers are percentages, divide them by 100",
    ("pred_logit.csv", "lab.csv"): "if the numbers are logits, add --logits",
    (
        "pred_dup_conflict.csv",
        "lab.csv",
    ): "line 2 and line 62 hold different numbers for id 00000013",
    ("pred_less.csv", "lab.csv"): "has 57 images and {}lab.csv has 60: 3 only in {}lab.csv",
    ("pred_more.csv", "lab.csv"): "has 65 images and {}lab.csv has 60: 5 only in {}pred_more.csv",
    (
        "pred_huge_id.csv",
        "lab.csv",
    ): "line 2: 'Image Index' has 616 characters; ids may have at most 512",
    ("pred_inf.csv", "lab.csv"): "line 2: atelectasis of image 00000013_000.png is inf (60 such",
    ("pred_nan.csv", "lab.csv"): "line 2: 'Atelectasis' is empty; expected a number",
    ("pred_no_header.csv", "lab.csv"): "has no header and 14 columns; add a header",
    ("pred_no_header_ids.csv", "lab.csv"): "has no header and 15 columns; add a header",
    ("pred_3d.npz", NO_IDS): "test_probs is float64 of shape (60, 14, 2); expected numbers of",
    ("pred_objids.npz", "lab.csv"): "`test_ids` contains pickled Python objects",
    ("pred.csv", "lab_n1.npz"): "test_labels is int64 of shape (60, 1); expected numbers of shape",
    ("lab.csv", "lab.csv"): "can't be both predictions and labels; give the file of labels",
}


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not MAKE.is_file():
        pytest.skip(f"{MAKE} is not here")
    folder = tmp_path_factory.mktemp("cases")
    subprocess.run([sys.executable, MAKE, folder], check=True)
    return folder


def matched(predictions: Path, labels: Path, **how: bool) -> Matched:
    return match(read_predictions(predictions, "test", False), read_labels(labels, "test"), **how)


def macro_auroc(done: Matched) -> float:
    predictions = done.predictions.of_labels(done.labels.names).values
    return float(roc_auc_score(done.labels.values, predictions, average="macro"))


def numbers_of(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Predictions and labels in the same order, read with numpy."""
    with np.load(folder / "pred_probs_noid.npz") as p, np.load(folder / NO_IDS) as y:
        return p["test_probs"], y["test_labels"]


@pytest.mark.parametrize("name", READ)
def test_predictions_in_this_layout_are_read(cases: Path, name: str) -> None:
    partner, by = READ[name]
    done = matched(cases / name, cases / partner)
    p, y = numbers_of(cases)
    assert done.by == by
    assert round(macro_auroc(done), 4) == ANSWER
    rows = {tuple(row): i for i, row in enumerate(p.tolist())}
    order = [rows[tuple(row)] for row in done.predictions.of_labels(CHESTMNIST).values.tolist()]
    assert np.array_equal(done.labels.values, y[order])
    if by in ("stem", "number"):
        assert any("ids are written differently" in note for note in done.notes)


@pytest.mark.parametrize("name", LABELS_READ)
def test_labels_in_this_layout_are_read(cases: Path, name: str) -> None:
    done = matched(cases / "pred.csv", cases / name)
    assert np.array_equal(done.labels.values, numbers_of(cases)[1])
    assert round(macro_auroc(done), 4) == ANSWER


UNKNOWN = {"lab_minus1.csv": 1, "lab_nan.csv": 1, "lab_blank.csv": 645}  # labels that are unknown


@pytest.mark.parametrize(("name", "n_unknown"), UNKNOWN.items())
def test_minus_one_nan_and_nothing_are_unknown_labels(
    cases: Path, name: str, n_unknown: int
) -> None:
    values = matched(cases / "pred.csv", cases / name).labels.values
    known = values != -1
    assert (~known).sum() == n_unknown
    assert np.array_equal(values[known], numbers_of(cases)[1][known])


def test_chexperts_own_table_is_read(cases: Path) -> None:
    labels = matched(cases / "pred_chexpath.csv", cases / "chexpert.csv").labels
    assert {"effusion", "edema", "pneumothorax"} <= set(labels.names)
    rows = [line.split(",") for line in (cases / "chexpert.csv").read_text().splitlines()]
    column = rows[0].index("Pleural Effusion")
    written = {row[0]: float(row[column] or -1) for row in rows[1:]}
    assert labels.ids is not None
    expected = [written[each] for each in labels.ids.tolist()]
    assert labels.of_labels(("effusion",)).values[:, 0].tolist() == expected


@pytest.mark.parametrize(("names", "sentence"), REFUSED.items(), ids=map(" ".join, REFUSED))
def test_an_unsupported_table_is_refused_in_one_line(
    cases: Path, names: tuple[str, str], sentence: str
) -> None:
    with pytest.raises(CxrError) as caught:
        matched(cases / names[0], cases / names[1])
    message = str(caught.value)
    assert sentence.replace("{}", f"{cases}/") in message
    assert "\n" not in message and any(name in message for name in names)


def test_half_precision_values_are_not_changed(cases: Path) -> None:
    p, _ = numbers_of(cases)
    done = matched(cases / "pred_f16.npz", cases / NO_IDS)
    assert np.array_equal(done.predictions.values, p.astype(np.float16).astype(float))


def test_by_order_and_common_do_what_they_say(cases: Path) -> None:
    by_order = matched(cases / "pred.csv", cases / NO_IDS, by_order=True)
    assert round(macro_auroc(by_order), 4) == 0.5222  # the rows are in different orders
    p, y = numbers_of(cases)
    for name, n in (("pred_less.csv", 57), ("pred_more.csv", 60)):
        done = matched(cases / name, cases / "lab.csv", common=True)
        assert len(done.labels.values) == n and f"the {n} images" in done.notes[-1]
        rows = {tuple(row): i for i, row in enumerate(p.tolist())}
        order = [rows[tuple(row)] for row in done.predictions.of_labels(CHESTMNIST).values.tolist()]
        assert macro_auroc(done) == roc_auc_score(y[order], p[order], average="macro")


def test_every_case_is_tested(cases: Path) -> None:
    """Except those that can't be read wrongly."""
    trivial = {
        "pred_oneclass_lab.csv", "lab_oneclass.csv", "lab_allzero.csv", "pred_const.csv",
        "pred_binary.csv", "pred_inverted.csv", "pred_f16.npz",
    }  # fmt: skip
    partners = {partner for partner, _ in READ.values()}
    tested = (
        READ.keys()
        | partners
        | {*LABELS_READ, *UNKNOWN, "chexpert.csv"}
        | {n for pair in REFUSED for n in pair}
    )
    assert {path.name for path in cases.iterdir()} == tested | trivial


# Generated cases from here on: three images; the labels list them in another order.
IDS = ["b", "c", "a"]
P = np.round(np.random.default_rng(0).random((3, 14)), 3)
Y = np.eye(14, dtype=int)[[1, 2, 0]]
Y[0, 5] = 1


def write(path: Path, rows: list[list[object]], **form: str) -> Path:
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file, **form).writerows(rows)
    return path


def labels_of(folder: Path, column: str = "image") -> Path:
    """Write labels of a, b and c."""
    rows = [[i, *y] for i, y in sorted(zip(IDS, Y.tolist(), strict=True))]
    return write(folder / "labels.csv", [[column, *CHESTMNIST], *rows])


def table(*extra: tuple[str, list[object]]) -> list[list[object]]:
    """Rows of predictions, with extra columns in front."""
    header = [name for name, _ in extra]
    columns = [values for _, values in extra]
    return [[*header, *CHESTMNIST], *([c[i] for c in columns] + P[i].tolist() for i in range(3))]


@pytest.mark.parametrize(
    ("columns", "chosen"),
    [
        ([("scan", IDS)], "scan"),
        ([("scan", IDS), ("sex", ["F", "M", "F"])], "scan"),
        ([("", [0, 1, 2]), ("scan", IDS)], "scan"),  # row numbers are a last resort
        ([("id", [1, 2, 3]), ("scan", IDS)], "scan"),
        ([("Patient ID", ["x", "y", "x"]), ("scan", IDS)], "scan"),
        ([("patientId", IDS)], "patientId"),
        ([("", IDS)], ""),
        ([("report", ["r", "s", "t"]), ("Image Index", IDS)], "Image Index"),
        ([("name", ["r", "s", "r"]), ("Path", IDS)], "Path"),
        ([("predicted_positive_mass", [0, 1, 1]), ("age", [50, 51, 52]), ("scan", IDS)], "scan"),
    ],
)
def test_ids_are_found_under_any_column_name(
    tmp_path: Path, columns: list[tuple[str, list[object]]], chosen: str
) -> None:
    path = write(tmp_path / "p.csv", table(*columns))
    done = matched(path, labels_of(tmp_path, "another name"))
    assert done.by == "id" and done.predictions.id_column == chosen
    assert np.array_equal(done.predictions.of_labels(CHESTMNIST).values, P[[2, 0, 1]])


def test_nih_file_names_without_suffix_are_read_as_text(tmp_path: Path) -> None:
    """Python would read `00000001_000` as the number 1000."""
    names = ["00000001_001", "00000002_000", "00000001_000"]
    path = write(tmp_path / "p.csv", table(("scan", names)))
    rows = [[i, *y] for i, y in zip(names, Y.tolist(), strict=True)]
    labels = write(tmp_path / "l.csv", [["x", *CHESTMNIST], *rows[::-1]])
    done = matched(path, labels)
    assert done.by == "id" and np.array_equal(done.predictions.values, P[::-1])
    with pytest.raises(CxrError, match="has no header and 15 columns"):
        read_predictions(write(path, table(("scan", names))[1:]), "test", False)


@pytest.mark.parametrize(
    ("columns", "sentence"),
    [
        (
            [("scan", IDS), ("report", ["r", "s", "t"])],
            "'scan', 'report' could each hold the ids; rename",
        ),
        (
            [("site", ["r", "s", "r"])],
            "no ids found: values of 'site' repeat; rename the ids to `image`",
        ),
        ([("a", [7, 5, 9]), ("b", [70, 50, 90])], "'a', 'b' could each hold the ids"),
        ([("image", ["b", "", "a"])], "line 3: 'image' is empty; add the id"),
    ],
)
def test_ambiguous_ids_are_refused(
    tmp_path: Path, columns: list[tuple[str, list[object]]], sentence: str
) -> None:
    """Even if the labels have no ids."""
    path = write(tmp_path / "p.csv", table(*columns))
    np.savez(tmp_path / "l.npz", test_labels=Y)
    with pytest.raises(CxrError) as caught:
        matched(path, tmp_path / "l.npz")
    assert sentence in str(caught.value) and "p.csv" in str(caught.value)
    if "rename" in str(caught.value):
        assert matched(path, tmp_path / "l.npz", by_order=True).by == "order"


def test_columns_without_distinct_values_are_not_taken_as_ids(tmp_path: Path) -> None:
    path = write(tmp_path / "p.csv", table(("split", ["test"] * 3), ("age", [50, 51, 51])))
    np.savez(tmp_path / "l.npz", test_labels=Y)
    assert matched(path, tmp_path / "l.npz").by == "order"


@pytest.mark.parametrize("key", ["test_ids", "file_names", "test_scan", "sop_instance_uid"])
def test_ids_are_found_in_any_string_array_of_an_npz(tmp_path: Path, key: str) -> None:
    """If its name starts with the scored split or with no split."""
    arrays = {"test_probs": P, key: np.array(IDS), "val_scan": np.array(["x", "y", "z"])}
    np.savez(tmp_path / "p.npz", **arrays)
    done = matched(tmp_path / "p.npz", labels_of(tmp_path))
    assert done.by == "id" and done.predictions.id_column == key
    assert np.array_equal(done.predictions.values, P[[2, 0, 1]])


def test_two_string_arrays_in_an_npz_are_ambiguous(tmp_path: Path) -> None:
    arrays = {"scan": np.array(IDS), "report": np.array(["r", "s", "t"])}
    np.savez(tmp_path / "p.npz", test_probs=P, **arrays)
    with pytest.raises(CxrError, match="'report', 'scan' could each hold the ids"):
        matched(tmp_path / "p.npz", labels_of(tmp_path))


def test_a_table_of_cxr_predict_is_read_without_its_refused_images(tmp_path: Path) -> None:
    header = [
        "image",
        *(f"prob_{x}" for x in CHESTMNIST),
        *(f"predicted_positive_{x}" for x in CHESTMNIST),
    ]
    rows = [
        [f"scans/{i}.png", *p, *[1] * 7, *[0] * 6, "", 5.1, 120.0, 40.0, "", ""]
        for i, p in zip(IDS, P.tolist(), strict=True)
    ]
    rows[0] = ["scans/b.png", *[""] * 32, "scans/b.png is not an image"]
    path = write(
        tmp_path / "p.csv",
        [[*header, "shape", "brightness", "contrast", "assumed", "warnings"], *rows],
    )
    done = matched(path, labels_of(tmp_path))
    assert list(done.labels.ids) == ["a", "c"] and done.n_left_out == (1, 1)
    assert np.array_equal(done.predictions.of_labels(CHESTMNIST).values, P[[2, 1]])
    assert np.array_equal(done.labels.values, Y[[2, 1]])
    assert f"left out 1 image without predictions in {path}: scans/b.png" in done.notes
    with pytest.raises(CxrError, match=r"no prediction for scans/b\.png; matching by row order"):
        matched(path, labels_of(tmp_path), by_order=True)


@pytest.mark.parametrize(
    "text",
    [
        "# a\n\n#b,c\n{}",
        "sep=;\n{}",
        '"# a, b"\n{}',
        "\ufeff{}",
        ";;\n{}",
    ],
)
@pytest.mark.parametrize("decimal", [".", ","])
def test_lines_before_the_header_are_skipped(tmp_path: Path, text: str, decimal: str) -> None:
    """Line numbers in messages still count them."""
    lines = [";".join(map(str, row)).replace(".", decimal) for row in table(("image", IDS))]
    path = tmp_path / "p.csv"
    path.write_text(text.format("\n".join(lines)), encoding="utf-8")
    assert np.array_equal(read_predictions(path, "test", False).values, P)
    path.write_text(text.format("\n".join([*lines[:3], lines[3] + "x"])), encoding="utf-8")
    last = text.count("\n") + 4
    with pytest.raises(CxrError, match=f"line {last}: 'hernia' is"):
        read_predictions(path, "test", False)


def test_a_header_that_starts_with_a_hash_is_a_header(tmp_path: Path) -> None:
    """Otherwise the numbers below would be read in ChestMNIST's label order."""
    rows = [["#row", *CHESTMNIST[::-1]], *([i, *p[::-1]] for i, p in enumerate(P.tolist()))]
    assert np.array_equal(
        read_predictions(write(tmp_path / "p.csv", rows), "test", False).values, P
    )


@pytest.mark.parametrize("form", ["{}", "[{}]", "({})"])
@pytest.mark.parametrize("separator", [" ", ", ", "|", ";"])
def test_predictions_in_one_cell_are_read(tmp_path: Path, form: str, separator: str) -> None:
    cells = [form.format(separator.join(map(str, row))) for row in P.tolist()]
    rows = [["image", "predictions"], *map(list, zip(IDS, cells, strict=True))]
    read = read_predictions(write(tmp_path / "p.csv", rows), "test", False)
    assert np.array_equal(read.values, P)
    assert read.notes == ("the numbers in 'predictions' were read in ChestMNIST's label order",)


@pytest.mark.parametrize(
    ("cells", "positive"),
    [
        (["[]", "[0, 13]", "[5]"], [(1, 0), (1, 13), (2, 5)]),
        (["No Finding", "Mass|Pleural_Thickening", "Pleural Effusion"], [(1, 4), (1, 12), (2, 2)]),
        (["[]", "['mass', 'Hernia']", "[]"], [(1, 4), (1, 13)]),
        (
            ["[" + "0 " * 14 + "]", "1 " * 14, "0," * 13 + "1"],
            [*((1, i) for i in range(14)), (2, 13)],
        ),
    ],
)
def test_labels_in_one_cell_are_read(
    tmp_path: Path, cells: list[str], positive: list[tuple[int, int]]
) -> None:
    rows = [["image", "labels"], *map(list, zip(IDS, cells, strict=True))]
    expected = np.zeros((3, 14))
    expected[tuple(zip(*positive, strict=True))] = 1
    read = read_labels(write(tmp_path / "l.csv", rows), "test")
    assert np.array_equal(read.values, expected) and list(read.ids) == IDS


@pytest.mark.parametrize(
    ("cells", "sentence"),
    [
        # NIH's labels on Hugging Face count from 1; 0 means "No Finding".
        (["[0]", "[1, 13]", "[5]"], "every cell of 'labels' must hold label names, or 0 or 1 for"),
        (["[]", "[14]", "[5]"], "line 3: 14 in 'labels' is not a label index from 0 to 13"),
        (["[]", "[0.5]", "[5]"], "line 3: 0.5 in 'labels' is not a label index"),
        (["[]", "['Mess']", "[]"], "line 3: 'Mess' in 'labels' is not a known label: atelectasis"),
        (["[]", "", "[1]"], "line 3: 'labels' is empty; write [] for no finding"),
    ],
)
def test_unclear_labels_in_one_cell_are_refused(
    tmp_path: Path, cells: list[str], sentence: str
) -> None:
    rows = [["image", "labels"], *map(list, zip(IDS, cells, strict=True))]
    with pytest.raises(CxrError) as caught:
        read_labels(write(tmp_path / "l.csv", rows), "test")
    assert sentence in str(caught.value)


def long_rows() -> list[list[object]]:
    return [[i, x, P[n, j]] for n, i in enumerate(IDS) for j, x in enumerate(CHESTMNIST)]


@pytest.mark.parametrize("shuffled", [False, True])
def test_one_row_per_image_and_label_is_read(tmp_path: Path, shuffled: bool) -> None:
    rows = [*long_rows(), ["a", "No Finding", 0.5]]
    if shuffled:
        rows = [rows[i] for i in np.random.default_rng(0).permutation(len(rows))]
    path = write(tmp_path / "p.csv", [["file", "Finding", "Probability"], *rows])
    done = matched(path, labels_of(tmp_path))
    assert np.array_equal(done.predictions.values, P[[2, 0, 1]])


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda rows: rows[:-1], "has no row for hernia of image a; add it"),
        (lambda rows: [*rows, rows[3]], "lines 5 and 44 both hold 'infiltration' for image b"),
        (lambda rows: [["", *row[1:]] for row in rows], "line 2: 'file' is empty"),
        (lambda rows: [[row[0], "x", row[2]] for row in rows], "or no known label"),
        (lambda rows: [*rows[:-1], [*rows[-1][:2], "x"]], "line 43: 'Probability' is 'x'"),
    ],
)
def test_incomplete_rows_per_image_and_label_are_refused(
    tmp_path: Path, change: Callable[[list[list[object]]], list[list[object]]], sentence: str
) -> None:
    path = write(tmp_path / "p.csv", [["file", "Finding", "Probability"], *change(long_rows())])
    with pytest.raises(CxrError) as caught:
        read_predictions(path, "test", False)
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    "spell", ["{}_pred", "pred_{}", "{} prob", "p.{}", "{}-score", "Predicted_{}"]
)
def test_prefixes_and_suffixes_of_prediction_columns_are_ignored(
    tmp_path: Path, spell: str
) -> None:
    """Also next to columns of labels."""
    header = [
        "image",
        *(spell.format(x.title()) for x in CHESTMNIST),
        *(f"{x}_gt" for x in CHESTMNIST),
    ]
    rows = [[i, *p, *y] for i, p, y in zip(IDS, P.tolist(), Y.tolist(), strict=True)]
    path = write(tmp_path / "p.csv", [header, *rows])
    done = matched(path, path)
    assert np.array_equal(done.predictions.values, P) and np.array_equal(done.labels.values, Y)


def test_npy_files_are_read_in_c_and_fortran_order(tmp_path: Path) -> None:
    for array in (P, np.asfortranarray(P)):
        np.save(tmp_path / "p.npy", array)
        assert np.array_equal(read_predictions(tmp_path / "p.npy", "test", False).values, P)
    np.save(tmp_path / "l.npy", Y)
    assert np.array_equal(matched(tmp_path / "p.npy", tmp_path / "l.npy").labels.values, Y)


def numbered(tmp_path: Path, name: str, values: np.ndarray, **columns: list[object]) -> Path:
    """Write a table as pandas does: an unnamed column holds the row numbers."""
    header = ["", *columns, *CHESTMNIST]
    rows = [[i, *(c[i] for c in columns.values()), *row] for i, row in enumerate(values.tolist())]
    return write(tmp_path / name, [header, *rows])


def test_ordered_row_numbers_in_both_files_are_not_ids(tmp_path: Path) -> None:
    done = matched(numbered(tmp_path, "p.csv", P), numbered(tmp_path, "l.csv", P.round()))
    assert done.by == "order" and done.how == "by row order: neither file has ids"


def test_row_numbers_are_not_matched_with_ids(tmp_path: Path) -> None:
    """Even if the labels' ids happen to be the same numbers, also as 2.png."""
    predictions = numbered(tmp_path, "p.csv", P)
    for ids in ([2, 0, 1], ["2.png", "0.png", "1.png"]):
        labels = numbered(tmp_path, "l.csv", P.round(), id=ids)
        with pytest.raises(CxrError, match=r"p\.csv has no ids, but .*l\.csv does \('id'\)"):
            matched(predictions, labels)


def test_an_index_in_another_order_holds_the_ids(tmp_path: Path) -> None:
    """As written by `df.sample(frac=1).reset_index().to_csv()`."""
    predictions = numbered(tmp_path, "p.csv", P, index=[2, 0, 1])
    labels = numbered(tmp_path, "l.csv", P.round()[[2, 0, 1]], index=[1, 2, 0])
    done = matched(predictions, labels)
    assert done.by == "id" and done.predictions.id_column == "index"
    assert np.array_equal(done.predictions.values, P[[2, 0, 1]])


def test_the_target_column_not_the_predicted_one_holds_the_labels(tmp_path: Path) -> None:
    header = ["image", "label", "pred", "target"]
    rows = [
        [IDS[i], x, int(P[i, j] > 0.5), i % 2] for i in range(3) for j, x in enumerate(CHESTMNIST)
    ]
    table = read_labels(write(tmp_path / "l.csv", [header, *rows]), "test")
    assert table.source == "target" and table.ids is not None
    truths = {name: row.tolist() for name, row in zip(table.ids, table.values, strict=True)}
    assert truths == {name: [i % 2] * 14 for i, name in enumerate(IDS)}


def test_scores_are_preferred_to_binary_predictions_in_an_npz(tmp_path: Path) -> None:
    np.savez(tmp_path / "p.npz", preds=P.round(), predictions=P.round(), outputs=P)
    assert np.array_equal(read_predictions(tmp_path / "p.npz", "test", False).values, P)


def test_label_names_in_an_npz_are_not_ids(tmp_path: Path) -> None:
    np.savez(tmp_path / "p.npz", test_probs=P, names=np.array(CHESTMNIST))
    assert read_predictions(tmp_path / "p.npz", "test", False).ids is None


@pytest.mark.parametrize("shape", [(3,), (3, 1)])
def test_ids_in_an_npz_are_never_ignored(tmp_path: Path, shape: tuple[int, ...]) -> None:
    np.savez(tmp_path / "l.npz", test_labels=P.round())
    np.savez(tmp_path / "p.npz", test_probs=P, sample=np.array(IDS).reshape(shape))
    with pytest.raises(CxrError, match=r"l\.npz has no ids, but .*p\.npz does \('sample'\)"):
        matched(tmp_path / "p.npz", tmp_path / "l.npz")
    np.savez(tmp_path / "p.npz", test_probs=P, sample=np.array(IDS, object).reshape(shape))
    with pytest.raises(CxrError, match="sample may hold ids, but as pickled Python objects"):
        matched(tmp_path / "p.npz", tmp_path / "l.npz")


def test_a_semicolon_in_a_quoted_name_separates_nothing(tmp_path: Path) -> None:
    path = write(tmp_path / "p.csv", table(("age; years", ["50", "51", "52"]), ("image", IDS)))
    assert read_predictions(path, "test", False).id_column == "image"


def test_a_git_lfs_pointer_is_refused(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    with pytest.raises(CxrError, match=r"p\.csv is a Git LFS pointer.*git lfs pull"):
        read_predictions(tmp_path / "p.csv", "test", False)


def test_memory_does_not_grow_with_the_longest_text_times_the_rows(tmp_path: Path) -> None:
    reports = ["x" * 100_000, *["short"] * 2999]
    values = np.tile(P, (1000, 1))
    rows = [[f"i{i}", reports[i], *values[i].tolist()] for i in range(3000)]
    path = write(tmp_path / "p.csv", [["image", "report", *CHESTMNIST], *rows])
    tracemalloc.start()
    read_predictions(path, "test", False)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100 * 2**20  # a fixed-width array would take 1.2 GB
