"""The run of an attack: what falls, what is dropped, what is counted, and that neither batch nor stop changes it."""

import io
from dataclasses import dataclass, replace
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from pyautoattack.autopgd_base import APGDAttack
from torch import nn

from easybn import L2, Linf
from easybn.attacks.apgd import APGD
from easybn.attacks.attack import Attack, Attempt
from easybn.attacks.attack_mode import attack_mode
from easybn.attacks.runner import AttackRunner, PendingAttempts

from ..small import small_images, small_net


@dataclass(frozen=True)
class Ramp(Attack):
    """Every pixel rises evenly; the attempts at a point have different speeds, of which 1 ends at eps."""

    ball: Linf = Linf(0.4)
    speeds: tuple[float, ...] = (1.0,)
    steps = 8
    name = "ramp"

    def attempts(self, classes):
        return [Attempt(restart=number) for number in range(len(self.speeds))]

    def init(self, state):
        state["speed"] = torch.tensor(self.speeds)[state["attempt"]]

    def evaluate(self, model, state):
        state.count_passes(forwards=1)
        with torch.no_grad():
            return model(state["image"])

    def step(self, model, state):
        rise = state["speed"] * (state["iteration"] + 1) / self.steps * self.ball.eps
        state["image"] = state["original"] + rise[:, None]


class Steps(nn.Module):
    """Class 1 from where ``x`` (N, 1) exceeds a level, by a lead that grows from level to level."""

    def __init__(self, leads):
        super().__init__()
        self.leads, self.rows = leads, 0

    def forward(self, x):
        self.rows += len(x)
        lead = torch.full_like(x[:, 0], -1.0)
        for level, value in self.leads.items():
            lead = torch.where(x[:, 0] > level, value, lead)
        return torch.stack((torch.ones_like(lead), 1 + lead), 1)


CLEAR = {0.55: 0.5}
THIN = {0.55: 1e-6, 0.75: 0.5}  # the first lead is within the rounding of logits near 1


def ramp(net, attack, x, **options):
    x = torch.tensor(x)[:, None]
    zeros = torch.zeros(len(x), dtype=torch.int64)
    with attack_mode(net) as model:
        model = replace(model, surrogate=options.pop("surrogate", None))
        return AttackRunner(model, attack, x, zeros, torch.arange(len(x)), zeros[:, None] + 1, **options).run()


def runner_of(model, net, attack, x, y, **options):
    ranking = net(x).scatter(1, y[:, None], -torch.inf).argsort(1, descending=True)[:, :-1]
    return AttackRunner(model, attack, x, y, torch.arange(len(x)), ranking, **options)


def run(net, attack, x, y, **options):
    with attack_mode(net) as model:
        return runner_of(model, net, attack, x, y, **options).run()


def assert_same(a, b, rounding=0.0):
    """Whole numbers alike; margins, distances and images within ``rounding``, by default bit for bit."""
    for name, column in a.columns.items():
        torch.testing.assert_close(column, b.columns[name], rtol=0, atol=rounding, equal_nan=True)
    torch.testing.assert_close(a.best_distance, b.best_distance, rtol=0, atol=rounding)
    torch.testing.assert_close(a.images, b.images, rtol=0, atol=rounding)


def test_a_point_is_broken_at_its_first_success_and_its_other_attempts_are_spared():
    # a step is 0.05: the points need 2, 7, more than 8 and 0 moves
    x = [0.46, 0.21, 0.1, 0.6]
    found = ramp(Steps(CLEAR), Ramp(speeds=(1.0, 0.5, 0.25)), x, min_active=0)
    assert found.success(0.4).tolist() == [True, True, False, True]
    assert found.columns["row"].tolist() == [0, 1, 2, 2, 2, 3]
    assert found.columns["restart"].tolist() == [0, 0, 0, 1, 2, 0]
    assert found.columns["iteration"].tolist() == [2, 7, 8, 8, 8, 0]
    assert found.columns["finished"].all()
    assert found.columns["distance"].tolist() == pytest.approx(
        [0.1, 0.35, torch.inf, torch.inf, torch.inf, 0], abs=1e-6
    )
    assert found.columns["margin"].isfinite().tolist() == [True, True, False, False, False, True]
    assert found.images[[0, 1, 3], 0].tolist() == pytest.approx([0.56, 0.56, 0.6])


def test_attempts_side_by_side_are_given_up_at_the_first_success_of_one():
    net = Steps(CLEAR)
    found = ramp(net, Ramp(speeds=(0.25, 1.0, 0.5)), [0.46], min_active=3)
    assert found.columns["restart"].tolist() == [0, 1, 2]
    assert found.columns["finished"].tolist() == [False, True, False]
    assert found.columns["iteration"].tolist() == [2, 2, 2]
    assert found.columns["distance"].isfinite().tolist() == [False, True, False]
    assert net.rows == found.columns["forwards"].sum() == 3 * 3 + 1


def test_no_points():
    found = ramp(Steps(CLEAR), Ramp(), [])
    assert found.success(1.0).tolist() == []
    assert all(len(column) == 0 for column in found.columns.values())


def test_a_success_within_rounding_goes_on_and_a_clear_one_takes_its_place():
    found = ramp(Steps(THIN), Ramp(), [0.46])
    assert found.columns["iteration"].tolist() == [6]
    assert found.columns["margin"].tolist() == pytest.approx([0.5])
    assert found.images[0].item() == pytest.approx(0.76)
    assert found.best_distance.item() == pytest.approx(0.3)


def test_a_success_within_rounding_counts_if_nothing_better_comes():
    left = []
    found = ramp(
        Steps(THIN),
        Ramp(speeds=(1.0, 1.0)),
        [0.3],
        min_active=0,
        on_step=lambda done, total, n: left.append(n),
    )
    assert found.success(0.4).all()
    assert found.columns["iteration"].tolist() == [8]
    assert found.columns["margin"].tolist() == pytest.approx([1e-6], rel=0.2)
    assert found.images[0].item() == pytest.approx(0.6)  # the nearest one
    assert left == [1] * 8 + [0]  # so that its second try is spared


@pytest.mark.parametrize("speeds", [(1.0, 0.5), (0.5, 1.0)])
def test_of_two_attempts_that_succeed_in_one_step_the_clear_one_stays(speeds):
    """The other one is nearer, but within rounding."""
    found = ramp(Steps(THIN), Ramp(speeds=speeds), [0.36], min_active=2)
    assert found.columns["iteration"].tolist() == [8, 8]
    assert found.images[0].item() == pytest.approx(0.76)
    assert found.best_distance.item() == pytest.approx(0.4)


def test_what_the_original_model_does_not_confirm_never_counts():
    net = Steps({0.7: 0.5})
    found = ramp(net, Ramp(), [0.46, 0.2], surrogate=lambda x: torch.stack((0 * x[:, 0], 0 * x[:, 0] + 9), 1))
    assert found.success(0.4).tolist() == [True, False]
    assert found.columns["iteration"].tolist() == [5, 8]
    assert found.columns["forwards"].tolist() == [12, 18]
    assert net.rows == 6 + 9
    assert found.images[0].item() == pytest.approx(0.71)


def test_an_attack_that_leaves_its_ball_is_stopped():
    with pytest.raises(RuntimeError, match="left its ball"):
        ramp(Steps({0.85: 0.5}), Ramp(speeds=(1.2,)), [0.4])


@pytest.mark.parametrize("loss", ["ce", "dlr", "t"])
def test_neither_the_batch_nor_its_company_changes_a_verdict(loss):
    """In float64. The images are the same too, unless which of several attempts comes first depends on the company.

    Kernels may add in another order for another batch: logits, sums of about 100 products below 1, then differ by some
    100 units of rounding (2e-14), and ten steps carry that on.
    """
    net, x = small_net().double(), small_images(9, dtype=torch.float64)
    y, attack = net(x).argmax(1), APGD(Linf(0.012), loss, iterations=10)
    expected = run(net, attack, x, y, batch_size=9, min_active=0)
    success = expected.success(0.012)
    assert 0 < success.sum() < 9
    for batch_size, min_active in ((1, 0), (3, 0), (3, 2), (7, 0), (7, 5), (100, 0), (100, 32)):
        found = run(net, attack, x, y, batch_size=batch_size, min_active=min_active)
        assert torch.equal(found.success(0.012), success)
        if loss != "t" or min_active == 0:
            assert_same(found, expected, rounding=1e-12)


@pytest.mark.parametrize("min_active", [0, 8])
def test_a_run_goes_on_from_any_state_as_if_it_had_not_stopped(min_active):
    net, x = small_net(), small_images(5)
    y, attack, states, steps = net(x).argmax(1), APGD(L2(0.1), "t", iterations=6), [], []

    def save(state):
        file = io.BytesIO()
        torch.save(state, file)
        states.append(file.getvalue())

    with attack_mode(net) as model:
        options = {"batch_size": 4, "min_active": min_active, "save_seconds": 0.0}
        whole = runner_of(
            model, net, attack, x, y, save=save, on_step=lambda *step: steps.append(step), **options
        ).run()
        assert len(states) > 10
        assert 0 < whole.success(0.1).sum() < 5
        for number, state in enumerate(states):
            loaded, again = torch.load(io.BytesIO(state), weights_only=True), []
            rest = runner_of(model, net, attack, x, y, on_step=lambda *step, to=again: to.append(step), **options)
            assert_same(rest.run(loaded), whole)
            assert again == steps[number + 1 :]


@pytest.mark.parametrize("min_active", [0, 32])
def test_the_work_done_rises_to_the_total(min_active):
    net, x = small_net(), small_images(9)
    y, attack, steps = net(x).argmax(1), APGD(Linf(0.012), "t", iterations=6), []
    found = run(net, attack, x, y, batch_size=4, min_active=min_active, on_step=lambda *step: steps.append(step))
    done, total, left = (list(column) for column in zip(*steps, strict=True))
    assert set(total) == {9 * 3 * 7}
    assert done[-1] == total[-1]
    assert all(a < b for a, b in pairwise(done))
    assert left == sorted(left, reverse=True)
    assert left[-1] == 9 - found.success(0.012).sum()


class Counted(nn.Module):
    """A model that counts the rows that pass through it, either way."""

    def __init__(self, net):
        super().__init__()
        self.net, self.forwards, self.backwards = net, 0, 0

    def forward(self, x):
        self.forwards += len(x)
        logits = self.net(x)
        if logits.requires_grad:
            logits.register_hook(self._back)
        return logits

    def _back(self, gradient):
        self.backwards += len(gradient)


@pytest.mark.parametrize("loss", ["ce", "t"])
@pytest.mark.parametrize("eot", [1, 2])
def test_the_passes_noted_are_those_made(loss, eot):
    net, x = small_net(), small_images(9)
    y, counted = net(x).argmax(1), Counted(net)
    with attack_mode(counted) as model:
        attack = APGD(Linf(0.012), loss, iterations=6, eot=eot)
        found = runner_of(model, net, attack, x, y, batch_size=20, min_active=20).run()
    assert found.columns["forwards"].sum() == counted.forwards
    assert found.columns["backwards"].sum() == counted.backwards
    assert (~found.columns["finished"]).any() == (loss == "t")


def slow_take(queue, busy, fallen, most, min_active):
    """What :meth:`PendingAttempts.take` says, try by try."""
    queue[:] = [each for each in queue if each[0] not in fallen]
    taken, points = [], set(busy)
    for each in queue:
        if each[0] not in points and len(busy) + len(taken) < most:
            taken.append(each)
            points.add(each[0])
    for each in queue:
        if each not in taken and len(busy) + len(taken) < min(min_active, most):
            taken.append(each)
    taken = [each for each in queue if each in taken]
    queue[:] = [each for each in queue if each not in taken]
    return taken


@given(st.data())
def test_the_queue_against_a_slow_one(data):
    n, attempts = data.draw(st.integers(0, 6)), data.draw(st.integers(1, 4))
    most, min_active = data.draw(st.integers(1, 8)), data.draw(st.integers(0, 10))
    pending, slow = PendingAttempts(n, attempts), [(row, number) for number in range(attempts) for row in range(n)]
    busy, fallen, begun = [], set(), []
    while len(pending):
        down = torch.tensor([row in fallen for row in range(n)], dtype=torch.bool)
        rows, numbers = pending.take(torch.tensor([row for row, _ in busy], dtype=torch.int64), down, most, min_active)
        taken = list(zip(rows.tolist(), numbers.tolist(), strict=True))
        assert taken == slow_take(slow, [row for row, _ in busy], fallen, most, min_active)
        assert list(zip(pending.rows.tolist(), pending.numbers.tolist(), strict=True)) == slow
        busy, begun = busy + taken, begun + taken
        assert len(busy) <= most
        assert len({row for row, _ in busy}) == len(busy) or len(busy) <= min_active
        ended = data.draw(st.lists(st.sampled_from(busy), min_size=1, unique=True)) if busy else []
        fallen |= {row for row, _ in ended if data.draw(st.booleans())}
        busy = [each for each in busy if each not in ended and each[0] not in fallen]
    assert len(set(begun)) == len(begun)
    assert {
        each for each in ((row, number) for row in range(n) for number in range(attempts)) if each[0] not in fallen
    } <= {*begun}


def test_confidence_does_not_protect():
    """Weights 1000 times as large: cross-entropy has no gradient in float32, and the decisions are the same."""
    net, loud, x = small_net(), small_net(), small_images(60)
    loud[4].weight.data.mul_(1000)
    loud[4].bias.data.mul_(1000)
    y, ball = net(x).argmax(1), Linf(0.02)
    sure = (loud(x).sort(1).values.diff(dim=1)[:, -1] > 110).nonzero()[:, 0]  # where its float32 underflows
    x, y = x[sure], y[sure]
    point = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(F.cross_entropy(loud(point), y, reduction="sum"), point)
    assert not gradient.any()

    attack = APGD(ball, "ce", iterations=20)
    quiet_success, loud_success = (run(each, attack, x, y).success(0.02) for each in (net, loud))
    assert 10 < quiet_success.sum() < len(x)
    assert abs(int(loud_success.sum()) - int(quiet_success.sum())) <= 2
    peer = APGDAttack(loud, norm="Linf", eps=0.02, n_iter=20, loss="ce", device="cpu")
    theirs = loud(peer.perturb(x, y)).argmax(1) != y
    assert theirs.sum() < loud_success.sum() / 2
