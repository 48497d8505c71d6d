"""Files of predictions and labels are read and matched, or refused in one line."""

import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import medmnist
import numpy as np
import pytest

from cxr.errors import CxrError
from cxr.labels import CHESTMNIST
from cxr.scoring.submissions import Table, match, read_labels, read_predictions

N = 5


def probabilities() -> np.ndarray:
    return np.round(np.random.default_rng(0).random((N, 14)), 4)


def write_csv(path: Path, header: list[str], rows: list[list[object]]) -> Path:
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def with_ids(values: np.ndarray, ids: list[str]) -> list[list[object]]:
    return [[name, *row] for name, row in zip(ids, values.tolist(), strict=True)]


def names(n: int = N) -> list[str]:
    return [f"0000{i}_000" for i in range(n)]


def test_logits_are_preferred_to_probabilities_in_an_npz(tmp_path: Path) -> None:
    path = tmp_path / "theirs.npz"
    logits = np.random.default_rng(0).normal(size=(N, 14)).astype(np.float32)
    np.savez(path, test_logits=logits, test_probs=probabilities(), val_logits=logits[:2])
    table = read_predictions(path, "test", False)
    assert table.kind == "logits" and np.array_equal(table.values, logits)
    assert table.ids is None and table.patients is None
    assert len(read_predictions(path, "val", False).values) == 2


@pytest.mark.parametrize("key", ["test_probs", "probs", "test_probabilities", "probabilities"])
def test_probabilities_of_an_npz_are_read(tmp_path: Path, key: str) -> None:
    path = tmp_path / "theirs.npz"
    np.savez(path, **{key: probabilities(), "ids": np.array(names()), "patients": np.arange(N)})
    table = read_predictions(path, "test", False)
    assert table.kind == "probs" and np.array_equal(table.values, probabilities())
    assert list(table.ids) == names() and list(table.patients) == list("01234")


@pytest.mark.parametrize(
    "spell",
    [
        lambda label: label,
        lambda label: label.upper(),
        lambda label: f"prob_{label}",
        lambda label: f"Prob_{label.title()}",
        lambda label: {"pleural": "Pleural_Thickening", "infiltration": "Infiltrate"}.get(
            label, label
        ),
        lambda label: {"pleural": "Pleural Thickening"}.get(label, f" {label} "),
    ],
)
def test_csv_columns_are_read_in_any_order_and_case(
    tmp_path: Path, spell: Callable[[str], str]
) -> None:
    order = np.random.default_rng(1).permutation(14)
    values = probabilities()
    header = ["split", "Image Index", *(spell(CHESTMNIST[i]) for i in order), "Patient ID"]
    rows = [
        ["x", f"images/{name}.png", *values[i, order], i // 2] for i, name in enumerate(names())
    ]
    table = read_predictions(write_csv(tmp_path / "theirs.csv", header, rows), "test", False)
    assert np.array_equal(table.values, values)
    assert list(table.ids) == [f"images/{name}.png" for name in names()]
    assert list(table.patients) == ["0", "0", "1", "1", "2"]


def test_logits_in_a_csv_need_the_option(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "l.csv", list(CHESTMNIST), (probabilities() * 9 - 5).tolist())
    assert read_predictions(path, "test", True).kind == "logits"
    with pytest.raises(CxrError, match="from 0 to 1; if the numbers are logits, add --logits"):
        read_predictions(path, "test", False)


def test_predictions_and_labels_in_one_file_are_told_apart(tmp_path: Path) -> None:
    both = [f"label_{label}" for label in CHESTMNIST] + [f"prob_{label}" for label in CHESTMNIST]
    truth = (probabilities() < 0.5).astype(int)
    rows = np.hstack([truth, probabilities()]).tolist()
    path = write_csv(tmp_path / "both.csv", both, rows)
    assert np.array_equal(read_predictions(path, "test", False).values, probabilities())
    assert np.array_equal(read_labels(path, "test").values, truth)


def test_arrays_named_after_the_split_are_preferred(tmp_path: Path) -> None:
    path = tmp_path / "theirs.npz"
    np.savez(path, test_probs=probabilities(), logits=np.zeros((2, 14)))
    assert np.array_equal(read_predictions(path, "test", False).values, probabilities())
    with pytest.raises(CxrError, match="has no `val_logits` or `val_probs`"):
        read_predictions(path, "val", False, exact=True)


def test_predictions_saved_by_medmnist_are_read(tmp_path: Path) -> None:
    """As written by its Evaluator, with the rows reversed."""
    labels = (probabilities() < 0.3).astype(np.uint8)
    np.savez(tmp_path / "chestmnist.npz", test_labels=labels)
    medmnist.Evaluator("chestmnist", "test", root=str(tmp_path)).evaluate(
        probabilities(), str(tmp_path), run="a"
    )
    (path,) = tmp_path.glob("*.csv")
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines[::-1]) + "\n")
    table = read_predictions(path, "test", False)
    assert table.kind == "probs" and table.ids is None
    np.testing.assert_allclose(table.values, probabilities())
    matched = match(table, read_labels(tmp_path / "chestmnist.npz", "test"))
    assert matched.by == "order"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_labels_saved_by_medmnist_are_read(tmp_path: Path) -> None:
    """Two splits in one file of its save(), matched by row order and by file name."""
    labels = (probabilities() < 0.3).astype(np.uint8)
    images = np.zeros((N, 28, 28), np.uint8)
    splits = {"train": labels[::-1], "test": labels, "val": labels}
    np.savez(
        tmp_path / "chestmnist.npz",
        **{f"{split}_labels": each for split, each in splits.items()},
        **{f"{split}_images": images for split in splits},
    )
    for split in ("train", "test"):
        data = medmnist.ChestMNIST(split=split, root=str(tmp_path))
        data.save(str(tmp_path / "saved"))
    path = tmp_path / "saved" / "chestmnist.csv"
    saved = read_labels(path, "test")
    assert np.array_equal(saved.values, labels)
    assert np.array_equal(read_labels(path, "train").values, labels[::-1])
    np.save(tmp_path / "p.npy", probabilities())
    by_order = match(read_predictions(tmp_path / "p.npy", "test", False), saved)
    assert by_order.by == "order" and np.array_equal(by_order.labels.values, labels)
    order = [3, 1, 0, 2, 4]
    names = [saved.ids[i] for i in order]
    rows = with_ids(probabilities()[order], [f"saved/chestmnist/{name}" for name in names])
    predictions = read_predictions(
        write_csv(tmp_path / "t.csv", ["image", *CHESTMNIST], rows), "test", False
    )
    assert np.array_equal(match(predictions, saved).predictions.values, probabilities())
    with pytest.raises(CxrError, match="has no rows of the val split; choose another with --split"):
        read_labels(path, "val")


def test_labels_of_an_npz_may_be_floats(tmp_path: Path) -> None:
    path = tmp_path / "labels.npz"
    np.savez(path, test_labels=np.eye(14, dtype=np.float32)[:N])
    assert np.array_equal(read_labels(path, "test").values, np.eye(14)[:N])


def table(ids: list[str] | None, path: str = "a.csv") -> Table:
    n = N if ids is None else len(ids)
    values = np.arange(n)[:, None] * np.ones(14)
    column = None if ids is None else "image"
    texts = None if ids is None else np.array(ids)
    names = CHESTMNIST[: values.shape[1]]
    return Table(Path(path), "probs", names, values, texts, None, id_column=column)


def test_images_are_matched_by_id() -> None:
    predictions, labels = ["c", "a", "e", "b", "d"], ["e", "d", "a", "b", "c"]
    matched = match(table(predictions), table(labels, "b.csv"))
    assert matched.by == "id" and matched.notes == ()
    assert matched.how == "by id: 'image' of a.csv and 'image' of b.csv"
    assert list(matched.predictions.ids) == labels
    assert [predictions[int(row[0])] for row in matched.predictions.values] == labels
    assert np.array_equal(matched.labels.values, table(labels).values)


def test_files_without_ids_are_matched_by_row_order() -> None:
    matched = match(table(None), table(None, "b.csv"))
    assert matched.by == "order" and matched.how == "by row order: neither file has ids"
    assert np.array_equal(matched.predictions.values, table(None).values)


@pytest.mark.parametrize(("a", "b"), [(None, names()), (names(), None)])
def test_ids_in_only_one_file_are_refused_without_by_order(
    a: list[str] | None, b: list[str] | None
) -> None:
    with pytest.raises(
        CxrError, match=r"has no ids, but [ab]\.csv does \('image'\); add ids, or add"
    ):
        match(table(a), table(b, "b.csv"))
    matched = match(table(a), table(b, "b.csv"), by_order=True)
    assert matched.by == "order" and matched.how == "by row order: requested with --by-order"
    assert np.array_equal(matched.predictions.values, table(a).values)


def test_columns_of_one_file_are_matched_by_row_order() -> None:
    labels = replace(table(None), source="truth")
    assert match(table(None), labels).how == "by row order: predictions and labels are in one file"
    with pytest.raises(CxrError, match="can't be both predictions and labels; give the file of"):
        match(table(None), table(None))


def test_by_order_notes_that_ids_or_patients_differ() -> None:
    """Without by_order, different patients are refused."""
    patients = {"patients": np.array(["p", "q", "r", "s", "t"])}
    a, b = replace(table(names()), **patients), table(names()[::-1], "b.csv")
    assert match(a, b, by_order=True).notes == ("the files hold different ids in 4 of 5 rows",)
    a = replace(table(None), **patients)
    b = replace(table(None, "b.csv"), patients=np.array(["p", "q", "s", "r", "t"]))
    with pytest.raises(CxrError, match="in row 3 the patient is r in one and s in the other"):
        match(a, b)
    assert match(a, b, by_order=True).notes == ("the files hold different patients in 2 of 5 rows",)


@pytest.mark.parametrize(
    ("predictions", "labels", "sentence"),
    [
        (
            ["a", "b"],
            ["a", "b", "c"],
            "a.csv has 2 images and b.csv has 3: 1 only in b.csv, such as 'c'; add --common to "
            "score the 2 that both files have",
        ),
        (["a", "b", "c", "d"], ["b", "a"], "2 only in a.csv, such as 'c'"),
        (["a", "c"], ["b", "a"], "1 only in a.csv, such as 'c' and 1 only in b.csv, such as 'b'"),
        (
            ["a"],
            ["b"],
            "no ids match: 'image' of a.csv holds ids such as 'a', "
            "and 'image' of b.csv such as 'b'; use the same ids in both files, or add --by-order",
        ),
        (["a", "a", "b"], ["a", "b"], "a.csv: row 1 and row 2 hold different numbers for id a"),
        (["a", "b"], ["a", "b", "b"], "b.csv: row 2 and row 3 hold different numbers for id b"),
        (["p/a.png", "q/a.png"], ["a", "b"], "no ids match: 'image' of a.csv"),  # a is ambiguous
        (["a", "b"], ["p/a.png", "q/a.png"], "no ids match: 'image' of a.csv"),
        (["1", "01"], ["1", "001"], "add --common to score the 1 that"),
        (["1", "2"], ["001", "003"], "no ids match: 'image' of a.csv"),
        (None, None, "a.csv has 5 images and b.csv has 4; matching by row order needs the same"),
    ],
)
def test_files_of_different_images_are_refused(
    predictions: list[str] | None, labels: list[str] | None, sentence: str
) -> None:
    others = table(labels, "b.csv")
    with pytest.raises(CxrError) as caught:
        match(table(predictions), others if labels else others.take(np.arange(4)))
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    ("predictions", "labels", "by"),
    [
        (["b.png", "a.png"], ["a", "b"], "stem"),
        (["images/b.dcm", "images/a.dcm"], ["a.png", "b.png"], "stem"),
        (["d\\1\\b.nii.gz", "d\\1\\a.dcm.gz"], ["a.JPEG", "b.tiff"], "stem"),
        (["https://x.org/b.png?raw=1/2", "https://x.org/a.png#a"], ["a", "b"], "stem"),
        (["p/2/a", "p/1/a"], ["p/1/a", "p/2/a"], "id"),
        (["1.2.840.5.20", "1.2.840.5.2"], ["1.2.840.5.2", "1.2.840.5.20"], "id"),
        (["1.0.5", "1"], ["1", "1.0.5"], "id"),
        (["12", "7"], ["00000007", "00000012"], "number"),
        (["12.png", "0"], ["000.dcm", "0012.dcm"], "number"),
    ],
)
def test_ids_written_differently_are_matched(
    predictions: list[str], labels: list[str], by: str
) -> None:
    """The second prediction belongs to the first label."""
    matched = match(table(predictions), table(labels, "b.csv"))
    assert matched.by == by
    assert matched.predictions.values[:, 0].tolist() == [1, 0]
    difference = (
        "ids are written differently in the two files: "
        f"{predictions[1]!r} was matched with {labels[0]!r}"
    )
    assert matched.notes == (() if by == "id" else (difference,))


def test_whole_numbers_written_as_floats_are_the_same_ids(tmp_path: Path) -> None:
    """But parts of UIDs and paths are not changed."""
    rows = with_ids(probabilities(), ["3.0", "1.0.5.7", "1.0.5.8", "v1.0-a/x", " a "])
    table = read_predictions(
        write_csv(tmp_path / "p.csv", ["id", *CHESTMNIST], rows), "test", False
    )
    assert list(table.ids) == ["3", "1.0.5.7", "1.0.5.8", "v1.0-a/x", "a"]


def test_common_matches_the_images_in_both_files() -> None:
    matched = match(table(["c", "x", "a", "y"]), table(["a", "b", "c"], "b.csv"), common=True)
    assert list(matched.predictions.ids) == list(matched.labels.ids) == ["a", "c"]
    assert matched.predictions.values[:, 0].tolist() == [2, 0]
    assert matched.n_left_out == (2, 1)
    assert matched.notes == (
        "scored the 2 images that both files have; left out 2 only in a.csv and 1 only in b.csv",
    )
    with pytest.raises(CxrError, match="no ids match"):
        match(table(["a"]), table(["b"], "b.csv"), common=True)
    with pytest.raises(CxrError, match="--by-order and --common can't be combined"):
        match(table(["a"]), table(["a"], "b.csv"), common=True, by_order=True)


def test_leading_zeros_are_ignored_only_if_all_ids_match() -> None:
    """Otherwise row numbers could be matched with patients."""
    with pytest.raises(CxrError, match="no ids match"):
        match(table(["0", "1", "2"]), table(["001", "002", "003"], "b.csv"), common=True)


def test_an_exact_duplicate_row_is_ignored() -> None:
    twice = table(["b", "a", "b"])
    twice = replace(twice, values=twice.values * [[1], [1], [0]])
    matched = match(twice, table(["a", "b"], "b.csv"))
    assert list(matched.predictions.ids) == ["a", "b"]
    assert matched.notes == ("a.csv: ignored 1 row that repeats another row exactly",)


def npz(**arrays: np.ndarray) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        np.savez(folder / "theirs.npz", **arrays)
        return folder / "theirs.npz"

    return write


def text(content: str, name: str = "theirs.csv") -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / name).write_text(content)
        return folder / name

    return write


def altered(value: float) -> np.ndarray:
    values = probabilities()
    values[3, CHESTMNIST.index("edema")] = value
    return values


HEADER = ",".join(("id", *CHESTMNIST))
ROW = ",".join(["x", *["0.5"] * 14])


@pytest.mark.parametrize(
    ("write", "sentence"),
    [
        (
            npz(test_probs=altered(1.3)),
            "edema of row 4 is 1.3; expected a probability from 0 to 1; correct the value",
        ),
        (
            npz(test_probs=altered(-0.1), ids=np.array(names())),
            "edema of image 00003_000 is -0.1; expected a probability from 0 to 1; if the numbers "
            "are logits, name the array `logits`",
        ),
        (npz(y_score=altered(-0.1)), "if the numbers are logits, add --logits"),
        (npz(y_score=100 * probabilities()), "if the numbers are percentages, divide them by 100"),
        (npz(test_logits=altered(np.nan)), "edema of row 4 is nan; expected a finite number"),
        (npz(test_logits=altered(np.inf)), "edema of row 4 is inf"),
        (npz(other=probabilities()), "has no `test_logits` or `test_probs`; it contains other"),
        (npz(test_logits=probabilities()[:, :13]), "test_logits is float64 of shape (5, 13)"),
        (npz(test_logits=probabilities()[0]), "test_logits is float64 of shape (14,)"),
        (npz(test_logits=np.full((2, 14), "a")), "test_logits is <U1 of shape (2, 14)"),
        (npz(test_logits=probabilities()[:0]), "has no rows; expected one row per image"),
        (npz(test_logits=probabilities(), ids=np.arange(3)), "ids is int64 of shape (3,)"),
        (npz(test_logits=np.array([[None] * 14])), "pickled Python objects"),
        (text("x", "theirs.npz"), "is not an npz file"),
        (text(""), "theirs.csv is empty"),
        (text(HEADER + "\n"), "has no rows; expected one row per image"),
        (
            text(f"{HEADER}\n{ROW}\n{ROW[:-3]}high\n"),
            "line 3: 'hernia' is 'high'; expected a number",
        ),
        (text(f"{HEADER}\nx,0.5\n"), "line 2 has 2 cells and the first row has 15"),
        (text(f"{HEADER}\n{ROW}\nx,{ROW}\n"), "line 3 has 16 cells and the first row has 15"),
        (text(f"{HEADER},mass\n{ROW},0.5\n"), "two columns for mass, 'mass' and 'mass'; keep one"),
        (text(f"{HEADER},Prob_Mass\n{ROW},0.5\n"), "two columns for mass, 'mass' and 'Prob_Mass'"),
        (text(f"patient,{HEADER}\np,{ROW}\n ,{ROW}\n"), "line 3: 'patient' is empty"),
        (text(f"{HEADER}\n\n{ROW[:-3]}high\n"), "line 3: 'hernia' is 'high'"),
        (
            text(f"{HEADER}\n{ROW[:-3]}50%\n"),
            "'hernia' is '50%'; divide by 100 and drop the percent sign",
        ),
        (text(f'{HEADER}\n{ROW[:-3]}"0,5"\n'), "line 2: 'hernia' is '0,5'; expected a number"),
        (text(f"{HEADER}\n{ROW[:-3]}\n"), "line 2: 'hernia' is empty; expected a number"),
        (
            text(f"patient{HEADER[2:]}\nq{ROW[1:]}\nq{',' * 14}\n"),
            "line 3 has no predictions in 'atelectasis' to 'hernia'; remove the row, or add ids",
        ),
        (text(f"{HEADER}\n{ROW[:-3]}nan\n"), "hernia of image x is nan"),
        (text(f"{HEADER}\n{ROW[:-3]}1e9\n"), "hernia of image x is 1e+09"),
        (text("id,view\nx,PA\n"), "no column of a known finding; its columns are 'id', 'view'"),
        (text("1,0.5,0.5\n"), "has no header and 3 columns; add a header that names the labels"),
        (
            text("\n".join(f"{i}" + ",0.5" * 14 for i in (0, 2))),
            "row numbers must be 0, 1, 2 …",
        ),
        (lambda folder: folder, "is a folder; expected a file"),
        (lambda folder: folder / "none.csv", "none.csv does not exist"),
        (lambda folder: folder / "none.npz", "none.npz does not exist"),
    ],
)
def test_invalid_predictions_are_refused_in_one_line(
    tmp_path: Path, write: Callable[[Path], Path], sentence: str
) -> None:
    with pytest.raises(CxrError) as caught:
        read_predictions(write(tmp_path), "test", False)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_binary_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_bytes(b"\x89PNG\r\n\x1a\n\0\xff\xfe")
    with pytest.raises(CxrError, match="line 1 is not valid UTF-8"):
        read_predictions(tmp_path / "x.csv", "test", False)


@pytest.mark.parametrize(
    ("value", "sentence"),
    [(2, "edema of row 4 is 2; expected 0 or 1"), (-2, "edema of row 4 is -2"), (0.5, "is 0.5")],
)
def test_invalid_labels_are_refused(tmp_path: Path, value: float, sentence: str) -> None:
    labels = np.zeros((N, 14))
    labels[3, CHESTMNIST.index("edema")] = value
    with pytest.raises(CxrError) as caught:
        read_labels(npz(test_labels=labels)(tmp_path), "test")
    assert sentence in str(caught.value)


def test_missing_labels_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CxrError, match="has no `test_labels`; it contains test_probs"):
        read_labels(npz(test_probs=probabilities())(tmp_path), "test")


def test_patients_come_from_either_file_in_the_order_of_the_labels() -> None:
    predictions, labels = table(["b", "a", "c"]), table(["a", "b", "c"], "b.csv")
    with_patients = replace(predictions, patients=np.array(["p2", "p1", "p3"]))
    assert list(match(with_patients, labels).patients) == ["p1", "p2", "p3"]
    other = replace(labels, patients=np.array(["x", "y", "z"]))
    assert list(match(with_patients, other).patients) == ["x", "y", "z"]
    assert match(predictions, labels).patients is None
