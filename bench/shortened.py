"""AutoAttack cut short, for a network whose robust points would take the reference an hour."""

import numpy as np
import torch
from peers import Short, Spent
from torch import Tensor, nn

from easybn.attacks.apgd import APGD
from easybn.attacks.attack_mode import attack_mode
from easybn.attacks.fab import FAB
from easybn.attacks.registry import BALLS
from easybn.attacks.square import Square
from easybn.data import Source
from easybn.evaluation.points import Plan, Points, run_all
from easybn.evaluation.record import Record
from easybn.evaluation.verdicts import derive
from easybn.models import build

SHORT = Short(iterations=10, targets=9, queries=500)  # a tenth of each attack, so that their shares stay


def untrained(name: str, x: Tensor, source: Source) -> tuple[nn.Module, Tensor]:
    """A network with random weights, and what it says of ``x`` (n, C, H, W): its answers count as right.

    At a radius too small to change them every point has to go through every attack.
    """
    torch.manual_seed(0)
    model = build(name, in_channels=source.test.shape[0], mean=source.mean, std=source.std)
    for norm in (module for module in model.modules() if isinstance(module, nn.BatchNorm2d)):
        norm.momentum = None  # the statistics of the next pass, in the place of 0 and 1
    with torch.no_grad():
        model(source.test.batch(torch.arange(64))[0])
        return model, model.eval()(x).argmax(1)


def ours_shortened(model: nn.Module, x: Tensor, y: Tensor, norm: str, eps: float, short: Short) -> tuple[Tensor, Spent]:
    """Which points are robust, and what that took; arguments as of :func:`peers.reference`."""
    began, ball = Spent.now(), BALLS[norm](eps)
    attacks = [
        APGD(ball, "ce", short.iterations),
        APGD(ball, "t", short.iterations, target_classes=short.targets),
        FAB(ball, iterations=short.iterations, target_classes=short.targets),
        Square(ball, short.queries),
    ]
    with attack_mode(model, probe=x) as ready:
        points = Points(ready, x, y, np.arange(len(x)), Plan({eps: attacks}))
        record = Record.joined(done.record for done in run_all(points))
    return torch.as_tensor(derive(record, points.ids, points.plan.stages).robust(eps)), Spent.since(began)
