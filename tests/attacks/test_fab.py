"""FAB against the reference implementation, alone and in a run; its passes; models that offer no gradient."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from pyautoattack.fab_pt import FABAttack_PT
from torch import Tensor, nn

from easybn import L2, Linf
from easybn.attacks.attack import AttackState
from easybn.attacks.attack_mode import attack_mode
from easybn.attacks.fab import FAB
from easybn.attacks.runner import AttackResult, AttackRunner, RunnerState, check_success
from easybn.perturb.ball import Ball, per_sample

from ..small import small_images, small_net

BALLS = pytest.mark.parametrize("norm", ["Linf", "L2"])


def ball_of(norm: str, eps: float) -> Ball:
    return Linf(eps) if norm == "Linf" else L2(eps)


def radii(norm: str) -> tuple[float, float, float]:
    """Within the smallest some of the test's points fall, within the largest most."""
    return (0.015, 0.025, 0.05) if norm == "Linf" else (0.12, 0.2, 0.4)


def ranking_of(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    with torch.no_grad():
        return net(x).scatter(1, y[:, None], -torch.inf).argsort(1, descending=True)[:, :-1]


def state_of(x: Tensor, y: Tensor, target: Tensor | None = None, number: int = 0) -> AttackState:
    rows = torch.arange(len(x))
    return AttackState.create(rows, y, rows * 0 - 1 if target is None else target, rows * 0 + number, rows, x)


def points(n: int = 24, classes: int = 6, dtype: torch.dtype = torch.float32) -> tuple[nn.Module, Tensor, Tensor]:
    net, x = small_net(classes=classes).to(dtype), small_images(n, dtype=dtype)
    with torch.no_grad():
        return net, x, net(x).argmax(1)


def run(net: nn.Module, attack: FAB, x: Tensor, y: Tensor, **options: Any) -> AttackResult:
    with attack_mode(net) as model:
        return AttackRunner(model, attack, x, y, torch.arange(len(x)), ranking_of(net, x, y), **options).run()


@contextmanager
def in_float64(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The reference allocates in the default type, and takes its images and masks to ``float()``."""
    torch.set_default_dtype(torch.float64)
    monkeypatch.setattr(Tensor, "float", Tensor.double)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)
        monkeypatch.undo()


@BALLS
@pytest.mark.parametrize("kind", ["targeted", "untargeted", "restarted"])
def test_the_iterations_are_those_of_the_reference(norm, kind, monkeypatch):
    """In float64 and from the same start: adversarial at the same distance, and the nearest image the same."""
    net, x, y = points(12, dtype=torch.float64)
    x = 0.5 + 0.9 * (x - 0.5)  # so that no random start is cut off at the box: the reference would scale it anew
    y = net(x).argmax(1)
    restarted, iterations = kind == "restarted", {"targeted": 100, "untargeted": 40, "restarted": 6}[kind]
    ball = ball_of(norm, radii(norm)[0])
    attack = FAB(ball, targeted=kind == "targeted", restarts=2 if restarted else 1, iterations=iterations)
    target = ranking_of(net, x, y)[:, 1]
    state = state_of(x, y, target if attack.targeted else None, number=int(restarted))
    attack.init(state)
    offset = state["image"] - x
    assert bool(offset.any()) == restarted
    reach, best = torch.full((len(x),), torch.inf, dtype=torch.float64), x.clone()
    with attack_mode(net) as model, torch.no_grad():
        for age in range(iterations + 1):
            wrong = attack.evaluate(model, state).argmax(1) != y
            distance = ball.distance(state["image"], x)
            nearer = wrong & (distance < reach) & (age > 0)
            reach, best = distance.where(nearer, reach), state["image"].where(per_sample(nearer, best), best)
            attack.step(model, state)
            state["iteration"] = state["iteration"] + 1
    peer = FABAttack_PT(net, norm=norm, n_iter=iterations, eps=float(ball.eps), targeted=attack.targeted)
    peer.target_class = 3
    with in_float64(monkeypatch):  # the reference scales whatever it draws to half of eps
        monkeypatch.setattr(torch, "rand", lambda *_: (offset + 1) / 2)
        monkeypatch.setattr(torch, "randn", lambda *_: offset)
        found = peer.attack_single_run(x, y, use_rand_start=restarted, is_targeted=attack.targeted)
    assert int(reach.isfinite().sum()) >= 9
    assert ball.distance(found, x).tolist() == pytest.approx(reach.where(reach.isfinite(), 0).tolist(), rel=1e-6)
    assert float((found - best).abs().max()) < 1e-6


@BALLS
@pytest.mark.parametrize("targeted", [True, False])
def test_verdicts_are_those_of_the_reference(norm, targeted):
    net, x, y = points(40)
    eps = radii(norm)[0]
    peer = FABAttack_PT(net, norm=norm, n_iter=15, eps=eps, targeted=targeted, n_target_classes=5)
    found = peer.perturb(x, y)
    expected = (net(found).argmax(1) != y) & (ball_of(norm, eps).distance(found, x) <= eps)
    attempts = run(net, FAB(ball_of(norm, eps), targeted, iterations=15), x, y, batch_size=16)
    success = attempts.success(eps)
    assert 5 < int(expected.sum()) < 36
    # float32: an image at a distance of almost exactly eps, or a trajectory that rounding took elsewhere
    assert int((success != expected).sum()) <= 1
    images = attempts.images[success]
    assert bool((net(images).argmax(1) != y[success]).all())
    assert float(ball_of(norm, eps).distance(images, x[success]).max()) <= eps
    assert float(images.min()) >= 0
    assert float(images.max()) <= 1


@BALLS
def test_one_run_at_the_smallest_radius_serves_the_larger_ones(norm):
    net, x, y = points(20, dtype=torch.float64)
    smallest, *larger = radii(norm)
    once = run(net, FAB(ball_of(norm, smallest), iterations=30), x, y)
    counts = [int(once.success(smallest).sum())]
    for eps in larger:
        separate = run(net, FAB(ball_of(norm, eps), iterations=30), x, y)
        assert torch.equal(separate.success(eps), once.success(eps))
        counts.append(int(once.success(eps).sum()))
    assert 0 < counts[0] < counts[1] < counts[2]
    assert once.best_distance.tolist() == pytest.approx(ball_of(norm, 1).distance(once.images, x).tolist(), rel=1e-12)


class Counting(nn.Module):
    """Counts the rows that pass through it in either direction."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.forwards, self.backwards = net, 0, 0

    def forward(self, x: Tensor) -> Tensor:
        self.forwards += len(x)
        logits = self.net(x)
        if logits.requires_grad:
            logits.register_hook(self.back)
        return logits

    def back(self, gradient: Tensor) -> None:
        self.backwards += len(gradient)


@pytest.mark.parametrize("targeted", [True, False])
def test_the_passes_counted_are_the_rows_passed(targeted):
    net, x, y = points(10)
    ranking, counting = ranking_of(net, x, y), Counting(net)
    with attack_mode(counting) as model:
        run = AttackRunner(model, FAB(Linf(0.02), targeted, 30), x, y, torch.arange(10), ranking, batch_size=16)
        columns = run.run().columns
    assert int(columns["forwards"].sum()) == counting.forwards
    assert int(columns["backwards"].sum()) == counting.backwards


def test_an_attempt_without_success_spends_less_than_in_the_reference():
    """The reference spends 203 and 100 passes; this 101 + 99 and 100 if it predicts nothing."""
    net, x, y = points(6, classes=4)
    columns = run(net, FAB(Linf(1e-6)), x, y).columns
    assert len(columns["row"]) == 18
    assert int(columns["forwards"].sum()) <= 18 * 195
    assert int(columns["backwards"].sum()) <= 18 * 101


def test_rows_do_not_influence_one_another():
    net, x, y = points(6, dtype=torch.float64)
    attack = FAB(Linf(1e-6), iterations=15)  # where nothing falls, so that no try is spared
    together, apart = (run(net, attack, x, y, batch_size=size, min_active=1) for size in (256, 4))
    assert together.best_distance.tolist() == pytest.approx(apart.best_distance.tolist(), rel=1e-9)


def test_a_run_goes_on_from_its_state_to_the_same_bits():
    net, x, y = points(10)
    states: list[RunnerState] = []

    def go(resume: RunnerState | None = None, **options: Any) -> AttackResult:
        with attack_mode(net) as model:
            attack = FAB(L2(0.15), targeted=False, iterations=20, restarts=2)
            ranking = ranking_of(net, x, y)
            return AttackRunner(model, attack, x, y, torch.arange(10), ranking, batch_size=8, **options).run(resume)

    whole = go(save=lambda state: states.append(copy.deepcopy(state)), save_seconds=-1.0)
    again = go(resume=states[len(states) // 2])
    assert torch.equal(again.best_distance, whole.best_distance)
    assert all(torch.equal(again.columns[name], whole.columns[name]) for name in whole.columns)


@BALLS
@pytest.mark.parametrize("scale", [1e-6, 1e3])
def test_the_scale_of_the_logits_means_nothing(norm, scale):
    """A saturated model, whose cross-entropy has no gradient, and one whose gradients are tiny."""
    net, x, y = points(20)
    attack = FAB(ball_of(norm, radii(norm)[1]), iterations=30)
    plain = run(net, attack, x, y)
    with torch.no_grad():
        net[4].weight.mul_(scale)
        net[4].bias.mul_(scale)
    scaled = run(net, attack, x, y)
    assert int((plain.success(radii(norm)[1]) != scaled.success(radii(norm)[1])).sum()) <= 1


class Odd(nn.Module):
    """Logits of a linear model through a function with gradients that are zero, infinite or NaN, or logits so."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.kind, self.linear = kind, nn.Linear(192, 5)

    def forward(self, x: Tensor) -> Tensor:
        z = self.linear(x.flatten(1) - 0.5)
        if self.kind == "zero":
            return z.sign() + z.detach()
        if self.kind == "infinite":  # the root's gradient at 0
            return z + (z - z.detach()).sqrt()
        if self.kind == "huge":
            return z * 1e38
        return torch.where(z > 0.2, torch.nan, z)


@pytest.mark.parametrize("kind", ["zero", "infinite", "huge", "nan"])
@pytest.mark.parametrize("targeted", [True, False])
@BALLS
def test_no_image_is_ever_nan(norm, targeted, kind):
    net, x = Odd(kind), small_images(8)
    y = net(x).nan_to_num(-9).argmax(1)
    attack = FAB(ball_of(norm, 0.01), targeted, 10, restarts=2)
    state = state_of(x, y, (y + 1) % 5, number=1)
    attack.init(state)
    with attack_mode(net) as model, torch.no_grad():
        for _ in range(10):
            check_success(model, attack, state, attack.evaluate(model, state))
            attack.step(model, state)
            state["iteration"] = state["iteration"] + 1
            assert bool(((state["image"] >= 0) & (state["image"] <= 1)).all())
    if kind == "zero":
        assert state["zero_gradients"].tolist() == [10] * 8
    if kind == "infinite":
        assert state["non_finite"].tolist() == [10] * 8


def test_attempts_and_names():
    assert FAB(Linf(0.1)).name == "fab-t"
    assert FAB(Linf(0.1), targeted=False).name == "fab"
    assert [each.target for each in FAB(Linf(0.1)).attempts(100)] == [1, 2, 3, 4, 5, 6, 7, 8, 9]
    assert [each.target for each in FAB(Linf(0.1)).attempts(3)] == [1, 2]
    assert [tuple(each) for each in FAB(L2(1), False, restarts=5).attempts(10)] == [(0, i) for i in range(5)]


def test_what_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match="iterations must be at least 1, got 0"):
        FAB(Linf(0.1), iterations=0)
    with pytest.raises(ValueError, match="FAB knows the balls L2 and Linf, got str"):
        FAB("linf")
