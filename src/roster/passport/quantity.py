"""Kubernetes quantities (`4Gi`, `500m`, `1e3`, `2k`) as exact numbers that compare.

Source: https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Any

_QUANTITY = re.compile(
    r"([+-]?)([0-9]{1,40}(?:\.[0-9]{0,40})?|\.[0-9]{1,40})([KMGTPE]i|[numkMGTPE]|[eE][+-]?[0-9]{1,2})?"
)
_SUFFIX = {
    **{f"{letter}i": Fraction(1024) ** power for power, letter in enumerate("KMGTPE", start=1)},
    **dict(zip("num", (Fraction(1, 10**9), Fraction(1, 10**6), Fraction(1, 1000)), strict=True)),
    **{letter: Fraction(1000) ** power for power, letter in enumerate("kMGTPE", start=1)},
}


def parse_quantity(value: Any) -> Fraction | None:
    """Return a quantity's value, or None when it is none.

    Args:
        value: text, or a number of a document.
    """
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return Fraction(value)
    text = repr(value) if isinstance(value, float) else value
    if not isinstance(text, str) or (found := _QUANTITY.fullmatch(text)) is None:
        return None
    sign, digits, suffix = found.groups()
    number = Fraction(digits.rstrip(".")) * (-1 if sign == "-" else 1)
    if not suffix:
        return number
    if suffix[0] in "eE" and len(suffix) > 1:
        return number * Fraction(10) ** int(suffix[1:])
    return number * _SUFFIX[suffix]
