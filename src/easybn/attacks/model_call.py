"""How a user's model is called: on a copy of the images, in the type and layout that it takes, its answer checked.

Whether two ways of calling it are the same function, as far as an attack can tell, is decided here too.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..keyed_random import torch_generators
from ..models.outputs import BadLogits, described
from .losses import log_odds

# Whether two functions from images to logits are the same one, as far as an attack can tell.

TINY = 0.01
"""Signs are compared where a gradient's entry exceeds this share of the image's largest one."""


@dataclass(frozen=True)
class Bound:
    """How far two answers may be apart.

    Args:
        logits: largest absolute difference, in units of the largest absolute logit.
        cosine: least cosine between two gradients of an image.
        signs: least share of an image's entries, but for tiny ones, whose signs agree.
    """

    logits: float
    cosine: float
    signs: float


BOUNDS = {"32": Bound(1e-4, 0.999, 0.99), "bf16": Bound(5e-2, 0.9, 0.8)}
"""For each precision. Measured on 15 architectures with random weights: a float32 copy differs by up to 4e-6 in
logits and, where rounding moves an activation across a kink, by 2e-4 in cosine; bf16 by 0.02 and mostly 0.03."""


class Answer(NamedTuple):
    """What a model says of n images and how that changes with them, in float64.

    Args:
        logits: (n, K).
        label: int64 (n,), the class that the gradient is of.
        gradient: (n, ...), of ``log_odds``, with respect to the images.
    """

    logits: Tensor
    label: Tensor
    gradient: Tensor


def answer(call: Callable[[Tensor], Tensor], x: Tensor, label: Tensor | None = None) -> Answer:
    """The logits of images ``x`` (n, ...) and the gradient at ``label``, by default the predicted classes."""
    point = x.detach().requires_grad_()
    logits = call(point)
    label = logits.detach().argmax(1) if label is None else label
    (gradient,) = torch.autograd.grad(log_odds(logits, label).sum(), point)
    return Answer(logits.detach().double(), label, gradient.double())


def logit_distance(expected: Tensor, logits: Tensor) -> float:
    """The largest absolute difference of two (n, K) in units of the first one's largest finite absolute entry."""
    size, apart = expected.abs(), (expected - logits).abs()
    largest = float(size.where(size.isfinite(), torch.zeros_like(size)).amax())
    difference = float(apart.where(expected != logits, torch.zeros_like(apart)).amax())  # -inf in both is no difference
    return difference / largest if largest > 0 else difference


def disagreement(expected: Answer, other: Answer, bound: Bound) -> str | None:
    """In what two answers differ by more than ``bound``, or None; NaN differs from everything."""
    distance = logit_distance(expected.logits, other.logits)
    if not distance <= bound.logits:
        return f"logits differ by {distance:.2g} of the largest one (allowed: {bound.logits:g})"
    cosine = float(_cosine(expected.gradient.flatten(1), other.gradient.flatten(1)).amin())
    if not cosine >= bound.cosine:
        return f"the cosine between input gradients is {cosine:.5f} for an image (at least {bound.cosine:g} asked)"
    signs = float(_same_signs(expected.gradient.flatten(1), other.gradient.flatten(1)).amin())
    if not signs >= bound.signs:
        return f"{signs:.1%} of an image's gradient signs agree (at least {bound.signs:.0%} asked)"
    return None


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    """(n,) for two (n, d); 1 where both vanish, 0 where only one does."""
    norms = a.norm(dim=1), b.norm(dim=1)
    cosine = (a * b).sum(1) / (norms[0] * norms[1]).clamp_min(torch.finfo(a.dtype).tiny)
    return cosine.where((norms[0] > 0) | (norms[1] > 0), torch.ones_like(cosine))


def _same_signs(a: Tensor, b: Tensor) -> Tensor:
    """(n,) shares of the entries that are not tiny in ``a``; 1 where all vanish."""
    counted = (a.abs() > TINY * a.abs().amax(1, keepdim=True)).double()
    return 1 - (counted * (a.sign() != b.sign())).sum(1) / counted.sum(1).clamp_min(1)


Call = Callable[[Tensor], Any]
STRIDES = 1e-3
"""Largest difference of logits, in units of the largest one, that another memory layout may make by rounding."""
COARSE = 5e-2  # the same in 16 bits
ROUNDING_UNITS = 32
"""Kernels round differently for batches of other sizes: a margin within this many units of rounding of the largest
logit could change sign in the next pass. Where two passes over the same images differ by more, it is no rounding."""
LEAST_MASK, MASK_RATIO = 1e8, 1e3
"""A logit below both -1e8 and -1000 times the largest one's size is a mask: a network's own are not spread so far."""


class ModelFailed(ValueError, RuntimeError):
    """A model's forward pass raised an error, which the message quotes with the shape and type of the images."""


@dataclass(frozen=True)
class ModelCall:
    """A function from images to logits, whatever the model does with its input.

    A model may write into its input (a normalisation in place, ``relu_``): it is given a copy, so that neither an
    image of the caller nor a leaf of a graph ever changes. Logits that are so far below the largest one that they can
    only be a mask (-1e9, ``finfo.min``) come back as -inf.

    Args:
        device: of the images; None to leave them where they are.
        dtype: of the images; None to leave it.
        channels_last: memory layout of four-dimensional images; contiguous if False.
        classes: number of logits; None as long as it is not known.
        no_gradient: why there is no gradient with respect to the images; None if there is one or it is not known.
        randomised: two passes over the same images gave different logits.
    """

    device: torch.device | None = None
    dtype: torch.dtype | None = None
    channels_last: bool = True
    classes: int | None = None
    no_gradient: str | None = None
    randomised: bool = False

    def laid_out(self, x: Tensor) -> Tensor:
        """``x`` in the memory layout that the model takes."""
        last = x.dim() == 4 and self.channels_last
        return x.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)

    def __call__(self, call: Call, x: Tensor) -> Tensor:
        """(N, K) logits of ``x`` (N, ...), which keeps its graph.

        Raises:
            ModelFailed: ``call`` raised an error.
            BadLogits: what it returned is no floating-point tensor (N, K) with K >= 2, or K is not what it was.
        """
        given = self.laid_out(x.to(self.dtype or x.dtype))
        if given is x:
            given = x.clone()
        try:
            output = call(given)
        except BadLogits:
            raise
        except Exception as error:
            raise ModelFailed(f"the model fails on {_described(given)}: {one_line(error)}") from error
        logits = checked_logits(output, len(x))
        if self.classes is not None and logits.shape[1] != self.classes:
            raise BadLogits(f"the model returned {logits.shape[1]} logits per image, and {self.classes} before")
        return _without_masks(logits).to(x.device)


def checked_logits(output: Any, n: int) -> Tensor:
    """``output``, if it is logits of ``n`` images.

    Raises:
        BadLogits: it is not; the message says what it is and what to do.
    """
    if not isinstance(output, Tensor):
        raise BadLogits(f"the model must return a tensor of logits: {described(output, n)}")
    shape = tuple(output.shape)
    if output.dim() != 2 or len(output) != n or shape[1] < 2:
        wanted = f"logits must be ({n}, classes) with at least two classes, got shape {shape}"
        if len(output.shape) > 2 and shape[0] == n and output[0].numel() == shape[1] >= 2:
            wanted += ": let the model return logits.flatten(1)"
        elif n == 1 and len(shape) == 1 and shape[0] > 1:
            wanted += ": a squeeze() in the model removes the batch axis too if there is one image"
        elif shape in ((n,), (n, 1)):
            wanted += ": a model of two classes with one output z returns torch.stack((-z, z), 1) instead"
        raise BadLogits(wanted)
    if not output.is_floating_point():
        raise BadLogits(f"logits must be floating point, got {output.dtype}: does the model return classes?")
    return output


def probe_call(model: nn.Module, probe: Tensor) -> tuple[ModelCall, list[str]]:
    """How ``model`` takes images, found on a few of them, and notes on what is unusual.

    The types tried are that of the first layer, that of the first parameter, and then float32, float64, float16 and
    bfloat16; the layouts are channels last, and contiguous where the former fails or gives other logits. The state of
    torch's random number generators is kept.

    Args:
        model: in eval mode.
        probe: images in [0, 1], (n, ...), n >= 1, floating point.

    Raises:
        ModelFailed: it takes them in no type.
        BadLogits: it does not return logits.
    """
    device = next((t.device for t in (*model.parameters(), *model.buffers())), probe.device)
    x, failure = probe.detach().to(device, copy=True), None
    with torch_generators([device] if device.type == "cuda" else []):
        for dtype in _types(model):
            last = ModelCall(device, dtype)
            answer = _forward(model, last, x)
            if x.dim() != 4:
                contiguous, other = last, answer
            else:
                contiguous = replace(last, channels_last=False)
                other = _forward(model, contiguous, x)
            if isinstance(answer, Tensor):
                odd = isinstance(other, Tensor) and _reads_memory(model, contiguous, x, answer, other)
                why = "their order in memory changes its logits" if odd else None
            elif isinstance(other, Tensor):
                why = one_line(answer)
            else:
                failure = failure or other
                continue
            call, logits = (last, answer) if why is None else (contiguous, other)
            assert isinstance(logits, Tensor)
            problem = _gradient_problem(model, call, x, logits)
            if problem and call is not contiguous and _gradient_problem(model, contiguous, x, logits) is None:
                call, why, problem = contiguous, problem, None
            notes = [f"the model does not work on channels-last images ({why}): it gets contiguous ones"] if why else []
            again = _forward(model, call, x)
            rounding = ROUNDING_UNITS * torch.finfo(logits.dtype).eps
            randomised = isinstance(again, Tensor) and logit_distance(logits.double(), again.double()) > rounding
            return replace(call, classes=logits.shape[1], no_gradient=problem, randomised=randomised), notes
    assert failure is not None
    raise failure


def _forward(model: nn.Module, call: ModelCall, x: Tensor) -> Tensor | ModelFailed:
    with torch.no_grad():
        try:
            return call(model, x)
        except ModelFailed as error:
            return error


def _reads_memory(model: nn.Module, contiguous: ModelCall, x: Tensor, answer: Tensor, other: Tensor) -> bool:
    """Whether another layout changes the logits, and another pass over the same layout does not."""
    bound = STRIDES if contiguous.dtype in (torch.float32, torch.float64) else COARSE
    if logit_distance(other.double(), answer.double()) <= bound:
        return False
    again = _forward(model, contiguous, x)
    return isinstance(again, Tensor) and logit_distance(other.double(), again.double()) <= bound


def _gradient_problem(model: nn.Module, call: ModelCall, x: Tensor, answer: Tensor) -> str | None:
    """Why there is no gradient at ``x``, whose logits are ``answer``; None if there is one."""
    point = call.laid_out(x.to(call.dtype or x.dtype)).detach().requires_grad_()
    try:
        logits = call(model, point)
        if not logits.requires_grad:
            return "its logits have no graph: no_grad, detach, numpy or a choice of classes is in the way"
        (slope,) = torch.autograd.grad(log_odds(logits, answer.argmax(1)).sum(), point, allow_unused=True)
    except Exception as error:
        return one_line(error)
    return None if slope is not None else "its logits do not depend on the images where gradients are taken"


def _types(model: nn.Module) -> Iterator[torch.dtype]:
    """The types of images to try, each once, the likeliest first."""
    learned = [p.dtype for p in model.parameters() if p.is_floating_point()]
    layers = [
        weight.dtype
        for module in model.modules()
        if isinstance(module, (nn.Linear, nn.modules.conv._ConvNd))
        and isinstance(weight := getattr(module, "weight", None), Tensor)
        and weight.is_floating_point()
    ]
    yield from dict.fromkeys([*layers[:1], *learned[:1], torch.float32, torch.float64, torch.float16, torch.bfloat16])


def likely_type(model: nn.Module) -> torch.dtype | None:
    """The type of images that a model takes if nothing is tried; None if nothing in it says so."""
    if not any(p.is_floating_point() for p in model.parameters()):
        return None
    return next(_types(model))


def _without_masks(logits: Tensor) -> Tensor:
    """-inf in the place of logits that are a mask: -1e9, -1e30, or the least number of their type."""
    values = logits.detach()
    masked = values <= -(MASK_RATIO * values.amax(1, keepdim=True).double().abs()).clamp(min=LEAST_MASK)
    if values.dtype == torch.float16:
        masked |= values == torch.finfo(values.dtype).min
    return logits.masked_fill(masked, -torch.inf) if masked.any() else logits


def _described(x: Tensor) -> str:
    kind = str(x.dtype).removeprefix("torch.")
    where = "" if x.device.type == "cpu" else f" on {x.device}"
    return f"images of shape {tuple(x.shape)} in {kind}{where}"


def one_line(error: BaseException) -> str:
    """An error in one line: its type and the first line of its message; of ModelFailed the model's own error."""
    if isinstance(error, ModelFailed) and error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:200]}"
