"""Tiny data and models, one thread."""

import pytest
import torch
from torch import Tensor, nn

from easybn.models import resnet_tiny


@pytest.fixture
def images() -> tuple[Tensor, Tensor]:
    """96 random images, uint8 (96, 1, 8, 8), of 4 classes."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (96, 1, 8, 8), generator=generator, dtype=torch.uint8)
    return x, torch.randint(0, 4, (96,), generator=generator)


@pytest.fixture
def net() -> nn.Module:
    """A ResNet for grey images and 4 classes."""
    torch.manual_seed(0)
    return resnet_tiny(num_classes=4, in_channels=1)


@pytest.fixture
def small() -> nn.Module:
    """A convolution, a batch norm and a linear layer, for (N, 1, 8, 8) and 4 classes."""
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=2, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 4)
    )
