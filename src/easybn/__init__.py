"""Auxiliary batch normalisation for PyTorch, and robustness measured so that it can be trusted.

The public names are imported when they are first used (PEP 562): ``import easybn`` costs next to nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

if TYPE_CHECKING:
    from .attacks.attack import Attack
    from .evaluation import evaluate
    from .evaluation.config import EvaluateConfig
    from .evaluation.corruptions import CorruptionConfig, evaluate_corruptions
    from .models.hub import from_hub
    from .models.outputs import SelectOutput
    from .models.weights import load
    from .modes import evaluating, frozen_stats
    from .norm.branched import BranchedNorm
    from .norm.convert import branch_parameters, convert, strip
    from .norm.route import route
    from .perturb.ball import L2, Linf
    from .perturb.goal import easy, mixed_target, random_target, targeted, untargeted
    from .perturb.pgd import PGD
    from .runs.config import Experiment
    from .runs.hub import push_to_hub
    from .study.plan import Planned, Study
    from .study.run_study import run_study
    from .train.fit import fit
    from .train.schedule import Training

_HOMES = {
    "Attack": ".attacks.attack",
    "BranchedNorm": ".norm.branched",
    "branch_parameters": ".norm.convert",
    "convert": ".norm.convert",
    "strip": ".norm.convert",
    "route": ".norm.route",
    "evaluating": ".modes",
    "frozen_stats": ".modes",
    "L2": ".perturb.ball",
    "Linf": ".perturb.ball",
    "easy": ".perturb.goal",
    "mixed_target": ".perturb.goal",
    "random_target": ".perturb.goal",
    "targeted": ".perturb.goal",
    "untargeted": ".perturb.goal",
    "PGD": ".perturb.pgd",
    "evaluate": ".evaluation",
    "fit": ".train.fit",
    "Training": ".train.schedule",
    "load": ".models.weights",
    "SelectOutput": ".models.outputs",
    "from_hub": ".models.hub",
    "push_to_hub": ".runs.hub",
    "run_study": ".study.run_study",
    "Study": ".study.plan",
    "Planned": ".study.plan",
    "Experiment": ".runs.config",
    "EvaluateConfig": ".evaluation.config",
    "CorruptionConfig": ".evaluation.corruptions",
    "evaluate_corruptions": ".evaluation.corruptions",
}

__all__ = [  # written out, since type checkers do not compute it
    "Attack",
    "BranchedNorm",
    "branch_parameters",
    "convert",
    "strip",
    "route",
    "evaluating",
    "frozen_stats",
    "L2",
    "Linf",
    "easy",
    "mixed_target",
    "random_target",
    "targeted",
    "untargeted",
    "PGD",
    "evaluate",
    "fit",
    "Training",
    "load",
    "from_hub",
    "push_to_hub",
    "SelectOutput",
    "run_study",
    "Study",
    "Planned",
    "Experiment",
    "EvaluateConfig",
    "CorruptionConfig",
    "evaluate_corruptions",
    "__version__",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        value = getattr(import_module(_HOMES[name], __name__), name)
        globals()[name] = value  # looked up once
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
