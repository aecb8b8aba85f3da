"""The recipes of examples/easy_recipes.py, against their descriptions written out by hand and against their limits."""

import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from easybn import L2, PGD, Linf, evaluating, frozen_stats, route
from easybn.keyed_random import Noise
from easybn.recipes import EBN, AdvProp, Context, LightAdversarialTraining, Vanilla
from easybn.recipes.recipe import Term

from . import test_recipe_contract as contract
from .conftest import batch, ready

spec = importlib.util.spec_from_file_location(
    "easy_recipes", Path(__file__).parents[2] / "examples" / "easy_recipes.py"
)
easy_recipes = importlib.util.module_from_spec(spec)
sys.modules["easy_recipes"] = easy_recipes  # dataclasses look for their module
spec.loader.exec_module(easy_recipes)
del sys.modules["easy_recipes"]
MixedProp, EaseWrong, EBNOwnAnswer = easy_recipes.MixedProp, easy_recipes.EaseWrong, easy_recipes.EBNOwnAnswer
PartlyClean = easy_recipes.PartlyClean
BothWays, SignedProp, GapEBN, EntProp = (
    easy_recipes.BothWays, easy_recipes.SignedProp, easy_recipes.GapEBN, easy_recipes.EntProp
)  # fmt: skip

EVERY = (MixedProp(), PartlyClean(), EaseWrong(), EBNOwnAnswer(), BothWays(), SignedProp(), GapEBN(), EntProp())
EACH = pytest.mark.parametrize("recipe", EVERY, ids=lambda recipe: type(recipe).__name__)
STEP = PGD(Linf(0.05))
CTX = Context(torch.arange(8), step=3, seed=1)


@dataclass(frozen=True)
class SameDraws(Context):
    """A context whose draws for easy examples are those for adversarial ones."""

    def noise(self, purpose: str) -> Noise | None:
        return super().noise("adv" if purpose == "easy" else purpose)


def after(recipe, ctx: Context = CTX, model=None) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Gradients and buffers after a step, with the auxiliary branch called aux whatever its name."""
    model = ready(recipe) if model is None else model
    contract.drain(recipe, model, *batch(), ctx)
    other = f".norms.{recipe.branches[-1]}." if len(recipe.branches) > 1 else ".norms.aux."
    gradients = {name.replace(other, ".norms.aux."): p.grad for name, p in model.named_parameters()}
    return gradients, {name.replace(other, ".norms.aux."): b for name, b in model.named_buffers()}


def assert_equal(first, second) -> None:
    for ours, theirs in zip(first, second, strict=True):
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def by_hand(recipe, perturbed, labels=None, weights=(0.5, 0.5)) -> tuple[dict[str, torch.Tensor], dict]:
    """Gradients and buffers where ``perturbed(model, x, y)`` goes through aux and the clean batch through main."""
    x, y = batch()
    model = ready(recipe)
    x_aux = perturbed(model, x, y)
    (weights[0] * F.cross_entropy(model(x), y)).backward()
    with route(model, "aux"):
        (weights[1] * F.cross_entropy(model(x_aux), y if labels is None else labels)).backward()
    return {name: p.grad for name, p in model.named_parameters()}, dict(model.named_buffers())


def step_towards(model, x, target, size=0.05):
    """One step down the loss of ``target`` through aux in eval mode, by autograd alone."""
    with route(model, "aux"), evaluating(model):
        point = x.clone().requires_grad_()
        (grad,) = torch.autograd.grad(F.cross_entropy(model(point), target, reduction="sum"), point)
    return (x - size * grad.sign()).clamp(0, 1)


def clean_gradient(model, x, y):
    """Of the clean training loss: through main, in train mode."""
    point = x.clone().requires_grad_()
    with frozen_stats(model):
        return torch.autograd.grad(0.5 * F.cross_entropy(model(point), y), point)[0]


# What every recipe promises.


@EACH
def test_keeps_the_contract_of_recipes(recipe):
    contract.test_is_a_frozen_dataclass_with_documented_fields(recipe)
    contract.test_leaves_the_batch_as_it_is(recipe)
    contract.test_under_autocast_losses_are_float32(recipe)
    contract.test_refuses_images_that_are_not_in_0_1_where_it_perturbs_them(recipe)
    contract.test_terms_are_yielded_inside_their_route_so_that_checkpointing_is_right(recipe)
    for closed_after in (None, 0, 1, 2):
        contract.test_modes_and_routes_are_restored_also_when_closed_early(recipe, closed_after)


@EACH
def test_trains_a_few_steps_and_gives_a_plain_model(recipe):
    contract.test_trains_a_few_steps_and_gives_a_plain_model(recipe)


@EACH
def test_draws_by_image_and_step_alone(recipe):
    first = after(recipe)
    torch.manual_seed(99)
    assert_equal(first, after(recipe))
    if type(recipe) not in (BothWays, EntProp):  # which draw nothing
        other = after(recipe, Context(torch.arange(8), step=4, seed=1))[0]
        assert any(not torch.equal(first[0][name], other[name]) for name in other)


def test_what_tables_show_differs_from_recipe_to_recipe():
    assert len({recipe.order for recipe in EVERY}) == len({recipe.colour for recipe in EVERY}) == len(EVERY)


# What each does.


@pytest.mark.parametrize("attack", [PGD(Linf(0.05), random_start=0.8), PGD(L2(0.5), steps=2, random_start=True)])
def test_mixed_prop_is_advprop_at_p_0_and_ebn_at_p_1(attack):
    assert_equal(after(MixedProp(attack, p=0)), after(AdvProp(attack)))
    same = SameDraws(torch.arange(8), step=3, seed=1)
    assert_equal(after(MixedProp(attack, p=1), same), after(EBN(attack), same))


def test_mixed_prop_attacks_each_image_toward_its_own_draw():
    """Whatever batch an image is in, as on another number of processes."""
    seen = []

    def record(f, x, goal, noise=None):
        seen.append((goal.target(4), goal.sign, noise.keys))
        return x

    x, y = batch(200)
    recipe, ids = MixedProp(record, p=0.25), torch.arange(200)
    model = ready(recipe)
    for part in (ids, ids[:50], ids[50:]):
        contract.drain(recipe, model, x[part], y[part], Context(part, step=2))
    (target, sign, keys), *parts = seen
    assert sign == -1
    assert torch.equal(target, torch.cat([part[0] for part in parts]))
    assert torch.equal(keys, torch.cat([part[2] for part in parts]))
    assert 0.25 * 200 - 30 < int((target == y).sum()) < 0.25 * 200 + 30


def test_partly_clean_leaves_those_images_alone_that_mixed_prop_would_ease():
    x, y = batch()
    ids = torch.arange(8)
    seen = {}
    for recipe in (MixedProp(STEP, p=0.5), PartlyClean(STEP, p=0.5)):
        model = ready(recipe)
        handle = model.register_forward_pre_hook(
            lambda _, args, of=type(recipe): seen.setdefault(of, []).append(args[0])
        )
        contract.drain(recipe, model, x, y, Context(ids, step=3, seed=1))
        handle.remove()
    mixed, partly = (seen[of][-1] for of in (MixedProp, PartlyClean))
    eased = Noise.of(1, "target", ids, 3).uniform() < 0.5
    assert 0 < int(eased.sum()) < 8
    assert torch.equal(partly[eased], x[eased])
    assert torch.equal(partly[~eased], mixed[~eased])
    assert all(not torch.equal(image, clean) for image, clean in zip(mixed, x, strict=True))


def test_with_all_shared_the_auxiliary_branch_is_the_main_one():
    """Sharing the affine parameters and the statistics leaves one norm, which two batches pass one after the other."""
    x, y = batch()
    recipe, plain = MixedProp(STEP, p=1), ready(Vanilla())
    model = ready(recipe)
    with easy_recipes.sharing(model, "aux", "affine"), easy_recipes.sharing(model, "aux", "statistics"):
        contract.drain(recipe, model, x, y, CTX)
    contract.drain(EBNOneNorm(STEP), plain, x, y)
    buffers, gradients = dict(plain.named_buffers()), {name: p.grad for name, p in plain.named_parameters()}
    for name, parameter in model.named_parameters():
        if ".norms.aux." in name:
            assert parameter.grad is None
        else:
            torch.testing.assert_close(parameter.grad, gradients[name.replace(".norms.main", "")])
    for name, buffer in model.named_buffers():
        if ".norms.main." in name:
            torch.testing.assert_close(buffer, buffers[name.replace(".norms.main", "")])


@pytest.mark.parametrize(("p", "recipe"), [(0, AdvProp(STEP)), (1, EBN(STEP))])
def test_a_converted_model_that_shares_trains_as_the_recipe_that_does(p, recipe):
    same = SameDraws(torch.arange(8), step=3, seed=1)
    shared = ready(recipe, share="affine")
    gradients, buffers = after(recipe, same, shared)
    theirs, their_buffers = after(MixedProp(STEP, p=p, share="affine"), same)
    assert gradients == {name: grad for name, grad in gradients.items() if torch.equal(grad, theirs[name])}
    assert len(gradients) == sum(grad is not None for grad in theirs.values())
    assert_equal(({}, buffers), ({}, their_buffers))


@dataclass(frozen=True)
class EBNOneNorm:
    attack: PGD

    def __call__(self, model, x, y):
        with evaluating(model):
            point = x.clone().requires_grad_()
            (grad,) = torch.autograd.grad(F.cross_entropy(model(point), y, reduction="sum"), point)
        x_easy = (x - 0.05 * grad.sign()).clamp(0, 1)
        for images in (x, x_easy):
            yield Term.cross_entropy("main", model(images), y, 0.5)


@pytest.mark.parametrize("share", ["affine", "statistics"])
def test_a_branch_shares_what_it_is_told_to_and_keeps_the_rest(share):
    x, y = batch()
    recipe = MixedProp(STEP, p=1, share=share)
    model = ready(recipe)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    contract.drain(recipe, model, x, y, CTX)
    assert list(model.state_dict()) == list(before)
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    own_statistics = {name for name in before if ".norms.aux." in name and "running" in name}
    own_affine = {name: p for name, p in model.named_parameters() if ".norms.aux." in name}
    counts = {int(v) for name, v in model.state_dict().items() if name.endswith(".main.num_batches_tracked")}
    if share == "affine":
        assert own_statistics <= moved
        assert counts == {1}
        assert all(p.grad is None for p in own_affine.values())
    else:
        assert not own_statistics & moved
        assert counts == {2}
        assert all(p.grad is not None for p in own_affine.values())


def test_wrong_images_are_eased_and_right_ones_attacked():
    def perturbed(model, x, y):
        with route(model, "aux"), evaluating(model):
            wrong = model(x).argmax(1) != y
        assert 0 < int(wrong.sum()) < len(y)
        draws = CTX.noise("target").uniform().double()
        other = (y + 1 + (3 * draws).long()) % 4
        return step_towards(model, x, torch.where(wrong, y, other))

    assert_close(after(EaseWrong(STEP)), by_hand(EaseWrong(), perturbed))


def test_own_answer_is_the_target_whatever_the_label():
    def perturbed(model, x, y):
        with route(model, "aux"), evaluating(model):
            return step_towards(model, x, model(x).argmax(1))

    assert_close(after(EBNOwnAnswer(STEP)), by_hand(EBNOwnAnswer(), perturbed))


def assert_close(first, second) -> None:
    for ours, theirs in zip(first, second, strict=True):
        assert ours.keys() == theirs.keys()
        for name in ours:
            torch.testing.assert_close(ours[name], theirs[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("ball", [Linf(0.05), L2(0.5)])
def test_both_ways_is_a_batch_of_opposite_steps(ball):
    def perturbed(model, x, y):
        step = float(ball.eps) * ball.steepest(clean_gradient(model, x, y))
        return torch.cat([ball.project(x + step, x), ball.project(x - step, x)])

    _, y = batch()
    assert_close(after(BothWays(ball)), by_hand(BothWays(), perturbed, torch.cat([y, y])))


def test_a_signed_step_is_uniform_between_easy_and_adversarial():
    def perturbed(model, x, y):
        factor = 2 * CTX.noise("sign").uniform() - 1
        return (x + 0.05 * factor.view(-1, 1, 1, 1) * clean_gradient(model, x, y).sign()).clamp(0, 1)

    assert_close(after(SignedProp(Linf(0.05))), by_hand(SignedProp(), perturbed))


@pytest.mark.parametrize(("adv_weight", "gap_weight"), [(0.25, 0.5), (0.0, 0.5), (0.25, 0.0)])
def test_the_gap_is_what_the_adversarial_loss_exceeds_the_easy_one_by(adv_weight, gap_weight):
    x, y = batch()
    recipe = GapEBN(STEP, adv_weight=adv_weight, gap_weight=gap_weight, label_smoothing=0.1)
    model = ready(recipe)
    with evaluating(model):
        point = x.clone().requires_grad_()
        (grad,) = torch.autograd.grad(F.cross_entropy(model(point), y, reduction="sum"), point)
    copies = [(x + sign * 0.05 * grad.sign()).clamp(0, 1) for sign in (1, -1)]
    (0.75 * F.cross_entropy(model(x), y, label_smoothing=0.1)).backward()
    statistics = {name: buffer.clone() for name, buffer in model.named_buffers()}
    logits = [model(each) for each in copies]
    adv, easier = (F.cross_entropy(each, y, reduction="none") for each in logits)
    excess = torch.where(adv > easier, adv - easier, torch.zeros(())).mean()
    (adv_weight * F.cross_entropy(logits[0], y, label_smoothing=0.1) + gap_weight * excess).backward()
    gradients, buffers = after(recipe)
    assert_close(({name: grad for name, grad in gradients.items() if grad is not None}, buffers),
                 ({name: p.grad for name, p in model.named_parameters()}, statistics))  # fmt: skip


def test_without_its_penalty_it_is_the_light_adversarial_training_of_the_package():
    parts = {"clean_weight": 0.9, "adv_weight": 0.1, "label_smoothing": 0.1}
    assert_equal(after(GapEBN(STEP, gap_weight=0.0, **parts)), after(LightAdversarialTraining(STEP, **parts)))


def test_entprop_takes_the_least_certain_images_a_step_up():
    chosen = []

    def perturbed(model, x, y):
        gradient = clean_gradient(model, x, y)
        with torch.no_grad(), frozen_stats(model):
            p = model(x).softmax(1)
        order = (-(p * p.log()).sum(1)).argsort(descending=True)[:2]
        chosen.append(y[order])
        return (x[order] + 0.05 * gradient[order].sign()).clamp(0, 1)

    x, y = batch()
    perturbed(ready(EntProp()), x, y)
    assert_close(after(EntProp(0.25, Linf(0.05))), by_hand(EntProp(), perturbed, chosen[0]))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MixedProp(p=1.5), r"p must be a probability in \[0, 1\], got 1.5"),
        (lambda: BothWays(clean_weight=0), "clean_weight must be positive"),
        (lambda: SignedProp(clean_weight=-1), "clean_weight must be positive"),
        (lambda: EntProp(fraction=0), r"fraction must be in \(0, 1\]"),
    ],
)
def test_values_that_make_no_sense(make, message):
    with pytest.raises(ValueError, match=message):
        make()
