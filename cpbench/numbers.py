"""Numbers as people read them: every table, page and message writes a score by the one function here."""

from __future__ import annotations

import math

DIGITS = 3
LARGE = 1e6  # no score; a table of any content may hold one


def number(value: float | None, digits: int = DIGITS, sign: bool = False) -> str:
    """The value with `digits` decimals, as in "0.573" and "-0.310": a zero before the point, and never "-0.000".

    sign: whether positive values (and zero) have a plus sign, as differences do. "-" for what is not defined: None, NaN.
    From a million on (and for infinities) three significant digits.
    """
    if value is None or math.isnan(value):
        return "-"
    plus = "+" if sign else ""
    if abs(value) >= LARGE:
        return f"{value:{plus}.3g}"
    return f"{round(float(value), digits) + 0.0:{plus}.{digits}f}"  # -0.0 + 0.0 is 0.0
