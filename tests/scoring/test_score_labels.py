"""Scoring of labels that are not ChestMNIST's, or not all known."""

from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score

from cxr.errors import CxrError
from cxr.scoring import score as scoring

N = 80
NAMES = ("Pleura/Erguß", "edema", "Herzgröße")
RNG = np.random.default_rng(0)
Y = (RNG.random((N, 3)) < 0.4).astype(int)
P = np.clip(0.3 * Y + 0.6 * RNG.random((N, 3)), 0, 1).round(4)
UNKNOWN = RNG.random((N, 3)) < 0.3
IDS = [f"scan-{i}" for i in range(N)]


def write(path: Path, header: list[str], columns: list[list[object]]) -> Path:
    rows = [header, *map(list, zip(*columns, strict=True))]
    path.write_text("\n".join(",".join(map(str, row)) for row in rows) + "\n")
    return path


def labels_csv(folder: Path, unknown: object = -1, names: tuple[str, ...] = NAMES) -> Path:
    values = np.where(UNKNOWN, None, Y).T.tolist()  # type: ignore[call-overload]
    columns = [[unknown if each is None else each for each in column] for column in values]
    return write(folder / "labels.csv", ["image", "age", *names], [IDS, range(N), *columns])  # type: ignore[list-item]


def predictions_csv(folder: Path, names: tuple[str, ...] = NAMES) -> Path:
    order = np.random.default_rng(1).permutation(N)
    columns = [P[order, i].tolist() for i in range(3)]
    header = ["image", "age", *names]
    ids = [IDS[i] for i in order]
    return write(folder / "theirs.csv", header, [ids, order.tolist(), *columns])


def with_affix(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f"prob_{name}" for name in names)


def scored(
    predictions: Path, labels: Path, *also: str, project: Path | None = None
) -> scoring.Score:
    return scoring.score(
        predictions, labels, "test", False, 200, 0, lambda done, of: None, project, also=also
    )


def check(done: scoring.Score, names: tuple[str, ...] = NAMES) -> None:
    """The metrics by label equal scikit-learn's on the images whose label is known."""
    metrics = done.models[done.name]["labels"]
    assert list(metrics) == [n for n in names if n == "edema"] + [n for n in names if n != "edema"]
    for i, name in enumerate(names):
        known = ~UNKNOWN[:, i]
        y, p = Y[known, i], P[known, i]
        assert metrics[name]["n"] == known.sum()
        assert metrics[name]["auroc"] == pytest.approx(roc_auc_score(y, p), rel=1e-12)
        assert metrics[name]["ap"] == pytest.approx(average_precision_score(y, p), rel=1e-12)
        assert metrics[name]["brier"] == pytest.approx(brier_score_loss(y, p), rel=1e-12)
    assert (
        f"{UNKNOWN.sum()} of {Y.size} labels are unknown (-1 or empty) and left out" in done.notes
    )


@pytest.mark.parametrize("unknown", [-1, "-1.0", "", "nan"])
def test_labels_marked_by_an_affix_are_scored_where_they_are_known(
    tmp_path: Path, unknown: object
) -> None:
    done = scored(predictions_csv(tmp_path, with_affix(NAMES)), labels_csv(tmp_path, unknown))
    check(done)
    assert list(done.models[done.name]["labels"]) == ["edema", "Pleura/Erguß", "Herzgröße"]


def test_known_findings_match_in_any_spelling(tmp_path: Path) -> None:
    names = ("Pleura/Erguß", "Pulmonary Oedema", "Herzgröße")
    check(scored(predictions_csv(tmp_path, with_affix(names)), labels_csv(tmp_path)))


def test_an_npz_names_its_labels(tmp_path: Path) -> None:
    values = np.where(UNKNOWN, np.nan, Y)
    np.savez(
        tmp_path / "all.npz", test_labels=values, test_probs=P, label_names=np.array(NAMES)
    )  # fmt: skip
    check(scored(tmp_path / "all.npz", tmp_path / "all.npz"))


def test_predictions_and_labels_can_be_columns_of_one_file(tmp_path: Path) -> None:
    values = np.where(UNKNOWN, -1, Y)
    path = write(
        tmp_path / "all.csv",
        ["image", "smoker", *(f"true {n}" for n in NAMES), *(f"prob {n}" for n in NAMES)],
        [IDS, [i % 2 for i in range(N)], *values.T.tolist(), *P.T.tolist()],
    )
    check(scored(path, path))


def test_an_unmarked_column_is_a_label_only_on_request(tmp_path: Path) -> None:
    """Age and the others are in both files, and any of them could be a covariate."""
    files = predictions_csv(tmp_path), labels_csv(tmp_path)
    done = scored(*files)
    assert list(done.models[done.name]["labels"]) == ["edema"]
    assert done.notes[-1] == (
        "columns of both files that were not scored: age, Pleura/Erguß, Herzgröße; "
        "if one is a label, add --also NAME"
    )
    check(scored(*files, "Pleura/Erguß", "Herzgröße"))


def test_an_affix_leaves_the_rest_of_the_name_as_it_is(tmp_path: Path) -> None:
    np.savez(
        tmp_path / "labels.npz",
        test_labels=np.where(UNKNOWN, -1, Y)[:, :1],
        label_names=np.array(["COVID-19"]),
        test_ids=np.array(IDS),
    )
    path = predictions_csv(tmp_path, ("prob_covid-19", "a", "b"))
    done = scored(path, tmp_path / "labels.npz")
    assert list(done.models[done.name]["labels"]) == ["COVID-19"]


def test_truth_and_prediction_of_one_label_in_one_file_are_refused(tmp_path: Path) -> None:
    columns = [IDS, Y[:, 0].tolist(), P[:, 0].tolist(), P[:, 1].tolist()]
    path = write(tmp_path / "p.csv", ["image", "Erguss", "prob_Erguss", "edema"], columns)
    labels = labels_csv(tmp_path, names=("Erguss", "edema", "c"))
    with pytest.raises(CxrError, match="two columns for Erguss, 'Erguss' and 'prob_Erguss'"):
        scored(path, labels)


def test_labels_of_one_file_alone_are_named_if_they_are_known_findings(tmp_path: Path) -> None:
    names = ("Pleura/Erguß", "edema", "mass")
    predictions = predictions_csv(tmp_path, with_affix(NAMES))
    done = scored(predictions, labels_csv(tmp_path, names=names))
    assert list(done.models[done.name]["labels"]) == ["edema", "Pleura/Erguß"]
    path = tmp_path / "labels.csv"
    assert f"not scored, because only {path} has them: mass" in done.notes


def test_files_without_a_common_label_are_refused(tmp_path: Path) -> None:
    labels = labels_csv(tmp_path, names=("a", "b", "mass"))
    with pytest.raises(CxrError, match=r"no label is in both files: .*theirs.csv has edema, "):
        scored(predictions_csv(tmp_path), labels)


def test_a_number_of_labels_without_names_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "all.npz", test_labels=Y, test_probs=P)
    with pytest.raises(CxrError, match="name other labels in an array `label_names`"):
        scored(tmp_path / "all.npz", tmp_path / "all.npz")


def test_an_invalid_value_of_a_known_finding_is_refused_with_its_line(tmp_path: Path) -> None:
    labels = labels_csv(tmp_path)
    lines = labels.read_text().splitlines()
    cells = lines[3].split(",")
    lines[3] = ",".join([*cells[:3], "2", cells[4]])
    labels.write_text("\n".join(lines))
    with pytest.raises(CxrError, match="line 4: edema of image scan-2 is 2; expected 0 or 1, -1"):
        scored(predictions_csv(tmp_path), labels)
