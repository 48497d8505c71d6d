"""Numbers as text, including undefined values and very small p-values."""

import pytest

from cxr import formatting


@pytest.mark.parametrize(
    ("made", "text"),
    [
        (formatting.number(0.71234), "0.7123"),
        (formatting.number(22433, digits=0), "22,433"),
        (formatting.number(None), "-"),
        (formatting.signed(0.0), "+0.0000"),
        (formatting.signed(-0.01266, digits=2), "-0.01"),
        (formatting.percent(0.94740), "94.74%"),
        (formatting.interval((0.1, 0.23456)), "[0.1000, 0.2346]"),
        (formatting.interval(None), "-"),
        (formatting.with_interval({"auroc": 0.5, "auroc_ci": [0.4, 0.6]}, "auroc"),
         "0.5000 [0.4000, 0.6000]"),
        (formatting.with_interval({"auroc": 0.5}, "auroc"), "0.5000"),
        (formatting.with_interval({"auroc": None, "auroc_ci": None}, "auroc"), "-"),
        (formatting.p_value(0.0009), "< 0.001"),
        (formatting.p_value(0.001), "0.001"),
        (formatting.p_value(None), "-"),
        (formatting.comparison({"difference": 0.01, "ci": [-0.02, 0.04], "p_holm": 0.5}),
         "+0.0100 [-0.0200, +0.0400], p 0.500 after Holm's correction"),
    ],
)  # fmt: skip
def test_numbers_are_text(made: str, text: str) -> None:
    assert made == text
