"""The copy of a model that attacks take gradients from: faster than the model, and the same as far as they can tell.

On a CPU nearly all the time of a residual network goes to its convolutions, and batch norms are next:
folding them leaves little else to gain. bf16 pays on hardware that has it alone, ``torch.compile`` where
there are many small operations.
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..keyed_random import torch_generators
from ..models.winograd import Winograd, fits
from ..norm.fold import folded
from .same_function import BOUNDS, answer, disagreement, logit_distance

PRECISIONS = tuple(BOUNDS)


class Fast(NamedTuple):
    """A function from images to logits that can stand for a model where gradients are taken.

    Args:
        call: (n, ...) images in the model's type, channels last, to (n, K) logits in the same type.
        preparation: what was done, in words.
    """

    call: Callable[[Tensor], Tensor]
    preparation: str


@dataclass(frozen=True)
class Options:
    """What may be done to the copy.

    Args:
        fold: batch norms into the layers before them.
        compile: by ``torch.compile``, for any batch size. That takes up to a minute. It is called, and its graphs are
            backpropagated, inside :func:`kept_graphs`.
        precision: "32" for the model's own, "bf16" for automatic mixed precision with bfloat16, where a gradient is
            asked for; without one its coarse logits would only mislead a search that compares them.
    """

    fold: bool = True
    compile: bool = False
    precision: str = "32"

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise ValueError(f"unknown precision {self.precision!r}; known: {', '.join(PRECISIONS)}")

    def steps(self) -> Iterator[tuple["Options", str]]:
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
def kept_graphs(compile: bool) -> Iterator[None]:
    """Graphs that are compiled in the block can be backpropagated again in it (``retain_graph``), as FAB does.

    Otherwise torch lets the first backward pass overwrite what it has saved; it names this switch where that fails.
    """
    if not compile:
        yield
        return
    from torch._functorch import config

    with config.patch(donated_buffer=False):
        yield


def fast_copy(model: nn.Module, x: Tensor, options: Options) -> tuple[Fast | None, list[str]]:
    """The fastest of the copies asked for that agrees with ``model`` on ``x``, and notes on those that did not.

    None, if the model itself has to serve. The state of torch's random number generators is kept.

    Args:
        model: in eval mode, its parameters without gradient; it is left as it is.
        x: images as the model takes them, (n, ...), n >= 1, channels last.
        options: what to try; one after the other is given up where a copy fails or does not agree.

    Raises:
        ValueError: bf16 for a model in float64.
    """
    if x.dtype not in (torch.float32, torch.float64):
        return None, [f"the weights are {x.dtype}: gradients are those of the model as it is"]
    if options.precision == "bf16" and x.dtype == torch.float64:
        raise ValueError("bf16 makes little sense for a model in float64: convert the model to float32")
    notes: list[str] = []
    with torch_generators([x.device] if x.device.type == "cuda" else []):
        try:
            expected = answer(model, x)
            with torch.no_grad():
                again = logit_distance(expected.logits, model(x).double())
        except Exception as error:  # an attack that needs no gradient may still be possible
            return None, [f"the model has no input gradient to compare a copy with: {_sentence(error)}"]
        if not again <= BOUNDS["32"].logits:
            return None, ["two passes of the model differ, so that no copy of it can be checked: it is used as it is"]
        for fewer, last in options.steps():
            try:
                fast = _built(model, x, fewer)
                problem = disagreement(expected, answer(fast.call, x, expected.label), BOUNDS[fewer.precision])
            except Exception as error:  # of any kind: the model itself is there to serve
                problem = _sentence(error)
            if problem is None:
                return fast, notes
            notes.append(f"{last} was given up after a check on {len(x)} images: {problem}")
    return None, notes


def _built(model: nn.Module, x: Tensor, options: Options) -> Fast:
    done = []
    if options.fold:
        copied, count, norms = folded(model, x)
        done.append(f"{count} of {norms} batch norms folded")
    else:
        copied = copy.deepcopy(model)
    for parameter in copied.parameters():
        parameter.requires_grad_(False)
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    done.append("weights channels last")
    if x.device.type == "cpu" and not options.compile:  # torch.compile would take torch's own convolutions
        count = 0
        for module in copied.modules():
            if type(module) is nn.Conv2d and fits(module):
                module.__class__ = Winograd  # the same parameters by the same names, another way to compute
            if isinstance(module, Winograd) and fits(module):
                module.keep()
                count += 1
        if count:
            done.append(f"{count} convolutions by Winograd's algorithm")
    call: Callable[[Tensor], Tensor] = copied
    if options.compile:
        # dynamic: the number of points under attack changes all the time
        call = torch.compile(copied, dynamic=True)
        done.append("compiled")
    if options.precision == "bf16":
        call = _in_bf16(call)
        done.append("bf16")
    return Fast(call, ", ".join(done))


def _sentence(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:200]}"


def _in_bf16(call: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    def cast(x: Tensor) -> Tensor:
        if not x.requires_grad:
            return call(x)
        with torch.autocast(x.device.type, torch.bfloat16):
            logits = call(x)
        return logits.to(x.dtype)

    return cast
