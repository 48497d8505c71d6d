"""Files of predictions and labels as people have them, and what is refused in one line."""

import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import medmnist
import numpy as np
import pytest

from cxr.errors import CxrError
from cxr.labels import LABELS
from cxr.submissions import Table, match, read_labels, read_predictions

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


def test_npz_of_logits_before_probabilities(tmp_path: Path) -> None:
    path = tmp_path / "theirs.npz"
    logits = np.random.default_rng(0).normal(size=(N, 14)).astype(np.float32)
    np.savez(path, test_logits=logits, test_probs=probabilities(), val_logits=logits[:2])
    table = read_predictions(path, "test", False)
    assert table.kind == "logits" and np.array_equal(table.values, logits)
    assert table.ids is None and table.patients is None
    assert len(read_predictions(path, "val", False).values) == 2


@pytest.mark.parametrize("key", ["test_probs", "probs", "test_probabilities", "probabilities"])
def test_npz_of_probabilities(tmp_path: Path, key: str) -> None:
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
def test_csv_columns_in_any_order_and_case(tmp_path: Path, spell: Callable[[str], str]) -> None:
    order = np.random.default_rng(1).permutation(14)
    values = probabilities()
    header = ["split", "Image Index", *(spell(LABELS[i]) for i in order), "Patient ID"]
    rows = [
        ["x", f"images/{name}.png", *values[i, order], i // 2] for i, name in enumerate(names())
    ]
    table = read_predictions(write_csv(tmp_path / "theirs.csv", header, rows), "test", False)
    assert np.array_equal(table.values, values)
    assert list(table.ids) == names()
    assert list(table.patients) == ["0", "0", "1", "1", "2"]


def test_csv_of_logits_is_said_to_be_one(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "l.csv", list(LABELS), (probabilities() * 9 - 5).tolist())
    assert read_predictions(path, "test", True).kind == "logits"
    with pytest.raises(CxrError, match=r"probabilities lie in 0\.\.1; for logits add --logits"):
        read_predictions(path, "test", False)


def test_labels_in_a_file_of_predictions_are_not_taken_for_them(tmp_path: Path) -> None:
    both = [f"label_{label}" for label in LABELS] + [f"prob_{label}" for label in LABELS]
    truth = (probabilities() < 0.5).astype(int)
    rows = np.hstack([truth, probabilities()]).tolist()
    path = write_csv(tmp_path / "both.csv", both, rows)
    assert np.array_equal(read_predictions(path, "test", False).values, probabilities())
    assert np.array_equal(read_labels(path, "test").values, truth)


def test_the_splits_own_array_comes_before_any_other(tmp_path: Path) -> None:
    path = tmp_path / "theirs.npz"
    np.savez(path, test_probs=probabilities(), logits=np.zeros((2, 14)))
    assert np.array_equal(read_predictions(path, "test", False).values, probabilities())
    with pytest.raises(CxrError, match="has no `val_logits` or `val_probs`"):
        read_predictions(path, "val", False, exact=True)


def test_csv_that_medmnist_writes(tmp_path: Path) -> None:
    """By its own Evaluator, the rows then shuffled."""
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


def test_labels_of_an_npz_may_be_floats(tmp_path: Path) -> None:
    path = tmp_path / "labels.npz"
    np.savez(path, test_labels=np.eye(14, dtype=np.float32)[:N])
    assert np.array_equal(read_labels(path, "test").values, np.eye(14)[:N])


def table(ids: list[str] | None, path: str = "a.csv") -> Table:
    n = N if ids is None else len(ids)
    values = np.arange(n)[:, None] * np.ones(14)
    return Table(Path(path), "probs", values, None if ids is None else np.array(ids), None)


def test_images_are_matched_by_id() -> None:
    theirs, labels = ["c", "a", "e", "b", "d"], ["e", "d", "a", "b", "c"]
    matched = match(table(theirs), table(labels))
    assert matched.by == "id"
    assert list(matched.predictions.ids) == labels
    assert [theirs[int(row[0])] for row in matched.predictions.values] == labels
    assert np.array_equal(matched.labels.values, table(labels).values)


@pytest.mark.parametrize(("a", "b"), [(None, names()), (names(), None), (None, None)])
def test_without_ids_on_both_sides_order_counts(a: list[str] | None, b: list[str] | None) -> None:
    matched = match(table(a), table(b))
    assert matched.by == "order" and np.array_equal(matched.predictions.values, table(a).values)


@pytest.mark.parametrize(
    ("theirs", "labels", "sentence"),
    [
        (["a", "b"], ["a", "b", "c"], "a.csv lacks 1 ids of b.csv, the first c"),
        (["a", "b", "c", "d"], ["a", "b"], "b.csv lacks 2 ids of a.csv, the first c"),
        (["a", "a", "b"], ["a", "b"], "a.csv: id a stands there more than once"),
        (["a", "b"], ["a", "b", "b"], "b.csv: id b stands there more than once"),
        (None, ["a", "b"], "a.csv has 5 images and b.csv has 2; without ids in both"),
    ],
)
def test_images_that_do_not_match(
    theirs: list[str] | None, labels: list[str], sentence: str
) -> None:
    with pytest.raises(CxrError) as caught:
        match(table(theirs), table(labels, "b.csv"))
    assert sentence in str(caught.value)


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
    values[3, LABELS.index("edema")] = value
    return values


HEADER = ",".join(("id", *LABELS))
ROW = ",".join(["x", *["0.5"] * 14])


@pytest.mark.parametrize(
    ("write", "sentence"),
    [
        (
            npz(test_probs=altered(1.3)),
            "edema of row 4 is 1.3, and probabilities lie in 0..1; save",
        ),
        (npz(test_probs=altered(-0.1), ids=np.array(names())), "edema of image 00003_000 is -0.1"),
        (npz(test_logits=altered(np.nan)), "edema of row 4 is nan (1 such values); every number"),
        (npz(test_logits=altered(np.inf)), "edema of row 4 is inf"),
        (npz(scores=probabilities()), "has no `test_logits` or `test_probs`; it holds scores"),
        (npz(test_logits=probabilities()[:, :13]), "test_logits is float64 of shape (5, 13)"),
        (npz(test_logits=probabilities()[0]), "test_logits is float64 of shape (14,)"),
        (npz(test_logits=np.full((2, 14), "a")), "test_logits is <U1 of shape (2, 14)"),
        (npz(test_logits=probabilities()[:0]), "holds no image"),
        (npz(test_logits=probabilities(), ids=np.arange(3)), "ids is int64 of shape (3,)"),
        (npz(test_logits=np.array([[None] * 14])), "pickled Python objects"),
        (text("x", "theirs.npz"), "is not an npz file"),
        (text(""), "theirs.csv is empty"),
        (text(HEADER + "\n"), "holds no image"),
        (text(f"{HEADER}\n{ROW}\n{ROW[:-3]}high\n"), "line 3 holds 'high' instead of a number"),
        (text(f"{HEADER}\nx,0.5\n"), "line 2 has 2 cells and the first line 15"),
        (text(f"{HEADER}\n{ROW}\nx,{ROW}\n"), "line 3 has 16 cells and the first line 15"),
        (text(f"{HEADER},mass\n{ROW},0.5\n"), "has two columns for mass, mass and mass"),
        (text(f"{HEADER},Prob_Mass\n{ROW},0.5\n"), "has two columns for mass, mass and Prob_Mass"),
        (text(f"patient,{HEADER}\np,{ROW}\n ,{ROW}\n"), "line 3 has nothing in 'patient'"),
        (text(f"{HEADER}\n\n{ROW[:-3]}high\n"), "line 3 holds 'high'"),
        (text(f"{HEADER.replace(',', ';')}\n"), "; is it separated by ;?"),
        (text(f"{HEADER}\n{ROW[:-3]}nan\n"), "hernia of image x is nan"),
        (text(f"{HEADER}\n{ROW[:-3]}1e9\n"), "hernia of image x is 1e+09"),
        (text("id,mass,nodule\nx,1,0\n"), "has no column for atelectasis, cardiomegaly, effusion"),
        (text("1,0.5,0.5\n"), "has no header and 3 columns; a header that names the labels"),
        (
            text("\n".join(f"{i}" + ",0.5" * 14 for i in (0, 2))),
            "its first column must hold each row",
        ),
        (lambda folder: folder, "is a folder; an npz or CSV file is needed"),
        (lambda folder: folder / "none.csv", "none.csv does not exist"),
        (lambda folder: folder / "none.npz", "none.npz does not exist"),
    ],
)
def test_predictions_that_are_refused(
    tmp_path: Path, write: Callable[[Path], Path], sentence: str
) -> None:
    with pytest.raises(CxrError) as caught:
        read_predictions(write(tmp_path), "test", False)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_of_other_bytes_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_bytes(b"\x89PNG\r\n\x1a\n\0\xff\xfe")
    with pytest.raises(CxrError, match="neither an npz nor a CSV file"):
        read_predictions(tmp_path / "x.csv", "test", False)


@pytest.mark.parametrize(
    ("value", "sentence"),
    [(2, "edema of row 4 is 2; labels must be 0 or 1"), (np.nan, "edema of row 4 is nan")],
)
def test_labels_that_are_refused(tmp_path: Path, value: float, sentence: str) -> None:
    labels = np.zeros((N, 14))
    labels[3, LABELS.index("edema")] = value
    with pytest.raises(CxrError) as caught:
        read_labels(npz(test_labels=labels)(tmp_path), "test")
    assert sentence in str(caught.value)


def test_labels_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(CxrError, match="has no `test_labels`; it holds test_probs"):
        read_labels(npz(test_probs=probabilities())(tmp_path), "test")


def test_patients_of_either_file_are_taken_in_the_labels_order() -> None:
    theirs, labels = table(["b", "a", "c"]), table(["a", "b", "c"])
    known = replace(theirs, patients=np.array(["p2", "p1", "p3"]))
    assert list(match(known, labels).patients) == ["p1", "p2", "p3"]
    other = replace(labels, patients=np.array(["x", "y", "z"]))
    assert list(match(known, other).patients) == ["x", "y", "z"]
    assert match(theirs, labels).patients is None
