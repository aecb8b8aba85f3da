"""Small networks and images for them, fast enough for attacks in tests."""

from pathlib import Path

import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn

TRAINED = Path(__file__).with_name("trained.safetensors")


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


def untrained_net() -> nn.Sequential:
    """Two convolutions with batch norms and a linear layer, for the bundled sample."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 5, stride=2, padding=2),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16 * 49, 10),
    )


def trained_net() -> nn.Sequential:
    """:func:`untrained_net` as :func:`train` left it, in eval mode.

    The weights are kept in a file: a training carries every machine's rounding on, and ends in another network, whose
    few hundred verdicts would be others.
    """
    net = untrained_net()
    net.load_state_dict(safetensors.torch.load_file(TRAINED))
    return net.eval()


def train() -> None:
    """Train for a few seconds on the bundled sample, and write the file."""
    from easybn.data import load

    torch.manual_seed(0)
    source, net = load("sample"), untrained_net()
    x, y = source.train.images.float() / 255, source.train.labels
    optimiser = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    for epoch in range(3):
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(epoch))
        for rows in order.split(100):
            optimiser.zero_grad()
            F.cross_entropy(net(x[rows]), y[rows]).backward()
            optimiser.step()
    safetensors.torch.save_file(net.state_dict(), TRAINED)


if __name__ == "__main__":
    train()
