"""How far the branches of a trained model have moved apart: statistics and affine parameters, layer by layer."""

from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import NamedTuple

import torch
from torch import Tensor

EPS = 1e-5  # what batch norm adds to a variance
_MARK = "norms"  # where a BranchedNorm keeps its branches


class BranchDistance(NamedTuple):
    """One number on two branches of one norm layer.

    Args:
        layer: its module name.
        depth: 1 for the first norm layer of the state dict, and so on.
        branch_a, branch_b: the names of the two.
        measure: "symmetric_kl" of the running statistics, "relative_weight" or "relative_bias" of gamma and beta.
        value: at least 0; of the relative ones at most 2.
    """

    layer: str
    depth: int
    branch_a: str
    branch_b: str
    measure: str
    value: float


def branch_distances(state: Mapping[str, Tensor]) -> Iterator[BranchDistance]:
    """Every pair of branches in every norm layer: up to three measures each, those whose tensors are there.

    Args:
        state: the state dict of a converted model (:func:`easybn.convert`), such as a checkpoint holds. A model without
            branches yields nothing.
    """
    for depth, (layer, norms) in enumerate(_layers(state).items(), 1):
        for (name_a, a), (name_b, b) in combinations(norms.items(), 2):
            for measure, value in _measures(a, b):
                yield BranchDistance(layer, depth, name_a, name_b, measure, value)


def symmetric_kl(mean_a: Tensor, var_a: Tensor, mean_b: Tensor, var_b: Tensor) -> Tensor:
    """(C,) float64: the mean of KL(a || b) and KL(b || a) of two Gaussians per channel, in nats.

    Half of Jeffreys' divergence: ((v_a + d^2) / v_b + (v_b + d^2) / v_a - 2) / 4 with d the difference of the means.
    It does not change when a channel is scaled or shifted in both. Variances get the 1e-5 that batch norm adds.
    """
    v_a, v_b = var_a.double() + EPS, var_b.double() + EPS
    d = (mean_a.double() - mean_b.double()).square()
    return ((v_a + d) / v_b + (v_b + d) / v_a - 2) / 4


def relative_distance(a: Tensor, b: Tensor) -> float:
    """||a - b|| over the root mean square of ||a|| and ||b||: 0 for equal tensors, also for two of zeros; at most 2."""
    size = torch.sqrt((a.double().square().sum() + b.double().square().sum()) / 2)
    return float((a.double() - b.double()).norm() / size) if size > 0 else 0.0


def _layers(state: Mapping[str, Tensor]) -> dict[str, dict[str, dict[str, Tensor]]]:
    """{layer: {branch: {"running_mean": ..., "weight": ...}}}, in the order of the state dict."""
    layers: dict[str, dict[str, dict[str, Tensor]]] = {}
    for key, value in state.items():
        layer, mark, rest = f".{key}".rpartition(f".{_MARK}.")
        branch, _, name = rest.partition(".")
        if mark and name:
            layers.setdefault(layer.lstrip("."), {}).setdefault(branch, {})[name] = value
    return layers


def _measures(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> Iterator[tuple[str, float]]:
    statistics = ("running_mean", "running_var")
    if all(name in each for name in statistics for each in (a, b)):
        kl = symmetric_kl(*(each[name] for each in (a, b) for name in statistics))
        yield "symmetric_kl", float(kl.mean())
    for name in ("weight", "bias"):
        if name in a and name in b:
            yield f"relative_{name}", relative_distance(a[name], b[name])
