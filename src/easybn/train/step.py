"""One optimiser step: drain a recipe's losses, each backpropagated as it comes, then move the weights."""

import inspect
from collections.abc import Callable, Generator, Iterable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from ..recipes.recipe import Term

# SGD as torch has it, without the import of torch's compiler that every optimiser of torch begins with.


class SGD(torch.optim.SGD):
    """``torch.optim.SGD``, whose first call does not take two seconds.

    torch's optimisers keep their methods out of compiled graphs by wrappers that import ``torch._dynamo`` when they
    are first called, though nothing is compiled: it takes as long as importing torch itself. These are the methods
    below the wrappers. Not for use inside a function that ``torch.compile`` compiles, nor with ``differentiable``.
    """

    add_param_group = inspect.unwrap(torch.optim.SGD.add_param_group)
    zero_grad = inspect.unwrap(torch.optim.SGD.zero_grad)
    state_dict = inspect.unwrap(torch.optim.SGD.state_dict)
    load_state_dict = inspect.unwrap(torch.optim.SGD.load_state_dict)
    step = torch.no_grad()(inspect.unwrap(torch.optim.SGD.step))


Tally = dict[str, Tensor]
"""For each term, a float64 tensor (3,): sum of losses, number of right answers, number of images."""


def take_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    terms: Callable[[], Iterable[Term]],
    *,
    clip_norm: float | None = None,
    autocast: Any = None,
    scaler: torch.amp.GradScaler | None = None,
) -> Tally:
    """Take one step down the weighted sum of a recipe's losses.

    One term's graph is alive at a time. Under autocast the recipe's forward passes run inside it and the
    backward passes outside. With a scaler a step whose gradients are not finite is skipped whole: no weight
    and no optimiser state moves, and the scale falls. What batch norms have seen in its forward passes, on
    which no scale acts, stays in their statistics.

    Args:
        terms: makes the recipe's generator: ``lambda: recipe(model, x, y, ctx)``.

    Returns:
        The losses and right answers of each term, as tensors that no one has waited for yet.
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
            _count(tally, term)
            del term, loss  # the next term must not find this one's graph alive
    finally:
        if isinstance(generator, Generator):
            generator.close()  # after an error: the recipe's route and modes are restored now
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


def _count(tally: Tally, term: Term) -> None:
    loss = term.loss.detach().double()
    if term.logits is None or term.labels is None:
        row = torch.stack((loss, torch.zeros_like(loss), torch.ones_like(loss)))
    else:
        n = torch.full_like(loss, len(term.labels))
        row = torch.stack((loss * n, (term.logits.argmax(1) == term.labels).sum().double(), n))
    tally[term.name] = tally[term.name] + row if term.name in tally else row
