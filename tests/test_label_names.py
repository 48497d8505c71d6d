"""Names of labels: spellings of known findings, their order, and names for paths."""

import pytest

from cxr import labels
from cxr.errors import CxrError


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("Pleural Effusion", "effusion"),  # CheXpert, MIMIC-CXR
        ("Pleural_Thickening", "pleural"),  # NIH
        ("hiatal hernia", "hernia"),  # PadChest
        ("Oedema", "edema"),
        ("Lung Opacity", None),
    ],
)
def test_known_findings_have_one_name_in_any_spelling(written: str, name: str | None) -> None:
    assert labels.canonical(written) == name


def test_known_findings_come_first_in_their_usual_order() -> None:
    assert labels.in_order(["b", "hernia", "a", "mass"]) == [3, 1, 0, 2]


@pytest.mark.parametrize(
    ("names", "paths"),
    [
        (("Öd/ém [x]", "mass"), ("Öd_ém_x_", "mass")),
        (("a b", "a.b"), ("0_a_b", "1_a_b")),
        (("a b", "A_b", "1_a_b"), ("0_a_b", "1_A_b", "2_1_a_b")),
    ],
)
def test_names_in_paths_are_safe_and_differ(names: tuple[str, ...], paths: tuple[str, ...]) -> None:
    assert labels.path_names(names) == paths


@pytest.mark.parametrize("names", [[], [""], ["a\tb"], ["x" * 61], ["macro"], ["a", " a "]])
def test_unusable_names_are_refused(names: list[str]) -> None:
    with pytest.raises(CxrError, match=r"^where"):
        labels.checked_names(names, "where")
