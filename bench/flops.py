"""Floating-point operations of a study: of its trainings, and of its evaluations at most; counted, nothing is timed.

    python bench/flops.py [STUDY]

STUDY is a YAML file or the name of a study of the package, by default ``paper``. torch's FLOP counter is run on a step
of each recipe and a move of each attack (two operations per multiply-add); evaluation is counted as if no attack
succeeded, without the diagnosis. How long a training takes on this machine: ``easybn train --estimate``.
"""

import argparse
import copy
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.flop_counter import flop_registry

from easybn import data, models
from easybn.attacks.attack import Attack, AttackState
from easybn.attacks.attack_mode import attack_mode
from easybn.cli import study_file
from easybn.cli.study_status import find_study
from easybn.data import DataError
from easybn.data.registry import PUBLISHED
from easybn.evaluation.config import POINTS, EvaluateConfig
from easybn.keyed_random import Noise, torch_generators
from easybn.models.convolutions import Winograd
from easybn.norm.convert import convert
from easybn.runs.config import DATA_OPTIONS, Experiment
from easybn.runs.description import describe
from easybn.study.plan import Planned

PEAK = 156e12
"""Operations per second of an NVIDIA A100 in TF32, the precision of torch's convolutions there (its data sheet)."""
SHARE = 0.25
"""Share of the peak that is reached: an assumption, and an optimistic one for networks as small as these."""


@dataclass(frozen=True)
class Shape:
    """Sizes of a data set; those of the named ones are known without their files.

    Args:
        image: channels, height, width.
        classes: number of classes.
        train, test: numbers of images.
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


def shape_of(experiment: Experiment) -> Shape | None:
    """Sizes of the experiment's data set; None if it is an image folder that is not here."""
    if known := PUBLISHED.get(experiment.data):
        return Shape(known.shape, known.classes, known.train, known.test)
    try:
        options = {name: getattr(experiment, name) for name in DATA_OPTIONS}
        source = data.load(experiment.data, folder=experiment.data_folder, **options)
    except DataError:
        return None
    return Shape(source.train.shape, len(source.classes), len(source.train), len(source.test))


class Passes:
    """Operations of one network's passes, by torch's FLOP counter: elementwise work is not counted.

    Args:
        experiment: describes the network; its recipe does not matter.
        shape: sizes of the data set.
    """

    def __init__(self, experiment: Experiment, shape: Shape):
        options = {k: v for k, v in experiment.model_options.items() if k not in ("pretrained", "weights")}
        mean = [0.5] * shape.image[0]
        with torch_generators():
            model = models.build(experiment.model, shape.classes, shape.image[0], mean, mean, **options)
        quick: list[Any] = [module for module in model.modules() if isinstance(module, Winograd)]
        for module in quick:
            module.__class__ = nn.Conv2d  # its savings are of CPUs alone
        self._model, self._shape = model.eval(), shape
        self._looks: dict[str, float] = {}

    @cached_property
    def forward(self) -> float:
        """Operations of one image's forward pass."""
        x, _ = self._images(1)
        with torch.no_grad():
            return count(lambda: self._model(x))

    def step(self, experiment: Experiment) -> float:
        """Operations per image of a training step by the experiment's recipe."""
        recipe = experiment.recipe
        aux = len(recipe.branches) > 1
        model = convert(self._model, recipe.branches, experiment.norms) if aux else copy.deepcopy(self._model)
        model.train()
        x, y = self._images(2)  # batch norm needs two where feature maps have shrunk to one pixel

        def step() -> None:
            for term in recipe(model, x, y):
                torch.autograd.backward(term.weight * term.loss)

        with Counting():
            step()  # work done once per training, such as finding out which norms can be folded
        return count(step) / len(x)

    def look(self, attack: Attack) -> float:
        """Operations of an attack's evaluation of one image."""
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

    An operation with a formula is not computed: it returns ones of the right shape, so that counting is quick.
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
        """Ones, because attacks refuse gradients of zeros; all results of one shape share memory."""
        key = like.shape, like.stride(), like.dtype
        if key not in self._ones:
            self._ones[key] = torch.ones_like(like, device="cpu")
        return self._ones[key].data  # an alias that autograd takes for another tensor


def count(work: Callable[[], object]) -> float:
    """Operations of ``work``, which sees wrong numbers in tensors of the right shapes."""
    with Counting() as counting:
        work()
    return float(counting.total)


@dataclass(frozen=True)
class Cost:
    """Operations, two per multiply-add.

    Args:
        training: all epochs, validation included.
        evaluation: all evaluations if no attack succeeds; the diagnosis is not counted.
    """

    training: float = 0.0
    evaluation: float = 0.0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.training + other.training, self.evaluation + other.evaluation)

    @property
    def gpu_hours(self) -> float:
        """Hours at an assumed :data:`SHARE` of :data:`PEAK`."""
        return (self.training + self.evaluation) / (PEAK * SHARE) / 3600


class Costs:
    """Call it with a run; what runs have in common is counted once."""

    def __init__(self) -> None:
        self._shapes: dict[str, Shape | None] = {}
        self._passes: dict[str, Passes] = {}
        self._steps: dict[str, float] = {}

    def __call__(self, planned: Planned) -> Cost | None:
        """Cost of the run; None if its images are not here, so that their sizes are not known."""
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
        return Cost(training, sum(evaluation_cost(each, shape, passes) for each in planned.evaluations))


def training_cost(experiment: Experiment, shape: Shape, step: float, forward: float) -> float:
    """Operations of a training and its validation, given those per image of a step and of a forward pass."""
    train, held_out = shape.split(experiment)
    size = min(experiment.training.batch_size, train)
    drawn = train // size * size  # an incomplete last batch is dropped
    return experiment.training.epochs * (drawn * step + held_out * len(experiment.recipe.branches) * forward)


def evaluation_cost(config: EvaluateConfig, shape: Shape, passes: Passes) -> float:
    """Operations of an evaluation in which no attack succeeds."""
    if config.is_pgd and not config.protocols:
        return shape.test * passes.forward
    configs = [config]
    if config.is_pgd:
        configs = [replace(config, protocols=(protocol,)) for protocol in config.protocols]
    points = config.points or (shape.test if config.budget else POINTS)
    return min(points, shape.test) * sum(_point(each, shape, passes) for each in configs)


def _point(config: EvaluateConfig, shape: Shape, passes: Passes) -> float:
    """Operations for one point that stays robust."""
    total, searched = passes.forward, set()
    for eps in config.eps:
        attacks = config.attacks_at(eps)
        if config.uses_reference_protocol:  # the same passes as the strong protocol's first loss
            attacks = replace(config, protocols=("strong",)).attacks_at(eps)[:1]
        for attack in attacks:
            if not attack.bounded and attack.name in searched:
                continue  # one search serves all radii
            searched.add(attack.name)
            total += len(attack.attempts(shape.classes)) * (attack.steps + 1) * passes.look(attack)
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", nargs="?", default="paper", help="a YAML file, or the name of a study of the package")
    study = study_file.read(find_study(parser.parse_args().study), run_code=False)
    torch.set_num_threads(1)  # hardly anything is computed, and more threads only get in each other's way
    costs, total = Costs(), Cost()
    print(f"{'run':40} {'training':>10} {'evaluation':>10} {'GPU-hours':>10}   (PFLOP; evaluation at most)")
    for run in study.runs:
        cost = None if run.code else costs(run)  # code that a file names is not run
        if cost is None:
            print(f"{run.name:40} {'not counted':>10}")
            continue
        total += cost
        print(f"{run.name:40} {_figures(cost)}")
    print(f"{'all':40} {_figures(total)}")
    print(f"GPU-hours are assumed, not measured: {SHARE:.0%} of {PEAK / 1e12:.0f} TFLOP/s (NVIDIA A100, TF32).")


def _figures(cost: Cost) -> str:
    return " ".join(f"{value:10,.3g}" for value in (cost.training / 1e15, cost.evaluation / 1e15, cost.gpu_hours))


if __name__ == "__main__":
    main()
