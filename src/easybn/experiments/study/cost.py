"""What a run costs in floating-point operations: of its training as asked, of its evaluation at most."""

from dataclasses import dataclass

from ...evaluation.choice import Choice
from ...evaluation.verdicts import FREE_OF_EPS
from ..experiment import Experiment, describe
from ..score_attacks import POINTS
from ..score_run import Measurement
from .passes import Passes
from .plan import Planned, Wanted
from .shapes import Shape, shape_of

PEAK = 156e12
"""Operations a second of an NVIDIA A100 in TF32, the precision of torch's convolutions there (its data sheet)."""
SHARE = 0.25
"""Of the peak that is reached; an assumption, and for networks as small as these rather a bold one."""


@dataclass(frozen=True)
class Cost:
    """Operations, two for a multiplication and an addition.

    Args:
        training: of all epochs, validation included.
        evaluation: if no point falls to any attack; the diagnosis is not counted.
    """

    training: float = 0.0
    evaluation: float = 0.0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.training + other.training, self.evaluation + other.evaluation)

    @property
    def gpu_hours(self) -> float:
        """At an assumed :data:`SHARE` of :data:`PEAK`."""
        return (self.training + self.evaluation) / (PEAK * SHARE) / 3600


class Costs:
    """Call it with a run; what runs have in common is counted once."""

    def __init__(self) -> None:
        self._shapes: dict[str, Shape | None] = {}
        self._passes: dict[str, Passes] = {}
        self._steps: dict[str, float] = {}

    def __call__(self, planned: Planned) -> Cost | None:
        """Of the whole run; None if its images are not here, so that their shape is not known."""
        experiment = planned.experiment
        if experiment.data not in self._shapes:
            self._shapes[experiment.data] = shape_of(experiment)
        shape = self._shapes[experiment.data]
        if shape is None:
            return None
        network = repr((experiment.model, experiment.model_options, shape.image, shape.classes))
        if network not in self._passes:
            self._passes[network] = Passes(experiment, shape)
        passes = self._passes[network]
        key = repr((network, experiment.norms, describe(experiment.recipe)))
        if key not in self._steps:
            self._steps[key] = passes.step(experiment)
        training = training_cost(experiment, shape, self._steps[key], passes.forward)
        return Cost(training, sum(evaluation_cost(each, shape, passes) for each in planned.wanted))


def training_cost(experiment: Experiment, shape: Shape, step: float, forward: float) -> float:
    """Of all steps of a training and its validation, given what an image takes in either."""
    train, held_out = shape.split(experiment)
    size = min(experiment.training.batch_size, train)
    drawn = train // size * size  # an incomplete batch is left out
    return experiment.training.epochs * (drawn * step + held_out * len(experiment.recipe.branches) * forward)


def evaluation_cost(wanted: Wanted, shape: Shape, passes: Passes) -> float:
    """Of an evaluation in which no point falls."""
    what = wanted.what
    if isinstance(what, Measurement):
        if not what.protocols:
            return shape.test * passes.forward
        points = what.points
        choices = [Choice(("pgd",), what.norm, protocol, what.steps) for protocol in what.protocols]
    else:
        points = what.points or (shape.test if what.budget else POINTS)
        choices = [Choice(what.attacks, what.norm)]
    return min(points, shape.test) * sum(_point(choice, what.eps, shape, passes) for choice in choices)


def _point(choice: Choice, radii: tuple[float, ...], shape: Shape, passes: Passes) -> float:
    """Of a point that stands to the end."""
    total, searched = passes.forward, set()
    for eps in radii:
        attacks = choice.at(eps)
        if choice.literal:  # the same passes as the strong protocol's first loss
            attacks = Choice(choice.names, choice.norm, "strong", choice.steps).at(eps)[:1]
        for attack in attacks:
            if attack.name in FREE_OF_EPS and attack.name in searched:
                continue  # one search serves all radii
            searched.add(attack.name)
            total += len(attack.tries(shape.classes)) * (attack.moves + 1) * passes.look(attack)
    return total
