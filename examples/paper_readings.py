"""How the code that the EBN paper built on would most easily be turned into EBN: each reading as a recipe.

easybn train --recipe examples/paper_readings.py:Port --recipe.target label
easybn study examples/paper_readings.yaml

The paper names the public PyTorch port of AdvProp (tingxueronghua/pytorch-classification-advprop, for ImageNet), and
says of its own change only that the examples are easy. :class:`Port` does what that code does, faults included, carried
to any number of classes. Its options are the edits that come to mind; which one the authors made is not known.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from easybn import route
from easybn.keyed_random import Noise
from easybn.models.registry import Normalise
from easybn.perturb.pgd import check_images
from easybn.recipes import Context, Recipe, Term, perturbing

RANDOM_START = 0.42074
"""The share of batches that start from noise: a normal number above 0.2, where a uniform one was meant (0.8)."""


@dataclass(frozen=True)
class Port(Recipe):
    """The port's AdvProp, and what its options and small edits make of it.

    A random target is any class, the true one among them: with ten classes one step in ten makes the image easier.
    The start is drawn once a batch. The step is 2 eps long in *normalised* pixels, 2 eps std in those of [0, 1], and
    the perturbed image is clamped to normalised -1 .. 1, that is to mean - std .. mean + std: right for mean = std =
    0.5, which gives [0, 1]; elsewhere the clamp takes away the brightest and darkest pixels of perturbed images alone.
    Cost: 2.67 passes.

    Args:
        target: "any" class, drawn for each image, or the "label".
        ascend: add the sign of the gradient instead of subtracting it. The port's ``original=True`` sets the target to
            the label *and* ascends: it is untargeted AdvProp, although it reads like the easy step.
        eps: of the step, as it would be in pixels of [0, 1] if mean and std were 0.5.
        clamp: to normalised -1 .. 1; else to pixels of 0 .. 1.
    """

    target: Literal["any", "label"] = "any"
    ascend: bool = False
    eps: float | Fraction = 1 / 255
    clamp: bool = True
    branches: ClassVar[tuple[str, ...]] = ("main", "aux")
    order: ClassVar[int] = 110
    colour: ClassVar[tuple[str, str] | None] = ("#b3541e", "#f2a07a")

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, ctx: Context = Context()) -> Iterator[Term]:
        with perturbing(model, "aux"):
            x_aux = self.perturb(model, x, y, ctx)
        with route(model, "main"):
            yield Term.cross_entropy("main", model(x.clone()), y, 0.5)
        with route(model, "aux"):
            yield Term.cross_entropy("aux", model(x_aux), y, 0.5)

    def perturb(self, model: nn.Module, x: Tensor, y: Tensor, ctx: Context = Context()) -> Tensor:
        """(N, ...) the perturbed images; the model is in the mode and route of the caller."""
        check_images(x, y)
        drawn = ctx.noise("adv")
        noise = Noise.fresh(len(x), x.device) if drawn is None else drawn
        first = next(module for module in model.modules() if isinstance(module, Normalise))
        size = 2 * float(self.eps) * first.std
        floor, ceiling = (first.mean - first.std, first.mean + first.std) if self.clamp else (first.mean * 0, 1)
        low, high = ((bound.maximum(floor * torch.ones_like(x))).minimum(ceiling * torch.ones_like(x))
                     for bound in (x - size, x + size))  # fmt: skip
        point = x.detach().clone()
        if float(noise.child("coin").uniform()[0]) < RANDOM_START:
            point += size * (2 * noise.child("start").uniform(*x.shape[1:]) - 1)
        with torch.enable_grad():
            logits = model(point.requires_grad_()).float()
            target = y if self.target == "label" else noise.child("target").integers(logits.shape[1])
            (gradient,) = torch.autograd.grad(F.cross_entropy(logits, target, reduction="sum"), point)
        step = size * gradient.sign()
        return (point.detach() + (step if self.ascend else -step)).maximum(low).minimum(high)


@dataclass(frozen=True)
class PortOneNorm(Port):
    """The same without the port's flag ``--mixbn``: clean and perturbed images in one batch, through the same norms.

    What is called EBN then has no auxiliary norms at all. Cost: 2.67 passes.

    Args:
        target, ascend, eps, clamp: as in :class:`Port`.
    """

    branches: ClassVar[tuple[str, ...]] = ("main",)
    order: ClassVar[int] = 111
    colour: ClassVar[tuple[str, str] | None] = ("#6b7d1e", "#c3d46c")

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, ctx: Context = Context()) -> Iterator[Term]:
        with perturbing(model):
            x_aux = self.perturb(model, x, y, ctx)
        yield Term.cross_entropy("main", model(torch.cat([x, x_aux])), torch.cat([y, y]), 1.0)
