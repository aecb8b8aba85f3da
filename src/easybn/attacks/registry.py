"""The attacks of an evaluation, by name: the presets of AutoAttack (Croce & Hein, 2020) and lists of one's own."""

from collections.abc import Callable, Sequence

from ..perturb.ball import L2, Ball, Linf
from .apgd import APGD
from .attack import Attack
from .attack_mode import TargetModel
from .fab import FAB
from .pgd import PGDSweep
from .square import Square

BALLS: dict[str, type[L2] | type[Linf]] = {"l2": L2, "linf": Linf}
ATTACKS: dict[str, Callable[[Ball], Attack]] = {
    "apgd-ce": lambda ball: APGD(ball, "ce"),
    "apgd-dlr": lambda ball: APGD(ball, "dlr"),
    "apgd-t": lambda ball: APGD(ball, "t"),
    "fab": lambda ball: FAB(ball, targeted=False),
    "fab-t": lambda ball: FAB(ball),
    "square": lambda ball: Square(ball),
    "pgd-ce": lambda ball: PGDSweep(ball, "ce"),
    "pgd-margin": lambda ball: PGDSweep(ball, "margin"),
}
PRESETS: dict[str, dict[str, Callable[[Ball], Attack]]] = {
    "standard": {name: ATTACKS[name] for name in ("apgd-ce", "apgd-t", "fab-t", "square")},
    "plus": {
        "apgd-ce": lambda ball: APGD(ball, "ce", restarts=5),
        "apgd-dlr": lambda ball: APGD(ball, "dlr", restarts=5),
        "fab": lambda ball: FAB(ball, targeted=False, restarts=5),
        **{name: ATTACKS[name] for name in ("square", "apgd-t", "fab-t")},
    },
    "rand": {
        "apgd-ce": lambda ball: APGD(ball, "ce", eot=20),
        "apgd-dlr": lambda ball: APGD(ball, "dlr", eot=20),
    },
}
NEEDS_CLASSES = {"apgd-dlr": 3, "apgd-t": 4}


def suite(attacks: str | Sequence[str], norm: str, eps: float) -> list[Attack]:
    """The attacks of a preset, or of a list of names, in their order.

    Args:
        attacks: "standard", "plus", "rand", the name of one attack, or several names.
        norm: "l2" or "linf".
        eps: radius in [0, 1] pixel units.

    Raises:
        ValueError: an unknown name, a name given twice, a radius that makes no sense.
    """
    if norm not in BALLS:
        raise ValueError(f"unknown norm {norm!r}; known: {', '.join(BALLS)}")
    ball = BALLS[norm](eps)
    names = [attacks] if isinstance(attacks, str) else list(attacks)
    if not names:
        raise ValueError("attacks must be a preset, a name or several names, got none")
    if len(names) == 1 and names[0] in PRESETS:
        return [make(ball) for make in PRESETS[names[0]].values()]
    for name in names:
        if name not in ATTACKS:
            known = ", ".join([*PRESETS, *ATTACKS])
            raise ValueError(f"unknown attack {name!r}; known: {known} (a preset stands alone)")
    if len(set(names)) < len(names):
        raise ValueError(f"an attack is named twice: {', '.join(names)}")
    return [ATTACKS[name](ball) for name in names]


def check_gradient(attacks: Sequence[Attack], model: TargetModel) -> None:
    """ValueError before any work if the model (in attack mode with a probe) has no gradient and an attack needs one."""
    if model.call.no_gradient and (blind := [attack.name for attack in attacks if attack.uses_gradient]):
        raise ValueError(no_gradient(model, blind))


def no_gradient(model: TargetModel, attacks: Sequence[str]) -> str:
    """What to tell of a model without a gradient, which attacks of these names need."""
    return (
        f"the model has no gradient with respect to its images ({model.call.no_gradient}), and {', '.join(attacks)} "
        f"cannot do without: choose square, which can (attacks='square', --attacks square)"
    )


def changed_attacks(attacks: Sequence[Attack], classes: int, shape: Sequence[int]) -> list[str]:
    """What had to change because there are few classes or the points are no images (C, H, W), a sentence each."""
    notes = []
    if len(shape) != 3 and any(isinstance(attack, Square) for attack in attacks):
        notes.append(f"square: points of shape {tuple(shape)} are no images, so that its windows are a coordinate wide")
    for attack in attacks:
        if classes < NEEDS_CLASSES.get(attack.name, 2):
            how = "the plain difference of logits" if classes < 3 else "the third logit in the place of the fourth"
            notes.append(f"{attack.name}: {classes} classes are too few for its loss, which uses {how}")
    targeted = [attack.name for attack in attacks if any(attempt.target for attempt in attack.attempts(classes))]
    if classes < 10 and targeted:
        notes.append(f"{', '.join(targeted)}: {classes - 1} target classes instead of 9, for there are no more")
    return notes
