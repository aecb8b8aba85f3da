"""The number of threads is OMP_NUM_THREADS, else 1: the suite runs in parallel, and a machine's cores are no setting."""

import os

import pytest
import torch
import torch.nn.functional as F
from hypothesis import settings
from torch import Tensor, nn

from easybn.data import load

# commands that a test starts as processes of their own use as many
torch.set_num_threads(int(os.environ.setdefault("OMP_NUM_THREADS", "1")))
settings.register_profile("easybn", deadline=None, max_examples=40)
settings.load_profile("easybn")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def trained() -> tuple[nn.Module, Tensor, Tensor]:
    """A small CNN after a few seconds on the bundled sample, and 200 of its test images."""
    torch.manual_seed(0)
    source = load("sample")
    net = nn.Sequential(
        nn.Conv2d(1, 8, 5, stride=2, padding=2),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16 * 49, 10),
    )
    x, y = source.train.images.float() / 255, source.train.labels
    optimiser = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    for epoch in range(3):
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(epoch))
        for rows in order.split(100):
            optimiser.zero_grad()
            F.cross_entropy(net(x[rows]), y[rows]).backward()
            optimiser.step()
    rows = torch.arange(0, 1000, 5)
    return net.eval(), source.test.images[rows].float() / 255, source.test.labels[rows]
