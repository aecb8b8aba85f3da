"""95% intervals for what is measured on a random part of the test images."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ..keyed_random import permutation
from ..stats import median_interval, t_quantile

GROUPS = 10
"""Parts of the images, each of which the jackknife leaves out once."""


def mean_interval(values: Tensor) -> tuple[float, float | None, float | None]:
    """(mean, low, high) of one finite number per image, by Student's t; no ends of a single number.

    Args:
        values: (n,), n at least 1.
    """
    values = values.double()
    mean, n = float(values.mean()), len(values)
    if n < 2:
        return mean, None, None
    half = t_quantile(n - 1, 0.95) * float(values.std()) / math.sqrt(n)
    return mean, mean - half, mean + half


def median_of(values: Tensor) -> tuple[float, float | None, float | None]:
    """(median, low, high) of one finite number per image, by order statistics; no ends of fewer than six numbers.

    Where values are not known beyond a limit, clamp them to it: the median of that is exact, and so are its ends.

    Args:
        values: (n,), n at least 1.
    """
    median, low, high = median_interval(values.double().tolist())
    return (median, low, high) if math.isfinite(high - low) else (median, None, None)


def groups(n: int, seed: int, count: int = GROUPS) -> list[Tensor]:
    """``n`` images at random in ``count`` parts of nearly equal size: the numbers, of 0 .. n - 1, of each."""
    return [part.sort().values for part in permutation(n, seed, "jackknife").tensor_split(min(count, n))]


def jackknife(
    statistic: Callable[[Tensor], float], n: int, seed: int, count: int = GROUPS
) -> tuple[float, float | None, float | None]:
    """(value, low, high) of a statistic of n images, by the jackknife over ``count`` groups of them (Tukey, 1958).

    For a statistic that the bootstrap does not fit, such as a rank, which repeated images lower. The interval is that
    of sampling: where the statistic would lie for other images, as many as these. What depends on the number of images
    (an effective rank rises with it) is no part of it.

    Args:
        statistic: of the images of these numbers, ascending, int64.
        n: number of images; with fewer than 2 groups of 2 there is no interval.
        seed: of the division into groups.
        count: number of groups.
    """
    everything = torch.arange(n)
    value = statistic(everything)
    if n < 2 * count:
        return value, None, None
    kept = torch.ones(n, dtype=torch.bool)
    left_out = []
    for part in groups(n, seed, count):
        kept[part] = False
        left_out.append(statistic(everything[kept]))
        kept[part] = True
    spread = torch.tensor(left_out, dtype=torch.float64)
    error = math.sqrt((count - 1) / count * float((spread - spread.mean()).square().sum()))
    half = t_quantile(count - 1, 0.95) * error
    return value, value - half, value + half
