"""The outputs of a network's layers for many images, layer by layer, as matrices with a row per image."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..modes import evaluating
from .hidden_states import IMAGE, LOGITS, state_of

MOST_BYTES = 2**30  # of features in memory at a time; with more, the images pass through the network again


class Features(NamedTuple):
    """What a layer makes of the images.

    Args:
        layer: its module name, "image" or "logits".
        depth: 0 for the image, then 1, 2, ...
        x: (n, ...) float32 on the CPU: the output for each image.
    """

    layer: str
    depth: int
    x: Tensor

    @property
    def flat(self) -> Tensor:
        """(n, d): the output for each image as one row."""
        return self.x.flatten(1)

    @property
    def pooled(self) -> Tensor:
        """(n, channels): the mean over positions: of (n, C, H, W) over H and W, of (n, tokens, D) over tokens."""
        if self.x.dim() <= 2:
            return self.flat
        return self.x.mean(1) if self.x.dim() == 3 else self.x.flatten(2).mean(2)


def features(
    model: nn.Module, batches: Iterable[Tensor], layers: Mapping[str, nn.Module], most_bytes: int = MOST_BYTES
) -> Iterator[Features]:
    """The image, the outputs of ``layers`` in the order in which they are run, and the logits, one after the other.

    The model is in eval mode meanwhile; no mode, statistic or gradient of it changes.

    Args:
        model: from images in [0, 1] to logits.
        batches: batches of images (b, ...), such as a list; gone through more than once.
        layers: modules of ``model`` by name. Of one that is called several times the last call counts; one that is not
            called is left out, as is one whose output is the model's, which is "logits".
        most_bytes: of features to be kept at a time.

    Raises:
        ValueError: no image, or a layer whose output is no tensor with one row per image.
    """
    batches = list(batches)
    if not batches:
        raise ValueError("there are no images to measure")
    n = sum(map(len, batches))
    sizes = {name: state[0].numel() for name, state in _states(model, batches[0][:1], layers).items()}
    for depth, names in _groups(sizes, most_bytes // (4 * n)):
        kept: dict[str, list[Tensor]] = {name: [] for name in names}
        for x in batches:
            found = _states(model, x, {name: layer for name, layer in layers.items() if name in kept})
            for name, parts in kept.items():
                parts.append(found[name].float().cpu())
        for i, name in enumerate(names):
            yield Features(name, depth + i, torch.cat(kept.pop(name)))


def _groups(sizes: Mapping[str, int], most: int) -> Iterator[tuple[int, Sequence[str]]]:
    """(number of its first, names) of consecutive groups of at most ``most`` numbers together, at least one name."""
    group: list[str] = []
    for i, name in enumerate(sizes):
        if group and sum(sizes[each] for each in group) + sizes[name] > most:
            yield i - len(group), group
            group = []
        group.append(name)
    yield len(sizes) - len(group), group


@torch.no_grad()
def _states(model: nn.Module, x: Tensor, layers: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """The image, the layers' outputs in the order in which they are run, and the logits, for one batch."""
    states: dict[str, Tensor] = {IMAGE: x}
    originals: dict[str, Tensor] = {}

    def hook(name: str) -> Any:
        def record(_: nn.Module, __: Any, output: Any) -> None:
            state = state_of(output, name, len(x))
            states.pop(name, None)
            states[name], originals[name] = state.clone(), state  # a later layer may change the tensor in place

        return record

    with ExitStack() as stack:
        for name, module in layers.items():
            stack.callback(module.register_forward_hook(hook(name)).remove)
        stack.enter_context(evaluating(model))
        logits = model(x.clone())
    for name in [name for name, state in originals.items() if state is logits]:
        del states[name]
    return {**states, LOGITS: logits}
