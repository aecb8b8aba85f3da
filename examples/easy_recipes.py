"""Recipes that use easy examples without giving the label away: what is tried, beside what has earned a place.

easybn train --recipe examples/easy_recipes.py:MixedProp --recipe.p 0.3 --recipe.attack.ball.eps 8/255
easybn study examples/easy_fashion_mnist.yaml --jobs 2
easybn table runs/easy-fashion-mnist --frontier

An easy image tells its label, so that the auxiliary loss of EBN collapses. Here the perturbation says less, or nothing,
about the label; PartlyClean is the control without them, and EntProp the peer. What came out: docs/easy.md.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from easybn import PGD, BranchedNorm, Linf, easy, frozen_stats, mixed_target, random_target, route, targeted, untargeted
from easybn.keyed_random import Noise
from easybn.perturb.ball import Ball, per_sample
from easybn.perturb.pgd import check_images
from easybn.recipes import Context, Recipe, Term, perturbing
from easybn.recipes.recipe import leaf_copy, shared_gradient

Share = Literal["nothing", "affine", "statistics"]


@contextmanager
def sharing(model: nn.Module, branch: str, what: Share) -> Iterator[None]:
    """Inside the block, ``branch`` uses the default branch's affine parameters, or its running statistics, as its own.

    A forward pass in train mode normalises by its own batch whatever is shared; shared running statistics are then
    moved by both branches.
    """
    norms = [module for module in model.modules() if isinstance(module, BranchedNorm) and what != "nothing"]
    swapped: list[tuple[dict[str, Any], dict[str, Any]]] = []
    for norm in norms:
        ours, theirs = norm.norms[branch], norm.norms[norm.default]
        table: dict[str, Any] = ours._parameters if what == "affine" else ours._buffers
        swapped.append((table, dict(table)))
        table.update(dict(theirs._parameters if what == "affine" else theirs._buffers))
    try:
        yield
    finally:
        for table, before in swapped:
            table.update(before)


@dataclass(frozen=True)
class MixedProp(Recipe):
    """AdvProp whose target is the true class with probability p: adversarial and easy examples in one branch.

    p = 0 is AdvProp and p = 1 is EBN; at p = 1 / classes the target says nothing about the label. Cost: 2.67 passes.

    Args:
        attack: ball, steps, step size and start of the perturbation.
        p: the probability of the true class, in [0, 1].
        share: what the auxiliary branch has from the main one: "nothing", the "affine" parameters, or the running
            "statistics" (after arXiv 2403.19150, which finds that separate affine parameters matter more).
        clean_weight: factor of the clean loss.
        aux_weight: factor of the loss on perturbed images.
        label_smoothing: in [0, 1), of both losses.
    """

    attack: PGD = PGD(Linf(1 / 255), steps=1, random_start=0.8)
    p: float = 0.1
    share: Share = "nothing"
    clean_weight: float = 0.5
    aux_weight: float = 0.5
    label_smoothing: float = 0.0
    branches: ClassVar[tuple[str, ...]] = ("main", "aux")
    order: ClassVar[int] = 100
    colour: ClassVar[tuple[str, str] | None] = ("#5d5bb8", "#a9a7ff")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.p <= 1:
            raise ValueError(f"p must be a probability in [0, 1], got {self.p}")

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, ctx: Context = Context()) -> Iterator[Term]:
        goal = mixed_target(y, self.p, ctx.noise("target"))
        with sharing(model, "aux", self.share), perturbing(model, "aux"):
            x_aux = self.attack(model, x, goal, ctx.noise("adv"))
        with route(model, "main"):
            yield Term.cross_entropy("main", model(x.clone()), y, self.clean_weight, self.label_smoothing)
        with sharing(model, "aux", self.share), route(model, "aux"):
            yield Term.cross_entropy("aux", model(x_aux), y, self.aux_weight, self.label_smoothing)


@dataclass(frozen=True)
class PartlyClean(MixedProp):
    """MixedProp whose share ``p`` of images stays as it is: what easy images are compared with, draw for draw.

    Cost: 2.67 passes.

    Args:
        attack: ball, steps, step size and start of the perturbation.
        p: the probability that an image of the auxiliary branch is clean, in [0, 1].
        share: what the auxiliary branch has from the main one.
        clean_weight: factor of the clean loss.
        aux_weight: factor of the loss of the auxiliary branch.
        label_smoothing: in [0, 1), of both losses.
    """

    order: ClassVar[int] = 107
    colour: ClassVar[tuple[str, str] | None] = ("#4f6b6b", "#a3c9c9")

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, ctx: Context = Context()) -> Iterator[Term]:
        goal = mixed_target(y, self.p, ctx.noise("target"))
        assert goal.draws is not None
        clean = (goal.draws < self.p).view(-1, *[1] * (x.dim() - 1))
        with sharing(model, "aux", self.share), perturbing(model, "aux"):
            x_aux = torch.where(clean, x.detach(), self.attack(model, x, goal, ctx.noise("adv")))
        with route(model, "main"):
            yield Term.cross_entropy("main", model(x.clone()), y, self.clean_weight, self.label_smoothing)
        with sharing(model, "aux", self.share), route(model, "aux"):
            yield Term.cross_entropy("aux", model(x_aux), y, self.aux_weight, self.label_smoothing)


@dataclass(frozen=True)
class EaseWrong(Recipe):
    """Easy copies of the images that the model gets wrong, adversarial copies of the others, in one branch.

    The target is the true class where the auxiliary branch's answer is wrong, else a random other: an image that the
    model knows is never made easier. Cost: 3 passes, one forward more than AdvProp.

    Args:
        attack: ball, steps, step size and start of the perturbation.
        clean_weight: factor of the clean loss.
        aux_weight: factor of the loss on perturbed images.
        label_smoothing: in [0, 1), of both losses.
    """

    attack: PGD = PGD(Linf(1 / 255), steps=1, random_start=0.8)
    clean_weight: float = 0.5
    aux_weight: float = 0.5
    label_smoothing: float = 0.0
    branches: ClassVar[tuple[str, ...]] = ("main", "aux")
    order: ClassVar[int] = 101
    colour: ClassVar[tuple[str, str] | None] = ("#3d7d1f", "#9ad876")

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, ctx: Context = Context()) -> Iterator[Term]:
        check_images(x, y)
        with perturbing(model, "aux"):
            with torch.no_grad():
                logits = model(x.clone())
            other = random_target(y, ctx.noise("target")).target(logits.shape[1])
            target = torch.where(logits.argmax(1) == y, other, y)
            x_aux = self.attack(model, x, targeted(target), ctx.noise("adv"))
        with route(model, "main"):
            yield Term.cross_entropy("main", model(x.clone()), y, self.clean_weight, self.label_smoothing)
        with route(model, "aux"):
            yield Term.cross_entropy("aux", model(x_aux), y, self.aux_weight, self.label_smoothing)


@dataclass(frozen=True)
class EBNOwnAnswer(Recipe):
    """EBN toward the model's own answer rather than the true class: the easy copy knows no label.

    Where the model is right it is EBN, and where it is wrong the copy goes deeper into the mistake. Cost: 3 passes.

    Args:
        attack: ball, steps, step size and start of the perturbation.
        clean_weight: factor of the clean loss.
        aux_weight: factor of the loss on perturbed images.
        label_smoothing: in [0, 1), of both losses.
    """

    attack: PGD = PGD(Linf(1 / 255), steps=1, random_start=0.8)
    clean_weight: float = 0.5
    aux_weight: float = 0.5
    label_smoothing: float = 0.0
    branches: ClassVar[tuple[str, ...]] = ("main", "aux")
    order: ClassVar[int] = 102
    colour: ClassVar[tuple[str, str] | None] = ("#1e8fc4", "#a6dcfa")

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, ctx: Context = Context()) -> Iterator[Term]:
        check_images(x, y)
        with perturbing(model, "aux"):
            with torch.no_grad():
                answer = model(x.clone()).argmax(1)
            x_aux = self.attack(model, x, targeted(answer), ctx.noise("adv"))
        with route(model, "main"):
            yield Term.cross_entropy("main", model(x.clone()), y, self.clean_weight, self.label_smoothing)
        with route(model, "aux"):
            yield Term.cross_entropy("aux", model(x_aux), y, self.aux_weight, self.label_smoothing)


@dataclass(frozen=True)
class BothWays(Recipe):
    """x + d and x - d through one auxiliary branch, d the step up the clean loss, whose gradient is shared.

    Either image has its opposite in the batch, so that the direction says nothing about the label. Both go through the
    branch in one batch, which has one mean: two batches would tell easy from adversarial. Cost: 3 passes.

    Args:
        ball: of the perturbation; a step is as long as its eps.
        clean_weight: factor of the clean loss, positive.
        aux_weight: factor of the mean loss on the perturbed images.
        label_smoothing: in [0, 1), of both losses and so of the perturbation.
    """

    ball: Ball = Linf(1 / 255)
    clean_weight: float = 0.5
    aux_weight: float = 0.5
    label_smoothing: float = 0.0
    branches: ClassVar[tuple[str, ...]] = ("main", "aux")
    order: ClassVar[int] = 103
    colour: ClassVar[tuple[str, str] | None] = ("#7d5a3c", "#d3ab86")

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_shared(self.clean_weight)

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, ctx: Context = Context()) -> Iterator[Term]:
        check_images(x, y)
        x = x.detach().requires_grad_()
        with route(model, "main"):
            yield Term.cross_entropy("main", model(leaf_copy(model, x)), y, self.clean_weight, self.label_smoothing)
        with torch.no_grad():
            step = float(self.ball.eps) * self.ball.steepest(shared_gradient(x))
            x_aux = torch.cat([self.ball.project(x + step, x), self.ball.project(x - step, x)])
        x = x.detach()  # the images' gradient is no longer needed
        with route(model, "aux"):
            yield Term.cross_entropy("aux", model(x_aux), torch.cat([y, y]), self.aux_weight, self.label_smoothing)


@dataclass(frozen=True)
class SignedProp(Recipe):
    """A step of random length and sign along the clean loss's gradient: from eps easier to eps harder.

    The factor of a step is uniform in -1 .. 1 for each image, so that the direction says nothing about the label. The
    gradient is that of the clean loss, shared. Cost: 2 passes.

    Args:
        ball: of the perturbation; the longest step is its eps.
        clean_weight: factor of the clean loss, positive.
        aux_weight: factor of the loss on perturbed images.
        label_smoothing: in [0, 1), of both losses and so of the perturbation.
    """

    ball: Ball = Linf(1 / 255)
    clean_weight: float = 0.5
    aux_weight: float = 0.5
    label_smoothing: float = 0.0
    branches: ClassVar[tuple[str, ...]] = ("main", "aux")
    order: ClassVar[int] = 104
    colour: ClassVar[tuple[str, str] | None] = ("#8f6a00", "#e3b63c")

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_shared(self.clean_weight)

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, ctx: Context = Context()) -> Iterator[Term]:
        check_images(x, y)
        noise = ctx.noise("sign")
        factor = (Noise.fresh(len(x), x.device) if noise is None else noise).uniform().mul(2).sub(1).to(x.dtype)
        x = x.detach().requires_grad_()
        with route(model, "main"):
            yield Term.cross_entropy("main", model(leaf_copy(model, x)), y, self.clean_weight, self.label_smoothing)
        with torch.no_grad():
            step = float(self.ball.eps) * self.ball.steepest(shared_gradient(x))
            x_aux = self.ball.project(x + per_sample(factor, x) * step, x)
        x = x.detach()  # the images' gradient is no longer needed
        with route(model, "aux"):
            yield Term.cross_entropy("aux", model(x_aux), y, self.aux_weight, self.label_smoothing)


@dataclass(frozen=True)
class GapEBN(Recipe):
    """The adversarial loss through the one branch, and a penalty where it exceeds the loss of the easy copy.

    The perturbed images move no running statistic, so that those of deployment are of clean images; they are
    normalised by their own batches. The penalty is the mean of max(0, L(x_adv) - L(x_easy)), with the gradient of both:
    it makes the loss flat across the ball, and an easy copy that gains nothing is what it aims at. With gap_weight 0
    it is adversarial training beside clean training. Cost: 4.33 passes; 2.67 without the penalty.

    Args:
        attack: of the adversarial copy (untargeted), and of the easy one with the same start.
        clean_weight: factor of the clean loss.
        adv_weight: factor of the loss on adversarial images.
        gap_weight: factor of the penalty.
        label_smoothing: in [0, 1), of the clean and the adversarial loss.
    """

    attack: PGD = PGD(Linf(1 / 255), steps=1, random_start=0.8)
    clean_weight: float = 0.75
    adv_weight: float = 0.25
    gap_weight: float = 0.25
    label_smoothing: float = 0.0
    branches: ClassVar[tuple[str, ...]] = ("main",)
    order: ClassVar[int] = 105
    colour: ClassVar[tuple[str, str] | None] = ("#9c2f3d", "#ff9099")

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, ctx: Context = Context()) -> Iterator[Term]:
        noise = ctx.noise("adv")
        noise = Noise.fresh(len(x), x.device) if noise is None else noise
        with perturbing(model):
            x_adv = self.attack(model, x, untargeted(y), noise)
            x_easy = self.attack(model, x, easy(y), noise) if self.gap_weight else None
        yield Term.cross_entropy("main", model(x.clone()), y, self.clean_weight, self.label_smoothing)
        with frozen_stats(model):
            logits = model(x_adv)
            term = Term.cross_entropy("adv", logits, y, self.adv_weight, self.label_smoothing)
            if x_easy is not None:  # one term, as both losses need the graph of the adversarial pass
                adv, easier = (F.cross_entropy(each.float(), y, reduction="none") for each in (logits, model(x_easy)))
                loss = self.adv_weight * term.loss + self.gap_weight * F.relu(adv - easier).mean()
                term = term._replace(loss=loss, weight=1.0)
            yield term


@dataclass(frozen=True)
class EntProp(Recipe):
    """EntProp (Enomoto 2024, arXiv 2405.18931): copies of the least certain images, made less certain, in a branch.

    Our reading of its description: of each batch the fraction with the highest entropy under the clean pass takes a
    step up the clean loss, whose gradient is shared ("free"), and goes through the auxiliary branch. Its other half,
    MixUp of these images, is left out, as no recipe here augments. Which images are chosen depends on the batch.
    Cost: 1 + fraction passes.

    Args:
        fraction: of a batch, in (0, 1]; at least one image.
        ball: of the perturbation; a step is as long as its eps.
        clean_weight: factor of the clean loss, positive.
        aux_weight: factor of the mean loss on the perturbed images.
        label_smoothing: in [0, 1), of both losses and so of the perturbation.
    """

    fraction: float = 0.2
    ball: Ball = Linf(1 / 255)
    clean_weight: float = 0.5
    aux_weight: float = 0.5
    label_smoothing: float = 0.0
    branches: ClassVar[tuple[str, ...]] = ("main", "aux")
    order: ClassVar[int] = 106
    colour: ClassVar[tuple[str, str] | None] = ("#a8477f", "#e795c4")

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_shared(self.clean_weight)
        if not 0 < self.fraction <= 1:
            raise ValueError(f"fraction must be in (0, 1], got {self.fraction}")

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, ctx: Context = Context()) -> Iterator[Term]:
        check_images(x, y)
        x = x.detach().requires_grad_()
        with route(model, "main"):
            logits = model(leaf_copy(model, x))
            yield Term.cross_entropy("main", logits, y, self.clean_weight, self.label_smoothing)
        with torch.no_grad():
            log_p = F.log_softmax(logits.float(), 1)
            entropy = -(log_p.exp() * log_p).sum(1)
            chosen = entropy.topk(max(round(self.fraction * len(x)), 1)).indices
            images, gradient = x[chosen], shared_gradient(x)[chosen]
            x_aux = self.ball.project(images + float(self.ball.eps) * self.ball.steepest(gradient), images)
        x = x.detach()  # the images' gradient is no longer needed
        with route(model, "aux"):
            yield Term.cross_entropy("aux", model(x_aux), y[chosen], self.aux_weight, self.label_smoothing)


def _check_shared(clean_weight: float) -> None:
    if not clean_weight > 0:
        raise ValueError(f"clean_weight must be positive, got {clean_weight}: the clean loss's gradient is shared")
