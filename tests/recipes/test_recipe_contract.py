"""What every recipe promises, checked on each that the package has."""

import copy
import dataclasses

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from easybn import BranchedNorm, Training, branch_parameters, fit
from easybn.recipes import RECIPES as FOUND
from easybn.recipes import Context, Recipe, Term

from .conftest import batch, every_recipe, ready

THROUGH = {"noisy": "adv"}  # the branch of a term that is not named after it
FROZEN = {("LightAdversarialTraining", "adv")}  # terms that move no statistic

RECIPES = pytest.mark.parametrize("recipe", [make() for make in every_recipe()], ids=lambda r: type(r).__name__)


def drain(recipe, model, x, y, ctx=None) -> list[Term]:
    terms = []
    for term in recipe(model, x, y) if ctx is None else recipe(model, x, y, ctx):
        (term.weight * term.loss).backward()
        terms.append(term)
    return terms


def branch_of(term: Term, recipe) -> str:
    """The branch that a term went through."""
    name = THROUGH.get(term.name, term.name)
    return name if name in recipe.branches else recipe.branches[0]


def draws(recipe) -> bool:
    """Whether it perturbs at random."""
    return hasattr(recipe, "attack") or type(recipe).__name__ == "FastAdvProp"


def modes_and_routes(model: nn.Module) -> list[tuple]:
    tracking = [getattr(m, "track_running_stats", None) for m in model.modules()]
    active = [m.active if isinstance(m, BranchedNorm) else None for m in model.modules()]
    return list(zip([m.training for m in model.modules()], tracking, active, strict=True))


def test_there_are_recipes_to_check():
    names = {recipe.__name__ for recipe in every_recipe()}
    assert names >= {"Vanilla", "AdvProp", "EBN", "EBNShared", "AdvPropEBN", "AdversarialTraining"}
    assert names >= {"FastAdvProp", "FastEBN"}


@RECIPES
def test_is_a_frozen_dataclass_with_documented_fields(recipe):
    with pytest.raises(dataclasses.FrozenInstanceError):
        recipe.branches = ()
    for field in dataclasses.fields(recipe):
        assert field.name in type(recipe).__doc__
    assert recipe == type(recipe)()


def test_tables_and_the_report_show_each_recipe_in_a_place_and_a_colour_of_its_own():
    assert list(FOUND) == ["Vanilla", "AdvProp", "EBN", "EBNShared", "AdvPropEBN", "FastAdvProp", "FastEBN",
                           "LightAdversarialTraining", "AdversarialTraining"]  # fmt: skip
    assert set(FOUND.values()) == set(every_recipe())
    assert len({recipe.order for recipe in every_recipe()}) == len({recipe.colour for recipe in every_recipe()}) == 9
    assert all(recipe.order < Recipe.order for recipe in every_recipe())


def test_a_colour_that_no_page_can_be_drawn_in_is_refused():
    with pytest.raises(ValueError, match=r"Mine\.colour must be two colours, for light and for dark pages"):
        type("Mine", (Recipe,), {"colour": ("red", "#000000")})


@RECIPES
def test_terms_are_float32_finite_and_reach_every_branch(recipe):
    model = ready(recipe)
    x, y = batch()
    terms = drain(recipe, model, x, y)
    assert list(dict.fromkeys(branch_of(t, recipe) for t in terms)) == list(recipe.branches)
    for term in terms:
        assert term.loss.dtype == torch.float32
        assert term.loss.isfinite()
        assert term.logits.shape == (len(term.labels), 4)
        assert not term.logits.requires_grad
        expected = nn.functional.cross_entropy(term.logits, term.labels)
        torch.testing.assert_close(term.loss.detach(), expected)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    if len(recipe.branches) > 1:
        for branch in recipe.branches:
            assert any(p.grad.abs().sum() > 0 for p in branch_parameters(model, branch))


@RECIPES
def test_each_statistic_moves_once_a_term_and_by_its_own_forward_alone(recipe):
    model = ready(recipe)
    terms = drain(recipe, model, *batch())
    through = [branch_of(t, recipe) for t in terms if (type(recipe).__name__, t.name) not in FROZEN]
    counters = {n: int(b) for n, b in model.named_buffers() if n.endswith("num_batches_tracked")}
    assert counters
    for name, counter in counters.items():
        branch = name.split(".")[-2] if ".norms." in name else "main"
        assert counter == through.count(branch), name


@RECIPES
@pytest.mark.parametrize("closed_after", [None, 0, 1, 2])
def test_modes_and_routes_are_restored_also_when_closed_early(recipe, closed_after):
    model = ready(recipe)
    frozen = next(m for m in model.modules() if isinstance(m, nn.BatchNorm2d))
    frozen.eval()
    before = modes_and_routes(model)
    generator = recipe(model, *batch())
    if closed_after is None:
        for term in generator:
            term.loss.backward()
    else:
        for _ in range(min(closed_after, len(recipe.branches))):
            next(generator).loss.backward()
        generator.close()
    assert modes_and_routes(model) == before


@RECIPES
def test_leaves_the_batch_as_it_is(recipe):
    x, y = batch()
    x_kept, y_kept = x.clone(), y.clone()
    drain(recipe, ready(recipe), x, y)
    assert torch.equal(x, x_kept)
    assert torch.equal(y, y_kept)
    assert x.grad is None
    assert not x.requires_grad


@RECIPES
def test_with_ids_the_noise_is_a_function_of_the_step(recipe):
    x, y = batch()

    def gradient(ctx: Context) -> torch.Tensor:
        model = ready(recipe)
        drain(recipe, model, x, y, ctx)
        return torch.cat([p.grad.flatten() for p in model.parameters()])

    ids = torch.arange(8)
    first = gradient(Context(ids, step=3, seed=1))
    torch.manual_seed(99)
    assert torch.equal(first, gradient(Context(ids, step=3, seed=1)))
    if draws(recipe):
        assert not torch.equal(first, gradient(Context(ids, step=4, seed=1)))
        assert not torch.equal(first, gradient(Context(ids, step=3, seed=2)))


@RECIPES
def test_without_ids_every_step_draws_anew_from_torchs_generator(recipe):
    x, y = batch()

    def losses(seed: int) -> torch.Tensor:
        model = ready(recipe)
        torch.manual_seed(seed)
        return torch.stack([t.loss.detach() for t in drain(recipe, model, x, y)])

    assert torch.equal(losses(5), losses(5))
    assert torch.equal(losses(5), losses(6)) == (not draws(recipe))


@RECIPES
def test_under_autocast_losses_are_float32(recipe):
    model = ready(recipe)
    x, y = batch()
    with torch.autocast("cpu", torch.bfloat16):
        terms = drain(recipe, model, x, y)  # some use the gradient of one term for the next
    assert all(t.loss.dtype == torch.float32 for t in terms)
    assert all(t.logits.dtype == torch.bfloat16 for t in terms)


@RECIPES
def test_trains_a_few_steps_and_gives_a_plain_model(recipe):
    torch.manual_seed(0)
    images = torch.randint(0, 256, (64, 3, 16, 16), dtype=torch.uint8)
    labels = (images[:, 0].float().mean((1, 2)) > 127.5).long() + 2 * (images[:, 1].float().mean((1, 2)) > 127.5).long()
    plain = ready(type("One", (), {"branches": ("main",)}))
    kept = copy.deepcopy(plain.state_dict())
    fitted = fit(plain, recipe, (images, labels), Training(epochs=2, batch_size=16, lr=0.01))
    assert list(fitted.model.state_dict()) == list(kept)
    assert all(torch.equal(v, kept[k]) for k, v in plain.state_dict().items())
    assert not torch.equal(fitted.model.network.linear.weight, plain.network.linear.weight)
    assert not fitted.model.training
    assert len(fitted.history) == 2


@RECIPES
def test_refuses_images_that_are_not_in_0_1_where_it_perturbs_them(recipe):
    x, y = batch()
    if recipe == type(recipe)() and type(recipe).__name__ == "Vanilla":
        assert drain(recipe, ready(recipe), x * 255, y)  # nothing is perturbed: the range is the user's affair
    else:
        with pytest.raises(ValueError, match=r"images must be in \[0, 1\]"):
            drain(recipe, ready(recipe), x * 255, y)


class Checkpointed(nn.Module):
    """Computes its forward pass again in the backward pass, through whatever branch is active then."""

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return checkpoint(self.inner, x, use_reentrant=False)


@RECIPES
def test_terms_are_yielded_inside_their_route_so_that_checkpointing_is_right(recipe):
    x, y = batch()
    plain, inner = ready(recipe), ready(recipe)
    drain(recipe, plain, x, y, Context(torch.arange(8)))
    drain(recipe, Checkpointed(inner), x, y, Context(torch.arange(8)))
    for (name, p), q in zip(plain.named_parameters(), inner.parameters(), strict=True):
        assert torch.equal(p.grad, q.grad), name
