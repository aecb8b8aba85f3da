"""Winograd's convolution against torch's own, in float64."""

import copy

import pytest
import torch
from torch import nn

from easybn.attacks.surrogate import SurrogateOptions, make_surrogate
from easybn.models import build
from easybn.models import convolutions as winograd
from easybn.models.convolutions import Thresholds, Winograd, training_channels, winograd_from
from easybn.norm.fold import folded


@pytest.fixture(autouse=True)
def however_small(monkeypatch):
    """Used for small convolutions too, which are quick to test."""
    monkeypatch.setattr(winograd, "CHANNELS", 0)
    monkeypatch.setattr(winograd, "_this_processor", lambda: Thresholds(0, 0, 1))
    monkeypatch.setattr(winograd, "TILES", 1)


def both(*args, **options):
    ours = Winograd(*args, **options).double()
    theirs = nn.Conv2d(*args, **options).double()
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


def gradients(layer, x):
    layer = copy.deepcopy(layer)
    x = x.clone().requires_grad_()
    out = layer(x)
    out.sin().sum().backward()  # a gradient that differs from place to place
    return out.detach(), x.grad, *[p.grad for p in layer.parameters()]


def applied(monkeypatch):
    """How often the algorithm is used from now on."""
    calls = []
    tiles = winograd.to_tiles
    monkeypatch.setattr(winograd, "to_tiles", lambda *args: calls.append(args) or tiles(*args))
    return calls


@pytest.mark.parametrize(("inputs", "outputs"), [(3, 5), (4, 1)])
@pytest.mark.parametrize("padding", [0, 1, 2])
@pytest.mark.parametrize("size", [(8, 8), (4, 4), (7, 14), (5, 6), (3, 9)])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_it_is_the_usual_convolution(inputs, outputs, padding, size, bias, layout, monkeypatch):
    ours, theirs = both(inputs, outputs, 3, padding=padding, bias=bias)
    x = torch.rand(2, inputs, *size, dtype=torch.double).contiguous(memory_format=layout)
    calls = applied(monkeypatch)
    for mine, its in zip(gradients(ours, x), gradients(theirs, x), strict=True):
        torch.testing.assert_close(mine, its, rtol=1e-11, atol=1e-11)
    assert calls


def test_many_images_are_computed_a_part_at_a_time(monkeypatch):
    ours, theirs = both(3, 4, 3, padding=1)
    x = torch.rand(11, 3, 8, 8, dtype=torch.double)
    monkeypatch.setattr(winograd, "MOST_TILES", 16)  # four images of four tiles
    calls = applied(monkeypatch)
    for mine, its in zip(gradients(ours, x), gradients(theirs, x), strict=True):
        torch.testing.assert_close(mine, its, rtol=1e-11, atol=1e-11)
    assert {len(images) for images, _ in calls} == {4, 3}


@pytest.mark.parametrize("padding", [0, 1, 2])
@pytest.mark.parametrize("most", [1, 512])
def test_with_a_precomputed_weight(padding, most, monkeypatch):
    monkeypatch.setattr(winograd, "TILES", 10**9)
    monkeypatch.setattr(winograd, "MOST_TILES", most)
    ours, theirs = both(3, 5, 3, padding=padding)
    x = torch.rand(2, 3, 7, 6, dtype=torch.double)
    calls = applied(monkeypatch)
    ours(x)
    assert not calls  # before, such a batch would be too small
    ours.precompute()
    for mine, its in zip(gradients(ours, x), gradients(theirs, x), strict=True):
        torch.testing.assert_close(mine, its, rtol=1e-11, atol=1e-11)
    assert calls


def test_many_gradients_at_once_with_a_precomputed_weight(monkeypatch):
    ours, theirs = both(3, 5, 3, padding=1)
    ours.precompute()
    x = torch.rand(2, 3, 8, 8, dtype=torch.double, requires_grad=True)
    outside = torch.rand(4, 2, 5, 8, 8, dtype=torch.double)
    mine, its = (torch.autograd.grad(layer(x), x, outside, is_grads_batched=True)[0] for layer in (ours, theirs))
    torch.testing.assert_close(mine, its)


def test_in_float32_the_error_is_a_few_of_its_last_digits(monkeypatch):
    ours, theirs = both(256, 256, 3, padding=1, bias=False)
    x = torch.randn(4, 256, 8, 8, dtype=torch.double)
    calls = applied(monkeypatch)
    for mine, its in zip(gradients(ours.float(), x.float()), gradients(theirs, x), strict=True):
        assert (mine - its).norm() < 1e-5 * its.norm()
    assert calls


def test_the_gradient_can_be_differentiated_again():
    ours, _ = both(2, 3, 3, padding=1, bias=False)
    x = torch.rand(2, 2, 5, 4, dtype=torch.double, requires_grad=True)

    def call(x, weight):
        return torch.func.functional_call(ours, {"weight": weight}, x)

    assert torch.autograd.gradcheck(call, (x, ours.weight))
    assert torch.autograd.gradgradcheck(call, (x, ours.weight))


def test_gradients_of_each_image_by_vmap():  # of one image each, where it is not used
    ours, theirs = both(3, 2, 3, padding=1, bias=False)

    def by_image(layer):
        def loss(w, x):
            return torch.func.functional_call(layer, {"weight": w}, x[None]).sin().sum()

        return torch.func.vmap(torch.func.grad(loss, argnums=(0, 1)), in_dims=(None, 0))(layer.weight, x)

    x = torch.rand(3, 3, 6, 6, dtype=torch.double)
    for mine, its in zip(by_image(ours), by_image(theirs), strict=True):
        torch.testing.assert_close(mine, its)


def test_several_models_by_vmap():
    ours, theirs = both(3, 2, 3, padding=1, bias=False)
    x, weights = torch.rand(4, 3, 6, 6, dtype=torch.double), torch.rand(2, 2, 3, 3, 3, dtype=torch.double)

    def by_model(layer):
        return torch.func.vmap(lambda w: torch.func.functional_call(layer, {"weight": w}, x))(weights)

    torch.testing.assert_close(by_model(ours), by_model(theirs))


@pytest.mark.parametrize("size", [4, 7, 8])
def test_output_and_gradient_are_channels_last(size):
    ours, _ = both(4, 6, 3, padding=1)
    x = torch.rand(2, 4, size, size, dtype=torch.double).contiguous(memory_format=torch.channels_last).requires_grad_()
    out = ours(x)
    assert out.is_contiguous(memory_format=torch.channels_last)
    assert torch.autograd.grad(out.sum(), x)[0].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    "options",
    [
        {"stride": 2},
        {"dilation": 2},
        {"padding": "same"},
        {"padding": 3},
        {"padding": 1, "padding_mode": "reflect"},
        {"groups": 2},
    ],
)
def test_what_it_is_not_made_for_is_left_to_the_usual_convolution(options, monkeypatch):
    ours, theirs = both(2, 4, 3, **options)
    x = torch.rand(2, 2, 9, 9, dtype=torch.double)
    calls = applied(monkeypatch)
    for mine, its in zip(gradients(ours, x), gradients(theirs, x), strict=True):
        assert torch.equal(mine, its)
    assert not calls


@pytest.mark.parametrize(
    ("channels", "images", "size", "used"),
    [(96, 3, 16, True), (64, 3, 16, False), (96, 2, 16, False), (96, 9, 14, False), (128, 9, 14, True)],
)
def test_it_is_used_where_it_pays(channels, images, size, used, monkeypatch):
    monkeypatch.undo()
    processor(monkeypatch, "AVX2")
    calls = applied(monkeypatch)
    Winograd(channels, channels, 3, padding=1)(torch.rand(images, channels, size, size))
    assert bool(calls) == used


def processor(monkeypatch, capability, allowed=None):
    """Let torch say that this processor has the instructions ``capability``, and oneDNN be held to ``allowed``."""
    monkeypatch.delenv("DNNL_MAX_CPU_ISA", raising=False)
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    if allowed is not None:
        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", allowed)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(winograd, "_this_processor", winograd._this_processor.__wrapped__)


@pytest.mark.parametrize(
    ("capability", "allowed", "expected"),
    [
        ("AVX512", None, winograd.WITH_AVX512),
        ("AVX512", "ALL", winograd.WITH_AVX512),
        ("AVX512", "AVX512_CORE_VNNI", winograd.WITH_AVX512),
        ("AVX512", "AVX2", winograd.WITHOUT_AVX512),
        ("AVX512", "sse41", winograd.WITHOUT_AVX512),
        ("AVX2", None, winograd.WITHOUT_AVX512),
        ("DEFAULT", "ALL", winograd.WITHOUT_AVX512),
    ],
)
def test_the_threshold_follows_the_instruction_set(capability, allowed, expected, monkeypatch):
    monkeypatch.undo()
    processor(monkeypatch, capability, allowed)
    assert training_channels() == expected.training
    calls = applied(monkeypatch)
    for channels in sorted({64, *winograd.WITH_AVX512[:2], *winograd.WITHOUT_AVX512[:2]}):
        x, layer = torch.rand(16, channels, 8, 8), Winograd(channels, channels, 3, padding=1)
        layer(x)
        assert bool(calls) == (channels >= expected.training)
        calls.clear()
        layer.precompute()
        layer(x)
        assert bool(calls) == (channels >= expected.fixed)
        calls.clear()


def test_a_recorded_threshold_replaces_the_processors_own_while_training(monkeypatch):
    monkeypatch.undo()
    processor(monkeypatch, "AVX512")
    x, layer, calls = torch.rand(4, 96, 16, 16), Winograd(96, 96, 3, padding=1), applied(monkeypatch)
    layer(x)
    assert not calls
    with winograd_from(96):
        layer(x)
        assert training_channels() == 96
        with winograd_from(None):
            assert training_channels() == winograd.WITH_AVX512.training
    assert len(calls) == 1
    assert training_channels() == winograd.WITH_AVX512.training


def test_it_is_never_used_on_another_device(monkeypatch):
    calls = applied(monkeypatch)
    layer = Winograd(4, 4, 3, padding=1).to("meta")
    assert layer(torch.rand(8, 4, 8, 8, device="meta")).shape == (8, 4, 8, 8)
    assert not calls
    layer = Winograd(4, 4, 3, padding=1)
    layer(torch.rand(8, 4, 8, 8))
    assert calls  # but on this one


def test_too_small_an_image_is_torchs_error():
    with pytest.raises(RuntimeError, match=r"(?i)kernel size"):
        Winograd(4, 4, 3)(torch.rand(1, 4, 2, 2))


def test_under_autocast_it_computes_in_bfloat16():
    layer = Winograd(4, 4, 3, padding=1)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(torch.rand(2, 4, 8, 8)).dtype == torch.bfloat16


def test_the_papers_networks_use_it_and_their_norms_fold_into_it():
    model = build("resnet18").eval()
    assert sum(isinstance(module, Winograd) for module in model.modules()) == 9
    found = folded(model, torch.rand(2, 3, 32, 32))
    assert found.folded == found.norms == 20


def test_a_copy_to_attack_keeps_the_transformed_weights_of_any_models_convolutions(monkeypatch):
    """Those with the channels for it on this processor; the text is the same on all, for they may share a store."""
    monkeypatch.undo()
    monkeypatch.setattr(winograd, "_this_processor", lambda: Thresholds(10**6, 128, 1))
    wide, narrow = nn.Conv2d(128, 128, 3, padding=1), nn.Conv2d(128, 96, 3, padding=1)
    model = nn.Sequential(nn.Sequential(wide, nn.ReLU(), wide), narrow, nn.Flatten(), nn.Linear(96 * 64, 3)).eval()
    surrogate, _ = make_surrogate(model.requires_grad_(False), torch.rand(2, 128, 8, 8), SurrogateOptions())
    assert "2 convolutions by Winograd's algorithm" in surrogate.preparation
    inner = surrogate.call[0]
    assert inner[0].precomputed.shape == (36, 128, 128)
    assert inner[0] is inner[2]  # one layer in two places stays one
    assert type(surrogate.call[1]) is nn.Conv2d
    assert [type(layer) for layer in model.modules() if isinstance(layer, nn.Conv2d)] == [nn.Conv2d] * 2


def test_a_layer_with_a_hook_is_left_as_it_is(monkeypatch):
    layer = nn.Conv2d(4, 4, 3, padding=1)
    layer.register_forward_hook(lambda module, args, out: 2 * out)
    x = torch.rand(8, 4, 8, 8)
    model, count = winograd.with_winograd(nn.Sequential(layer))
    assert (model[0], count) == (layer, 0)
    single, count = winograd.with_winograd(nn.Conv2d(4, 4, 3, padding=1))
    assert (type(single), count) == (Winograd, 1)
    assert single(x).shape == (8, 4, 8, 8)
