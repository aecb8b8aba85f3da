"""Models as people have them, called so that nothing of the caller's changes and the answer is checked."""

from collections import namedtuple
from dataclasses import dataclass
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from easybn.attacks.attack_mode import attack_mode
from easybn.attacks.losses import DLR, TargetedDLR
from easybn.attacks.model_call import ModelCall, ModelFailed, probe_call
from easybn.evaluation import evaluate as evaluate_and_diagnose
from easybn.models.outputs import BadLogits

from ..small import small_images, small_net

evaluate = partial(evaluate_and_diagnose, diagnosis=False)


class Model(nn.Module):
    """``run(inner, x)`` with a small network."""

    def __init__(self, run, inner=None):
        super().__init__()
        self.inner, self.run = inner or small_net(), run
        self.eval()

    def forward(self, x):
        return self.run(self.inner, x)


def zeroed(net, x):
    x[:, 0] = 0
    return net(x)


def doubled(net, x):
    x.data.mul_(2)
    return net(x)


IN_PLACE = {
    "normalise": (lambda net, x: net(x.sub_(0.5).div_(0.25)), lambda net, x: net((x - 0.5) / 0.25)),
    "relu": (lambda net, x: net(F.relu_(x)), lambda net, x: net(F.relu(x))),
    "clamp": (lambda net, x: net(x.clamp_(0.1, 0.9)), lambda net, x: net(x.clamp(0.1, 0.9))),
    "index": (zeroed, lambda net, x: net(x * torch.tensor([0.0, 1.0, 1.0]).view(3, 1, 1))),
    "data": (doubled, lambda net, x: net(2 * x)),
}


@pytest.mark.parametrize("kind", IN_PLACE)
@pytest.mark.parametrize(
    "how",
    [
        {"attacks": "pgd", "steps": 8},
        {"attacks": "pgd", "steps": 8, "protocol": "robustness"},
        {"attacks": "pgd", "steps": 8, "fold": False},
        {"attacks": "apgd-t"},
        {"attacks": "fab-t"},
    ],
    ids=str,
)
def test_a_model_that_writes_into_its_input_is_the_function_without(kind, how):
    x = small_images(16)
    kept = x.clone()
    in_place, pure = (Model(run) for run in IN_PLACE[kind])
    y = pure(x).argmax(1)
    found, expected = (evaluate(model, x, y, norm="linf", eps=0.03, **how) for model in (in_place, pure))
    assert torch.equal(x, kept)
    assert found.clean.all()
    assert torch.equal(found.robust, expected.robust)
    assert found.notes == expected.notes


def test_a_leaf_gets_its_gradient_through_a_model_that_writes():
    x = small_images(3).requires_grad_()
    with attack_mode(Model(IN_PLACE["normalise"][0]), probe=small_images(4)) as ready:
        for call in (ready, ready.original):
            (found,) = torch.autograd.grad(call(x).sum(), x)
            (expected,) = torch.autograd.grad(Model(IN_PLACE["normalise"][1])(x).sum(), x)
            torch.testing.assert_close(found, expected)


def viewing(net, x):
    return net[4](net[:3](x).view(len(x), -1))


class NoView(torch.autograd.Function):
    """The identity, whose backward pass wants a contiguous gradient."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient.view(-1).view(gradient.shape)


class Ravelled(torch.autograd.Function):
    """The numbers in the order in which they lie in memory."""

    @staticmethod
    def forward(ctx, x):
        ctx.strides, ctx.shape = x.stride(), x.shape
        return torch.as_strided(x, (x.numel(),), (1,)).clone().view(x.shape)

    @staticmethod
    def backward(ctx, gradient):
        return torch.as_strided(gradient.contiguous().view(-1), ctx.shape, ctx.strides)


@pytest.mark.parametrize(
    ("run", "why"),
    [
        (viewing, "view size is not compatible"),
        (lambda net, x: net(NoView.apply(x)), "view size is not compatible"),
        (lambda net, x: net(Ravelled.apply(x)), "their order in memory changes its logits"),
    ],
    ids=["view", "backward", "memory"],
)
@pytest.mark.parametrize("fold", [True, False])
def test_a_model_for_contiguous_images_gets_them(run, why, fold):
    x = small_images(12)
    model, plain = Model(run), Model(lambda net, x: net(x))
    y = plain(x).argmax(1)
    found, expected = (evaluate(m, x, y, norm="linf", eps=0.03, steps=8, fold=fold) for m in (model, plain))
    assert found.clean.all()
    assert torch.equal(found.robust, expected.robust)
    assert len(found.notes) == 1
    assert why in found.notes[0]
    assert not expected.notes


def test_a_copy_of_a_model_that_views_is_folded_too():
    for channels in (1, 3):
        model, images = Model(viewing, small_net(channels)), small_images(4, channels)
        with attack_mode(model, probe=images) as ready:
            assert ready.preparation.startswith("1 of 1 batch norms folded")
            torch.testing.assert_close(ready(images), model(images))


class Scaled(nn.Module):
    """A temperature of one type before a network of another."""

    def __init__(self, temperature: torch.dtype, network: torch.dtype):
        super().__init__()
        self.temperature = nn.Parameter(torch.tensor(2.0, dtype=temperature))
        self.network = small_net().to(network)
        self.eval()

    def forward(self, x):
        return self.network(x) * self.temperature


class FromBuffers(nn.Module):
    def __init__(self, dtype: torch.dtype):
        super().__init__()
        self.register_buffer("weight", torch.randn(192, 4, generator=torch.Generator().manual_seed(0)).to(dtype))

    def forward(self, x):
        return x.flatten(1) @ self.weight


@pytest.mark.parametrize(
    ("model", "dtype"),
    [
        (Scaled(torch.float64, torch.float32), torch.float32),
        (Scaled(torch.float32, torch.float64), torch.float64),
        (Scaled(torch.float16, torch.float32), torch.float32),
        (Scaled(torch.float32, torch.bfloat16), torch.bfloat16),
        (FromBuffers(torch.float32), torch.float32),
        (FromBuffers(torch.float64), torch.float64),
        (FromBuffers(torch.bfloat16), torch.bfloat16),
        (Model(lambda net, x: net(x.double()), small_net().double()), torch.float64),
        (Model(lambda net, x: torch.view_as_real(net(x) + 0j)[..., 0]), torch.float32),
    ],
    ids=lambda value: str(value) if isinstance(value, torch.dtype) else type(value).__name__,
)
def test_the_type_of_images_that_a_model_takes_is_found(model, dtype):
    x = small_images(8)
    y = model(x.to(dtype)).argmax(1)
    with attack_mode(model, probe=x) as ready:
        assert ready.dtype == dtype
        assert torch.equal(ready.original(ready.load(x)).argmax(1), y)
    assert evaluate(model, x, y, norm="linf", eps=1e-4, attacks="apgd-ce").clean.all()


@dataclass
class Output:
    logits: torch.Tensor


Named = namedtuple("Named", "out aux")


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda z: (z, z), r"tuple with 0 \(5, 4\), 1 \(5, 4\): name the one .*output=0, --output 0"),
        (lambda z: [z], r"list with 0 \(5, 4\): name it: output=0"),
        (lambda z: Named(z, 1), r"Named with 'out' \(5, 4\), 'aux' int: name it: output='out'"),
        (lambda z: {"out": z, "aux": z}, r"dict with 'out' \(5, 4\), 'aux' \(5, 4\)"),
        (Output, r"Output with 'logits' \(5, 4\): .*SelectOutput\(model, 'logits'\)"),
        (lambda z: None, "NoneType"),
        (lambda z: z.argmax(1), r"shape \(5,\)"),
        (lambda z: F.one_hot(z.argmax(1), 4), "does the model return classes"),
        (lambda z: z[:, :1], r"shape \(5, 1\): a model of two classes"),
        (lambda z: z[:, :, None, None], r"shape \(5, 4, 1, 1\): let the model return logits.flatten\(1\)"),
        (lambda z: z + 0j, "complex"),
    ],
)
def test_answers_that_are_no_logits_are_told_before_any_work(answer, said):
    for kind in (TypeError, ValueError):
        with pytest.raises(kind, match=said):
            evaluate(Model(lambda net, x: answer(net(x))), small_images(5), torch.zeros(5).long(), attacks="plus")


@pytest.mark.parametrize(
    ("run", "said"),
    [
        (lambda net, x: net(x[:, :1]), r"images of shape \(5, 3, 8, 8\) in float32: RuntimeError: Given groups=1"),
        (lambda net, x: net(x[:, :, :6]), r"\(5, 3, 8, 8\) in float32: RuntimeError: mat1 and mat2"),
        (lambda net, x: x.nothing, "AttributeError"),
        (lambda net, x: net(x).view(5, 4), r"images of shape \(1, 3, 8, 8\)"),
        (lambda net, x: net(x).squeeze(), r"got shape \(4,\): a squeeze"),
        (lambda net, x: net(x)[:, : 4 if len(x) > 1 else 3], "3 logits per image, and 4 before"),
    ],
    ids=["channels", "size", "mistake", "batch", "squeeze", "width"],
)
def test_models_that_fail_are_told_before_any_work(run, said):
    seen = []
    with pytest.raises(ValueError, match=said):
        evaluate(
            Model(run), small_images(5), torch.zeros(5).long(), attacks="apgd-ce", norm="linf", eps=0.01,
            progress=lambda done, total, what: seen.append(what),
        )  # fmt: skip
    assert not seen


@pytest.mark.parametrize(
    "run",
    [
        torch.no_grad()(lambda net, x: net(x)),
        lambda net, x: net(x).detach(),
        lambda net, x: torch.from_numpy(net(x).detach().numpy()),
        lambda net, x: F.one_hot(net(x).argmax(1), 4).float(),
        torch.inference_mode()(lambda net, x: net(x)),
    ],
    ids=["no_grad", "detach", "numpy", "one-hot", "inference"],
)
def test_without_a_gradient_square_runs_and_the_others_say_so(run):
    model, x = Model(run), small_images(6)
    y = model(x).argmax(1).clone()
    for attacks in ("apgd-ce", "standard", "pgd", "rand"):
        with pytest.raises(ValueError, match=r"no gradient with respect to its images .*--attacks square"):
            evaluate(model, x, y, attacks=attacks)
    with pytest.raises(ValueError, match="pgd cannot do without"):
        evaluate(model, x, y, protocol="robustness")
    assert evaluate(model, x, y, attacks="clean").clean.all()
    # within l-infinity 1 every image is another one
    assert not evaluate(model, x, y, norm="linf", eps=1.0, attacks="square").robust.any()


def test_masks_are_infinite_and_a_networks_own_logits_stay():
    rows = torch.tensor([[1.0, -2.0, -torch.inf], [1.0, -2.0, -1e9], [1.0, -2.0, -3e38], [1e6, -3e8, -2e8]])
    found = ModelCall()(lambda x: rows, torch.rand(4, 2))
    assert found.isneginf().tolist() == [[False, False, True]] * 3 + [[False] * 3]
    assert torch.equal(found[:, :2], rows[:, :2])
    half = torch.tensor([[100.0, -100.0, -65504.0]], dtype=torch.float16)
    assert ModelCall()(lambda x: half, torch.rand(1, 2)).isneginf().tolist() == [[False, False, True]]


@pytest.mark.parametrize("loss", [DLR(), TargetedDLR()], ids=["dlr", "t"])
@pytest.mark.parametrize("classes", [2, 3, 4, 6])
def test_losses_go_over_the_classes_that_are_not_masked(loss, classes):
    """Value and gradient are those of the logits without the masked classes."""
    torch.manual_seed(0)
    z, y = torch.randn(20, classes, dtype=torch.float64), torch.arange(20) % classes
    target = (y + 1) % classes
    sliced, whole = z.clone().requires_grad_(), z.clone().requires_grad_()
    masked = torch.cat((whole, torch.full((20, 3), -torch.inf, dtype=torch.float64)), 1)
    expected, found = loss.ascent(sliced, y, target), loss.ascent(masked, y, target)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-11)
    (wanted,) = torch.autograd.grad(expected.sum(), sliced)
    (got,) = torch.autograd.grad(found.sum(), whole)
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-9)


def test_the_callers_random_numbers_are_not_drawn():
    model = Model(lambda net, x: net(x) + torch.randn(len(x), 4))
    state = torch.get_rng_state()
    probe_call(model, small_images(3))
    assert torch.equal(state, torch.get_rng_state())


def test_errors_are_of_the_kinds_that_callers_catch():
    assert issubclass(BadLogits, (TypeError, ValueError))
    assert issubclass(ModelFailed, RuntimeError)
