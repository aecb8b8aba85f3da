"""All terms of a recipe as one loss: its gradients are those of the terms one by one."""

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import nn

from easybn import convert, frozen_stats, route
from easybn.recipes import Context, Recipe, Term
from easybn.recipes.recipe import NeedsBackward, rebalanced
from tests.small import small_images, small_net

from .conftest import every_recipe
from .test_easy_recipes import EVERY as OF_EXAMPLES
from .test_recipe_contract import Checkpointed, modes_and_routes

X, Y = small_images(6, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 0, 1])
CTX = Context(torch.arange(6), step=2, seed=3)
ALL = [*(make() for make in every_recipe()), *OF_EXAMPLES]
BETWEEN = {"EBNShared", "FastAdvProp", "FastEBN", "BothWays", "SignedProp", "EntProp"}


def net(recipe: Recipe) -> nn.Module:
    model = small_net().double().train()
    return convert(model, recipe.branches) if len(recipe.branches) > 1 else model


def named(recipe: Recipe) -> str:
    return type(recipe).__name__


@pytest.mark.parametrize("wrapper", [lambda model: model, Checkpointed], ids=["plain", "checkpointed"])
@pytest.mark.parametrize("recipe", [recipe for recipe in ALL if named(recipe) not in BETWEEN], ids=named)
def test_gradients_statistics_and_value_are_those_of_the_terms_one_by_one(recipe, wrapper):
    apart, whole = wrapper(net(recipe)), wrapper(net(recipe))
    before = modes_and_routes(whole)
    summed = torch.zeros((), dtype=torch.float64)
    for _ in range(2):  # gradients accumulate
        for term in recipe(apart, X, Y, CTX):
            (term.weight * term.loss).backward()
            summed += term.weight * term.loss.detach()
        loss = recipe.total(whole, X, Y, CTX)
        assert modes_and_routes(whole) == before
        loss.backward()
        assert modes_and_routes(whole) == before
        summed -= loss.detach()
    assert loss.shape == ()
    assert abs(float(summed)) < 1e-12
    for (name, p), q in zip(apart.named_parameters(), whole.parameters(), strict=True):
        assert p.grad.abs().sum() > 0, name
        torch.testing.assert_close(q.grad, p.grad, rtol=1e-10, atol=1e-13)
    for (name, p), q in zip(apart.named_buffers(), whole.buffers(), strict=True):
        assert torch.equal(p, q), name


@pytest.mark.parametrize("recipe", [recipe for recipe in ALL if named(recipe) in BETWEEN], ids=named)
def test_recipes_that_need_gradients_between_terms_say_so(recipe):
    model = net(recipe)
    before = modes_and_routes(model)
    with pytest.raises(
        NeedsBackward, match=rf"^{named(recipe)} cannot be one loss: it needs backward\(\) on each term"
    ):
        recipe.total(model, X, Y, CTX)
    assert modes_and_routes(model) == before
    assert all(p.grad is None for p in model.parameters())


@dataclass(frozen=True)
class TwoBranches(Recipe):
    """The same images through both branches."""

    branches: ClassVar[tuple[str, ...]] = ("main", "other")

    def __call__(self, model, x, y, ctx=Context()):
        with route(model, "other"), frozen_stats(model):
            yield Term.cross_entropy("other", model(x), y, 0.25)
        with route(model, "main"):
            yield Term.cross_entropy("main", model(x), y, 0.75)


class Rescaled(TwoBranches):
    """Divides gradients after its last term, without having read any."""

    def __call__(self, model, x, y, ctx=Context()):
        with rebalanced(model, {"main": 4, "other": 2}):
            yield from super().__call__(model, x, y, ctx)


def test_gradients_rescaled_after_the_last_term_are_noticed():
    with pytest.raises(NeedsBackward, match="Rescaled cannot be one loss"):
        Rescaled().total(net(Rescaled()), X, Y)
    for parameter in (model := net(Rescaled())).parameters():
        parameter.requires_grad = False
    assert not Rescaled().total(model, X, Y).requires_grad  # nothing to rescale


def test_modes_and_branches_are_restored_where_another_term_came_first_and_the_caller_is_elsewhere():
    model, by_hand = Checkpointed(net(TwoBranches())), net(TwoBranches())
    with route(model, "other"):
        before = modes_and_routes(model)
        TwoBranches().total(model, X, Y).backward()
        assert modes_and_routes(model) == before
    for branch, weight in (("main", 0.75), ("other", 0.25)):
        with route(by_hand, branch):
            (weight * nn.functional.cross_entropy(by_hand(X), Y)).backward()
    for p, q in zip(model.parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-10, atol=1e-13)
    norms = dict(model.named_buffers())
    assert int(norms["inner.1.norms.other.num_batches_tracked"]) == 0  # frozen, also when computed again
    assert int(norms["inner.1.norms.main.num_batches_tracked"]) == 2


def test_under_loss_scaling_and_autocast():
    recipe = TwoBranches()
    plain, scaled = net(recipe).float(), net(recipe).float()
    x = X.float()
    with torch.autocast("cpu", torch.bfloat16):
        loss = recipe.total(scaled, x, Y)
        expected = [term.weight * term.loss for term in recipe(plain, x, Y)]
    assert loss.dtype == torch.float32
    (loss * 1024).backward()
    (1024 * expected[0]).backward()
    (1024 * expected[1]).backward()
    for p, q in zip(plain.parameters(), scaled.parameters(), strict=True):
        torch.testing.assert_close(q.grad, p.grad, rtol=1e-2, atol=1e-2)
