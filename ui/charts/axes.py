"""Ticks that read well at any size, and the tools beside a chart: what all charts share."""

from __future__ import annotations

from bokeh.models import AdaptiveTicker, CompositeTicker

# As many digits as tell neighbouring ticks apart, however small they are.
TICKS = """
const gap = ticks.length > 1 ? Math.abs(ticks[1] - ticks[0]) : Math.abs(tick)
const size = Math.abs(tick)
if (size < gap / 1e6) return "0"
if (gap < 1e-3 && size < 1e-2) return (+tick.toPrecision(6)).toExponential()
if (gap >= 1e8) return `${+(tick / 1e9).toPrecision(6)}G`
if (gap >= 1e5) return `${+(tick / 1e6).toPrecision(6)}M`
if (gap >= 1e2 && size >= 1e3) return `${+(tick / 1e3).toPrecision(6)}k`
return tick.toFixed(Math.max(0, Math.min(6, -Math.floor(Math.log10(gap) + 1e-9))))
"""

# Ticks of a log axis lie any distance apart: each is as long as it has to be.
LOG_TICKS = """
const size = Math.abs(tick)
for (const [unit, factor] of [["G", 1e9], ["M", 1e6], ["k", 1e3]])
  if (size >= factor * 0.9999) return `${+(tick / factor).toPrecision(3)}${unit}`
return size < 0.000999 ? (+tick.toPrecision(3)).toExponential() : String(+tick.toPrecision(3))
"""

TIME_TICKS = """
const gap = ticks.length > 1 ? Math.abs(ticks[1] - ticks[0]) : 1
const seconds = Math.round(tick)
if (gap < 0.999) return `${+tick.toFixed(2)} s`
if (seconds === 0) return "0"
const last = Math.max(...ticks)
const two = (number) => String(number).padStart(2, "0")
if (gap >= 86400) return `${Math.round(tick / 86400)} d`
if (gap >= 3600) return `${Math.round(tick / 3600)} h`
if (last >= 3600) return `${Math.floor(seconds / 3600)}:${two(Math.floor(seconds % 3600 / 60))} h`
if (gap >= 60) return `${Math.round(tick / 60)} min`
return last > 60 ? `${Math.floor(seconds / 60)}:${two(seconds % 60)} min` : `${seconds} s`
"""

# Quiet until they are wanted; but always there, for a finger or a keyboard has nothing to hover with.
TOOLBAR = """
:host { opacity: 0.6; transition: opacity 0.15s; }
:host(:hover), :host(:focus-within) { opacity: 1; }
:focus-visible { outline: 2px solid var(--mui-palette-primary-main); outline-offset: -2px; border-radius: 4px; }
"""


def time_ticker() -> CompositeTicker:
    """Ticks at whole seconds, minutes, hours and days."""
    return CompositeTicker(
        tickers=[
            AdaptiveTicker(mantissas=[1, 2, 5], base=10, max_interval=0.5, num_minor_ticks=0),
            AdaptiveTicker(
                mantissas=[1, 2, 5, 10, 15, 30],
                base=60,
                min_interval=1,
                max_interval=1800,
                num_minor_ticks=0,
            ),
            AdaptiveTicker(
                mantissas=[1, 2, 4, 6, 12], base=24, min_interval=3600, max_interval=43_200, num_minor_ticks=0
            ),
            AdaptiveTicker(mantissas=[86_400, 172_800, 432_000], base=10, min_interval=86_400, num_minor_ticks=0),
        ],
        desired_num_ticks=5,
        num_minor_ticks=0,
    )
