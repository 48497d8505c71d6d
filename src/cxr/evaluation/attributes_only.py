"""A baseline that sees no pixel: a model of the attributes alone, such as sex, age and view.

Who is X-rayed, and how, already says something about the findings: a patient who can't stand is
imaged from the front (AP), and more often ill. An image model that is not better than this baseline
may have learnt who is X-rayed and not what is seen.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.compose import make_column_transformer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from cxr.arrays import Doubles, Labels
from cxr.data.attributes import AGE, MOST_VALUES, Texts, are_numbers, numbers
from cxr.evaluation.metrics import has_both_classes
from cxr.labels import UNKNOWN

MOST_ITERATIONS = 1000


def logits(
    labels: Labels, train: Mapping[str, Texts], others: Mapping[str, Mapping[str, Texts]]
) -> dict[str, Doubles] | None:
    """Logits of images from their attributes; None if no attribute can be used.

    One logistic regression per label (scikit-learn's, with its default L2 penalty), of one column
    per value of a category and the standardised value of a quantity. An unknown value is a category
    of its own, or the median and a further column. Attributes with more than MOST_VALUES different
    values that are not numbers, such as dates, are not used.

    Parameters
    ----------
    labels : (N, L) of 0, 1 and UNKNOWN, of the training images.
    train : by attribute, (N,), of the training images.
    others : by split, the attributes of the M images to predict.

    Returns
    -------
    By split, (M, L). A label of one class in training has its log odds, smoothed, everywhere.
    """
    quantities = [name for name, values in train.items() if name == AGE or are_numbers(values)]
    categories = [
        name
        for name, values in train.items()
        if name not in quantities and 1 < len(np.unique(values)) <= MOST_VALUES
    ]
    quantities = [name for name in quantities if len(np.unique(train[name])) > 1]
    if not quantities and not categories:
        return None
    x = _columns(train, quantities, categories)
    predicted = {
        split: np.tile(_log_odds(labels), (len(next(iter(columns.values()))), 1))
        for split, columns in others.items()
    }
    for i in np.flatnonzero(has_both_classes(labels)):
        rows = labels[:, i] != UNKNOWN
        fitted = _model(len(quantities), len(categories)).fit(x[rows], labels[rows, i])
        for split, columns in others.items():
            decided = fitted.decision_function(_columns(columns, quantities, categories))
            predicted[split][:, i] = decided
    return predicted


def _columns(
    columns: Mapping[str, Texts], quantities: list[str], categories: list[str]
) -> npt.NDArray[Any]:
    """Quantities as numbers, then categories as text, (N, A)."""
    values = [numbers(columns[name]).astype(object) for name in quantities]
    return np.column_stack([*values, *(columns[name].astype(object) for name in categories)])


def _model(n_quantities: int, n_categories: int) -> Pipeline:
    quantities = make_pipeline(
        SimpleImputer(strategy="median", add_indicator=True, keep_empty_features=True),
        StandardScaler(),
    )
    categories = OneHotEncoder(handle_unknown="ignore")
    ends = n_quantities, n_quantities + n_categories
    parts = [(quantities, slice(0, ends[0])), (categories, slice(*ends))]
    used = [part for part in parts if part[1].start < part[1].stop]
    return make_pipeline(
        make_column_transformer(*used), LogisticRegression(max_iter=MOST_ITERATIONS)
    )


def _log_odds(labels: Labels) -> Doubles:
    n_positive, n_negative = ((labels == value).sum(axis=0) + 0.5 for value in (1, 0))
    return np.asarray(np.log(n_positive / n_negative))
