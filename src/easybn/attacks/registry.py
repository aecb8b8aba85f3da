"""The package's attacks by name, and the presets: those of AutoAttack (Croce & Hein, 2020), and fast.

They are found in this folder: a class with ``variants`` is listed by their names.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from importlib import import_module
from pkgutil import iter_modules
from typing import Any, cast

from ..perturb.ball import L2, Ball, Linf
from .attack import Attack
from .attack_mode import TargetModel
from .square import Square

MakeAttack = Callable[[Ball], Attack]
BALLS: dict[str, type[L2] | type[Linf]] = {"l2": L2, "linf": Linf}

for _module in iter_modules(import_module(__package__).__path__):
    if _module.name != "registry":
        import_module(f"{__package__}.{_module.name}")

ATTACKS: dict[str, MakeAttack] = {
    name: partial(kind, **fields)
    for kind in sorted(Attack.__subclasses__(), key=lambda kind: (kind.order, kind.__name__))
    if kind.__module__.startswith(f"{__package__}.")
    for name, fields in kind.variants.items()
}
"""The package's own attacks by name, in the order of lists."""
UNBOUNDED = tuple(name for name, make in ATTACKS.items() if not make(Linf(0.1)).bounded)
"""Those that search for the nearest adversarial image: one search counts for every radius from its distance on."""
GRADIENT_FREE = tuple(name for name, make in ATTACKS.items() if not make(Linf(0.1)).uses_gradient)
"""Those that only look at logits: what they leave is an upper bound, not comparable with figures of the others."""


def _changed(name: str, **fields: int) -> MakeAttack:
    """One of the package's attacks with other fields."""
    return lambda ball: cast(Attack, replace(cast(Any, ATTACKS[name](ball)), **fields))


PRESETS: dict[str, dict[str, MakeAttack]] = {
    "standard": {name: ATTACKS[name] for name in ("apgd-ce", "apgd-t", "fab-t", "square")},
    "plus": {
        **{name: _changed(name, restarts=5) for name in ("apgd-ce", "apgd-dlr", "fab")},
        **{name: ATTACKS[name] for name in ("square", "apgd-t", "fab-t")},
    },
    "rand": {name: _changed(name, eot=20) for name in ("apgd-ce", "apgd-dlr")},
    "fast": {name: ATTACKS[name] for name in ("malt", "momentum-pgd")},
}


def is_own(attack: Attack) -> bool:
    """Whether it is one of the package's."""
    return type(attack).__module__.startswith(f"{__package__}.")


def suite(attacks: str | Sequence[str], norm: str, eps: float) -> list[Attack]:
    """The attacks of a preset, or of a list of names, in their order.

    Args:
        attacks: "standard", "plus", "rand", "fast", the name of one attack, or several names.
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
            raise ValueError(f"unknown attack {name!r}; known: {known} (a preset must be the only one)")
    if len(set(names)) < len(names):
        raise ValueError(f"an attack is named twice: {', '.join(names)}")
    return [ATTACKS[name](ball) for name in names]


def check_gradient(attacks: Sequence[Attack], model: TargetModel) -> None:
    """ValueError before any work if the model (in attack mode with a probe) has no gradient and an attack needs one."""
    if model.call.no_gradient and (need_one := [attack.name for attack in attacks if attack.uses_gradient]):
        raise ValueError(no_gradient(model, need_one))


def no_gradient(model: TargetModel, attacks: Sequence[str]) -> str:
    """What to say of a model without a gradient, which attacks of these names need."""
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
        if classes < attack.min_classes:
            how = "the plain difference of logits" if classes < 3 else "the third logit in the place of the fourth"
            notes.append(f"{attack.name}: {classes} classes are too few for its loss, which uses {how}")
    targeted = [attack.name for attack in attacks if any(attempt.target for attempt in attack.attempts(classes))]
    if classes < 10 and targeted:
        targets = "1 target class" if classes == 2 else f"{classes - 1} target classes"
        notes.append(f"{', '.join(targeted)}: {targets} instead of 9, for there are no more")
    return notes
