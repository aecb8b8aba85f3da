"""Looking ahead changes the number of passes and nothing else."""

import pytest
import torch
from torch import nn

from easybn import L2, Linf
from easybn.attacks.attack_mode import attack_mode
from easybn.attacks.runner import AttackRunner
from easybn.attacks.square import Square, lookahead_depth

from ..small import small_images, small_net


class Passes(nn.Module):
    """A model that counts its passes and the images in them."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.passes, self.images = net, 0, 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.passes, self.images = self.passes + 1, self.images + len(x)
        return self.net(x)


@pytest.mark.parametrize("ball", [Linf(0.02), L2(0.3)], ids=["linf", "l2"])
def test_the_attempts_are_those_of_one_query_a_pass(ball):
    """But for rounding: the passes are of other sizes (see test_verdicts_depend_on_neither_batch_nor_order)."""
    net, x = small_net().double().eval(), small_images(6, dtype=torch.float64)
    y = net(x).argmax(1)
    ranking = net(x).argsort(1, descending=True)[:, 1:]
    runs, passes, images = [], [], []
    for min_active in (0, 48):
        model = Passes(net).eval()
        with attack_mode(model) as ready:
            attack = Square(ball, queries=700, min_active=min_active)
            runs.append(AttackRunner(ready, attack, x, y, torch.arange(6), ranking).run())
        passes.append(model.passes)
        images.append(model.images)
    plain, ahead = runs
    fallen = plain.best_distance.isfinite()
    assert 0 < fallen.sum() < 6
    torch.testing.assert_close(plain.best_distance, ahead.best_distance, rtol=0, atol=1e-7)
    torch.testing.assert_close(net(plain.images[fallen]), net(ahead.images[fallen]), rtol=0, atol=1e-6)
    for name in ("iteration", "finished"):
        assert torch.equal(plain.columns[name], ahead.columns[name])
    torch.testing.assert_close(plain.columns["margin"], ahead.columns["margin"], rtol=0, atol=1e-6, equal_nan=True)
    assert int(ahead.columns["forwards"].sum()) == images[1] > images[0] == int(plain.columns["forwards"].sum())
    assert passes[1] < passes[0] / 2


def test_depth_follows_luck_and_room():
    luck = torch.tensor([1.0, 0.3, 0.03, 0.0], dtype=torch.float64)
    assert lookahead_depth(luck, 8).tolist() == [1, 2, 8, 8]
    assert lookahead_depth(luck, 100).tolist() == [1, 2, 11, 100]
