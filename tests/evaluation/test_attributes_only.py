"""The baseline of attributes alone equals a logistic regression on a table made by hand."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from cxr.data import attributes
from cxr.evaluation import attributes_only
from cxr.labels import CHESTMNIST, UNKNOWN

DATA = Path(__file__).parents[3] / "shared/data"
NIH_TABLE = DATA / "annotations/Data_Entry_2017_v2020.csv.gz"
REAL = DATA / "nih_real_28.npz"
needs_nih = pytest.mark.skipif(
    not (NIH_TABLE.exists() and REAL.exists()), reason=f"{NIH_TABLE} or {REAL} does not exist"
)
N, N_TEST = 400, 60
TOLERANCE = 0.02  # of logits; the optimiser stops that early

Columns = dict[str, np.ndarray]


def images(n: int, seed: int) -> Columns:
    """Views, two sexes, and ages; some views and ages are unknown."""
    rng = np.random.default_rng(seed)
    age = rng.integers(20, 80, n).astype("<U9")
    age[rng.random(n) < 0.2] = ""
    view = rng.choice(["AP", "PA", "LL", ""], n, p=[0.4, 0.4, 0.1, 0.1])
    return {"view": view, "sex": rng.choice(["F", "M"], n), "age": age}


def labels_of(columns: Columns, seed: int = 0) -> np.ndarray:
    """Two labels (N, 2) that go with view and age."""
    rng = np.random.default_rng(seed)
    years = pd.to_numeric(pd.Series(columns["age"]), errors="coerce").fillna(50).to_numpy()
    first = rng.random(len(years)) < 0.2 + 0.3 * (columns["view"] == "AP")
    second = rng.random(len(years)) < years / 120
    return np.stack([first, second], axis=1).astype(np.int8)


def by_hand(
    y: np.ndarray, train: Columns, test: Columns, names: Sequence[str] = ("view", "sex", "age")
) -> np.ndarray:
    """Logits of one label, from columns of zeros and ones and standardised numbers."""
    rows = y != UNKNOWN
    of_train: list[np.ndarray] = []
    of_test: list[np.ndarray] = []
    for name in names:
        a, b = pd.Series(train[name])[rows], pd.Series(test[name])
        if name == "age":
            a, b = (pd.to_numeric(each, errors="coerce") for each in (a, b))
            pairs = [(a.fillna(a.median()), b.fillna(a.median()))]
            if a.isna().any():
                pairs.append((a.isna().astype(float), b.isna().astype(float)))
            pairs = [((x - x.mean()) / x.std(ddof=0), (z - x.mean()) / x.std(ddof=0))
                     for x, z in pairs]  # fmt: skip
        else:
            values = a.unique()
            pairs = [((a == value).astype(float), (b == value).astype(float)) for value in values]
        of_train += [x.to_numpy() for x, _ in pairs]
        of_test += [z.to_numpy() for _, z in pairs]
    model = LogisticRegression(max_iter=5000, tol=1e-8)
    model.fit(np.column_stack(of_train), y[rows])
    return np.asarray(model.decision_function(np.column_stack(of_test)))


def logits(labels: np.ndarray, train: Columns, test: Columns) -> np.ndarray:
    predicted = attributes_only.logits(labels, train, {"test": test})
    assert predicted is not None
    found = predicted["test"]
    assert found.shape == (len(next(iter(test.values()))), labels.shape[1])
    assert np.isfinite(found).all()
    return found


@pytest.fixture(scope="module")
def train() -> Columns:
    return images(N, 0)


@pytest.fixture(scope="module")
def test() -> Columns:
    return images(N_TEST, 1)


@pytest.fixture(scope="module")
def labels(train: Columns) -> np.ndarray:
    return labels_of(train)


def test_logits_are_those_of_a_regression_by_hand(
    labels: np.ndarray, train: Columns, test: Columns
) -> None:
    found = logits(labels, train, test)
    for i in range(2):
        expected = by_hand(labels[:, i], train, test)
        assert np.ptp(expected) > 0.5
        np.testing.assert_allclose(found[:, i], expected, atol=TOLERANCE)


def test_the_order_of_the_attributes_does_not_matter(
    labels: np.ndarray, train: Columns, test: Columns
) -> None:
    found = logits(labels, {name: train[name] for name in ("age", "sex", "view")}, test)
    np.testing.assert_allclose(found, logits(labels, train, test), atol=TOLERANCE)


def test_every_split_is_predicted_from_its_own_attributes(
    labels: np.ndarray, train: Columns, test: Columns
) -> None:
    val = {name: values[:7] for name, values in train.items()}
    both = attributes_only.logits(labels, train, {"val": val, "test": test})
    assert both is not None
    assert list(both) == ["val", "test"]
    np.testing.assert_array_equal(both["test"], logits(labels, train, test))
    np.testing.assert_array_equal(both["val"], logits(labels, train, val))


def test_images_of_unknown_label_are_left_out_of_its_training(
    labels: np.ndarray, train: Columns, test: Columns
) -> None:
    partly = labels.copy()
    partly[::3, 1] = UNKNOWN
    found = logits(partly, train, test)
    np.testing.assert_allclose(found[:, 0], by_hand(labels[:, 0], train, test), atol=TOLERANCE)
    rest = {name: np.delete(values, np.s_[::3]) for name, values in train.items()}
    expected = by_hand(np.delete(labels[:, 1], np.s_[::3]), rest, test)
    np.testing.assert_allclose(found[:, 1], expected, atol=TOLERANCE)
    assert np.abs(found[:, 1] - by_hand(labels[:, 1], train, test)).max() > 0.05


def test_a_category_that_training_lacks_has_no_column(
    labels: np.ndarray, train: Columns, test: Columns
) -> None:
    new = test | {"view": np.where(test["view"] == "LL", "XR", test["view"])}
    assert (new["view"] == "XR").any()
    expected = by_hand(labels[:, 0], train, new)
    np.testing.assert_allclose(logits(labels, train, new)[:, 0], expected, atol=TOLERANCE)


def test_an_unknown_value_of_a_category_is_one_of_its_own(
    labels: np.ndarray, train: Columns
) -> None:
    """Images of unknown view are positive here, and no others are."""
    y = (train["view"] == "").astype(np.int8)[:, None]
    two = {"view": np.array(["", "AP"]), "sex": np.array(["F", "F"]), "age": np.array(["50", "50"])}
    unknown, known = logits(y, train, two)[:, 0]
    assert unknown > 1 > -1 > known


@pytest.mark.parametrize("unknown", ["", "adult", "nan", "inf"])
def test_an_unknown_age_counts_as_the_median_with_a_mark(
    unknown: str, labels: np.ndarray, train: Columns, test: Columns
) -> None:
    years = [each for each in train["age"] if each]
    y = (train["age"] == "").astype(np.int8)[:, None]  # so the mark alone decides
    middle = str(int(np.median(np.array(years, int))))
    two = {name: np.repeat(train[name][:1], 2) for name in ("view", "sex")}
    marked, median = logits(y, train, two | {"age": np.array([unknown, middle])})[:, 0]
    assert marked > 1 > -1 > median
    ages = test | {"age": np.where(np.arange(N_TEST) % 2, unknown, test["age"])}
    empty = test | {"age": np.where(np.arange(N_TEST) % 2, "", test["age"])}
    np.testing.assert_array_equal(logits(labels, train, ages), logits(labels, train, empty))


def test_ages_that_are_unknown_in_test_alone_count_as_the_median(
    labels: np.ndarray, train: Columns, test: Columns
) -> None:
    known = train | {"age": np.where(train["age"] == "", "44", train["age"])}
    expected = by_hand(labels[:, 1], known, test)
    np.testing.assert_allclose(logits(labels, known, test)[:, 1], expected, atol=TOLERANCE)


@pytest.mark.parametrize("value", [0, 1])
def test_a_label_of_one_class_has_its_smoothed_log_odds_everywhere(
    value: int, labels: np.ndarray, train: Columns, test: Columns
) -> None:
    three = np.column_stack([labels, np.full(N, value, np.int8)]).astype(np.int8)
    three[:100, 2] = UNKNOWN
    found = logits(three, train, test)
    odds = 300.5 / 0.5
    np.testing.assert_allclose(found[:, 2], np.log(odds if value else 1 / odds))
    np.testing.assert_allclose(found[:, :2], logits(labels, train, test))


def test_a_label_known_nowhere_has_even_odds(train: Columns, test: Columns) -> None:
    unknown = np.full((N, 1), UNKNOWN, np.int8)
    np.testing.assert_array_equal(logits(unknown, train, test), 0)


def test_many_different_texts_such_as_dates_are_not_used(
    labels: np.ndarray, train: Columns, test: Columns
) -> None:
    days = {"date": np.array([f"2020-01-{i % 21}" for i in range(N)])}
    of_test = test | {"date": np.full(N_TEST, "2020-01-1")}
    np.testing.assert_array_equal(
        logits(labels, train | days, of_test), logits(labels, train, test)
    )
    few = {"date": np.array([f"2020-01-{i % 20}" for i in range(N)])}
    found = logits(labels, train | few, of_test)[:, 0]
    expected = by_hand(labels[:, 0], train | few, of_test, ("view", "sex", "age", "date"))
    np.testing.assert_allclose(found, expected, atol=TOLERANCE)


def test_more_than_20_different_numbers_are_a_quantity(
    labels: np.ndarray, train: Columns, test: Columns
) -> None:
    """A dose that equals the age is treated as the age is."""
    doses = {"view": train["view"], "dose": train["age"]}
    found = logits(labels, doses, {"view": test["view"], "dose": test["age"]})
    of_age = {"view": train["view"], "age": train["age"]}
    expected = logits(labels, of_age, {"view": test["view"], "age": test["age"]})
    np.testing.assert_array_equal(found, expected)


def test_few_different_ages_are_still_a_quantity(test: Columns) -> None:
    rng = np.random.default_rng(0)
    columns = {"sex": rng.choice(["F", "M"], N), "age": rng.choice(["20", "50", "80"], N)}
    y = (rng.random(N) < columns["age"].astype(int) / 160).astype(np.int8)
    expected = by_hand(y, columns, test, ("sex", "age"))
    found = logits(y[:, None], columns, {name: test[name] for name in columns})
    np.testing.assert_allclose(found[:, 0], expected, atol=TOLERANCE)


def test_each_of_two_values_has_a_column_which_the_penalty_counts(test: Columns) -> None:
    """With so few images the penalty decides."""
    columns = {"sex": np.array(["F", "M"] * 6), "age": np.array(["40", "40", "60"] * 4)}
    y = np.array([0, 1] * 5 + [1, 0], np.int8)
    expected = by_hand(y, columns, test, ("sex", "age"))
    found = logits(y[:, None], columns, {name: test[name] for name in columns})
    np.testing.assert_allclose(found[:, 0], expected, atol=TOLERANCE)


def test_an_attribute_of_one_value_is_not_used(
    labels: np.ndarray, train: Columns, test: Columns
) -> None:
    constant = {"device": np.full(N, "x")}
    of_test = test | {"device": np.full(N_TEST, "y")}
    np.testing.assert_array_equal(
        logits(labels, train | constant, of_test), logits(labels, train, test)
    )


@pytest.mark.parametrize(
    "columns",
    [
        {},
        {"sex": np.full(N, "F"), "age": np.full(N, "50")},
        {"sex": np.full(N, ""), "age": np.full(N, "")},
        {"date": np.array([f"day {i}" for i in range(N)])},
    ],
    ids=["none", "one value each", "unknown", "dates"],
)
def test_without_a_usable_attribute_there_is_no_baseline(
    columns: Columns, labels: np.ndarray
) -> None:
    assert attributes_only.logits(labels, columns, {"test": columns}) is None


@pytest.mark.parametrize("names", [("view",), ("sex",), ("view", "sex"), ("age",)])
def test_categories_alone_and_quantities_alone_are_enough(
    names: tuple[str, ...], labels: np.ndarray, train: Columns, test: Columns
) -> None:
    of_train, of_test = ({name: each[name] for name in names} for each in (train, test))
    found = logits(labels, of_train, of_test)
    for i in range(2):
        expected = by_hand(labels[:, i], of_train, of_test, names)
        np.testing.assert_allclose(found[:, i], expected, atol=TOLERANCE)


@needs_nih
def test_view_sex_and_age_of_real_images_have_a_known_macro_auroc() -> None:
    """0.591 on the test split; another implementation found the same."""
    table = pd.read_csv(NIH_TABLE, dtype=str).set_index("Image Index")
    arrays: dict[str, Any] = dict(np.load(REAL))
    columns: dict[str, Columns] = {}
    for split in ("train", "test"):
        rows = table.loc[[f"{each}.png" for each in arrays[f"{split}_ids"]]]
        ages, _ = attributes.clean_ages(rows["Patient Age"].to_numpy(str))
        columns[split] = {
            "view": rows["View Position"].to_numpy(str),
            "sex": rows["Patient Gender"].to_numpy(str),
            "age": ages,
        }
    found = logits(arrays["train_labels"].astype(np.int8), columns["train"], columns["test"])
    aurocs = []
    for i, name in enumerate(CHESTMNIST):
        y = arrays["test_labels"][:, i]
        if 0 < y.sum() < len(y):
            aurocs.append(roc_auc_score(y, found[:, i]))
        if name == "effusion":
            expected = by_hand(
                arrays["train_labels"][:, i].astype(int), columns["train"], columns["test"]
            )
            np.testing.assert_allclose(found[:, i], expected, atol=TOLERANCE)
    assert np.mean(aurocs) == pytest.approx(0.591, abs=0.002)
