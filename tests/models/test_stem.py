"""The first convolution against torch's own, in float64."""

import copy

import pytest
import torch
from torch import nn

from easybn.models.convolutions import Stem


def both(*args, **options):
    ours = Stem(*args, **options).double()
    theirs = nn.Conv2d(*args, **options).double()
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


def gradients(layer, x, needs_x=True):
    layer = copy.deepcopy(layer)
    x = x.clone().requires_grad_(needs_x)
    out = layer(x)
    out.sin().sum().backward()  # a gradient that differs from place to place
    return out.detach(), x.grad, *[p.grad for p in layer.parameters()]


@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "size"),
    [
        (3, 1, 1, (8, 8)),
        (3, 2, 1, (9, 6)),
        (3, 2, 1, (8, 8)),
        (5, 3, 2, (11, 7)),
        (1, 1, 0, (4, 4)),
        (2, 2, 0, (7, 5)),
        (3, 2, 0, (3, 3)),
    ],
)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_gradients_are_those_of_the_usual_convolution(channels, kernel, stride, padding, size, bias, layout):
    ours, theirs = both(channels, 4, kernel, stride, padding, bias=bias)
    x = torch.rand(3, channels, *size, dtype=torch.double).contiguous(memory_format=layout)
    for mine, its in zip(gradients(ours, x), gradients(theirs, x), strict=True):
        torch.testing.assert_close(mine, its, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_gradient_can_be_differentiated_again(channels):
    ours, _ = both(channels, 2, 3, 2, 1, bias=False)
    x = torch.rand(2, channels, 5, 6, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, w: torch.func.functional_call(ours, {"weight": w}, x), (x, ours.weight))
    assert torch.autograd.gradgradcheck(
        lambda x, w: torch.func.functional_call(ours, {"weight": w}, x), (x, ours.weight)
    )


@pytest.mark.parametrize("channels", [1, 3])
def test_gradients_of_each_image_by_vmap(channels):
    ours, theirs = both(channels, 2, 3, 1, 1, bias=False)

    def by_image(layer):
        def loss(w, x):
            return torch.func.functional_call(layer, {"weight": w}, x[None]).sin().sum()

        return torch.func.vmap(torch.func.grad(loss, argnums=(0, 1)), in_dims=(None, 0))(layer.weight, x)

    x = torch.rand(3, channels, 6, 6, dtype=torch.double)
    for mine, its in zip(by_image(ours), by_image(theirs), strict=True):
        torch.testing.assert_close(mine, its)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_output_of_one_channel_is_channels_last_too(channels):
    ours, _ = both(channels, 8, 3, 1, 1)
    ours = ours.to(memory_format=torch.channels_last)
    x = torch.rand(2, channels, 8, 8, dtype=torch.double).contiguous(memory_format=torch.channels_last)
    assert ours(x).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    "options",
    [
        {"dilation": 2},
        {"padding": "same"},
        {"padding": 1, "padding_mode": "reflect"},
        {"stride": (1, 2)},
        {"groups": 2},
    ],
)
def test_what_it_is_not_made_for_is_left_to_the_usual_convolution(options):
    ours, theirs = both(2, 4, 3, **options)
    x = torch.rand(2, 2, 9, 9, dtype=torch.double)
    for mine, its in zip(gradients(ours, x), gradients(theirs, x), strict=True):
        assert torch.equal(mine, its)


def test_under_autocast_it_computes_in_bfloat16():
    layer = Stem(3, 4, 3, padding=1)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(torch.rand(2, 3, 8, 8)).dtype == torch.bfloat16
