"""How long an evaluation would take here: a few timed steps of every attack on its images, times their number."""

import time
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..attacks.attack import Attack, AttackState
from ..attacks.attack_mode import TargetModel, attack_mode
from ..attacks.registry import check_gradient, suite
from ..keyed_random import Noise
from .audit import sample_of
from .config import FAST, PRECISIONS, PROBE, EvaluateConfig

STEPS_TO_BREAK = 10
"""Steps of the first attack after which a point that is not robust is broken; a generous guess."""
ENOUGH = 0.3  # seconds that a step must take to be timed well


@dataclass(frozen=True)
class Estimate:
    """What was measured.

    Args:
        points: how many are to be evaluated.
        seconds_per_step: of each attack, for one image: the model's passes and the attack's own arithmetic.
        broken: seconds for a point that the first attack breaks at the smallest radius.
        robust: seconds for a point that survives all attacks at all radii.
        audited: points that are audited, of all radii together, if everything survives; audit: seconds for each.
    """

    points: int
    seconds_per_step: dict[str, float]
    broken: float
    robust: float
    audited: int = 0
    audit: float = 0.0

    @property
    def least(self) -> float:
        """Seconds if nothing survives."""
        return self.points * self.broken

    @property
    def most(self) -> float:
        """Seconds if everything survives."""
        return self.points * self.robust + self.audited * self.audit


def estimate(
    config: EvaluateConfig, model: nn.Module, x: Tensor, y: Tensor, points: int | None = None, rows: int | None = None
) -> Estimate:
    """Time an evaluation by ``config``; other arguments as of :func:`easybn.evaluate`. Nothing is written.

    Args:
        x: some of the images, at least one.
        points: how many there will be; by default those of ``x``.
        rows: images of a timed step at most, by default as many as make it last: the fewer the sooner known, and the
            less precisely.

    Raises:
        ValueError: anything out of range.
    """
    radii, points = sorted(config.eps), len(x) if points is None else points
    attacks = {eps: config.attacks_at(eps) for eps in radii}
    for eps in radii:
        config.pgd(eps).ball.check_fits(x.shape[1:])
    precision, most = PRECISIONS[config.precision], min(config.batch_size, rows or config.batch_size)
    compiled = config.compile and rows is None
    audit = suite("standard", config.norm, radii[-1]) if config.preset == FAST and config.audit != 0 else []
    with attack_mode(model, probe=x[:PROBE], compile=compiled, precision=precision) as ready:
        check_gradient(attacks[radii[0]], ready)
        classes = _classes(ready, x)
        seconds = {each.name: seconds_per_step(ready, each, x, y, most) for each in attacks[radii[0]]}
        audit_seconds = sum(robust_seconds(ready, each, x, y, most) for each in audit)
    robust, searched = 0.0, set()
    for eps in radii:
        for attack in attacks[eps]:
            if not attack.bounded and attack.name in searched:
                continue  # one search serves all radii
            searched.add(attack.name)
            robust += len(attack.attempts(classes)) * (attack.usual_steps + 1) * seconds[attack.name]
    first = attacks[radii[0]][0] if attacks[radii[0]] else None
    broken = 0.0 if first is None else min(STEPS_TO_BREAK, first.steps + 1) * seconds[first.name]
    sample = sample_of(points, points, config.audit, config.audit_width) if audit else 0
    return Estimate(points, seconds, broken, robust, len(radii) * sample, audit_seconds)


def robust_seconds(model: TargetModel, attack: Attack, x: Tensor, y: Tensor, batch_size: int) -> float:
    """Seconds for a point that withstands an attack; arguments as of :func:`seconds_per_step`."""
    steps = len(attack.attempts(_classes(model, x))) * (attack.usual_steps + 1)
    return steps * seconds_per_step(model, attack, x, y, batch_size)


@torch.no_grad()
def _classes(model: TargetModel, x: Tensor) -> int:
    return model.original(model.load(x[:1])).shape[1]


def seconds_per_step(model: TargetModel, attack: Attack, x: Tensor, y: Tensor, batch_size: int) -> float:
    """Seconds that an image takes at each step of an attack, in the largest batch that does not take long to time."""
    rows = min(16, batch_size, len(x))
    while True:
        spent = _step(model, attack, x[:rows], y[:rows])
        if spent > ENOUGH or rows >= min(batch_size, len(x)):
            return spent / rows
        rows = min(4 * rows, batch_size, len(x))


def _step(model: TargetModel, attack: Attack, x: Tensor, y: Tensor) -> float:
    """Seconds of one step of all rows, the best of three."""
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
