"""What a step costs, counted by torch's FLOP counter on the paper's RN-18 in units of one forward pass."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from easybn import convert
from easybn.models import convolutions as winograd
from easybn.models import resnet18
from easybn.recipes import (
    EBN,
    AdversarialTraining,
    AdvProp,
    AdvPropEBN,
    EBNShared,
    FastAdvProp,
    FastEBN,
    LightAdversarialTraining,
    Vanilla,
)


@pytest.fixture(autouse=True)
def torchs_convolutions(monkeypatch):
    """What Winograd's algorithm saves on a CPU, in batches that are large enough, is no property of a recipe."""
    monkeypatch.setattr(winograd, "TILES", 10**9)


def flops(work) -> int:
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


@pytest.mark.parametrize(
    ("recipe", "most"),
    [
        (Vanilla(), 3.0),
        (AdvProp(), 8.05),
        (EBN(), 8.05),
        (EBNShared(), 6.05),
        (AdvPropEBN(), 13.1),
        (AdversarialTraining(), 23.05),
        (LightAdversarialTraining(), 8.05),
        (FastAdvProp(fraction=0.5), 4.55),
        (FastEBN(fraction=0.5), 4.55),
    ],
    ids=lambda value: type(value).__name__,
)
def test_cost_of_a_step(recipe, most):
    plain = resnet18()
    model = convert(plain, recipe.branches) if len(recipe.branches) > 1 else plain
    x, y = torch.rand(2, 3, 32, 32), torch.tensor([0, 1])

    def step() -> None:
        for term in recipe(model, x, y):
            (term.weight * term.loss).backward()

    forward = flops(lambda: plain(x))
    assert forward > 2 * 2 * 0.5e9  # half a billion multiplications an image: the counter sees the convolutions
    step()  # the first one looks for what can be folded
    cost = flops(step) / forward
    assert most - 0.12 < cost <= most


@pytest.mark.parametrize("recipe", [FastAdvProp(fraction=0.2), FastEBN(fraction=0.2)], ids=lambda r: type(r).__name__)
def test_a_fifth_costs_at_most_a_quarter_more_than_vanilla(recipe):
    plain = resnet18()
    model = convert(plain, recipe.branches)
    x, y = torch.rand(5, 3, 32, 32), torch.arange(5)

    def step(recipe, model) -> None:
        for term in recipe(model, x, y):
            (term.weight * term.loss).backward()

    ratio = flops(lambda: step(recipe, model)) / flops(lambda: step(Vanilla(), plain))
    assert 1.2 <= ratio <= 1.205  # beyond 1.2: the first convolution's input gradient
