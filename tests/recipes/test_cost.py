"""What a step costs, counted by torch's FLOP counter on the paper's RN-18 in units of one forward pass."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from easybn import convert
from easybn.models import resnet18
from easybn.recipes import EBN, AdversarialTraining, AdvProp, AdvPropEBN, EBNShared, Vanilla


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
    cost = flops(step) / forward
    assert most - 0.12 < cost <= most
