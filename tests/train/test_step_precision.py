"""Mixed precision and loss scaling of every recipe: against the same step in float32 without a scale."""

import copy
import dataclasses
from contextlib import nullcontext
from functools import partial
from itertools import pairwise

import pytest
import torch
from torch import nn

from easybn import L2, PGD, Linf, convert
from easybn.perturb.goal import easy, untargeted
from easybn.recipes import Context
from easybn.train.fit import fit
from easybn.train.observers import Observer
from easybn.train.schedule import Training
from easybn.train.step import take_step

from ..recipes.conftest import every_recipe
from ..small import small_images

LABELS = torch.arange(10) % 4
CTX = Context(torch.arange(10), 0, 0, 7)
SCALER = partial(torch.amp.GradScaler, "cpu")
HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


def named(recipe) -> str:
    return f"{type(recipe).__name__} {getattr(recipe, 'ball', '')}".rstrip()


PLAIN = [make() for make in every_recipe()]
ALL = pytest.mark.parametrize("recipe", PLAIN, ids=named)
# those that read the images' gradient of a term, in each ball
SHARING = [dataclasses.replace(r, ball=ball) for r in PLAIN if hasattr(r, "ball") for ball in (Linf(0.03), L2(0.3))]


def net(recipe) -> nn.Module:
    torch.manual_seed(3)
    model = nn.Sequential(  # smooth, and no bias that a norm takes away: rounding is small in every gradient
        nn.Conv2d(3, 6, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(6), nn.Tanh(),
        nn.Conv2d(6, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.Tanh(), nn.Flatten(), nn.Linear(96, 4),
    )  # fmt: skip
    return convert(model, recipe.branches) if len(recipe.branches) > 1 else model


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3)


def step(model, optimizer, recipe, **options):
    return take_step(model, optimizer, lambda: recipe(model, small_images(10), LABELS, CTX), **options)


def state(model, optimizer) -> dict[str, torch.Tensor]:
    """Parameters, statistics and momenta, copied."""
    momenta = {f"momentum {i}": row["momentum_buffer"] for i, row in optimizer.state_dict()["state"].items()}
    return copy.deepcopy({**model.state_dict(), **momenta})


def different(a, b) -> set[str]:
    assert a.keys() == b.keys()
    return {name for name in a if not torch.equal(a[name], b[name])}


def statistics(model) -> set[str]:
    """Names of the running means, variances and counters of all branches."""
    return {name for name, _ in model.named_buffers()}


@pytest.mark.parametrize(("scale", "clip_norm"), [(2.0**10, None), (2.0**60, 0.1)], ids=["2^10", "2^60 and clipped"])
@pytest.mark.parametrize("recipe", PLAIN + SHARING, ids=named)
def test_a_power_of_two_as_scale_changes_no_bit(recipe, scale, clip_norm):
    ours, plain = net(recipe), net(recipe)
    mine, reference = sgd(ours), sgd(plain)
    scaler = SCALER(init_scale=scale)
    for _ in range(2):
        tally = step(ours, mine, recipe, scaler=scaler, clip_norm=clip_norm)
        expected = step(plain, reference, recipe, clip_norm=clip_norm)
        assert not different(tally, expected)
    assert not different(state(ours, mine), state(plain, reference))
    assert different(state(ours, mine), state(net(recipe), mine)) >= {name for name, _ in plain.named_parameters()}


@pytest.mark.parametrize(("where", "bad"), [("first", float("inf")), ("last", float("nan"))])
@ALL
def test_a_step_with_one_gradient_that_is_not_finite_is_skipped_whole(recipe, bad, where):
    model = net(recipe)
    optimizer, scaler = sgd(model), SCALER(init_scale=1024.0)
    step(model, optimizer, recipe, scaler=scaler)
    before = state(model, optimizer)
    parameter = list(model.parameters())[0 if where == "first" else -1]
    hook = parameter.register_hook(lambda gradient: gradient.index_fill(0, torch.tensor(0), bad))
    step(model, optimizer, recipe, scaler=scaler, clip_norm=1.0)
    hook.remove()
    # the forward passes were as good as any: what they moved, stays moved, as after a step that is not skipped
    assert different(state(model, optimizer), before) == statistics(model)
    assert scaler.get_scale() == 512.0
    twin = copy.deepcopy(model)
    twins = sgd(twin)
    twins.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    step(model, optimizer, recipe, scaler=scaler)
    step(twin, twins, recipe)
    assert not different(state(model, optimizer), state(twin, twins))
    assert len(different(state(model, optimizer), before)) == len(before)


@ALL
def test_a_scale_beyond_float32_falls_until_steps_are_taken(recipe):
    model = net(recipe)
    optimizer, scaler = sgd(model), SCALER(init_scale=2.0**127, backoff_factor=2.0**-40)
    with torch.no_grad():
        model[-1].weight.mul_(1e3)  # gradients of the images beyond 1
    before = state(model, optimizer)
    step(model, optimizer, recipe, scaler=scaler)
    assert different(state(model, optimizer), before) == statistics(model)
    assert scaler.get_scale() == 2.0**87
    step(model, optimizer, recipe, scaler=scaler)
    assert {name for name, _ in model.named_parameters()} <= different(model.state_dict(), before)
    assert all(value.isfinite().all() for value in state(model, optimizer).values())


class Spoilt(nn.Module):
    """Keeps what passes through, and makes the last image's gradient ``bad``, while the parameters' are right."""

    def __init__(self, inner: nn.Module, bad: float | None):
        super().__init__()
        self.inner, self.bad, self.seen = inner, bad, []

    def forward(self, x):
        self.seen.append(x.detach().clone())
        if x.requires_grad and self.bad is not None:
            x = x.view_as(x)
            x.register_hook(lambda gradient: gradient.index_fill(0, torch.tensor(len(gradient) - 1), self.bad))
        return self.inner(x)


@pytest.mark.parametrize("bad", [float("inf"), float("nan")])
@pytest.mark.parametrize("recipe", SHARING, ids=named)
def test_an_image_without_a_finite_gradient_takes_no_step_and_the_others_theirs(recipe, bad):
    passes = []
    for spoils in (None, bad):
        model = Spoilt(net(recipe), spoils)
        step(model, sgd(model), recipe, scaler=SCALER(init_scale=1024.0))
        passes.append(model.seen)
    start, moved, spoilt = passes[0][-2], passes[0][-1], passes[1][-1]
    start = start[-len(moved) :]  # the pass whose gradient is used again may have had more images
    assert torch.equal(spoilt[:-1], moved[:-1])
    assert torch.equal(spoilt[-1], start[-1])
    assert all(not torch.equal(a, b) for a, b in zip(moved, start, strict=True))


@pytest.mark.parametrize("goal", [easy(LABELS), untargeted(LABELS)], ids=["easy", "untargeted"])
def test_in_fp16_a_confident_image_takes_the_step_that_it_takes_in_float32(goal):
    """The attack has no scaler; its gradients, here of 1e-7 and less, are beyond float16."""
    torch.manual_seed(3)
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 4))  # a linear model: no rounding turns a sign
    model[1].bias.data = torch.zeros(4)
    x = small_images(10)
    with torch.no_grad():
        onto = nn.functional.one_hot(LABELS, 4).float()
        model[1].weight.add_(16 * (torch.linalg.pinv(x.flatten(1)) @ onto).T)  # 16 more for the label than beside it
        model[1].weight.copy_(model[1].weight.half())
    x = x.half().float()
    p = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(model(p), LABELS, reduction="sum"), p)
    assert gradient.abs().max() < 1e-5
    exact = PGD(Linf(0.1))(model, x, goal)
    with torch.autocast("cpu", torch.float16):
        rough = PGD(Linf(0.1))(model, x, goal)
    clear = gradient.abs() > 0.01 * gradient.flatten(1).abs().amax(1).view(-1, 1, 1, 1)
    assert clear.float().mean() > 0.9
    assert torch.equal(rough[clear], exact[clear])


def gradients(model, recipe, autocast, scale: float = 1.0) -> dict[str, torch.Tensor]:
    model.zero_grad()
    generator = recipe(model, small_images(10), LABELS, CTX)
    while True:
        with autocast:
            term = next(generator, None)
        if term is None:
            return {name: parameter.grad / scale for name, parameter in model.named_parameters()}
        assert term.loss.dtype == torch.float32
        (scale * term.weight * term.loss).backward()


@pytest.mark.parametrize("precision", HALF)
@ALL
def test_autocast_changes_gradients_by_its_rounding_alone(recipe, precision):
    rough, exact = net(recipe), net(recipe)
    scale = 1024.0 if precision == "fp16" else 1.0
    few = 8 * torch.finfo(HALF[precision]).eps
    for _ in range(2):  # in the first pass what can be folded is looked for, inside autocast
        expected = gradients(exact, recipe, nullcontext())
        for name, found in gradients(rough, recipe, torch.autocast("cpu", HALF[precision]), scale).items():
            assert 0 < (found - expected[name]).norm() < few * expected[name].norm(), name
    assert {t.dtype for t in rough.state_dict().values()} == {torch.float32, torch.int64}


@ALL
def test_a_training_in_fp16_goes_on_through_steps_that_are_skipped(recipe, small, images, tmp_path, monkeypatch):
    """Also exactly where it stood, when it is stopped among them."""
    monkeypatch.setattr(
        torch.amp, "GradScaler", partial(torch.amp.GradScaler, init_scale=2.0**24, backoff_factor=2.0**-6)
    )
    training = Training(epochs=1, batch_size=20, lr=0.05, precision="fp16")
    weights = [small[0].weight.detach().clone()]

    class Watch(Observer):
        def step(self, state):
            weights.append(state.model[0].weight.detach().clone())

    class Stop(Observer):
        def step(self, state):
            state.stop = state.step == 1

    whole = fit(small, recipe, images, training, observers=[Watch()])
    moved = [not torch.equal(a, b) for a, b in pairwise(weights)]
    assert moved == sorted(moved)  # none is skipped once the scale fits
    assert moved[0] is False
    assert moved[-1] is True
    assert all(tensor.isfinite().all() for tensor in whole.branched.state_dict().values())
    path = tmp_path / "c.pt"
    fit(small, recipe, images, training, checkpoint=path, observers=[Stop()])
    again = fit(small, recipe, images, training, checkpoint=path)
    for kind in ("branched", "model"):
        assert not different(getattr(again, kind).state_dict(), getattr(whole, kind).state_dict())
