"""Radii (eps) as text: one parser and one formatter for every option, table, message and report."""

import math
import re
from collections.abc import Iterable
from fractions import Fraction
from typing import Any

_NUMBER = re.compile(r"[+-]?(\d{1,30}(\.\d{0,30})?|\.\d{1,30})(e[+-]?\d{1,3})?", re.IGNORECASE | re.ASCII)
_WORDS = re.compile(r"[+-]?(nan|inf(inity)?)", re.IGNORECASE)
LEVELS = 255  # steps of an 8-bit pixel, the unit in which l-infinity radii are usually given
EXACT = 1e-6  # of a level: radii that were stored as text or float32 are the same up to this


def parse_eps(value: Any, name: str = "eps") -> float:
    """A radius in [0, 1] pixel units as a number: 0.5, "8/255", Fraction(8, 255), "1e-3", a tensor of one element.

    Args:
        value: what was given.
        name: what the message calls it.

    Raises:
        ValueError: anything else; zero, negative, infinite or not a number.
    """
    try:
        number = _of_text(value) if isinstance(value, str) else math.nan if isinstance(value, bool) else float(value)
    except (ValueError, TypeError, OverflowError, ZeroDivisionError, RuntimeError):
        raise ValueError(f"{name} must be a number or a fraction such as '8/255', got {_shown(value)}") from None
    if not 0.0 < number < math.inf:
        raise ValueError(f"{name} must be a positive number in [0, 1] pixel units, got {_shown(value)}")
    return number


def parse_radii(eps: Any) -> list[float]:
    """One radius or several as ascending numbers without duplicates.

    Raises:
        ValueError: none, or one that :func:`parse_eps` refuses.
    """
    single = isinstance(eps, str) or not isinstance(eps, Iterable) or getattr(eps, "ndim", 1) == 0
    radii = sorted({parse_eps(radius) for radius in ([eps] if single else eps)})
    if not radii:
        raise ValueError("eps must be one radius or more, got none")
    return radii


def format_eps(eps: float, norm: str | None) -> str:
    """A radius as text: ``8/255`` in l-infinity where it is a whole number of 255ths, else a decimal number.

    Numbers of up to five digits are shown exactly, longer ones with four digits: :func:`parse_eps` reads the text as
    the same radius to within 0.05%.

    Args:
        eps: in [0, 1] pixel units.
        norm: "linf", or another, or None where it is not known: only "linf" is shown in 255ths.
    """
    levels = LEVELS * eps
    if norm == "linf" and 0 < round(levels) < LEVELS and abs(levels - round(levels)) < EXACT:
        return f"{round(levels)}/{LEVELS}"
    if len(f"{eps:.6e}".partition("e")[0].replace(".", "").rstrip("0")) <= 5:
        return f"{eps:.5g}"
    in_levels = f"{levels:.4g}"
    if norm == "linf" and len(in_levels.replace(".", "").strip("0")) <= 2 and abs(levels - float(in_levels)) < EXACT:
        return f"{in_levels}/{LEVELS}"
    return f"{eps:.4g}"


def _of_text(text: str) -> float:
    """Parse a number or a fraction in bounded time: ``Fraction("1e999999999")`` would write out all its digits."""
    above, slash, below = (part.strip() for part in text.partition("/"))
    parts = [above, below] if slash else [above]
    if not slash and _WORDS.fullmatch(above):
        return math.nan
    if not all(_NUMBER.fullmatch(part) for part in parts):
        raise ValueError(text)
    numbers = [Fraction(part) for part in parts]
    return float(numbers[0] / numbers[1] if slash else numbers[0])


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:36]} ..."
