"""A preset fast that misses what is known, and a short standard that does not miss it where the model is linear."""

import pytest

from easybn.attacks.apgd import APGD
from easybn.attacks.fab import FAB
from easybn.attacks.momentum_pgd import MomentumPGD
from easybn.attacks.registry import PRESETS
from easybn.attacks.square import Square

REACH = 0.5  # share of eps that this fast's perturbations have: what is farther from the boundary it misses


def patched(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fast that reaches half as far as it should, and a short standard that misses nothing here."""
    monkeypatch.setitem(
        PRESETS, "fast", {"momentum-pgd": lambda ball: MomentumPGD(type(ball)(REACH * ball.eps), iterations=5)}
    )
    short = {
        "apgd-ce": lambda ball: APGD(ball, iterations=5), "apgd-t": lambda ball: APGD(ball, "t", 5, target_classes=1),
        "fab-t": lambda ball: FAB(ball, iterations=3, target_classes=1), "square": lambda ball: Square(ball, 3),
    }  # fmt: skip
    monkeypatch.setitem(PRESETS, "standard", short)
