"""The reverse Weibull distribution fitted to maxima: its location is the end that a bounded quantity cannot exceed.

Maxima of many draws of a bounded quantity follow exp(-((a - m) / b)^c) for m below the location a, with scale b and
shape c (Fisher & Tippett, 1928; Gnedenko, 1943). The fit is by maximum likelihood. For a given a the likeliest b and c
follow from one equation each, so that a search along a is all there is: no starting values, nothing that can diverge,
and many resamples at a time. scipy's ``weibull_max.fit`` searches all three from a starting point; it may end in a
local optimum, or run to parameters of 1e6 without a word.

Both ends of the search are no estimates. Below c = 1 the likelihood has no maximum (it grows without limit as a comes
near the largest value; Smith, Biometrika 1985), so that c is at least 1, and a fit with c = 1 has a at the largest
value. Where it grows up to c = 100, the location runs to infinity: the values look like those of a Gumbel distribution,
which has no end. So do two of five samples of 50 whose true c is 40, and one of twenty whose c is 6: a small penalty of
c^2, that of the code of CLEVER's authors, keeps the location finite.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

LEAST_SHAPE, MOST_SHAPE = 1.0, 100.0
PENALTY = 0.01
"""Of the log-likelihood, times c^2: as in the code of CLEVER's authors."""
GRID = np.logspace(-4, 2.5, 20)
"""Of the way from the largest value to the location, in units of the values' range; refined around the best."""
GOLDEN = (np.sqrt(5) - 1) / 2
REFINEMENTS = 20  # each narrows the bracket, 0.7 decades, by 0.618
ROUNDING = 1e-6
"""Values within this share of the largest one are the same number in float32, computed another way."""


class Fit(NamedTuple):
    """R fits, each field (R,) float64.

    Args:
        location, scale, shape: of the likeliest distribution; infinite, infinite and NaN where the location runs to
            infinity; the largest value, 0 and NaN where all values are the same.
        log_likelihood: of all values of a row together, without the penalty; NaN where there is no distribution.
    """

    location: Array
    scale: Array
    shape: Array
    log_likelihood: Array


def fit(values: Array, penalty: float = PENALTY) -> Fit:
    """The likeliest reverse Weibull distribution of each row of ``values`` (R, n), finite, n at least 2.

    Args:
        penalty: what is maximised is the log-likelihood less ``penalty`` times the square of the shape.
    """
    largest, n = values.max(1), values.shape[1]
    spread = largest - values.min(1)
    constant = spread <= ROUNDING * np.abs(largest)
    unit = np.where(constant, 1.0, spread)
    below = (largest[:, None] - values) / unit[:, None]  # in [0, 1]

    def profile(beyond: Array) -> tuple[Array, Array, Array]:
        """Log-likelihood less the penalty, shape and log scale, for locations so far beyond the largest values."""
        logs = np.log(below + beyond[:, None])
        shape = _shape(logs, penalty)
        log_scale = _log_mean_power(logs, shape) / shape
        likelihood = n * (np.log(shape) - shape * log_scale + (shape - 1) * logs.mean(1) - 1)
        return likelihood - penalty * shape**2, shape, log_scale

    of_grid = np.array([profile(np.full(len(values), beyond))[0] for beyond in GRID])  # (grid, R)
    best = of_grid.argmax(0)
    low, high = (np.log(GRID[np.clip(best + step, 0, len(GRID) - 1)]) for step in (-1, 1))
    for _ in range(REFINEMENTS):
        left, right = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
        rises = profile(np.exp(left))[0] < profile(np.exp(right))[0]
        low, high = np.where(rises, left, low), np.where(rises, high, right)
    beyond = np.exp((low + high) / 2)
    likelihood, shape, log_scale = profile(beyond)

    # the other candidate: exponential, from the largest value down
    mean = np.where(constant, 1.0, below.mean(1))
    exponential = -n * (np.log(mean) + 1) - penalty * LEAST_SHAPE**2
    at_largest = exponential >= likelihood
    beyond = np.where(at_largest, 0.0, beyond)
    shape, log_scale = np.where(at_largest, LEAST_SHAPE, shape), np.where(at_largest, np.log(mean), log_scale)
    likelihood = np.where(at_largest, exponential, likelihood)

    endless = shape >= MOST_SHAPE * (1 - 1e-6)
    location = np.where(endless, np.inf, largest + beyond * unit)
    scale, shape = np.where(endless, np.inf, np.exp(log_scale) * unit), np.where(endless, np.nan, shape)
    likelihood = likelihood + penalty * shape**2 - n * np.log(unit)
    return Fit(
        np.where(constant, largest, location), np.where(constant, 0.0, scale), np.where(constant, np.nan, shape),
        np.where(constant, np.nan, likelihood),
    )  # fmt: skip


def _shape(logs: Array, penalty: float) -> Array:
    """(R,) the likeliest shape c of Weibull values with these logarithms (R, n), between the two limits.

    It solves 1 / c + mean(log y) = sum(y^c log y) / sum(y^c) + 2 penalty c / n, whose left side falls in c and whose
    right side rises. Newton's method, from the shape that the spread of the logarithms suggests, takes a few steps.
    """
    logs = logs - logs.max(1, keepdims=True)
    mean, pull = logs.mean(1), 2 * penalty / logs.shape[1]
    spread = np.sqrt(np.maximum((logs - mean[:, None]) ** 2, 0).mean(1))
    shape = np.clip(np.pi / np.sqrt(6) / np.maximum(spread, 1e-300), LEAST_SHAPE, MOST_SHAPE)
    for _ in range(8):
        power = np.exp(shape[:, None] * logs)
        total = power.sum(1)
        first = (power * logs).sum(1) / total
        second = (power * logs**2).sum(1) / total - first**2
        change = (1 / shape + mean - first - pull * shape) / (1 / shape**2 + second + pull)
        shape = np.clip(shape + change, LEAST_SHAPE, MOST_SHAPE)
        if (np.abs(change) < 1e-7 * shape).all():
            break
    return shape


def _log_mean_power(logs: Array, shape: Array) -> Array:
    """(R,) log(mean(y^c)) of values with these logarithms (R, n)."""
    top = logs.max(1)
    return shape * top + np.log(np.exp(shape[:, None] * (logs - top[:, None])).mean(1))


def goodness(values: Array, location: float, scale: float, shape: float) -> tuple[float, float]:
    """Kolmogorov's and Smirnov's distance between values (n,) and a distribution, and its p.

    p is from the limit distribution with Stephens' correction for small n (1970), right to 0.02 from n = 20 on. The
    parameters are fitted to the same values, which makes it larger than it should be (Lilliefors, 1967): a small p
    speaks against the fit, a large one says little for it.
    """
    from scipy.special import kolmogorov

    n = len(values)
    share = np.exp(-((np.maximum(location - np.sort(values), 0.0) / scale) ** shape))
    steps = np.arange(n + 1) / n
    distance = float(max((steps[1:] - share).max(), (share - steps[:-1]).max()))
    return distance, float(kolmogorov(distance * (math.sqrt(n) + 0.12 + 0.11 / math.sqrt(n))))
