"""Where charts stand: three beside each other, two or one where there is less room, and no gap in the last row."""

from __future__ import annotations

GAP = 4
"""Pixels between two rows."""

TWO = "(max-width: 1180px)"
ONE = "(max-width: 760px)"
"""Windows in which two charts stand beside each other, and one."""


def grid(box: str, chart: str, *, within: str = "") -> str:
    """The style of `box` as a grid of all `chart` in it, both as selectors; `within` is what a chart's begins with.

    Of three columns' worth of charts, the last two widen where two are over, and the last four stand two by two where
    one is over: there are as many rows as without that, so that a place that is kept free is the right one.
    """

    def last(number: int, *nth: str) -> str:
        """The chart that is the `number`-th from the end, where it is one of the `nth` from the beginning."""
        places = ", ".join(f":nth-child({each} of {chart})" for each in nth)
        return f"{within}{chart}:nth-last-child({number} of {chart}):is({places})"

    wide = ", ".join(
        (last(1, "3n+1", "3n+2"), last(2, "3n", "3n+1"), last(3, "3n+2"), last(4, "3n+1")),
    )
    return f"""
{box} {{ display: grid; gap: {GAP}px 16px; grid-template-columns: repeat(6, minmax(0, 1fr)); }}
{within}{chart} {{ grid-column: span 2; }}
{wide} {{ grid-column: span 3; }}
@media {TWO} {{
  {box} {{ grid-template-columns: repeat(2, minmax(0, 1fr)); }}
  {within}{chart}, {wide} {{ grid-column: auto; }}
  {last(1, "odd")} {{ grid-column: span 2; }}
}}
@media {ONE} {{
  {box} {{ grid-template-columns: minmax(0, 1fr); }}
  {within}{chart}, {wide}, {last(1, "odd")} {{ grid-column: auto; }}
}}
"""


def height(charts: int, each: int) -> str:
    """The style of `:host`, a grid of so many charts of `each` pixels, that keeps their place while they are away."""
    three, two, one = (rows * (each + GAP) - GAP + 12 for rows in (-(-charts // 3), -(-charts // 2), charts))
    return (
        f":host {{ min-height: {three}px; }} @media {TWO} {{ :host {{ min-height: {two}px; }} }}"
        f" @media {ONE} {{ :host {{ min-height: {one}px; }} }}"
    )
