"""Images that no l-infinity perturbation within eps can get misclassified, proven by linear bounds (CROWN).

Attacks give upper bounds of robust accuracy; this gives a lower one. Each ReLU is held between two straight lines that
fit the interval of its input (Zhang et al., "Efficient Neural Network Robustness Certification with General Activation
Functions", NeurIPS 2018); the margin's lower bound is then a linear function of the image, whose minimum over the box
is known. The intervals of a layer's inputs are found by the same bounds, layer by layer, for those neurons whose sign
plain interval arithmetic leaves open.

It is for the ResNets of this package, and small ones: it takes a backward pass per open neuron. resnet_tiny takes about
5 seconds of one core per image and eps.
"""

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..models.registry import Normalise
from ..models.resnet import BasicBlock, Bottleneck, ResNet
from ..modes import copied
from ..perturb.pgd import check_images

SLACK = 1e-4
"""What a bound has to exceed to be a proof: bounds are in float64, and not rounded outwards; the network itself is in
float32, whose rounding moves its logits by less."""
ROWS = 256  # neurons bounded at a time


@torch.no_grad()
def margin_bounds(model: nn.Module, x: Tensor, y: Tensor, eps: float) -> Tensor:
    """(N,) float64: no image within ``eps`` of ``x``, in [0, 1], has a smaller lead of ``y`` over the next class.

    An image is proven robust where that is more than :data:`SLACK`. A smaller one says nothing: the bound may be loose.

    Args:
        model: one of the package's ResNets, as :func:`easybn.models.build` makes them, for its images; on any device.
        x: images in [0, 1], (N, C, H, W).
        y: true classes, int64, (N,).
        eps: the l-infinity radius, in [0, 1].

    Raises:
        TypeError: another network.
        ValueError: images or labels that do not fit, an eps outside [0, 1].
    """
    check_images(x, y)
    if not 0 <= eps <= 1:
        raise ValueError(f"eps must be in [0, 1], got {eps}")
    layers = _Layers.of(copied(model).double().eval().requires_grad_(False))
    pairs = zip(x.double(), y.tolist(), strict=True)
    return torch.stack([_margin_bound(layers, image[None], label, eps) for image, label in pairs])


class Box(NamedTuple):
    """All tensors whose entries differ from ``centre`` by at most ``radius``."""

    centre: Tensor
    radius: Tensor

    @property
    def low(self) -> Tensor:
        """The smallest entries."""
        return self.centre - self.radius

    @property
    def high(self) -> Tensor:
        """The largest entries."""
        return self.centre + self.radius

    @classmethod
    def between(cls, low: Tensor, high: Tensor) -> "Box":
        """The smallest box that has both corners."""
        return cls((low + high) / 2, (high - low) / 2)

    def open(self) -> Tensor:
        """Bool: entries that may be of either sign."""
        return (self.low < 0) & (self.high > 0)


S = TypeVar("S", Tensor, Box)


class _Layers:
    """A ResNet as affine parts with ReLUs between them, and of each part the copy that makes radii of radii."""

    def __init__(self, normalise: Normalise, net: ResNet):
        self.stem = nn.Sequential(normalise, net.conv1, net.bn1)
        self.blocks: list[tuple[list[nn.Sequential], nn.Sequential]] = []
        for block in (block for stage in net.stages.children() for block in stage.children()):
            assert isinstance(block, (BasicBlock, Bottleneck))
            self.blocks.append((_parts(block), nn.Sequential(block.shortcut)))
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), net.linear)
        affine: list[nn.Module] = [self.stem, self.head]
        for parts, shortcut in self.blocks:
            affine += [*parts, shortcut]
        self.magnitude = {part: _magnitude(part) for part in affine}

    @classmethod
    def of(cls, model: nn.Module) -> "_Layers":
        children = list(model.children())
        if [type(child) for child in children] != [Normalise, ResNet]:
            raise TypeError(f"bounds are for the package's ResNets (easybn.models.build), got a {type(model).__name__}")
        return cls(*children)  # type: ignore[arg-type]

    def forward(self, h: S, affine: Callable[[nn.Module, S], S], relu: Callable[[S], S], add: Callable[[S, S], S]) -> S:
        """From images to logits, of whatever kind ``h`` is."""
        h = relu(affine(self.stem, h))
        for (first, *others), shortcut in self.blocks:
            out = affine(first, h)
            for part in others:
                out = affine(part, relu(out))
            h = relu(add(out, affine(shortcut, h)))
        return affine(self.head, h)

    def boxes(self, images: Box, known: list[Box]) -> list[Box]:
        """The inputs of each ReLU, by interval arithmetic from the last of ``known`` on."""
        found: list[Box] = []

        def affine(part: nn.Module, h: Box) -> Box:
            return Box(part(h.centre), self.magnitude[part](h.radius))

        def relu(h: Box) -> Box:
            found.append(known[len(found)] if len(found) < len(known) else h)
            return Box.between(found[-1].low.clamp(min=0), found[-1].high.clamp(min=0))

        self.forward(images, affine, relu, lambda a, b: Box(a.centre + b.centre, a.radius + b.radius))
        return found


def _parts(block: BasicBlock | Bottleneck) -> list[nn.Sequential]:
    pairs = [(block.conv1, block.bn1), (block.conv2, block.bn2)]
    if isinstance(block, Bottleneck):
        pairs.append((block.conv3, block.bn3))
    return [nn.Sequential(*pair) for pair in pairs]


def _magnitude(part: nn.Module) -> nn.Module:
    """The affine map with the absolute values of the weights and no offset: what it makes of a box's radius."""
    part = copied(part)
    for module in part.modules():
        if isinstance(module, Normalise):
            module.mean.zero_()
        if isinstance(module, _BatchNorm):
            module.running_mean.zero_()  # type: ignore[union-attr]
        if isinstance(module, (nn.Conv2d, nn.Linear, _BatchNorm)):
            module.weight.abs_()
            if module.bias is not None:
                module.bias.zero_()
    return part


def _margin_bound(layers: _Layers, x: Tensor, y: int, eps: float) -> Tensor:
    """() of one image (1, C, H, W)."""
    images = Box.between((x - eps).clamp(min=0), (x + eps).clamp(max=1))
    known = layers.boxes(images, [])[:1]  # exact: the first is affine
    for number in range(1, len(layers.boxes(images, known))):
        box = layers.boxes(images, known)[number]
        low, high = box.low.flatten(), box.high.flatten()
        entries = box.open().flatten().nonzero()[:, 0]
        for some in torch.split(entries, ROWS // 2) if len(entries) else ():
            one = torch.zeros(len(some), len(low), dtype=x.dtype, device=x.device)
            one[torch.arange(len(some)), some] = 1
            below, above = _lower_bounds(layers, images, known, torch.cat((one, -one))).view(2, -1)
            low[some], high[some] = torch.maximum(low[some], below), torch.minimum(high[some], -above)
        known.append(Box.between(low.view_as(box.low), torch.maximum(low, high).view_as(box.low)))
    classes = layers.head[-1].out_features
    assert isinstance(classes, int)
    leads = -torch.eye(classes, dtype=x.dtype, device=x.device)
    leads[:, y] += 1  # of y over each class; over itself it is 0
    others = torch.arange(classes, device=x.device) != y
    return _lower_bounds(layers, images, known, leads[others]).min()


class _Reached(Exception):
    """The layer whose inputs are to be bounded."""

    def __init__(self, inputs: Tensor):
        self.inputs = inputs


@torch.enable_grad()
def _lower_bounds(layers: _Layers, images: Box, known: list[Box], rows: Tensor) -> Tensor:
    """(R,) lower bounds of ``rows`` (R, entries) times the inputs of the ReLU after those in ``known``, or the logits.

    Backpropagation with each ReLU's lines for its derivative gives the coefficients of the image, affine layers and
    sums by autograd. What is added to them is the value of the product at the centre less that of the coefficients,
    corrected where a ReLU is not on its line.
    """
    point = images.centre.expand(len(rows), *images.centre.shape[1:]).clone().requires_grad_()
    corrections: list[Tensor] = []
    passed = 0

    def relu(h: Tensor) -> Tensor:
        nonlocal passed
        if passed == len(known):
            raise _Reached(h)
        passed += 1
        return _Lines.apply(h, known[passed - 1].low, known[passed - 1].high, corrections)

    try:
        out = layers.forward(point, lambda part, h: part(h), relu, torch.add)
    except _Reached as reached:
        out = reached.inputs
    weights = rows.view_as(out)
    (coefficients,) = torch.autograd.grad(out, point, weights)
    centre = (weights * out.detach()).flatten(1).sum(1)
    spread = (coefficients.abs() * images.radius).flatten(1).sum(1)
    return centre - spread + sum(corrections, torch.zeros_like(centre))


class _Lines(torch.autograd.Function):
    """ReLU forward; backward the line below it for positive coefficients, the one above for negative ones."""

    @staticmethod
    def forward(ctx, h: Tensor, low: Tensor, high: Tensor, corrections: list[Tensor]) -> Tensor:  # type: ignore[no-untyped-def]
        out = h.clamp(min=0)
        ctx.save_for_backward(h, out, low, high)
        ctx.corrections = corrections
        return out

    @staticmethod
    def backward(ctx, coefficients: Tensor) -> tuple[Tensor, None, None, None]:  # type: ignore[no-untyped-def]
        h, out, low, high = ctx.saved_tensors
        fixed = (low >= 0).to(h)  # the identity, or zero
        both = (low < 0) & (high > 0)
        above = torch.where(both, high / (high - low).where(both, 1), fixed)  # from (low, 0) to (high, high)
        below = torch.where(both, (high > -low).to(h), fixed)  # 0 or h, whichever is nearer on the whole
        positive, negative = coefficients.clamp(min=0), coefficients.clamp(max=0)
        through = positive * below + negative * above
        offset = negative * torch.where(both, -above * low, 0)
        ctx.corrections.append((through * h - coefficients * out + offset).flatten(1).sum(1))
        return through, None, None, None
