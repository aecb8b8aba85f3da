"""How long an evaluation would take here: a few timed moves of every attack on the very images, times their number."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..attacks.attack import Attack, AttackState
from ..attacks.attack_mode import TargetModel, attack_mode
from ..attacks.registry import check_gradient
from ..keyed_random import Noise
from ..perturb.eps import parse_radii
from .config import Choice
from .evaluate import PRECISIONS, PROBE
from .verdicts import FREE_OF_EPS

FALLEN = 10
"""Moves of the first attack after which a point that falls has fallen, taken generously."""
ENOUGH = 0.3  # seconds that a move must take to be timed well


@dataclass(frozen=True)
class Estimate:
    """What was measured.

    Args:
        points: how many are to be evaluated.
        seconds_a_look: of each attack, for one image: passes of the model and the attack's own arithmetic.
        fallen: seconds for a point that falls to the first attack at the smallest radius.
        robust: seconds for a point that survives all attacks at all radii.
    """

    points: int
    seconds_a_look: dict[str, float]
    fallen: float
    robust: float

    @property
    def least(self) -> float:
        """Seconds if nothing survives."""
        return self.points * self.fallen

    @property
    def most(self) -> float:
        """Seconds if everything survives."""
        return self.points * self.robust


def estimate(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    norm: str,
    eps: Sequence[float],
    attacks: str | Sequence[str],
    points: int | None = None,
    batch_size: int = 256,
    compile: bool = False,
    precision: str = "float32",
) -> Estimate:
    """Time it; arguments as of :func:`easybn.evaluate`. Nothing is written.

    Args:
        x: some of the images, at least one.
        points: how many there will be; by default those of ``x``.

    Raises:
        ValueError: anything out of range.
    """
    choice = Choice((attacks,) if isinstance(attacks, str) else tuple(attacks), norm)
    radii = parse_radii(eps)
    every = {e: choice.at(e) for e in radii}
    for e in radii:
        choice.pgd(e).ball.check_fits(x.shape[1:])
    with attack_mode(model, probe=x[:PROBE], compile=compile, precision=PRECISIONS[precision]) as ready:
        check_gradient(every[radii[0]], ready)
        with torch.no_grad():
            classes = ready.original(ready.load(x[:1])).shape[1]
        seconds = {attack.name: seconds_a_look(ready, attack, x, y, batch_size) for attack in every[radii[0]]}
    robust, searched = 0.0, set()
    for eps_ in radii:
        for attack in every[eps_]:
            if attack.name in FREE_OF_EPS and attack.name in searched:
                continue  # one search serves all radii
            searched.add(attack.name)
            robust += len(attack.attempts(classes)) * (attack.steps + 1) * seconds[attack.name]
    first = every[radii[0]][0] if every[radii[0]] else None
    fallen = 0.0 if first is None else min(FALLEN, first.steps + 1) * seconds[first.name]
    return Estimate(len(x) if points is None else points, seconds, fallen, robust)


def seconds_a_look(model: TargetModel, attack: Attack, x: Tensor, y: Tensor, batch_size: int) -> float:
    """Seconds that an image costs at each move of an attack, in the largest batch that does not take long to time."""
    rows = min(16, batch_size, len(x))
    while True:
        spent = _move(model, attack, x[:rows], y[:rows])
        if spent > ENOUGH or rows >= min(batch_size, len(x)):
            return spent / rows
        rows = min(4 * rows, batch_size, len(x))


def _move(model: TargetModel, attack: Attack, x: Tensor, y: Tensor) -> float:
    """Seconds of a move of all rows, the best of three."""
    rows = torch.arange(len(x))
    centre = model.load(x)
    with torch.no_grad():
        other = model(centre).double().cpu().scatter(1, y.cpu()[:, None], -torch.inf).argmax(1)
    noise = Noise.of(0, "evaluation/estimate", rows)
    state = AttackState.create(rows, y.cpu(), other, torch.zeros_like(rows), noise.keys, centre)
    attack.init(state)
    times = []
    for _ in range(min(4, attack.steps)):
        began = _now(model)
        attack.evaluate(model, state)
        with torch.no_grad():
            attack.step(model, state)
            state["iteration"] = state["iteration"] + 1
        times.append(_now(model) - began)
    return min(times[1:] or times)


def _now(model: TargetModel) -> float:
    """The time at which the device is done with all that was asked."""
    if model.device is not None and model.device.type == "cuda":
        torch.cuda.synchronize(model.device)
    return time.monotonic()
