import copy
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from easybn.norm.convert import branches_of, convert
from easybn.recipes import EBN, AdvProp, AdvPropEBN, Context, EBNShared, Term, Vanilla
from easybn.train.step import take_step

RECIPES = [Vanilla(), AdvProp(), EBN(), EBNShared(), AdvPropEBN(), EBN(clean_weight=0.3, easy_weight=0.9)]


def batch(images, n=16):
    return images[0][:n].float() / 255, images[1][:n]


def sgd(model):
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3)


def converted(model, recipe):
    return convert(model, recipe.branches) if len(recipe.branches) > 1 else copy.deepcopy(model)


def assert_same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


@pytest.mark.parametrize("clip_norm", [None, 0.01])
@pytest.mark.parametrize("recipe", RECIPES, ids=lambda r: type(r).__name__)
def test_steps_equal_gradients_added_by_hand(recipe, clip_norm, small, images):
    ours, theirs = converted(small, recipe), converted(small, recipe)
    mine, reference = sgd(ours), sgd(theirs)
    x, y = batch(images)
    for step in range(3):
        ctx = Context(torch.arange(16), step, 0, 7)
        tally = take_step(ours, mine, lambda ctx=ctx: recipe(ours, x, y, ctx), clip_norm=clip_norm)
        reference.zero_grad()
        losses, right = {}, {}
        for term in recipe(theirs, x, y, ctx):
            (term.weight * term.loss).backward()
            losses[term.name] = term.loss.item() * 16
            right[term.name] = int((term.logits.argmax(1) == y).sum())
        if clip_norm is not None:
            assert nn.utils.clip_grad_norm_(theirs.parameters(), clip_norm) > clip_norm
        reference.step()
        assert {name: row.tolist() for name, row in tally.items()} == {
            name: pytest.approx([losses[name], right[name], 16]) for name in losses
        }
    assert_same(ours.state_dict(), theirs.state_dict())
    assert not torch.equal(ours.state_dict()["0.weight"], small.state_dict()["0.weight"])


def test_terms_without_labels_and_of_one_name_add_up(small, images):
    x, y = batch(images)

    def terms():
        yield Term("a", F.cross_entropy(small(x), y), 0.25)
        yield Term("a", F.cross_entropy(small(x), y), 0.25)

    with torch.no_grad():
        expected = F.cross_entropy(small(x), y).item()
    tally = take_step(small, sgd(small), terms)
    assert tally["a"].tolist() == pytest.approx([2 * expected, 0, 2])


@pytest.mark.parametrize("recipe", RECIPES[1:], ids=lambda r: type(r).__name__)
def test_one_graph_is_alive_at_a_time(recipe, small, images):
    class Box:
        def __init__(self, tensor):
            self.tensor = tensor

    boxes, alive = weakref.WeakSet(), []

    def pack(tensor):
        box = Box(tensor)
        boxes.add(box)
        return box

    model = converted(small, recipe)
    x, y = batch(images)
    peak = 0

    def count(*_):
        nonlocal peak
        alive.append(len(boxes))  # what graphs hold as a forward pass begins
        peak = max(peak, alive[-1])

    model[0].register_forward_pre_hook(count)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda box: box.tensor):
        take_step(model, sgd(model), lambda: recipe(model, x, y))
        assert len(alive) >= len(recipe.branches)
        assert peak == 0
        together = list(recipe(model, x, y)) if not isinstance(recipe, EBNShared) else []
        assert not together or len(boxes) > 0  # the measure sees graphs that are alive
        del together


def test_a_failing_backward_restores_the_route(small, images):
    class Fails(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            raise ArithmeticError("no")

    model = convert(small, ("main", "easy"))
    x, y = batch(images)

    def terms():
        from easybn.norm.route import route

        with route(model, "easy"):
            yield Term("easy", Fails.apply(F.cross_entropy(model(x), y)))

    with pytest.raises(ArithmeticError, match="no") as failed:
        take_step(model, sgd(model), terms)
    assert model[1].active == "main"  # while the error, and with it the frame of the step, is alive
    assert failed.value.__traceback__ is not None


@pytest.mark.parametrize("recipe", [Vanilla(), EBNShared(), EBN()], ids=lambda r: type(r).__name__)
@pytest.mark.parametrize("spoilt", [0, -1], ids=["first term", "last term"])
def test_a_step_with_non_finite_gradients_is_skipped_whole(recipe, spoilt, small, images):
    model = converted(small, recipe)
    optimizer = sgd(model)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    x, y = batch(images)
    plain = converted(small, recipe)
    unscaled = sgd(plain)
    ctx = Context(torch.arange(16), 0, 0, 0)
    take_step(model, optimizer, lambda: recipe(model, x, y, ctx), scaler=scaler)
    take_step(plain, unscaled, lambda: recipe(plain, x, y, ctx))
    for a, b in zip(model.parameters(), plain.parameters(), strict=True):  # a scale of 2^10 changes no bit
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-8)
    weights = [p.detach().clone() for p in model.parameters()]
    momenta = [optimizer.state[p]["momentum_buffer"].clone() for p in model.parameters()]
    names = recipe.branches

    def terms():
        for i, term in enumerate(recipe(model, x, y, ctx)):
            bad = i == range(len(names))[spoilt]
            yield term._replace(loss=term.loss * float("inf")) if bad else term

    take_step(model, optimizer, terms, scaler=scaler, clip_norm=1.0)
    for before, after in zip(weights, model.parameters(), strict=True):
        assert torch.equal(before, after)
    for before, parameter in zip(momenta, model.parameters(), strict=True):
        assert torch.equal(before, optimizer.state[parameter]["momentum_buffer"])
    assert scaler.get_scale() == 512.0
    take_step(model, optimizer, lambda: recipe(model, x, y, ctx), scaler=scaler)
    assert all(not torch.equal(before, after) for before, after in zip(weights, model.parameters(), strict=True))
    assert all(p.isfinite().all() for p in model.parameters())


def test_autocast_gives_float32_losses_and_backward_outside(small, images):
    x, y = batch(images)
    seen = []

    def terms():
        seen.append(torch.is_autocast_enabled("cpu"))
        logits = small(x)
        seen.append(logits.dtype)
        term = Term.cross_entropy("main", logits, y, 1.0)
        seen.append(term.loss.dtype)
        yield term

    hook = small[0].weight.register_hook(lambda grad: seen.append(torch.is_autocast_enabled("cpu")))
    take_step(small, sgd(small), terms, autocast=torch.autocast("cpu", torch.bfloat16))
    hook.remove()
    assert seen == [True, torch.bfloat16, torch.float32, False]


def test_branches_of_every_recipe_learn(small, images):
    x, y = batch(images)
    for recipe in RECIPES[1:]:
        model = converted(small, recipe)
        take_step(model, sgd(model), lambda r=recipe, m=model: r(m, x, y))
        for branch in branches_of(model):
            assert not torch.equal(model[1].norms[branch].weight, small[1].weight), (recipe, branch)
