"""Training steps as they are usually written, to compare with: contiguous layout, branches inside one pass.

The convolutions are torch's own.
"""

import torch
import torch.nn.functional as F
from timm.layers import convert_splitbn_model
from torch import Tensor, nn

from easybn.perturb.ball import Linf

EPS = 1 / 255


def by_torch(model: nn.Module) -> nn.Module:
    """``model`` with torch's own convolutions in the place of ours, in place."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.__class__ = nn.Conv2d
    return model


class SlicedNorm(nn.Module):
    """A batch norm and an auxiliary one; in train mode the two halves of the batch go through one each."""

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        self.main = norm
        self.auxiliary = nn.BatchNorm2d(norm.num_features)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:  # the attack's pass
            return self.auxiliary(x)
        half = len(x) // 2
        return torch.cat((self.main(x[:half]), self.auxiliary(x[half:])))


def sliced(module: nn.Module) -> nn.Module:
    """``module`` with every batch norm of its children replaced, in place."""
    for name, child in module.named_children():
        setattr(module, name, SlicedNorm(child) if isinstance(child, nn.BatchNorm2d) else sliced(child))
    return module


def split_by_timm(model: nn.Module) -> nn.Module:
    return convert_splitbn_model(model, num_splits=2)


def vanilla_step(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor) -> None:
    optimizer.zero_grad()
    F.cross_entropy(model(x), y).backward()
    optimizer.step()


def concatenated_step(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor) -> None:
    """AdvProp: one step towards a random class in eval mode, then both batches in one pass and one backward."""
    target = (y + torch.randint(1, 10, y.shape, device=y.device)) % 10
    model.eval()
    start = Linf(EPS).project(x + torch.empty_like(x).uniform_(-EPS, EPS), x).requires_grad_()
    (gradient,) = torch.autograd.grad(F.cross_entropy(model(start), target), start)
    x_adv = Linf(EPS).project(start.detach() - EPS * gradient.sign(), x)
    model.train()
    optimizer.zero_grad()
    logits = model(torch.cat((x, x_adv)))
    half = len(x)
    (0.5 * F.cross_entropy(logits[:half], y) + 0.5 * F.cross_entropy(logits[half:], y)).backward()
    optimizer.step()
