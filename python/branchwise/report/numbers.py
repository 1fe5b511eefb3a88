"""Numbers as people read them: counts, large counts, shares with their interval, seconds."""

from __future__ import annotations

from branchwise.report.intervals import wilson

_PREFIXES = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def count(value: int) -> str:
    """1234567 as "1,234,567"."""
    return f"{value:,}"


def large(value: float) -> str:
    """2295351040.0 as "2.30 G": three digits and an SI prefix."""
    for size, prefix in _PREFIXES:
        if value >= size * 0.9995:  # so that 999.9 k, rounded to three digits, becomes 1.00 M
            return f"{_three_digits(value / size)} {prefix}"
    return _three_digits(value)


def share(right: int, total: int) -> str:
    """ "61.0 %", or "-" when nothing was graded."""
    return f"{100 * right / total:.1f} %" if total else "-"


def interval(right: int, total: int) -> str:
    """ "54.1 to 67.5": the 95 % Wilson interval in percent, or "-" when nothing was graded."""
    low, high = wilson(right, total)
    return f"{100 * low:.1f} to {100 * high:.1f}" if total else "-"


def measure(value: float | None) -> str:
    """ "0.812", or "-" for what is not known."""
    return "-" if value is None else f"{value:.3f}"


def seconds(value: float) -> str:
    """ "4.6 s", from 100 s on "2:05 min", from an hour on "1:02:05 h"."""
    if value < 99.95:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02} h" if hours else f"{minutes}:{rest:02} min"


def size(n_bytes: int) -> str:
    """ "2.4 MiB"."""
    amount, unit = float(n_bytes), "B"
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024 or unit == "GiB":
            break
        amount /= 1024
    return f"{amount:.0f} B" if unit == "B" else f"{amount:.1f} {unit}"


def _three_digits(value: float) -> str:
    return f"{value:.2f}" if value < 9.995 else f"{value:.1f}" if value < 99.95 else f"{value:.0f}"
