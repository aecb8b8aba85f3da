"""Modes of a model, as context managers that restore exactly what they found, also after an exception.

They set each module's flag directly and remember each one, rather than calling ``train()`` and
``eval()``: a module that a user froze in eval mode is found frozen again afterwards.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Every module of ``model`` in eval mode inside the block; each one's own mode after it."""
    found = [module for module in model.modules() if module.training]
    for module in found:
        module.training = False
    try:
        yield
    finally:
        for module in found:
            module.training = True


@contextmanager
def frozen_stats(model: nn.Module) -> Iterator[None]:
    """No running statistic of ``model`` moves inside the block, whatever the mode.

    Batch norms in train mode still normalise by the batch. They are frozen through
    ``track_running_stats`` rather than momentum 0, which would still advance ``num_batches_tracked``.
    """
    batch_norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    # an instance norm reads track_running_stats to choose its statistics, and counts no batches
    instance_norms = [(m, m.momentum) for m in model.modules() if isinstance(m, _InstanceNorm)]
    for module in batch_norms:
        module.track_running_stats = False
    for instance_norm, _ in instance_norms:
        instance_norm.momentum = 0.0
    try:
        yield
    finally:
        for module in batch_norms:
            module.track_running_stats = True
        for instance_norm, momentum in instance_norms:
            instance_norm.momentum = momentum


@contextmanager
def frozen_parameters(model: nn.Module) -> Iterator[None]:
    """No parameter of ``model`` asks for a gradient inside the block; each one that did asks again after it.

    For gradients of the images alone. torch's own layers compute no others anyway; a backward pass that
    ``torch.compile`` makes, or that is written in Python (``models/stem.py``, ``models/winograd.py``), computes one for
    whatever asked for it in the forward pass, used or not.
    """
    found = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in found:
        parameter.requires_grad = False
    try:
        yield
    finally:
        for parameter in found:
            parameter.requires_grad = True
