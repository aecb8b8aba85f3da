"""What an evaluation measures and how: one dataclass, from whose fields options, studies and stores follow.

``easybn.evaluate(...)`` makes an :class:`EvaluateConfig` from its arguments, ``easybn evaluate`` has an option for
every field with a help text, an ``evaluate`` entry of a study's file has the same names, and the manifest of a store
takes the fields that it has in common with it.
"""

import copy
import difflib
import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import cached_property
from typing import Any, Literal

from ..attacks.attack import Attack
from ..attacks.pgd import PGDSweep
from ..attacks.registry import ATTACKS, BALLS, PRESETS, is_own, suite
from ..perturb.eps import format_eps
from ..perturb.pgd import PGD

PROTOCOLS = ("strong", "robustness")
PRECISIONS = {"float32": "32", "bf16": "bf16"}
PROBE = 16
"""Images on which the preparation of a model is checked."""
POINTS = 1000
"""Test images of a run that attacks with a store get by default, without a budget."""

FAST = "fast"
"""The preset whose survivors are audited by ``standard``."""
SAMPLE = 40
"""Survivors that an audit draws by default."""

Scope = Literal["all", "pgd", "store"]


def option(default: Any, help: str, scope: Scope = "all", **more: Any) -> Any:
    """A field with an option on the command line and in studies.

    Args:
        help: of the option.
        scope: "pgd" for PGD under its protocols, without a store; "store" for all other attacks of a run.
        more: ``choices`` of the values; ``of_study=False`` where the option says nothing about results.
    """
    return field(default=default, metadata={"help": help, "scope": scope, **more})


@dataclass(frozen=True)
class EvaluateConfig:
    """All that decides what an evaluation measures; defaults are those of :func:`easybn.evaluate`.

    Args:
        attacks: "clean", "pgd", a preset of AutoAttack ("autoattack" is "standard"), or one or several attacks: names,
            objects (whose ball is replaced by the one of each radius), or classes that are called with a ball.
        norm: "l2" or "linf".
        eps: radii in [0, 1] pixel units.
        protocols: of PGD: "robustness", "strong"; a run is measured under each.
        steps: of PGD, for each loss; step_size: default 2.5 * eps / steps; random_start: strong protocol only.
        points: test images of a run, drawn by ``seed``; by default 1000, and under a budget all.
        seed: of all that is random.
        batch_size: images a pass at most; part of what the ``robustness`` protocol measures.
        branch: of a converted model; kept with the verdicts.
        device: where a run is evaluated; the CPU by default.
        diagnosis: look for what makes the figures misleading.
        budget: seconds; as many points as fit, in random order.
        chunk: points whose attacks are run together; by default 1000, fewer if images are large, 32 under a budget.
        shard: (i, n) for every n-th chunk from the i-th on, i from 0.
        keep_images: keep the attacked images.
        share: at a larger eps, do not attack again what was broken at a smaller one.
        audit: of fast: of the points that it left, how many are drawn to be attacked by ``standard``; 40 by default, 0
            for no audit.
        audit_width: of fast, instead: as many as make the 95% interval of the audited accuracy, on these points and
            from end to end, no wider than this share of them, if the audit breaks none.
        compile, precision, fold: of the surrogate, the fast copy that attacks see.

    Raises:
        ValueError: an unknown name, or anything out of range; options that do not go together.
    """

    attacks: tuple[str | Attack, ...] = option(
        ("pgd",),
        "pgd; clean; AutoAttack's presets autoattack (standard), plus, rand (for models that draw random numbers); "
        "fast, audited by standard; or names such as apgd-ce square; or your own, file.py:Name",
    )
    norm: str = option("l2", "of the perturbations; pgd: l2, others: linf", choices=tuple(BALLS))
    eps: tuple[float, ...] = option(
        (0.5,),
        "radii in [0, 1] pixel units, such as 8/255; by default 0.1 0.5 1.0 for pgd, else 8/255 in linf, 0.5 in l2",
    )
    points: int | None = option(
        None, "test images attacked, drawn by --seed; 1000 by default, and under --budget as many as fit"
    )
    seed: int = option(0, "of the draw of the test images, and of all that is random in attacks")
    batch_size: int = option(256, "images a pass, 100 for pgd (part of the 'robustness' protocol's result), else 256")
    device: str | None = option(None, "cpu, cuda, cuda:1; by default the CPU", of_study=False)
    branch: str | None = option(None, "a branch of the run instead of the deployed one (needs checkpoint.pt)")
    diagnosis: bool = option(True, "do not look for what makes the figures misleading")
    protocols: tuple[str, ...] = option(
        ("strong",), "strong, or robustness for the figure that the library of that name gives", "pgd",
        choices=PROTOCOLS,
    )  # fmt: skip
    steps: int = option(100, "gradient steps an image, for each loss", "pgd")
    step_size: float | None = None
    random_start: bool = False
    fold: bool = True
    budget: float | None = option(None, "as many points as fit into 90s, 10m or 2h, drawn at random", "store")
    chunk: int | None = option(None, "points whose attacks are run together (1000; 32 under --budget)", "store")
    shard: tuple[int, int] | None = option(
        None, "do every n-th chunk, from the i-th on (0/3, 1/3, 2/3); the score comes when all are done", "store",
        of_study=False,
    )  # fmt: skip
    audit: int | None = option(
        None, "fast: of the points that it left, how many standard attacks, drawn at random (40; 0: none)", "store"
    )
    audit_width: float | None = option(
        None, "fast, instead of --audit: as many as make the audited accuracy's 95 percent interval this wide from "
        "end to end, such as 1%, if standard breaks none of them", "store",
    )  # fmt: skip
    keep_images: bool = option(False, "store the adversarial images, for easybn verify", "store")
    share: bool = option(True, "attack again at a larger eps what was broken at a smaller one", "store")
    compile: bool = option(False, "attack a compiled copy of the model: for long evaluations", "store")
    precision: str = option(
        "float32", "of gradients; verdicts stay in float32", "store", choices=tuple(PRECISIONS)
    )  # fmt: skip

    def __post_init__(self) -> None:
        if self.norm not in BALLS:
            raise ValueError(f"unknown norm {self.norm!r}; known: {', '.join(BALLS)}")
        object.__setattr__(self, "attacks", tuple(map(self._known_attack, self.attacks)))
        names = self.names
        if not names or (len(names) > 1 and {*names} & {"clean", *PRESETS}):
            raise ValueError(f"attacks: one preset, or names of attacks, got {', '.join(names) or 'none'}")
        if len(set(names)) < len(names):
            raise ValueError(f"an attack is named twice: {', '.join(names)}")
        for name in ("points", "steps", "batch_size", "chunk"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if unknown := [protocol for protocol in self.protocols if protocol not in PROTOCOLS]:
            raise ValueError(f"unknown protocol {unknown[0]!r}; known: {', '.join(PROTOCOLS)}")
        if "robustness" in self.protocols and self.random_start:
            raise ValueError("the robustness protocol has no random start; the strong one does")
        if self.precision not in PRECISIONS:
            raise ValueError(f"unknown precision {self.precision!r}; known: {', '.join(PRECISIONS)}")
        part, parts = self.shard or (0, 1)
        if not 0 <= part < parts:
            raise ValueError(f"there is no shard {part} of {parts}: a shard is i of n with i from 0 to n - 1")
        if self.budget is not None and not 0 < self.budget < math.inf:
            raise ValueError(f"a budget must be a positive number of seconds, got {self.budget}")
        if self.shard and self.budget:
            raise ValueError("a budget cannot be split into shards: start it once, or take shards of --points")
        self._check_audit()
        for eps in self.eps:  # before anything is loaded
            self.attacks_at(eps)

    def _check_audit(self) -> None:
        for name in ("audit", "audit_width"):
            if getattr(self, name) is not None and self.names != (FAST,):
                raise ValueError(f"{name} is about the preset fast: the others have no audit (attacks='fast')")
        if self.audit is not None and self.audit_width is not None:
            raise ValueError("audit and audit_width both say how many points are audited: give one of them")
        if self.audit is not None and self.audit < 0:
            raise ValueError(f"audit must be 0 or more points, got {self.audit}")
        if self.audit_width is not None and not 0 < self.audit_width < 1:
            raise ValueError(f"audit_width must be a share between 0 and 1, such as 0.01, got {self.audit_width}")

    def _known_attack(self, attack: Any) -> str | Attack:
        """A name that is known, or an attack in the config's norm."""
        if isinstance(attack, type) and issubclass(attack, Attack):
            make: Any = attack
            attack = make(BALLS[self.norm](self.eps[0]))
        if isinstance(attack, Attack):
            if not isinstance(attack.ball, BALLS[self.norm]):
                found = type(attack.ball).__name__
                raise ValueError(f"the attack {attack.name} has a ball {found}, and the evaluation is in {self.norm}")
            return attack
        if attack == "autoattack":
            return "standard"
        known = ["clean", "pgd", "autoattack", *PRESETS, *ATTACKS]
        if attack not in known:
            near = difflib.get_close_matches(str(attack), known, n=1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            raise ValueError(f"unknown attack {attack!r}{hint}; known: {', '.join(known)}")
        return str(attack)

    @staticmethod
    def is_attack(value: Any) -> bool:
        """Whether ``value`` is an attack or a class of attacks."""
        return isinstance(value, Attack) or (isinstance(value, type) and issubclass(value, Attack))

    # What follows from the fields.

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Of the attacks."""
        return tuple(attack if isinstance(attack, str) else attack.name for attack in self.attacks)

    @property
    def preset(self) -> str | None:
        """The preset, if it is one: fast, or one of AutoAttack's."""
        return self.names[0] if self.names[0] in PRESETS else None

    @property
    def row_attack(self) -> dict[str, str | None]:
        """``attack`` and ``protocol`` of its rows of scores."""
        return row_attack(self.preset, self.names)

    @property
    def appearance(self) -> dict[str, dict[str, Any]]:
        """How the report, which imports no user's code, shows the attacks that are not the package's, by name."""
        own = [attack for attack in self.attacks if isinstance(attack, Attack) and not is_own(attack)]
        return {attack.name: attack.appearance() for attack in own}

    @property
    def is_pgd(self) -> bool:
        """Whether it is PGD alone, which runs measure under protocols and without a store."""
        return self.names == ("pgd",)

    @property
    def uses_reference_protocol(self) -> bool:
        """Whether PGD does what the library ``robustness`` does, on whole batches: there is no store for that."""
        return self.is_pgd and self.protocols == ("robustness",)

    def pgd(self, eps: float) -> PGD:
        """PGD at one radius; ValueError for a radius, steps or a step size that make no sense."""
        size = 2.5 * eps / max(self.steps, 1) if self.step_size is None else self.step_size
        return PGD(BALLS[self.norm](eps), self.steps, size, self.random_start)

    def attacks_at(self, eps: float) -> Sequence[Attack]:
        """The attacks at one radius, in order; none for clean accuracy and the reference protocol."""
        pgd = self.pgd(eps)
        if self.names == ("clean",) or self.uses_reference_protocol:
            return []
        if self.preset:
            return suite(self.preset, self.norm, eps)
        attacks: list[Attack] = []
        if "pgd" in self.names:  # first, as it is the cheapest
            losses = ("ce", "margin")
            attacks = [PGDSweep(pgd.ball, loss, self.steps, pgd.step_length, self.random_start) for loss in losses]
        for attack in self.attacks:
            if isinstance(attack, Attack):
                attacks.append(_in_ball(attack, BALLS[self.norm](eps)))
            elif attack != "pgd":
                attacks += suite([attack], self.norm, eps)
        return attacks

    def check_store(self, store: object | None) -> None:
        """ValueError if the config does not go with a store (a folder), or with none."""
        needs = ("chunk", "shard", "budget", "branch")
        if store is None and (wrong := [name for name in needs if getattr(self, name) is not None]):
            raise ValueError(f"{wrong[0]} is about a store: give store=FOLDER too")
        if not self.uses_reference_protocol:
            return
        if store is not None:
            raise ValueError(
                "the robustness protocol belongs to its batches and has no verdicts to store: leave store out"
            )
        if self.compile or self.precision != "float32":
            raise ValueError("the robustness protocol attacks the model as it is: leave compile and precision out")

    # Defaults of runs, and what a study keeps of an evaluation that is done.

    @classmethod
    def of_run(cls, attacks: Iterable[str | Attack] = ("pgd",), **given: Any) -> "EvaluateConfig":
        """A config for the test images of a run, whose defaults depend on the attacks.

        Args:
            given: fields; those left out or None have their default.
        """
        attacks, given = tuple(attacks), {name: value for name, value in given.items() if value is not None}
        if attacks == ("pgd",):
            return cls(attacks, **{**RUN_DEFAULTS, **given})
        norm = given.pop("norm", "linf")
        eps = given.pop("eps", (8 / 255 if norm == "linf" else 0.5,))
        return cls(attacks, norm, tuple(sorted({float(each) for each in eps})), **given)

    @property
    def description(self) -> dict[str, Any]:
        """What changes the rows it gives and is not at its default, as JSON can hold it.

        A field that is added one day does not make every evaluation another one. The keys are those that studies have
        kept from their first version on, when PGD ("Measurement") and other attacks ("Attacks") had a class each.
        """
        usual: dict[str, Any] = {f.name: f.default for f in fields(self)}
        kept: dict[str, Any]
        if self.is_pgd:
            kept, always = {"class": "Measurement"}, tuple[str, ...]()
            scopes, usual = ("all", "pgd"), {**usual, **RUN_DEFAULTS}
        else:
            kept, always = {"class": "Attacks"}, ("attacks", "norm", "eps")
            scopes = ("all", "store")
        for f in fields(self):
            if f.name == "device" or f.metadata.get("scope") not in scopes:
                continue
            value = self.names if f.name == "attacks" else getattr(self, f.name)
            if f.name in always or value != usual[f.name]:
                name = "diagnosed" if f.name == "diagnosis" else f.name
                kept[name] = list(value) if isinstance(value, tuple) else value
        return kept

    @property
    def digest(self) -> str:
        """Eight hexadecimal digits of the description."""
        text = json.dumps(self.description, sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=4).hexdigest()

    def __str__(self) -> str:
        names = ("clean",) if self.is_pgd and not self.protocols else self.names
        radii = [] if names == ("clean",) else [self.norm, *(format_eps(eps, self.norm) for eps in self.eps)]
        branch = [] if self.branch is None else [f"branch {self.branch}"]
        return " ".join(["+".join(names), *radii, *branch])


RUN_DEFAULTS: Mapping[str, Any] = {
    "norm": "l2", "eps": (0.1, 0.5, 1.0), "protocols": ("robustness", "strong"), "points": POINTS, "batch_size": 100,
}  # fmt: skip
"""Of PGD on a run: the columns of the paper."""


def row_attack(preset: str | None, names: Iterable[str]) -> dict[str, str | None]:
    """``attack`` and ``protocol`` of rows: AutoAttack has its presets for protocols, and fast is none of them."""
    if preset is None or preset == FAST:
        return {"attack": preset or "+".join(names), "protocol": None}
    return {"attack": "autoattack", "protocol": preset}


def _in_ball(attack: Attack, ball: Any) -> Attack:
    """The same attack in another ball."""
    if is_dataclass(attack):
        return replace(attack, ball=ball)
    other = copy.copy(attack)
    other.ball = ball
    return other
