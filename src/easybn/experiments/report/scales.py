"""From numbers to places on paper, and where to put ticks."""

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Scale:
    """Numbers in low .. high on a line from ``start`` to ``end``; log: by their logarithm."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high = self._at(self.low), self._at(self.high)
        share = (self._at(value) - low) / (high - low) if high > low else 0.5
        return self.start + min(max(share, 0.0), 1.0) * (self.end - self.start)

    def _at(self, value: float) -> float:
        return math.log10(max(value, 1e-300)) if self.log else value

    @property
    def ticks(self) -> list[float]:
        """Round numbers inside."""
        return decades(self.low, self.high) if self.log else nice(self.low, self.high)


def nice(low: float, high: float, about: int = 5) -> list[float]:
    """About ``about`` multiples of 1, 2 or 5 times a power of ten."""
    if not high > low:
        return [low]
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = power * next(factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(step * i, 12) for i in range(first, last + 1)]


def decades(low: float, high: float) -> list[float]:
    """Powers of ten, with 2 and 5 times them where fewer than three fit."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    tens = [10.0**i for i in range(first, last + 1)]
    inside = [value for value in tens if low <= value * 1.001 and value <= high * 1.001]
    if len(inside) >= 3:
        return inside
    return [value * factor for value in tens for factor in (1, 2, 5) if low * 0.999 <= value * factor <= high * 1.001]


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Places near those ``wanted``, at least ``gap`` apart and inside low .. high if there is room: for labels."""
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    out = [0.0] * len(wanted)
    at = low - gap
    for i in order:
        at = max(wanted[i], at + gap)
        out[i] = at
    over = at - high
    for i in reversed(order):
        if over <= 0:
            break
        out[i] = min(out[i], high)
        high -= gap
    return out


def short(value: float) -> str:
    """For an axis: 0.001, 0.5, 12, 1e-5."""
    if value == 0 or 1e-4 < abs(value) < 1e5:
        return f"{value:.3g}"
    digit, _, power = f"{value:.0e}".partition("e")
    return f"{digit}e{int(power)}"
