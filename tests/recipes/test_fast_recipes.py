"""Fast AdvProp and Fast EBN against the paper's description written out: sums of losses, divided by counts."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from easybn import L2, Linf, branch_parameters, convert, route
from easybn.keyed_random import Noise
from easybn.norm.branched import BranchedNorm
from easybn.recipes import Context, FastAdvProp, FastEBN, Vanilla
from easybn.recipes.recipe import rebalanced
from easybn.train.step import take_step

EPS = 0.05
BOTH = pytest.mark.parametrize("recipe", [FastAdvProp(ball=Linf(EPS)), FastEBN(ball=Linf(EPS))], ids=["adv", "easy"])


class Odd(nn.Module):
    """Parameters of kinds that a list of layer types would miss: a bare one, a PReLU, a layer norm."""

    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(1.5))
        self.slope, self.norm = nn.PReLU(init=0.3), nn.LayerNorm([4, 4])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.slope(x)) * self.gain


def net(recipe, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    plain = nn.Sequential(
        nn.Conv2d(3, 5, 3, 2, 1), nn.BatchNorm2d(5), Odd(), nn.Conv2d(5, 4, 1), nn.BatchNorm2d(4), nn.Flatten(),
        nn.Linear(64, 4),
    )  # fmt: skip
    model = convert(plain, recipe.branches).double()
    for parameter in model.parameters():  # branches that differ
        nn.init.normal_(parameter, 0.3, 0.3)
    return model


def batch(n: int = 10) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    return torch.rand(n, 3, 8, 8, dtype=torch.float64), torch.arange(n) % 4


def drain(recipe, model, x, y, ctx=Context(torch.arange(10))) -> list[torch.Tensor]:
    """The images that the model saw; the gradients are where backward() leaves them."""
    seen = []
    inner = model._orig_mod if hasattr(model, "_orig_mod") else model
    hook = inner.register_forward_pre_hook(lambda module, args: seen.append(args[0].detach().clone()))
    for term in recipe(model, x, y, ctx):
        (term.weight * term.loss).backward()
    hook.remove()
    return seen


def gradients(model) -> dict[str, torch.Tensor]:
    return {name: p.grad for name, p in model.named_parameters()}


def through(model, branch, x, y, smoothing=0.0):
    """The sum of the losses."""
    with route(model, branch):
        return F.cross_entropy(model(x), y, reduction="sum", label_smoothing=smoothing)


def by_hand(model, sums: dict[str, list], reached: dict[str, int]) -> dict[str, torch.Tensor]:
    """Each parameter's gradient of the sum of all losses, divided by the number of samples that reached it."""
    own = {id(p): branch for branch in reached for p in branch_parameters(model, branch)}
    loss = sum(part for parts in sums.values() for part in parts)
    names, parameters = zip(*model.named_parameters(), strict=True)
    found = {}
    for name, p, grad in zip(names, parameters, torch.autograd.grad(loss, parameters), strict=True):
        found[name] = grad / (reached[own[id(p)]] if id(p) in own else sum(reached.values()))
    assert len(set(own.values())) == 2
    assert len(own) == 8
    assert len(found) > 8
    return found


def step_from(model, branch, point, y, centre, sign, ball, size, smoothing=0.0) -> torch.Tensor:
    point = point.clone().requires_grad_()
    (grad,) = torch.autograd.grad(through(model, branch, point, y, smoothing), point)
    if isinstance(ball, Linf):
        moved = point.detach() + sign * size * grad.sign()
        return torch.stack((centre - EPS, moved, centre + EPS)).median(0).values.clamp(0, 1)
    moved = point.detach() + sign * size * grad / grad.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    offset = moved - centre
    norm = offset.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    return (centre + offset * (EPS / norm).clamp(max=1)).clamp(0, 1)


def statistics(model) -> dict[str, torch.Tensor]:
    return dict(model.named_buffers())


def assert_close(ours, theirs) -> None:
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=1e-9, atol=1e-12, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize(
    ("ball", "size", "smoothing", "fraction", "n"),
    [(Linf(EPS), None, 0.0, 0.2, 8), (Linf(EPS), 0.02, 0.1, 0.45, 6), (L2(EPS), None, 0.0, 0.5, 5)],
)
def test_fast_advprop_by_hand(ball, size, smoothing, fraction, n):
    recipe = FastAdvProp(fraction, ball, size, noisy_weight=0.3, adv_weight=0.6, label_smoothing=smoothing)
    ours, slow = net(recipe), net(recipe)
    x, y = batch()
    clean, noisy, adv = drain(recipe, ours, x, y)
    assert torch.equal(clean, x[:n])
    assert (ball.distance(noisy, x[n:]) <= EPS + 1e-7).all()
    assert noisy.min() >= 0
    assert noisy.max() <= 1
    scratch = copy.deepcopy(slow)
    expected = step_from(scratch, "adv", noisy, y[n:], x[n:], +1, ball, size or EPS, smoothing)
    torch.testing.assert_close(adv, expected, rtol=0, atol=1e-9)
    sums = {
        "main": [through(slow, "main", clean, y[:n], smoothing)],
        "adv": [
            0.3 * through(slow, "adv", noisy, y[n:], smoothing),
            0.6 * through(slow, "adv", adv, y[n:], smoothing),
        ],
    }
    assert_close(gradients(ours), by_hand(slow, sums, {"main": n, "adv": 10 - n}))
    assert_close(statistics(ours), statistics(slow))


@pytest.mark.parametrize(
    ("ball", "size", "smoothing", "fraction", "m", "weight"),
    [(Linf(EPS), None, 0.0, 0.2, 2, 1.0), (Linf(EPS), 0.02, 0.1, 0.45, 4, 0.5), (L2(EPS), None, 0.0, 1.0, 10, 1.0)],
)
def test_fast_ebn_by_hand(ball, size, smoothing, fraction, m, weight):
    recipe = FastEBN(fraction, ball, size, weight, smoothing)
    ours, slow = net(recipe), net(recipe)
    x, y = batch()
    clean, easy = drain(recipe, ours, x, y)
    assert torch.equal(clean, x)
    scratch = copy.deepcopy(slow)
    expected = step_from(scratch, "main", x, y, x, -1, ball, size or EPS, smoothing)[-m:]
    torch.testing.assert_close(easy, expected, rtol=0, atol=1e-9)
    assert not torch.equal(easy, x[-m:])
    sums = {
        "main": [through(slow, "main", x, y, smoothing)],
        "easy": [weight * through(slow, "easy", easy, y[-m:], smoothing)],
    }
    assert_close(gradients(ours), by_hand(slow, sums, {"main": 10, "easy": m}))
    assert_close(statistics(ours), statistics(slow))


def test_the_noise_is_uniform_and_named_by_the_sample():
    x, y = batch()
    x = 0.3 + 0.4 * x  # nothing is clipped
    recipe = FastAdvProp(0.5, Linf(EPS))
    offsets = drain(recipe, net(recipe), x, y)[1] - x[5:]
    assert offsets.abs().max() > 0.98 * EPS
    assert offsets.std().item() == pytest.approx(EPS / 3**0.5, rel=0.05)
    order = torch.tensor([1, 3, 0, 2, 4, 9, 7, 5, 6, 8])
    again = drain(recipe, net(recipe), x[order], y[order], Context(order))[1] - x[order][5:]
    torch.testing.assert_close(again, offsets[order[5:] - 5])
    torch.testing.assert_close(Linf(EPS).random(x, Noise.of(0, "adv", torch.arange(10)))[5:], offsets + x[5:])


@BOTH
def test_gradients_accumulate_over_batches(recipe):
    model, single = net(recipe), net(recipe)
    halves = [(batch()[0], batch()[1]), (1 - batch()[0], batch()[1])]
    for x, y in halves:
        drain(recipe, model, x, y)
    expected = {}
    for x, y in halves:
        single.zero_grad()
        drain(recipe, single, x, y)
        expected = {name: grad + expected.get(name, 0) for name, grad in gradients(single).items()}
    assert_close(gradients(model), expected)


def test_a_compiled_models_branches_are_found():
    recipe = FastAdvProp()
    x, y = batch()
    plain = net(recipe)
    compiled = torch.compile(net(recipe), backend="eager")
    drain(recipe, plain, x, y)
    drain(recipe, compiled, x, y)
    assert_close({name.removeprefix("_orig_mod."): g for name, g in gradients(compiled).items()}, gradients(plain))


@BOTH
def test_under_loss_scaling_the_step_is_the_same(recipe):
    x, y = batch()
    models = net(recipe), net(recipe)
    for model, scaler in zip(models, (None, torch.amp.GradScaler("cpu", init_scale=1024.0)), strict=True):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        take_step(model, optimizer, lambda m=model: recipe(m, x, y, Context(torch.arange(10))), scaler=scaler)
    assert_close(models[1].state_dict(), models[0].state_dict())
    assert not torch.equal(models[0][0].weight, net(recipe)[0].weight)


@BOTH
@pytest.mark.parametrize("n", [1, 2, 3])
def test_small_batches(recipe, n):
    model = net(recipe)
    x, y = batch(n)
    seen = [len(images) for images in drain(recipe, model, x, y, Context(torch.arange(n)))]
    if type(recipe) is FastEBN:
        assert seen == [n, 1]
    else:
        assert seen == ([n - 1, 1, 1] if n > 1 else [1])
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_a_batch_of_one_is_vanilla_to_fast_advprop():
    recipe = FastAdvProp()
    model, plain = net(recipe), net(recipe)
    x, y = batch(1)
    drain(recipe, model, x, y)
    for term in Vanilla()(plain, x, y):
        term.loss.backward()
    ours, theirs = gradients(model), gradients(plain)
    assert any(grad is None for grad in theirs.values())
    assert all(ours[name] is theirs[name] is None or torch.equal(ours[name], theirs[name]) for name in theirs)


@BOTH
def test_frozen_parameters_stay_without_gradient(recipe):
    model = net(recipe)
    norm = next(m for m in model.modules() if isinstance(m, BranchedNorm))
    norm.requires_grad_(False)
    drain(recipe, model, *batch())
    assert {name for name, grad in gradients(model).items() if grad is None} == {
        name for name, p in model.named_parameters() if not p.requires_grad
    }


@BOTH
def test_images_whose_gradient_is_not_finite_take_no_step(recipe):
    x, y = batch()
    model, moved = net(recipe), []
    model.register_forward_pre_hook(lambda module, args: moved.append(args[0].detach().clone()))
    for i, term in enumerate(recipe(model, x, y, Context(torch.arange(10)))):
        if i == 0 and type(recipe) is FastEBN:
            bad = term.loss * float("inf")
        else:
            bad = term.loss * (float("inf") if term.name == "noisy" else 1.0)
        bad.backward()
    before = moved[1] if type(recipe) is FastAdvProp else x[-2:]
    torch.testing.assert_close(moved[-1], before, rtol=0, atol=1e-9)


@BOTH
def test_each_term_must_be_backpropagated_as_it_comes(recipe):
    x, y = batch()
    with pytest.raises(RuntimeError, match="backward"):
        list(recipe(net(recipe), x, y))


@BOTH
def test_a_plain_model_is_an_error_before_any_pass(recipe):
    with pytest.raises(ValueError, match="convert"):
        next(recipe(nn.Sequential(nn.Flatten(), nn.Linear(192, 4)).double(), *batch()))


@pytest.mark.parametrize("fraction", [0.0, -0.1, 1.01, float("nan")])
def test_fractions_out_of_range(fraction):
    for make in (FastAdvProp, FastEBN):
        with pytest.raises(ValueError, match="fraction must be in"):
            make(fraction)


def test_what_fast_advprop_cannot_do_without():
    with pytest.raises(ValueError, match="fraction"):
        FastAdvProp(1.0)
    with pytest.raises(ValueError, match="noisy_weight must be positive"):
        FastAdvProp(noisy_weight=0.0)


def test_where_branches_share_their_affine_parameters_every_image_counts_once():
    """Weights that no branch has alone get the sum over all images, divided by their number."""
    recipe = FastEBN(ball=Linf(EPS))
    torch.manual_seed(0)
    plain = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 4)).double()
    model = convert(plain, recipe.branches, share="affine")
    x, y = torch.rand(8, 3, dtype=torch.float64), torch.arange(8) % 4
    with rebalanced(model, {"main": 2, "easy": 6}):
        for branch, part in (("main", slice(0, 2)), ("easy", slice(2, 8))):
            with route(model, branch):
                (nn.functional.cross_entropy(model(x[part]), y[part], reduction="sum") / 8).backward()
    normal = torch.cat([(part - part.mean(0)) / (part.var(0, unbiased=False) + 1e-5).sqrt() for part in (x[:2], x[2:])])
    loss = nn.functional.cross_entropy(plain[1](normal * plain[0].weight + plain[0].bias), y)
    expected = torch.autograd.grad(loss, [plain[0].weight, plain[0].bias])
    shared = model[0].norms["easy"]
    torch.testing.assert_close([shared.weight.grad, shared.bias.grad], list(expected))


@pytest.mark.parametrize("closed_early", [False, True])
def test_rebalanced_adds_to_earlier_gradients(closed_early):
    model = net(FastEBN())
    for p in model.parameters():
        p.grad = torch.ones_like(p)

    def work():
        with rebalanced(model, {"main": 2, "easy": 6}):
            for p in branch_parameters(model, "easy"):
                assert p.grad is None
                p.grad = torch.full_like(p, 3.0)
            yield

    generator = work()
    next(generator)
    generator.close() if closed_early else list(generator)
    assert all(torch.equal(p.grad, torch.ones_like(p)) for p in branch_parameters(model, "main"))
    assert all(torch.equal(p.grad, torch.full_like(p, 5.0)) for p in branch_parameters(model, "easy"))
    assert torch.equal(model[0].weight.grad, torch.ones_like(model[0].weight))
