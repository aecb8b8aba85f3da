"""A small network and images for it, fast enough for attacks in tests."""

import torch
from torch import Tensor, nn


def small_net(channels: int = 3, classes: int = 4, seed: int = 0, width: int = 6) -> nn.Sequential:
    """A convolution, a batch norm with statistics of its own and a linear layer, for images of 8 x 8."""
    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.Conv2d(channels, width, 3, stride=2, padding=1),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(width * 16, classes),
    )
    net[1].running_mean.normal_(0, 0.3)
    net[1].running_var.uniform_(0.3, 1.0)
    with torch.no_grad():  # every class is predicted of some random images
        logits = net.eval()(small_images(256, channels, seed=99))
        net[4].bias -= logits.mean(0)
        net[4].weight.div_(logits.std())
        net[4].bias.div_(logits.std())
    return net


def small_images(n: int, channels: int = 3, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.rand(n, channels, 8, 8, generator=torch.Generator().manual_seed(seed), dtype=dtype)
