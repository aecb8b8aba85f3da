"""The surrogate: a copy of a model that attacks take gradients from, faster and the same as far as they can tell.

On a CPU nearly all the time of a residual network goes to its convolutions, and batch norms are next: with them folded
and Winograd's algorithm little else can be gained. bf16 pays on hardware that has it alone, ``torch.compile`` where
there are many small operations.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..keyed_random import torch_generators
from ..models.convolutions import with_winograd
from ..modes import copied
from ..norm.fold import folded
from .model_call import BOUNDS, ModelCall, ModelFailed, answer, disagreement, one_line

PRECISIONS = tuple(BOUNDS)


class Surrogate(NamedTuple):
    """A function from images to logits that can replace a model where gradients are taken.

    Args:
        call: (n, ...) images in the model's type, channels last, to (n, K) logits in the same type.
        preparation: what was done, in words; part of what a store of verdicts is identified by.
    """

    call: Callable[[Tensor], Tensor]
    preparation: str


@dataclass(frozen=True)
class SurrogateOptions:
    """What may be done to the copy.

    Args:
        fold: batch norms into the layers before them.
        compile: by ``torch.compile``, for any batch size. That takes up to a minute. It is called, and its graphs are
            backpropagated, inside :func:`reusable_graphs`.
        precision: "32" for the model's own, "bf16" for automatic mixed precision with bfloat16, where a gradient is
            asked for; without one its coarse logits would only mislead a search that compares them.
    """

    fold: bool = True
    compile: bool = False
    precision: str = "32"

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise ValueError(f"unknown precision {self.precision!r}; known: {', '.join(PRECISIONS)}")

    @property
    def any(self) -> bool:
        """Whether there is anything to do."""
        return self.fold or self.compile or self.precision != "32"

    def fallbacks(self) -> Iterator[tuple["SurrogateOptions", str]]:
        """These options and then ever fewer, with the name of what is given up if they fail."""
        options = self
        if options.precision == "bf16":
            yield options, "bf16"
            options = replace(options, precision="32")
        if options.compile:
            yield options, "torch.compile"
            options = replace(options, compile=False)
        if options.fold:
            yield options, "folding batch norms"


@contextmanager
def reusable_graphs(compile: bool) -> Iterator[None]:
    """Graphs that are compiled in the block can be backpropagated again in it (``retain_graph``), as FAB does.

    Otherwise torch lets the first backward pass overwrite what it has saved; it names this switch where that fails.
    """
    if not compile:
        yield
        return
    from torch._functorch import config

    with config.patch(donated_buffer=False):
        yield


def make_surrogate(
    model: nn.Module, x: Tensor, options: SurrogateOptions, call: ModelCall = ModelCall()
) -> tuple[Surrogate | None, list[str]]:
    """The fastest of the copies asked for that agrees with ``model`` on ``x``, and notes on those that did not.

    None if the model itself has to serve. The state of torch's random number generators is kept.

    Args:
        model: in eval mode, its parameters without gradient; it is left as it is.
        x: images as the model takes them, (n, ...), n >= 1, channels last.
        options: what to try; one after the other is given up where a copy fails or does not agree.
        call: how the model takes images.

    Raises:
        ValueError: bf16 for a model in float64.
    """
    if x.dtype not in (torch.float32, torch.float64):
        return None, [f"the weights are {x.dtype}: gradients are those of the model as it is"]
    if call.randomised:
        return None, ["two passes of the model differ, so that no copy of it can be checked: it is used as it is"]
    if call.no_gradient:  # an attack that needs no gradient may still be possible
        return None, [f"the model has no input gradient to compare a copy with: {call.no_gradient}"]
    if options.precision == "bf16" and x.dtype == torch.float64:
        raise ValueError("bf16 makes little sense for a model in float64: convert the model to float32")
    notes: list[str] = []
    with torch_generators([x.device] if x.device.type == "cuda" else []):
        expected = answer(partial(call, model), x)
        for fewer, last in options.fallbacks():
            # weights channels last make activations so, whatever the images: a copy that calls view() may want neither
            for channels_last in (True, False) if call.channels_last else (False,):
                try:
                    surrogate = _build(model, x, fewer, channels_last)
                    got = answer(partial(call, surrogate.call), x, expected.label)
                    problem = disagreement(expected, got, BOUNDS[fewer.precision])
                except Exception as error:  # of any kind: the model itself is there to serve
                    problem = one_line(error)
                    if isinstance(error, ModelFailed):
                        continue
                break
            if problem is None:
                return surrogate, notes
            notes.append(f"{last} was given up after a check on {len(x)} images: {problem}")
    return None, notes


def _build(model: nn.Module, x: Tensor, options: SurrogateOptions, channels_last: bool) -> Surrogate:
    """A copy of ``model`` with its layers replaced; nothing has been checked yet."""
    done = []
    if options.fold:
        network, count, norms = folded(model, x)
        done.append(f"{count} of {norms} batch norms folded")
    else:
        network = copied(model)
    for parameter in network.parameters():
        parameter.requires_grad_(False)
        if parameter.dim() == 4 and channels_last:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    done.append("weights channels last" if channels_last else "weights as they are")
    # torch.compile would take torch's own convolutions; Winograd's return channels-last images
    if x.device.type == "cpu" and not options.compile and channels_last:
        network, count = with_winograd(network)
        if count:
            done.append(f"{count} convolutions by Winograd's algorithm")
    call: Callable[[Tensor], Tensor] = network
    if options.compile:
        # dynamic: the number of points under attack changes all the time
        call = torch.compile(network, dynamic=True)
        done.append("compiled")
    if options.precision == "bf16":
        call = _in_bf16(call)
        done.append("bf16")
    return Surrogate(call, ", ".join(done))


def _in_bf16(call: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    def cast(x: Tensor) -> Tensor:
        if not x.requires_grad:
            return call(x)
        with torch.autocast(x.device.type, torch.bfloat16):
            logits = call(x)
        return logits.to(x.dtype)

    return cast
