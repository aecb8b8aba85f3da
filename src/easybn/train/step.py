"""One optimiser step: backpropagate each of a recipe's losses as it is yielded, then move the weights.

Beside it what a step updates: SGD's state and the moving average of the weights.
"""

import inspect
from collections.abc import Callable, Generator, Iterable
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..modes import copied
from ..recipes.recipe import Term

Tally = dict[str, Tensor]
"""For each term a float64 tensor (3,): sum of losses, number of correct answers, number of images."""


def take_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    terms: Callable[[], Iterable[Term]],
    *,
    average: Callable[[], object] = lambda: None,
    clip_norm: float | None = None,
    autocast: Any = None,
    scaler: torch.amp.GradScaler | None = None,
) -> Tally:
    """Take one step down the weighted sum of a recipe's losses.

    One term's graph is alive at a time. Under autocast the recipe's forward passes run inside it, the backward
    passes outside. With a scaler, a step whose gradients are not finite is skipped: no weight and no optimiser state
    moves, and the scale is lowered. The batch norms' running statistics have moved in its forward passes all the same.

    Args:
        terms: makes the recipe's generator: ``lambda: recipe(model, x, y, ctx)``.
        average: called once after the last backward pass, to average gradients over processes.

    Returns:
        The losses and correct answers of each term, as tensors on the device, which has not been waited for.
    """
    optimizer.zero_grad(set_to_none=True)
    tally: Tally = {}
    generator = iter(terms())
    try:
        while True:
            with autocast if autocast is not None else nullcontext():
                term = next(generator, None)
            if term is None:
                break
            loss = term.loss * term.weight
            (loss if scaler is None else scaler.scale(loss)).backward()  # type: ignore[no-untyped-call]
            _add(tally, term)
            del term, loss  # so that this graph is freed before the next term's is built
    finally:
        if isinstance(generator, Generator):
            generator.close()  # after an error: restores the recipe's route and modes now
    average()
    if scaler is not None:
        scaler.unscale_(optimizer)
    if clip_norm is not None:
        nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
    if scaler is None:
        optimizer.step()
    else:
        scaler.step(optimizer)
        scaler.update()
    return tally


def _add(tally: Tally, term: Term) -> None:
    loss = term.loss.detach().double()
    if term.logits is None or term.labels is None:
        sums = torch.stack((loss, torch.zeros_like(loss), torch.ones_like(loss)))
    else:
        n = torch.full_like(loss, len(term.labels))
        sums = torch.stack((loss * n, (term.logits.argmax(1) == term.labels).sum().double(), n))
    tally[term.name] = tally[term.name] + sums if term.name in tally else sums


def total(tallies: Iterable[Tally]) -> Tally:
    """The sums of several tallies."""
    joined: Tally = {}
    for tally in tallies:
        joined |= {name: joined[name] + sums if name in joined else sums for name, sums in tally.items()}
    return joined


class SGD(torch.optim.SGD):
    """``torch.optim.SGD`` whose first call does not take two seconds.

    torch's optimisers keep their methods out of compiled graphs by wrappers that import ``torch._dynamo`` on their
    first call, even where nothing is compiled; that takes as long as importing torch itself. These are the unwrapped
    methods. Not for use inside a function that ``torch.compile`` compiles, nor with ``differentiable``.
    """

    if not TYPE_CHECKING:  # their types are those of torch.optim.SGD
        add_param_group = inspect.unwrap(torch.optim.SGD.add_param_group)
        zero_grad = inspect.unwrap(torch.optim.SGD.zero_grad)
        state_dict = inspect.unwrap(torch.optim.SGD.state_dict)
        load_state_dict = inspect.unwrap(torch.optim.SGD.load_state_dict)
        step = torch.no_grad()(inspect.unwrap(torch.optim.SGD.step))


class Average:
    """An exponential moving average of a model's floating point parameters and buffers (timm's ModelEmaV3).

    Other buffers, such as counters, are copied.

    Args:
        model: what is averaged; the average starts from its present state.
        decay: weight of the past at each update, such as 0.999.
    """

    def __init__(self, model: nn.Module, decay: float):
        from timm.utils.model_ema import ModelEmaV3  # here, because importing timm takes a second

        self.model: nn.Module = copied(model).eval()
        self._ema = ModelEmaV3(_each_once(self.model), decay=decay)
        self._ema.module = _each_once(self.model)  # which it has copied

    def update(self, model: nn.Module) -> None:
        """Move the average towards ``model`` as it is now."""
        self._ema.update(_each_once(model))

    def state_dict(self) -> dict[str, Tensor]:
        return self.model.state_dict()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.model.load_state_dict(state)


def _each_once(model: nn.Module) -> nn.Module:
    """The parameters and buffers of ``model`` in a module of their own, each once.

    timm moves every entry of a state dict: one that two modules share, as tied weights, would be moved twice.
    """
    tensors = nn.Module()
    for number, parameter in enumerate(model.parameters()):
        tensors.register_parameter(f"parameter{number}", parameter)
    for number, buffer in enumerate(model.buffers()):
        tensors.register_buffer(f"buffer{number}", buffer)
    return tensors
