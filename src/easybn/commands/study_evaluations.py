"""The ``evaluate`` entries of a study's file to what each run is measured by."""

import itertools
from argparse import ArgumentError
from collections.abc import Iterator
from typing import Any

from ..evaluation.choice import Choice
from ..experiments.score_run import Measurement
from ..experiments.study.plan import CLEAN, Wanted
from . import evaluate
from .arguments import Parser
from .own_model import OWN

NOT_OF_A_STUDY = ("runs", "out", "device", "estimate", "shard", *OWN)


def evaluations(content: Any) -> tuple[Wanted, ...]:
    """The evaluations, clean accuracy on the whole test split before all."""
    if content is not None and not (isinstance(content, list) and all(isinstance(each, dict) for each in content)):
        raise ValueError("evaluate: a list of entries such as {attacks: [autoattack], norm: linf, eps: 8/255}")
    out = [CLEAN]
    for number, entry in enumerate(content or [], 1):
        try:
            each = _evaluation(entry)
        except (ValueError, ArgumentError, ArithmeticError) as error:
            raise ValueError(f"evaluate, entry {number}: {' '.join(str(error).split())}") from error
        if each not in out:
            out.append(each)
        elif each != CLEAN:
            raise ValueError(f"evaluate, entry {number}: is there twice")
    return tuple(out)


def _evaluation(entry: dict[str, Any]) -> Wanted:
    if entry.get("attacks") in ("clean", ["clean"]):
        if len(entry) > 1:
            raise ValueError("clean accuracy is measured on all test images and has no options")
        return CLEAN
    if unfit := [key for key in entry if key in NOT_OF_A_STUDY]:
        raise ValueError(f"{unfit[0]} is not for a study")
    parser = Parser(prog="easybn evaluate", allow_abbrev=False, exit_on_error=False)
    evaluate.configure(parser)
    arguments = parser.read(list(_evaluate_words(entry)))
    what = evaluate.measurement_of(arguments) if evaluate.is_pgd(arguments) else evaluate.wanted_of(arguments)
    if isinstance(what, Measurement):  # told before anything is trained
        for protocol, eps in itertools.product(what.protocols, what.eps):
            Choice(("pgd",), what.norm, protocol, what.steps).at(eps)
    return Wanted(what, arguments.branch)


def _evaluate_words(entry: dict[str, Any]) -> Iterator[str]:
    """The options of an entry as arguments of ``easybn evaluate``."""
    for key, value in entry.items():
        if value is True:
            yield f"--{key}"
        elif isinstance(value, list):
            yield f"--{key}"
            yield from map(str, value)
        elif value is not False and value is not None:
            yield f"--{key}={value}"
