"""What a run costs in floating-point operations: of its training as asked, of its evaluation at most."""

import copy
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.flop_counter import flop_registry

from .. import data, models
from ..attacks.attack import Attack, AttackState
from ..attacks.attack_mode import attack_mode
from ..data import DataError
from ..evaluation.config import Choice
from ..evaluation.verdicts import FREE_OF_EPS
from ..keyed_random import Noise, torch_generators
from ..models.convolutions import Winograd
from ..norm.convert import convert
from ..runs.config import DATA_OPTIONS, Experiment, describe
from ..runs.evaluate import POINTS, Measurement
from .plan import Planned, Wanted

# How many images of what shape a data set has; those of the named ones are known without their files.


@dataclass(frozen=True)
class Shape:
    """Of a data set.

    Args:
        image: channels, height, width.
        classes: how many.
        train, test: images.
    """

    image: tuple[int, int, int]
    classes: int
    train: int
    test: int

    def split(self, experiment: Experiment) -> tuple[int, int]:
        """Numbers of images trained on and of images held out."""
        every = self.train if experiment.train_images is None else experiment.train_images
        held_out = round(experiment.validation * every)
        return every - held_out, held_out


KNOWN = {
    "sample": Shape((1, 28, 28), 10, 5_000, 1_000),
    "fashion-mnist": Shape((1, 28, 28), 10, 60_000, 10_000),
    "cifar10": Shape((3, 32, 32), 10, 50_000, 10_000),
    "cifar100": Shape((3, 32, 32), 100, 50_000, 10_000),
}


def shape_of(experiment: Experiment) -> Shape | None:
    """Of the experiment's data set; None if it is an image folder that is not here."""
    if experiment.data in KNOWN:
        return KNOWN[experiment.data]
    try:
        options = {name: getattr(experiment, name) for name in DATA_OPTIONS}
        source = data.load(experiment.data, folder=experiment.data_folder, **options)
    except DataError:
        return None
    return Shape(source.train.shape, len(source.classes), len(source.train), len(source.test))


# Floating-point operations of a network's passes, counted by torch; nothing is timed and hardly anything computed.


class Passes:
    """The operations of passes of one network.

    A multiplication and an addition are two, as torch's counter has it; what is done to each element is not counted.

    Args:
        experiment: says the network; its recipe does not matter.
        shape: of the images.
    """

    def __init__(self, experiment: Experiment, shape: Shape):
        options = {k: v for k, v in experiment.model_options.items() if k not in ("pretrained", "weights")}
        mean = [0.5] * shape.image[0]
        with torch_generators():
            model = models.build(experiment.model, shape.classes, shape.image[0], mean, mean, **options)
        quick: list[Any] = [module for module in model.modules() if isinstance(module, Winograd)]
        for module in quick:
            module.__class__ = nn.Conv2d  # what is saved on a CPU is not saved elsewhere
        self._model, self._shape = model.eval(), shape
        self._looks: dict[str, float] = {}

    @cached_property
    def forward(self) -> float:
        """Of an image's forward pass."""
        x, _ = self._images(1)
        with torch.no_grad():
            return count(lambda: self._model(x))

    def step(self, experiment: Experiment) -> float:
        """Of an image's share of a training step by the experiment's recipe."""
        recipe = experiment.recipe
        aux = len(recipe.branches) > 1
        model = convert(self._model, recipe.branches, experiment.norms) if aux else copy.deepcopy(self._model)
        model.train()
        x, y = self._images(2)  # batch norm wants two where an image is one pixel by now

        def step() -> None:
            for term in recipe(model, x, y):
                torch.autograd.backward(term.weight * term.loss)

        with Counting():
            step()  # what is done once a training, such as trying out which norms can be folded
        return count(step) / len(x)

    def look(self, attack: Attack) -> float:
        """Of an attack's look at an image."""
        if attack.name not in self._looks:
            x, y = self._images(1)
            with warnings.catch_warnings(), attack_mode(self._model) as ready:
                warnings.simplefilter("ignore")
                rows, noise = torch.arange(1), Noise.of(0, "experiments/study/passes", torch.arange(1))
                other = (y + 1) % self._shape.classes
                state = AttackState.create(rows, y, other, torch.zeros_like(y), noise.keys, ready.load(x))
                attack.init(state)
                self._looks[attack.name] = count(lambda: attack.evaluate(ready, state))
        return self._looks[attack.name]

    def _images(self, n: int) -> tuple[Tensor, Tensor]:
        x = Noise.of(0, "experiments/study/passes", torch.arange(n)).uniform(*self._shape.image)
        return x, torch.arange(n) % self._shape.classes


class Counting(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts by the formulas of torch's FLOP counter.

    What has a formula is not computed: the result is ones of its shape, so that counting takes no time.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0
        self._ones: dict[Any, Tensor] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        formula = flop_registry.get(func._overloadpacket)
        if formula is None:
            return func(*args, **(kwargs or {}))
        args, kwargs = tree_map_only(Tensor, lambda tensor: tensor.to("meta"), (args, kwargs or {}))
        out = func(*args, **kwargs)
        self.total += formula(*args, **kwargs, out_val=out)
        return tree_map_only(Tensor, self._one, out)

    def _one(self, like: Tensor) -> Tensor:
        """Ones, not zeros, for attacks look at their gradients; all results of a shape share one memory."""
        key = like.shape, like.stride(), like.dtype
        if key not in self._ones:
            self._ones[key] = torch.ones_like(like, device="cpu")
        return self._ones[key].data  # an alias that autograd takes for another tensor


def count(work: Callable[[], object]) -> float:
    """The operations of ``work``, which sees wrong numbers in tensors of the right shapes."""
    with Counting() as counting:
        work()
    return float(counting.total)


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
            total += len(attack.attempts(shape.classes)) * (attack.steps + 1) * passes.look(attack)
    return total
