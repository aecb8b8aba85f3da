"""ResNets for images of 28 or 32 pixels: a 3x3 stem, no max-pool, four stages (He et al. 2016).

The paper's networks are the wide ones, 64-128-256-512, as in Zhang et al. 2019 (Lookahead). The small ones have three
stages and a strided stem, and train in minutes on a CPU.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from .convolutions import CHANNELS, Stem, Winograd


def conv3x3(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    kind = Winograd if stride == 1 and min(inputs, outputs) >= CHANNELS else nn.Conv2d
    return kind(inputs, outputs, 3, stride, padding=1, bias=False)


def shortcut(inputs: int, outputs: int, stride: int) -> nn.Module:
    """The identity where the shapes allow it, else a strided 1x1 convolution and its batch norm."""
    if stride == 1 and inputs == outputs:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions."""

    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int):
        super().__init__()
        self.conv1: nn.Conv2d = conv3x3(inputs, width, stride)
        self.bn1: nn.BatchNorm2d = nn.BatchNorm2d(width)
        self.conv2: nn.Conv2d = conv3x3(width, width)
        self.bn2: nn.BatchNorm2d = nn.BatchNorm2d(width)
        self.shortcut: nn.Module = shortcut(inputs, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return F.relu(self.bn2(self.conv2(out)) + self.shortcut(x), inplace=True)


class Bottleneck(nn.Module):
    """1x1, 3x3 (strided) and 1x1 convolutions, four times as wide at the end."""

    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int):
        super().__init__()
        self.conv1: nn.Conv2d = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1: nn.BatchNorm2d = nn.BatchNorm2d(width)
        self.conv2: nn.Conv2d = conv3x3(width, width, stride)
        self.bn2: nn.BatchNorm2d = nn.BatchNorm2d(width)
        self.conv3: nn.Conv2d = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3: nn.BatchNorm2d = nn.BatchNorm2d(4 * width)
        self.shortcut: nn.Module = shortcut(inputs, 4 * width, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = F.relu(self.bn2(self.conv2(out)), inplace=True)
        return F.relu(self.bn3(self.conv3(out)) + self.shortcut(x), inplace=True)


class ResNet(nn.Module):
    """Images (N, in_channels, H, W), normalised, to logits (N, num_classes).

    Args:
        block: ``BasicBlock`` or ``Bottleneck``.
        depths: blocks in each stage; every stage but the first halves the image.
        widths: channels in each stage, before the block's expansion.
        num_classes, in_channels: of the data set.
        stem_stride: 2 halves the image at once, for small machines.
    """

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        depths: Sequence[int],
        widths: Sequence[int],
        num_classes: int = 10,
        in_channels: int = 3,
        stem_stride: int = 1,
    ):
        super().__init__()
        self.conv1: nn.Conv2d = Stem(in_channels, widths[0], 3, stem_stride, padding=1, bias=False)
        self.bn1: nn.BatchNorm2d = nn.BatchNorm2d(widths[0])
        stages, channels = [], widths[0]
        for i, (depth, width) in enumerate(zip(depths, widths, strict=True)):
            blocks = []
            for j in range(depth):
                blocks.append(block(channels, width, stride=2 if i > 0 and j == 0 else 1))
                channels = width * block.expansion
            stages.append(nn.Sequential(*blocks))
        self.stages: nn.Sequential = nn.Sequential(*stages)
        self.linear: nn.Linear = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        out = self.stages(F.relu(self.bn1(self.conv1(x)), inplace=True))
        return self.linear(out.mean((2, 3)))


def resnet18(num_classes: int = 10, in_channels: int = 3) -> ResNet:
    """The paper's RN-18: 11,173,962 parameters for 3 channels and 10 classes."""
    return ResNet(BasicBlock, (2, 2, 2, 2), (64, 128, 256, 512), num_classes, in_channels)


def resnet50(num_classes: int = 10, in_channels: int = 3) -> ResNet:
    """The paper's RN-50: 23,520,842 parameters for 3 channels and 10 classes."""
    return ResNet(Bottleneck, (3, 4, 6, 3), (64, 128, 256, 512), num_classes, in_channels)


def resnet_tiny(num_classes: int = 10, in_channels: int = 3) -> ResNet:
    """16-32-64 channels, one block per stage, 78 thousand parameters: thousands of images per second on two cores."""
    return ResNet(BasicBlock, (1, 1, 1), (16, 32, 64), num_classes, in_channels, stem_stride=2)


def resnet_small(num_classes: int = 10, in_channels: int = 3) -> ResNet:
    """32-64-128 channels, one block per stage, 308 thousand parameters."""
    return ResNet(BasicBlock, (1, 1, 1), (32, 64, 128), num_classes, in_channels, stem_stride=2)
