"""The recipes of examples/paper_readings.py: the port's attack in normalised pixels, and what each edit makes of it."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from easybn import PGD, Linf, evaluating, route
from easybn.keyed_random import Noise
from easybn.recipes import EBN, AdvProp, Context

from . import test_recipe_contract as contract
from .conftest import batch, ready
from .test_easy_recipes import after, assert_equal

spec = importlib.util.spec_from_file_location(
    "paper_readings", Path(__file__).parents[2] / "examples" / "paper_readings.py"
)
paper_readings = importlib.util.module_from_spec(spec)
sys.modules["paper_readings"] = paper_readings  # dataclasses look for their module
spec.loader.exec_module(paper_readings)
del sys.modules["paper_readings"]
Port, PortOneNorm = paper_readings.Port, paper_readings.PortOneNorm

EVERY = (Port(), Port(target="label"), Port(target="label", ascend=True), PortOneNorm())
CTX = Context(torch.arange(8), step=3, seed=1)
CIFAR = {"mean": (0.4914, 0.4822, 0.4465), "std": (0.2470, 0.2435, 0.2616)}


@pytest.fixture(params=[0.0, 1.0], ids=["from the image", "from noise"])
def start(request, monkeypatch):
    monkeypatch.setattr(paper_readings, "RANDOM_START", request.param)
    return request.param


@pytest.mark.parametrize("recipe", EVERY, ids=str)
def test_keeps_the_contract_of_recipes(recipe):
    contract.test_is_a_frozen_dataclass_with_documented_fields(type(recipe)())
    contract.test_leaves_the_batch_as_it_is(recipe)
    contract.test_refuses_images_that_are_not_in_0_1_where_it_perturbs_them(recipe)
    contract.test_trains_a_few_steps_and_gives_a_plain_model(recipe)
    for closed_after in (None, 0, 1, 2):
        contract.test_modes_and_routes_are_restored_also_when_closed_early(recipe, closed_after)


def ported(network, x, y, start, target, ascend, epsilon=1.0):
    """The attack of the port, step for step, on normalised images; ``start`` is its noise, in -1 .. 1."""
    size = epsilon * 2.0 / 255
    lower = torch.clamp(x - size, min=-1.0, max=1.0)
    upper = torch.clamp(x + size, min=-1.0, max=1.0)
    adv = (x + start * size).requires_grad_()
    (g,) = torch.autograd.grad(F.cross_entropy(network(adv), target), adv)
    adv = adv + torch.sign(g) * size if ascend else adv - torch.sign(g) * size
    adv = torch.where(adv > lower, adv, lower)
    return torch.where(adv < upper, adv, upper).detach()


@pytest.mark.parametrize("recipe", EVERY[:3], ids=str)
def test_the_perturbation_is_that_of_the_port_in_normalised_pixels(recipe, start):
    x, y = batch()
    model = ready(recipe, **CIFAR).double()
    x, first, network = x.double(), model[0], model[1]
    noise = Noise.of(1, "adv", CTX.ids, 3)
    drawn = (2 * noise.child("start").uniform(3, 16, 16) - 1) * start
    target = y if recipe.target == "label" else noise.child("target").integers(4)
    with route(model, "aux"), evaluating(model):
        expected = ported(network, first(x), y, drawn, target, recipe.ascend)
        found = first(recipe.perturb(model, x, y, CTX))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    clipped = (first(x).abs() > 1).double().mean()
    assert clipped > 0.4  # of uniform pixels under CIFAR's statistics
    assert found.abs().max() <= 1 + 1e-6


def test_the_port_s_original_is_advprop_untargeted_and_its_label_is_ebn(monkeypatch):
    """With mean and std 0.5, for which the port was written, its step and clamp are those of the package."""
    halves = {"mean": (0.5,) * 3, "std": (0.5,) * 3}
    monkeypatch.setattr(paper_readings, "RANDOM_START", 0.0)  # the port draws it once a batch, the package for an image
    attack = PGD(Linf(1 / 255))
    for ours, theirs in (
        (Port(target="label", ascend=True), AdvProp(attack, target="untargeted")),
        (Port(target="label"), EBN(attack)),
    ):
        assert_equal(after(ours, model=ready(ours, **halves)), after(theirs, model=ready(theirs, **halves)))


def test_one_target_in_ten_is_the_true_class_and_four_starts_in_ten_are_noise():
    ids = torch.arange(4000)
    y = ids % 10
    target = Noise.of(0, "adv", ids, 0).child("target").integers(10)
    assert abs(float((target == y).double().mean()) - 0.1) < 5 * (0.09 / 4000) ** 0.5
    normal = torch.distributions.Normal(0.0, 1.0)
    assert abs(1 - float(normal.cdf(torch.tensor(0.2))) - paper_readings.RANDOM_START) < 1e-5


def test_without_the_flag_both_halves_pass_the_same_norms_in_one_batch():
    x, y = batch()
    recipe = PortOneNorm(target="label")
    model, by_hand = ready(recipe), ready(recipe)
    contract.drain(recipe, model, x, y, CTX)
    with evaluating(by_hand):
        x_easy = recipe.perturb(by_hand, x, y, CTX)
    F.cross_entropy(by_hand(torch.cat([x, x_easy])), torch.cat([y, y])).backward()
    for (name, ours), theirs in zip(model.named_parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, msg=name)
    assert all(torch.equal(a, b) for a, b in zip(model.buffers(), by_hand.buffers(), strict=True))
