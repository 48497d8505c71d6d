"""Attributes of images, such as sex, age and view: text per image, empty where unknown."""

import re
from collections import Counter
from typing import Any

import numpy as np
import numpy.typing as npt

AGE = "age"  # years; the only attribute with a meaning of its own
OLDEST = 120  # years; older versions of NIH's table have ages above 400
MOST_VALUES = 20  # of an attribute that the data report counts one by one
MOST_ATTRIBUTES, MOST_CHARACTERS = 20, 64  # a DICOM UID, as a patient's number, has up to 64
ATTRIBUTE_NAME = re.compile(r"[\w -]{1,40}")

# DICOM's age string (VR AS), which NIH's first table uses: 058Y, 013M.
AGE_STRING = re.compile(r"(\d+(?:\.\d+)?)([DWMY]?)", re.IGNORECASE)
PER_YEAR = {"D": 365.25, "W": 365.25 / 7, "M": 12.0, "Y": 1.0, "": 1.0}

Texts = npt.NDArray[np.str_]


def years(age: str) -> str | None:
    """An age in years, empty if it is unknown; None if it is impossible.

    Parameters
    ----------
    age : a number of years, or a DICOM age string of days, weeks, months or years.
    """
    if not age:
        return age
    match = AGE_STRING.fullmatch(age)
    if match is None:
        return None
    value = float(match[1]) / PER_YEAR[match[2].upper()]
    return f"{value:g}" if value <= OLDEST else None


def clean_ages(ages: Texts) -> tuple[Texts, int]:
    """Ages (N,) in years, impossible ones as unknown, and the number of these."""
    cleaned = [years(age) for age in ages.tolist()]
    return np.array([age or "" for age in cleaned], str), cleaned.count(None)


def describe(values: Texts) -> dict[str, Any]:
    """The number of known values and their distribution.

    Returns
    -------
    `known`, and `quartiles` (minimum, quartiles and maximum) if all known values are numbers with
    more than MOST_VALUES different ones; else `values`, the count of each, the most frequent first.
    """
    known = values[values != ""]
    if are_numbers(known):
        quartiles = np.percentile(numbers(known), [0, 25, 50, 75, 100]).tolist()
        return {"known": len(known), "quartiles": quartiles}
    counts = Counter(known.tolist()).most_common()
    report = {"known": len(known), "values": dict(counts[:MOST_VALUES])}
    return report | ({"n_values": len(counts)} if len(counts) > MOST_VALUES else {})


def numbers(values: Texts) -> npt.NDArray[np.float64]:
    """Values (N,) as numbers; NaN where they are unknown or no finite number."""
    return np.array([_number(value) for value in values.tolist()], np.float64)


def are_numbers(values: Texts) -> bool:
    """Whether values are a quantity: all known ones are numbers, of more than MOST_VALUES."""
    known = np.unique(values[values != ""])
    return len(known) > MOST_VALUES and not np.isnan(numbers(known)).any()


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        return np.nan
    return value if np.isfinite(value) else np.nan
