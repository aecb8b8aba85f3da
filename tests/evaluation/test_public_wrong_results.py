"""Wrong results that users of other evaluators reported, with their right values, under every attack and preset.

Here are those of the attacks; those of what is made of them are in test_public_wrong_figures.py. The right value is a
distance: a point of :class:`Line` falls within so many pixels and no fewer.
"""

from dataclasses import fields, replace

import pytest
import torch
from torch import nn

from easybn import evaluate
from easybn.attacks.registry import ATTACKS, BALLS, PRESETS

from ..attacks.test_contract import MAKERS
from ..small import small_images, small_net

DIMENSIONS = 12
FEWER = {"iterations": 12, "queries": 100, "eot": 3, "restarts": 1, "rounds": 2}
MAKES: dict[str, list] = {name: [make] for name, make in MAKERS.items()}
MAKES |= {f"all of {preset}": [*attacks.values()] for preset, attacks in PRESETS.items()}
"""The makers of every attack, and of those of every preset."""
WITH_GRADIENT = [name for name, make in MAKERS.items() if make(BALLS["linf"](0.1)).uses_gradient]


def shortened(attack):
    """The attack with fewer steps, so that it takes milliseconds."""
    fewer = {name: min(n, getattr(attack, name)) for name, n in FEWER.items() if hasattr(attack, name)}
    return replace(attack, **({"steps": 12} if attack.name.startswith("pgd") else fewer))


def asked(attack):
    """The steps that its settings ask for."""
    (steps,) = (
        getattr(attack, each.name) for each in fields(attack) if each.name in ("iterations", "queries", "steps")
    )
    return steps


def attacks_of(name, norm, eps):
    return [shortened(make(BALLS[norm](eps))) for make in MAKES[name]]


class Line(nn.Module):
    """K logits of which two matter: 0 of the first class, and of the last one a linear function of the point.

    It is ``scale * (weight.(x - 0.5) - level) + shift``. The logits between them are far below and constant.
    """

    def __init__(self, classes=2, scale=1.0, shift=0.0, weight=None):
        super().__init__()
        if weight is None:
            weight = torch.randn(DIMENSIONS, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
        self.weight, self.level = nn.Parameter(weight), 1.0
        self.classes, self.scale, self.shift = classes, scale, shift
        self.eval()

    def forward(self, x):
        # added up in float64: the value of the formula for images of any size
        lead = (x.flatten(1).double() - 0.5) @ self.weight.double() - self.level
        far = torch.full_like(lead, -1e3)
        logits = torch.stack((torch.zeros_like(lead), *[far] * (self.classes - 2), lead), 1)
        return (self.scale * logits + self.shift).to(x.dtype)

    def reach(self, norm, eps):
        """By how much the linear function can rise in the ball: eps times the dual norm of its weight."""
        weight = self.weight.detach().double()
        return eps * float(weight.abs().sum() if norm == "linf" else weight.norm())

    def points(self, norm, eps, parts):
        """Points (n, d) of the first class at ``part * eps`` from the last one, and their labels."""
        weight = self.weight.detach().double()
        lead = self.level - torch.tensor(parts, dtype=torch.float64) * self.reach(norm, eps)
        x = 0.5 + lead[:, None] * weight / weight.square().sum()
        return x.to(self.weight.dtype), torch.zeros(len(parts), dtype=torch.int64)


EPS = {"linf": 0.02, "l2": 0.08}


def check_line(name, norm, model, copies=1, **how):
    """Points just inside the reach fall, and points just outside it stand; returns the evaluation."""
    attacks = attacks_of(name, norm, EPS[norm])
    inside = 0.97  # random search comes near the best corner of l-infinity, and not near the best direction of l2
    if not any(attack.uses_gradient for attack in attacks):
        inside = 0.75 if norm == "linf" else 0.2
    x, y = model.points(norm, EPS[norm], [inside, 1.02] * copies)
    found = evaluate(model, x, y, norm=norm, eps=EPS[norm], attacks=attacks, diagnosis=False, **how)
    assert found.clean.all()
    assert found.robust.tolist() == [False, True] * copies
    return found


@pytest.mark.parametrize(("classes", "norm"), [(2, "linf"), (3, "l2"), (4, "linf")])
@pytest.mark.parametrize("name", MAKERS)
def test_fewer_classes_than_the_losses_are_defined_for(name, classes, norm):
    """fra31/auto-attack 70, ART 2399: DLR divides by the third logit, or the fourth, where there are two or three.

    The evaluation ended with an index error, and those who left these attacks out had the figure of weaker ones.
    """
    check_line(name, norm, Line(classes))


@pytest.mark.parametrize("classes", [2, 9, 40])
@pytest.mark.parametrize("name", MAKERS)
def test_as_many_targets_as_there_are_classes(name, classes):
    """fra31/auto-attack 110, torchattacks 188: nine targets, or ten classes, whatever the model has.

    Of 8 classes the tenth nearest was asked for, and of 100 a setting knew ten; a warning was all, and the figure was
    of attacks on classes that are not there, or not on those that are. Here the only class in reach is the last one,
    and a targeted attack on a point that stands tries each of the nine nearest once.
    """
    record = check_line(name, "linf", Line(classes)).record
    targets = record.target[record.point == 1][1:].tolist()  # after the clean stage
    (attack,) = attacks_of(name, "linf", EPS["linf"])
    targeted = any(attempt.target for attempt in attack.attempts(classes))
    assert targets == ([*range(1, min(9, classes - 1) + 1)] if targeted else [0])


@pytest.mark.parametrize("name", MAKERS)
def test_logits_below_zero(name):
    """torchattacks 184: the largest other logit was the maximum of (1 - one_hot) * logits: 0 where all are negative.

    The loss had no gradient then and the model looked robust. Subtracting 100 from all logits changes nothing.
    """
    check_line(name, "linf", Line(classes=4, shift=-100.0))


@pytest.mark.parametrize("name", WITH_GRADIENT)
def test_a_gradient_is_not_divided_by_the_batch(name):
    """foolbox 439: the gradient was that of the mean loss, so that it shrank with the number of images beside it.

    Where a step or a stabiliser is absolute, the figure is then one of the batch size. Gradients of 1e-9 lead a point
    as far alone as among 7 others.
    """
    line = Line(classes=3, scale=1e-9)
    check_line(name, "l2", line, batch_size=1)
    check_line(name, "l2", line, copies=4, batch_size=8)


@pytest.mark.parametrize("norm", BALLS)
@pytest.mark.parametrize("name", WITH_GRADIENT)
def test_a_success_on_the_surface_is_not_lost_to_rounding(name, norm):
    """ART 507: a success counted if its distance was below eps, which in float32 it exceeds by the rounding of pixels.

    A bounded attack ends on the surface of its ball, so that what it had found was thrown away and the point was
    robust. Here the image is large, and falls in the last ten-thousandth of eps or not at all.
    """
    shape, eps = (3, 224, 224), {"linf": 4 / 255, "l2": 3.0}[norm]
    weight = torch.tensor([-1.0, 1.0]).repeat(3 * 224 * 112)
    model = Line(weight=weight)
    attack = shortened(MAKERS[name](BALLS[norm](eps)))
    x, y = model.points(norm, eps, [0.9999 if attack.bounded else 0.98])
    pairs = torch.rand(3 * 224 * 112, generator=torch.Generator().manual_seed(0)) * 0.1  # which the weight cancels
    x = (x + pairs.repeat_interleave(2)).view(-1, *shape)
    found = evaluate(model, x, y, norm=norm, eps=eps, attacks=attack, diagnosis=False, keep_images=True)
    assert not found.robust.any()
    assert 0.97 * eps < found.record.distance[-1] <= eps
    exact = float(attack.ball.distance(found.images, x))
    assert exact <= eps + 4e-5
    if attack.bounded and norm == "linf" and name in ATTACKS:
        assert exact > eps, "no pixel was rounded up, so that nothing is tested"
    assert model(found.images).argmax(1).tolist() == [1]


@pytest.mark.parametrize("preset", PRESETS)
def test_no_adversarial_image_is_the_image_itself(preset):
    """ART 2256: an attack that could not do what it was asked for returned its input, as an adversarial image.

    An image is kept as adversarial where the point fell under attack, and only there: it differs from the original,
    is in the ball and misclassified, and of the others nothing is kept but the original. (Of each attack by itself
    see tests/attacks/test_contract.py::test_images_stay_in_the_ball_and_in_the_unit_cube.)
    """
    net, x, eps = small_net(), small_images(10), 0.012
    y = net(x).argmax(1)
    y[:3] = (y[:3] + 1) % 4
    attacks = attacks_of(f"all of {preset}", "linf", eps)
    found = evaluate(net, x, y, norm="linf", eps=eps, attacks=attacks, diagnosis=False, keep_images=True)
    fell = found.clean & ~found.robust
    assert 0 < int(fell.sum()) < 7
    distance = attacks[0].ball.distance(found.images, x)
    assert torch.equal(distance > 0, fell)
    assert float(distance.max()) <= eps + 1e-6
    assert (net(found.images[fell]).argmax(1) != y[fell]).all()
    assert torch.equal(found.images[~fell], x[~fell])
    record = found.record
    assert (record.distance[record.success & (record.attack != "clean")] > 0).all()


class Counting(Line):
    """It counts the images that pass through it; ``masked``: all its logits but the largest one are -inf."""

    def __init__(self, masked=False):
        super().__init__(classes=3)
        self.masked, self.forwards, self.backwards = masked, 0, 0

    def forward(self, x):
        logits = super().forward(x)
        if self.masked:
            logits = logits.masked_fill(logits < logits.amax(1, keepdim=True), -torch.inf)
        self.forwards += len(x)
        if logits.requires_grad:
            logits.register_hook(self._back)
        return logits

    def _back(self, gradient):
        self.backwards += len(gradient)


BEFOREHAND = 100
"""Passes at most of an evaluation before its attacks, on the few images on which a model is tried."""


@pytest.mark.parametrize(("name", "masked"), [*((name, False) for name in MAKES), *((name, True) for name in MAKERS)])
def test_a_point_that_stands_was_attacked(name, masked):
    """torchattacks 179: FAB compared a tensor of truth values with 0, so that its loop was never entered.

    Every image came back as it was and counted as robust. What an attack spends on a point that stands is what its
    steps take, at least: by its record and by what the model has seen. So it is too where a model masks all classes
    but its answer, so that there is no target.
    """
    model, attacks = Counting(masked), attacks_of(name, "linf", EPS["linf"])
    x, y = model.points("linf", EPS["linf"], [1.05] * 3)
    found = evaluate(model, x, y, norm="linf", eps=EPS["linf"], attacks=attacks, diagnosis=False, fold=False)
    assert found.robust.all()
    for attack in attacks:
        due = [attempt for attempt in attack.attempts(3) if attempt.target < (2 if masked else 3)]
        for point in range(3):
            rows = found.record.where((found.record.attack == attack.name) & (found.record.point == point))
            assert [*zip(rows.target.tolist(), rows.restart.tolist(), strict=True)] == due
            forwards, backwards = attack.least_passes
            assert asked(attack) < forwards <= rows.forwards.min()
            assert asked(attack) * attack.uses_gradient <= backwards <= rows.backwards.min()
    assert 0 <= model.forwards - found.record.forwards.sum() <= BEFOREHAND
    assert 0 <= model.backwards - found.record.backwards.sum() <= BEFOREHAND


def test_an_attack_without_an_attempt_is_refused():
    """As torchattacks 179, of an attack of the user's."""

    class Idle(type(MAKERS["pgd-ce"](BALLS["linf"](0.1)))):
        name = "idle"

        def attempts(self, classes):
            return []

    model = Line()
    with pytest.raises(ValueError, match=r"the attack idle makes no attempt: its attempts\(\) must name one or more"):
        evaluate(model, *model.points("linf", 0.02, [1.05]), attacks=Idle(BALLS["linf"](0.02)))
