"""How far a perturbation moves the hidden states of a network, layer by layer (the paper's claim of section 4).

"The network learns to neutralize adversarial perturbations and maps hidden states back to the data manifold": then
the relative distance ||h(x') - h(x)|| / ||h(x)|| of perturbed and clean images would shrink with depth, and be smaller
than in a network that was trained without. It is what is measured here; noise of the same size is the control.
"""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..keyed_random import Noise
from ..modes import evaluating
from ..norm.branched import BranchedNorm
from ..perturb.ball import Ball

# How far the branches of a trained model have moved apart: statistics and affine parameters, layer by layer.

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


# The layers whose outputs are compared: the blocks of a network, found by its structure, or by name.

_SEQUENCES = (nn.Sequential, nn.ModuleList)


def default_layers(model: nn.Module) -> dict[str, nn.Module]:
    """The blocks of ``model``, by module name: composite modules that are members of a sequence.

    Of our ResNets, timm's and torchvision's these are the residual blocks, of vision transformers the transformer
    blocks. A sequence's member that itself holds several such blocks is a stage or a whole network: its blocks are
    taken instead of it. Where there are fewer than two blocks, as in a plain stack of layers, every innermost layer
    with parameters is taken.
    """
    modules = dict(model.named_modules())
    members = [name for name, module in modules.items() if name and _is_member(modules, name) and _is_composite(module)]
    inner = {name: sum(other.startswith(f"{name}.") for other in members) for name in members}
    candidates = [name for name in members if inner[name] <= 1]
    blocks = [name for name in candidates if not any(name.startswith(f"{other}.") for other in candidates)]
    if len(blocks) < 2:
        blocks = [name for name, module in modules.items() if name and _is_leaf(module)]
    return {name: modules[name] for name in blocks}


def named_layers(model: nn.Module, names: Sequence[str]) -> dict[str, nn.Module]:
    """The modules of ``model`` of these names, such as ``network.stages.2``.

    Raises:
        ValueError: there is none of that name; the message has the nearest one.
    """
    modules = {name: module for name, module in model.named_modules() if name}
    for name in names:
        if name not in modules:
            near = difflib.get_close_matches(name, modules, n=1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            blocks = ", ".join(list(default_layers(model))[:8])
            raise ValueError(f"the model has no layer {name!r}{hint}; its blocks are {blocks}")
    return {name: modules[name] for name in names}


def _is_member(modules: dict[str, nn.Module], name: str) -> bool:
    return isinstance(modules[name.rpartition(".")[0]], _SEQUENCES)


def _is_composite(module: nn.Module) -> bool:
    """Contains layers with parameters, but is neither only a sequence of them nor a norm of several branches."""
    if isinstance(module, (*_SEQUENCES, BranchedNorm)):
        return False
    return any(True for child in module.children() for _ in child.parameters())


def _is_leaf(module: nn.Module) -> bool:
    return any(True for _ in module.parameters(recurse=False)) and not _is_composite(module)


IMAGE, LOGITS = "image", "logits"
"""Names of the first and the last depth: the pixels in [0, 1], and the model's output."""


def state_of(output: Any, layer: str, images: int) -> Tensor:
    """The hidden state in what a layer returned: the tensor, or the first of several.

    Args:
        output: of the layer.
        layer: its name.
        images: number of images that went in.

    Raises:
        ValueError: it is no tensor with one row per image.
    """
    state = output[0] if isinstance(output, (tuple, list)) and output else output
    if not isinstance(state, Tensor) or state.dim() < 2 or len(state) != images:
        what = f"shape {tuple(state.shape)}" if isinstance(state, Tensor) else type(state).__name__
        raise ValueError(f"layer {layer}: its output ({what}) has no row per image: name other layers")
    return state


@torch.no_grad()
def relative_distances(
    model: nn.Module, x: Tensor, perturbed: Mapping[str, Tensor], layers: Mapping[str, nn.Module]
) -> dict[str, dict[str, Tensor]]:
    """``||h(x') - h(x)|| / ||h(x)||`` for each image, layer and perturbation: Euclidean norms over all of a layer.

    The model is in eval mode meanwhile, so that an image's hidden states depend on the others in the batch only by
    rounding.

    Args:
        model: from images in [0, 1] to logits; neither its modes nor its statistics change.
        x: clean images, (N, ...).
        perturbed: by name, each (N, ...).
        layers: modules of ``model`` by name. Of one that is called several times the last call counts; one that is
            not called is left out, as is one whose output is the model's, which is "logits".

    Returns:
        {layer: {perturbation: (N,) float64}}: "image", then the layers in the order in which they are run, "logits".
        Where a clean hidden state is all zero the distance is 0 if it stays so, else infinite.

    Raises:
        ValueError: a layer whose output is no tensor with one row per image.
    """
    batch = torch.cat([x, *perturbed.values()])
    distances_by_layer: dict[str, dict[str, Tensor]] = {IMAGE: _distances(batch, list(perturbed), len(x))}
    last: dict[str, Tensor] = {}

    def hook(name: str) -> Any:
        def record(_: nn.Module, __: Any, output: Any) -> None:
            state = state_of(output, name, len(batch))
            # now: a later layer may change the tensor in place
            distances_by_layer[name], last[name] = _distances(state, list(perturbed), len(x)), state

        return record

    handles = [module.register_forward_hook(hook(name)) for name, module in layers.items()]
    try:
        with evaluating(model):
            logits = model(batch.clone())
    finally:
        for handle in handles:
            handle.remove()
    for name in [name for name, state in last.items() if state is logits]:
        del distances_by_layer[name]
    return {**distances_by_layer, LOGITS: _distances(logits, list(perturbed), len(x))}


def same_size_noise(ball: Ball, x: Tensor, noise: Noise) -> Tensor:
    """Images (N, ...) moved as far as a one-step perturbation moves them, in a random direction: the control.

    In l-infinity every pixel goes eps up or down; in l2 the direction is uniform and its length eps. (A random point
    *inside* the ball is nearer.)
    """
    direction = ball.steepest(noise.normal(*x.shape[1:]).to(x))
    return ball.project(x + float(ball.eps) * direction, x)


def _distances(states: Tensor, names: list[str], n: int) -> dict[str, Tensor]:
    clean, *others = torch.split(states.flatten(1).double(), n)
    size = clean.norm(dim=1)
    moved = {name: (other - clean).norm(dim=1) for name, other in zip(names, others, strict=True)}
    return {name: torch.where(far > 0, far / size, far).cpu() for name, far in moved.items()}
