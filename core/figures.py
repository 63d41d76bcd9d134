"""Numbers as people read them."""

from __future__ import annotations

from decimal import Decimal


def js_number(value: float) -> str:
    """A number as JavaScript prints it: `0.00027`, `50`, below 1e-6 `1e-7`."""
    if isinstance(value, int):
        return str(value)
    if value == 0:
        return "0"
    decimal = Decimal(repr(value)).normalize()
    if 1e-6 <= abs(value) < 1e21:
        return f"{decimal:f}"
    sign, digits, _ = decimal.as_tuple()
    mantissa = str(digits[0]) + ("." + "".join(map(str, digits[1:])) if len(digits) > 1 else "")
    exponent = decimal.adjusted()
    return f"{'-' if sign else ''}{mantissa}e{'+' if exponent > 0 else ''}{exponent}"
