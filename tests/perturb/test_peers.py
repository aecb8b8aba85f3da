"""The calls of foolbox and torchattacks that docs/coming-from.md puts beside ours give the same images."""

import pytest
import torch

from easybn import L2, PGD, Linf, targeted, untargeted
from tests.small import small_images, small_net

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # theirs

EPS, ALPHA, STEPS = 8 / 255, 2 / 255, 5
X, Y = small_images(32), torch.arange(32) % 4
OTHER = (Y + 1) % 4


def same(theirs, ours):
    """Up to pixels whose gradient's sign is a matter of rounding."""
    assert ours.shape == theirs.shape
    assert float(((ours - theirs).abs() < 1e-5).double().mean()) > 0.99
    assert float((ours - X).abs().max()) > 0.01


def test_torchattacks():
    torchattacks = pytest.importorskip("torchattacks")
    net = small_net()
    several, in_l2 = PGD(Linf(EPS), steps=STEPS, step_size=ALPHA), PGD(L2(1.0), steps=STEPS, step_size=0.3)
    same(torchattacks.FGSM(net, eps=EPS)(X, Y), PGD(Linf(EPS))(net, X, untargeted(Y)))
    same(torchattacks.BIM(net, eps=EPS, alpha=ALPHA, steps=STEPS)(X, Y), several(net, X, untargeted(Y)))
    attack = torchattacks.PGD(net, eps=EPS, alpha=ALPHA, steps=STEPS, random_start=False)
    same(attack(X, Y), several(net, X, untargeted(Y)))
    attack.set_mode_targeted_by_label(quiet=True)
    same(attack(X, OTHER), several(net, X, targeted(OTHER)))
    attack = torchattacks.PGDL2(net, eps=1.0, alpha=0.3, steps=STEPS, random_start=False)
    same(attack(X, Y), in_l2(net, X, untargeted(Y)))


def test_foolbox():
    foolbox = pytest.importorskip("foolbox")
    net = small_net()
    model = foolbox.PyTorchModel(net, bounds=(0, 1))

    def attack(name, goal, eps, **options):
        return getattr(foolbox.attacks, name)(**options)(model, X, goal, epsilons=eps)[1]

    several, in_l2 = PGD(Linf(EPS), steps=STEPS, step_size=ALPHA), PGD(L2(0.5), steps=STEPS, step_size=0.15)
    size, still = {"abs_stepsize": ALPHA, "steps": STEPS}, {"random_start": False}
    same(attack("FGSM", Y, EPS), PGD(Linf(EPS))(net, X, untargeted(Y)))
    same(attack("LinfBasicIterativeAttack", Y, EPS, **size), several(net, X, untargeted(Y)))
    goal = foolbox.criteria.TargetedMisclassification(OTHER)
    same(attack("LinfPGD", goal, EPS, **size, **still), several(net, X, targeted(OTHER)))
    same(attack("L2PGD", Y, 0.5, rel_stepsize=0.3, steps=STEPS, **still), in_l2(net, X, untargeted(Y)))
    assert foolbox.accuracy(model, X, Y) == pytest.approx(float((net(X).argmax(1) == Y).double().mean()))
