"""Floating-point operations of a network's passes, counted by torch; nothing is timed and hardly anything computed."""

import copy
import warnings
from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.flop_counter import flop_registry

from ... import models
from ...attacks.attack import Attack
from ...attacks.prepare import prepared
from ...attacks.tracks import Tracks
from ...keyed_random import Noise, torch_generators
from ...models.winograd import Winograd
from ...norm.convert import convert
from ..experiment import Experiment
from .shapes import Shape


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
            with warnings.catch_warnings(), prepared(self._model) as ready:
                warnings.simplefilter("ignore")
                rows, noise = torch.arange(1), Noise.of(0, "experiments/study/passes", torch.arange(1))
                other = (y + 1) % self._shape.classes
                tracks = Tracks.begun(rows, y, other, torch.zeros_like(y), noise.keys, ready.load(x))
                attack.begin(tracks)
                self._looks[attack.name] = count(lambda: attack.look(ready, tracks))
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
