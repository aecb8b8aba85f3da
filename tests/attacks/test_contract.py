"""What every attack must keep to: the package's own, found in its registry, and the example of a user's."""

import copy
import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from easybn import L2, Attack, Linf, evaluate
from easybn.attacks.attack_mode import attack_mode
from easybn.attacks.registry import ATTACKS, is_own
from easybn.attacks.runner import AttackRunner

from ..small import small_images, small_net

EXAMPLE = Path(__file__).parents[2] / "examples" / "my_attack.py"


def example() -> type[Attack]:
    spec = importlib.util.spec_from_file_location("my_attack", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.MIFGSM


MAKERS = {**ATTACKS, "mi-fgsm": example()}
BALLS = {"linf": Linf(0.02), "l2": L2(0.2)}
EVERY = [pytest.param(name, ball, id=f"{name}-{norm}") for name in MAKERS for norm, ball in BALLS.items()]
SHORTER = {"iterations": 8, "queries": 40}


def make(name, ball, **fields):
    attack = MAKERS[name](ball)
    short = {field: n for field, n in SHORTER.items() if hasattr(attack, field)}
    return replace(attack, **({"steps": 8} if name.startswith("pgd") else short), **fields)


def problem(n=8):
    net, x = small_net().double(), small_images(n, dtype=torch.float64)
    return net, x, net(x).argmax(1)


def runner(model, attack, net, x, y, rows=None, **options):
    ranking = net(x).detach().scatter(1, y[:, None], -torch.inf).argsort(1, descending=True)[:, :-1]
    ids = torch.arange(len(x))
    x, y, ids, ranking = (each if rows is None else each[rows] for each in (x, y, ids, ranking))
    return AttackRunner(model, attack, x, y, ids, ranking, seed=3, **options)


def run(attack, net, x, y, rows=None, resume=None, **options):
    with attack_mode(net) as model:
        return runner(model, attack, net, x, y, rows, **options).run(resume)


def assert_same_bits(a, b):
    for name, column in a.columns.items():
        assert torch.equal(column.nan_to_num(-1), b.columns[name].nan_to_num(-1)), name
    assert torch.equal(a.best_distance, b.best_distance)
    broken = a.best_distance.isfinite()
    assert torch.equal(a.images[broken], b.images[broken])


def test_the_example_is_found_beside_the_packages_attacks():
    assert list(ATTACKS) == [
        "malt", "momentum-pgd", "apgd-ce", "apgd-dlr", "apgd-t", "fab", "fab-t", "square",
        "pgd-ce", "pgd-margin",
    ]  # fmt: skip
    assert all(name == make(Linf(0.1)).name for name, make in MAKERS.items())
    assert [is_own(make(Linf(0.1))) for make in MAKERS.values()] == [True] * 10 + [False]
    appearance = MAKERS["mi-fgsm"](Linf(0.1)).appearance()
    assert appearance == {"label": "MI-FGSM", "colour": ["#0b6e4f", "#7ee0ba"], "order": 100, "bounded": True}


@pytest.mark.parametrize(("name", "ball"), EVERY)
def test_images_stay_in_the_ball_and_in_the_unit_cube(name, ball):
    """Every image that a bounded attack evaluates, also where nothing succeeds; what an unbounded one reports."""
    net, x, y = problem()
    attack, seen = make(name, ball), []

    net.register_forward_pre_hook(lambda module, args: seen.append(args[0].detach().clone()))
    found = run(attack, net, x, y)
    evaluated = torch.cat(seen)
    assert 0 <= evaluated.min() <= evaluated.max() <= 1
    if attack.bounded and not attack.leaves_ball:
        distances = torch.stack([ball.distance(evaluated, original[None].expand_as(evaluated)) for original in x])
        assert distances.amin(0).max() <= float(ball.eps) + 1e-6
    success = found.success(float(ball.eps))
    assert success.sum() > 0
    images = found.images[success]
    assert 0 <= images.min() <= images.max() <= 1
    assert ball.distance(images, x[success]).max() <= float(ball.eps) + 1e-6
    assert (net(images).argmax(1) != y[success]).all()


@pytest.mark.parametrize(("name", "ball"), EVERY)
def test_the_same_call_gives_the_same_bits_and_leaves_the_model_alone(name, ball):
    net, x, y = problem(5)
    net.train()
    net[1].eval()
    net[0].weight.grad = torch.ones_like(net[0].weight)
    modes, state = [module.training for module in net.modules()], copy.deepcopy(net.state_dict())
    gradients = [None if p.grad is None else p.grad.clone() for p in net.parameters()]
    with torch.no_grad():
        ranking_net = copy.deepcopy(net).eval()
    attack, results = make(name, ball), []
    for seed in (1, 2):
        torch.manual_seed(seed)  # the attack's own random numbers do not come from there
        with attack_mode(net) as model:
            results.append(runner(model, attack, ranking_net, x, y).run())
    assert_same_bits(*results)
    assert [module.training for module in net.modules()] == modes
    assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())
    assert all(p.requires_grad for p in net.parameters())
    for before, parameter in zip(gradients, net.parameters(), strict=True):
        assert (before is None) == (parameter.grad is None)
        assert before is None or torch.equal(before, parameter.grad)


@pytest.mark.parametrize(("name", "ball"), EVERY)
def test_a_points_verdict_does_not_depend_on_the_others(name, ball):
    net, x, y = problem()
    attack, eps = make(name, ball), float(ball.eps)
    together = run(attack, net, x, y).success(eps)
    for rows, batch_size in (([5, 2, 0], 2), ([1, 7, 3, 4, 6], 100)):
        alone = run(attack, net, x, y, torch.tensor(rows), batch_size=batch_size)
        assert torch.equal(alone.success(eps), together[rows])


@pytest.mark.parametrize(("name", "ball"), EVERY)
def test_a_run_resumes_from_any_state_to_the_same_bits(name, ball):
    net, x, y = problem(5)
    attack, states = make(name, ball), []
    options = {"batch_size": 3, "min_active": 2}
    complete = run(
        attack, net, x, y, save=lambda state: states.append(copy.deepcopy(state)), save_seconds=-1.0, **options
    )
    assert len(states) > 2
    for state in (states[0], states[len(states) // 2], states[-2]):
        assert_same_bits(run(attack, net, x, y, resume=copy.deepcopy(state), **options), complete)


def test_evaluate_takes_an_attack_a_class_and_both_in_a_sequence(tmp_path):
    net, x = small_net(), small_images(12)
    y, kind = net(x).argmax(1), MAKERS["mi-fgsm"]
    one = evaluate(net, x, y, attacks=kind(Linf(0.02), iterations=5), diagnosis=False)
    assert (one.scores[1].attack, one.scores[1].norm, one.scores[1].eps) == ("mi-fgsm", "linf", 0.02)
    several = evaluate(
        net, x, y, norm="linf", eps=[0.01, 0.02], attacks=["apgd-ce", kind], diagnosis=False, store=tmp_path / "store"
    )
    assert several.scores[-1].attack == "apgd-ce+mi-fgsm"
    assert several.robust_accuracy <= one.robust_accuracy < 1
    attacks = ["apgd-ce", kind(Linf(0.02), iterations=3)]
    with pytest.raises(ValueError, match=r"settings\.mi-fgsm 0\.01"):
        evaluate(net, x, y, eps=[0.01, 0.02], attacks=attacks, diagnosis=False, store=tmp_path / "store")
    with pytest.raises(ValueError, match="has a ball Linf, and the evaluation is in l2"):
        evaluate(net, x, y, norm="l2", attacks=kind(Linf(0.02)))
    with pytest.raises(ValueError, match="unknown attack 'mi-fgsm'"):
        evaluate(net, x, y, attacks="mi-fgsm")  # what was passed once is not known by name


def test_an_unbounded_attack_of_a_users_is_searched_once_for_all_radii(tmp_path):
    """FAB under another name: one search, whose verdicts hold at every radius, also out of the store."""
    net, x = small_net(), small_images(12)
    y = net(x).argmax(1)

    fab: Any = type(ATTACKS["fab-t"](Linf(0.1)))

    class Mine(fab):
        name = "mine"

    how = {"norm": "linf", "eps": [0.01, 0.02, 0.04], "diagnosis": False}
    theirs = evaluate(net, x, y, attacks=fab(Linf(0.01), iterations=20), **how)
    for store in (None, tmp_path / "store", tmp_path / "store"):
        mine = evaluate(net, x, y, attacks=Mine(Linf(0.01), iterations=20), store=store, **how)
        assert all(torch.equal(mine.robust_at[eps], theirs.robust_at[eps]) for eps in theirs.robust_at)
        record = mine.record
        assert (record.attack == "mine").sum() == (theirs.record.attack == "fab-t").sum()


def test_what_is_no_attack_is_refused():
    net, x = small_net(), small_images(2)
    with pytest.raises(ValueError, match="unknown attack"):
        evaluate(net, x, net(x).argmax(1), attacks=nn.Linear)
    with pytest.raises(ValueError, match="colour must be two colours"):
        type("Odd", (Attack,), {"colour": "red"})
