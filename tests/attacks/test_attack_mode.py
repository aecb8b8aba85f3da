import copy

import pytest
import torch
from torch import nn

from easybn import convert, route
from easybn.attacks import surrogate as surrogate_module
from easybn.attacks.attack_mode import attack_mode
from easybn.evaluation import evaluate
from easybn.norm.fold import Folded, folded

from ..small import small_images, small_net


class Interrupted(Exception):
    pass


def _interrupt(done: int, total: int, what: str) -> None:
    if what != "clean":
        raise Interrupted


def _fingerprint(model: nn.Module):
    return (
        [module.training for module in model.modules()],
        [parameter.requires_grad for parameter in model.parameters()],
        [None if p.grad is None else p.grad.clone() for p in model.parameters()],
        copy.deepcopy(model.state_dict()),
    )


def _same(a, b) -> bool:
    return (
        a[0] == b[0]
        and a[1] == b[1]
        and all((g is None and h is None) or torch.equal(g, h) for g, h in zip(a[2], b[2], strict=True))
        and all(torch.equal(a[3][k], b[3][k]) for k in a[3] | b[3])
    )


def _awkward() -> nn.Module:
    """In train mode but for one module, one parameter frozen, one with a gradient."""
    model = small_net().train()
    model[1].training = False
    model[0].weight.requires_grad_(False)
    model[4].bias.grad = torch.ones_like(model[4].bias)
    return model


@pytest.mark.parametrize("protocol", ["strong", "robustness"])
@pytest.mark.parametrize("progress", [None, _interrupt])
def test_the_model_comes_back_as_it_was(protocol, progress):
    model, x = _awkward(), small_images(12)
    before = _fingerprint(model)
    y = copy.deepcopy(model).eval()(x).argmax(1)
    if progress is None:
        evaluate(model, x, y, steps=4, protocol=protocol)
    else:
        with pytest.raises(Interrupted):
            evaluate(model, x, y, steps=4, protocol=protocol, progress=progress)
    assert _same(before, _fingerprint(model))


def test_inside_it_is_in_eval_mode_without_weight_gradients():
    model = _awkward()
    with attack_mode(model) as ready:
        assert not any(module.training for module in model.modules())
        assert not any(parameter.requires_grad for parameter in model.parameters())
        assert ready.model is model
        logits = ready(ready.load(small_images(3)).requires_grad_())
    assert logits.requires_grad


def test_train_mode_is_noted_and_evaluated_in_eval_mode():
    x = small_images(30)
    model = small_net()
    y = model(x).argmax(1)
    still, moving = (evaluate(each, x, y, steps=3, diagnosis=False) for each in (copy.deepcopy(model), model.train()))
    assert not still.notes
    assert "train mode (6 of 6 modules)" in moving.notes[0]
    assert torch.equal(still.robust, moving.robust)
    assert moving.clean.all()


def test_branches_are_noted_and_the_active_one_is_evaluated():
    x, model = small_images(30), convert(small_net())
    model[1].norms["easy"].bias.data.uniform_(-3, 3)
    with route(model, "easy"):
        y = model(x).argmax(1)
        easy = evaluate(model, x, y, attacks="clean")
    main = evaluate(model, x, y, attacks="clean")
    assert easy.clean_accuracy == 1 > main.clean_accuracy
    assert "evaluated through 'easy'" in easy.notes[0]
    assert "evaluated through 'main'" in main.notes[0]


def test_batch_norms_without_statistics_are_noted():
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(192, track_running_stats=False), nn.Linear(192, 3))
    notes = evaluate(model.eval(), small_images(5), torch.arange(5) % 3, attacks="clean").notes
    assert "no running statistics" in notes[0]


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_works_where_the_caller_has_switched_gradients_off(context):
    model = small_net()
    x = small_images(20)
    y = model(x).argmax(1)
    expected = evaluate(model, x, y, eps=0.3, steps=10).robust
    assert 0 < int(expected.sum()) < 20
    with context():
        assert torch.equal(evaluate(model, x.clone(), y.clone(), eps=0.3, steps=10).robust, expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_model_sees_its_own_type(dtype):
    model = small_net().to(dtype)
    x = small_images(10)
    with attack_mode(model) as ready:
        assert ready(ready.load(x)).dtype == dtype
        assert ready.load(x).dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        assert ready.load(x).is_contiguous(memory_format=torch.channels_last)
    result = evaluate(model, x, torch.arange(10) % 4, eps=0.5, steps=3, keep_images=True)
    assert result.images.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


@pytest.mark.parametrize(
    ("head", "error", "message"),
    [
        (lambda z: {"logits": z}, TypeError, "must return a tensor of logits: the model returns dict with 'logits'"),
        (lambda z: z[:, 0], ValueError, "logits must be"),
        (lambda z: z[:, :1], ValueError, "at least two classes"),
        (lambda z: z[:-1], ValueError, "logits must be"),
    ],
)
def test_outputs_that_are_no_logits(head, error, message):
    class Model(nn.Module):
        def forward(self, x):
            return head(x.flatten(1)[:, :4])

    with pytest.raises(error, match=message):
        evaluate(Model(), small_images(5), torch.zeros(5, dtype=torch.int64))


class Custom(nn.Module):
    """A small net in ``inner`` and what the forward pass does with it."""

    def __init__(self, forward, **attributes):
        super().__init__()
        self.inner, self.run = small_net(), forward
        for name, value in attributes.items():
            setattr(self, name, value)
        self.eval()

    def forward(self, x):
        return self.run(self, x)


def _gradient(call, x):
    point = x.clone().requires_grad_()
    return torch.autograd.grad(call(point)[:, 0].sum(), point)[0]


def _leaves(node, found=None):
    """The tensors that a graph would accumulate gradients in."""
    found = [] if found is None else found
    if hasattr(node, "variable"):
        found.append(node.variable)
    for after, _ in node.next_functions:
        if after is not None:
            _leaves(after, found)
    return found


def test_steps_are_taken_on_a_folded_copy_and_verdicts_on_the_model():
    model, x = small_net(), small_images(20, seed=3)
    expected, gradient = model(x).detach(), _gradient(model, x)
    with attack_mode(model, probe=small_images(4)) as ready:
        assert ready.model is model
        assert ready.notes == ()
        assert ready.preparation == "1 of 1 batch norms folded, weights channels last"
        assert isinstance(ready.surrogate[1], nn.Identity)
        assert ready.surrogate[0].weight.is_contiguous(memory_format=torch.channels_last)
        seen = ready.load(x)
        torch.testing.assert_close(ready(seen), expected)
        torch.testing.assert_close(_gradient(ready, seen), gradient)
        assert torch.equal(ready.original(seen), model(seen))
    assert isinstance(model[1], nn.BatchNorm2d)


def test_without_a_probe_the_model_itself_serves():
    model, x = small_net(), small_images(3)
    with attack_mode(model) as ready:
        assert ready.surrogate is None
        assert ready.preparation == "as found"
        assert torch.equal(ready(x), ready.original(x))


def test_no_weight_is_in_the_graph():
    x = small_images(3).requires_grad_()
    with attack_mode(_awkward(), probe=small_images(4)) as ready:
        for call in (ready, ready.original):
            leaves = _leaves(call(x).grad_fn)
            assert leaves
            assert all(leaf is x for leaf in leaves)


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode, torch.enable_grad])
@pytest.mark.parametrize("interrupted", [False, True])
def test_the_model_comes_back_as_it_was_with_a_copy(context, interrupted):
    model = _awkward()
    model[2].register_forward_hook(lambda *_: None)
    before, hooks = _fingerprint(model), [dict(m._forward_hooks) for m in model.modules()]
    random = torch.get_rng_state()
    with context():
        try:
            with attack_mode(model, probe=torch.full((3, 3, 8, 8), 0.5)) as ready:
                assert ready.surrogate is not None
                assert _gradient(ready, ready.load(small_images(2))).abs().sum() > 0
                if interrupted:
                    raise Interrupted
        except Interrupted:
            pass
    assert _same(before, _fingerprint(model))
    assert hooks == [dict(m._forward_hooks) for m in model.modules()]
    assert torch.equal(random, torch.get_rng_state())


def test_branches_are_folded_through_the_active_one():
    model, x = convert(small_net()), small_images(5)
    model[1].norms["easy"].bias.data.uniform_(-3, 3)
    for branch in ("main", "easy"):
        with route(model, branch), attack_mode(model, probe=small_images(4)) as ready:
            assert ready.preparation.startswith("1 of 1 batch norms folded")
            torch.testing.assert_close(ready(ready.load(x)), model(x))


def _falls_back(model, said, **options):
    """No copy, a note that says why, and the model's own logits."""
    x = small_images(5)
    with attack_mode(model, probe=small_images(8, seed=2), **options) as ready:
        assert ready.surrogate is None
        assert ready.preparation == "as found"
        assert said in ready.notes[-1]
        assert torch.equal(ready(ready.load(x)), ready.original(ready.load(x)))
        return ready.notes


def test_a_convolution_whose_output_is_used_beside_its_norm():
    def skip(m, x):
        z = m.inner[0](x)
        return m.inner[2:](m.inner[1](z) + z)

    model, x = Custom(skip), small_images(5)
    expected = model(x)
    notes = _falls_back(model, "folding batch norms was given up after a check on 8 images: logits differ")
    assert len(notes) == 1
    assert torch.equal(model(x), expected)


def test_a_wrong_fold_is_found_out(monkeypatch):
    def broken(model, x):
        fold = folded(model, x)
        fold.model[0].bias.data *= 1.01
        return fold

    monkeypatch.setattr(surrogate_module, "folded", broken)
    _falls_back(small_net(), "folding batch norms was given up after a check on 8 images: logits differ")


def test_a_copy_with_right_logits_and_wrong_gradients_is_found_out(monkeypatch):
    def masking(model, x):
        return Folded(Custom(lambda m, x: m.inner(x.detach()) + 0 * m.inner(x)), 1, 1)

    monkeypatch.setattr(surrogate_module, "folded", masking)
    _falls_back(small_net(), "the cosine between input gradients is 0.0")


def test_a_model_that_cannot_be_copied():
    class Alone(Custom):
        def __deepcopy__(self, memo):
            raise RuntimeError("there is but one")

    _falls_back(
        Alone(lambda m, x: m.inner(x)), "given up after a check on 8 images: CannotCopy: a Alone cannot be copied"
    )


def test_a_randomised_model_is_used_as_it_is():
    model = Custom(lambda m, x: m.inner(x + 0.1 * torch.randn_like(x)))
    random = torch.get_rng_state()
    with attack_mode(model, probe=small_images(4)) as ready:
        assert ready.surrogate is None
        assert "two passes of the model differ" in ready.notes[0]
    assert torch.equal(random, torch.get_rng_state())


def test_a_model_without_gradients_is_used_as_it_is():
    _falls_back(
        Custom(lambda m, x: m.inner(x).detach()), "no input gradient to compare a copy with: its logits have no"
    )


def test_weights_of_low_precision_are_used_as_they_are():
    _falls_back(small_net().to(torch.bfloat16), "the weights are torch.bfloat16")


def test_without_folding_there_is_nothing_to_copy():
    with attack_mode(small_net(), probe=small_images(4), fold=False) as ready:
        assert ready.surrogate is None
        assert ready.notes == ()


def test_float64_stays_float64():
    model, x = small_net().double(), small_images(5)
    with attack_mode(model, probe=x) as ready:
        assert ready.surrogate is not None
        torch.testing.assert_close(ready(ready.load(x)), model(x.double()), rtol=0, atol=1e-12)


def test_bf16_serves_the_steps_alone():
    model, x = small_net(), small_images(20, seed=5)
    expected = model(x).detach()
    with attack_mode(model, probe=small_images(8), precision="bf16") as ready:
        assert ready.notes == ()
        assert ready.preparation.endswith("bf16")
        seen = ready.load(x)
        torch.testing.assert_close(ready(seen), expected)  # bf16 is for gradients
        seen.requires_grad_()
        assert ready(seen).dtype == torch.float32
        assert torch.equal(ready(seen), ready(seen).bfloat16())
        torch.testing.assert_close(ready(seen).detach(), expected, rtol=0, atol=0.05 * float(expected.abs().max()))
        assert _gradient(ready, seen).dtype == torch.float32
        assert torch.equal(ready.original(seen), model(seen))


def test_bf16_is_given_up_before_folding():
    # bfloat16 has 8 bits: near 200 the next number is 1 away
    def narrow(m, x):
        return (m.inner(x) + 200) - 200

    with attack_mode(Custom(narrow), probe=small_images(8), precision="bf16") as ready:
        assert len(ready.notes) == 1
        assert ready.notes[0].startswith("bf16 was given up after a check on 8 images: logits differ by")
        assert ready.preparation == "1 of 1 batch norms folded, weights channels last"


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # the compiler's own
def test_a_compiled_copy_serves_batches_of_any_size():
    model = small_net()
    with attack_mode(model, probe=small_images(8), compile=True) as ready:
        assert ready.notes == ()
        assert ready.preparation.endswith("compiled")
        for n in (1, 3, 20):
            x = ready.load(small_images(n, seed=n))
            torch.testing.assert_close(ready(x), model(x))
            torch.testing.assert_close(_gradient(ready, x), _gradient(model, x))


def test_a_compiler_that_fails_is_given_up(monkeypatch):
    def fails(*args, **options):
        raise RuntimeError("no compiler\nand a long story")

    monkeypatch.setattr(torch, "compile", fails)
    with attack_mode(small_net(), probe=small_images(4), compile=True) as ready:
        assert ready.notes == ("torch.compile was given up after a check on 4 images: RuntimeError: no compiler",)
        assert ready.preparation == "1 of 1 batch norms folded, weights channels last"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "bf16"}, "pass probe="),
        ({"compile": True}, "pass probe="),
        ({"precision": "16"}, "unknown precision '16'; known: 32, bf16"),
        ({"probe": small_images(0)}, "one image or more"),
    ],
)
def test_options_that_make_no_sense(options, message):
    with pytest.raises(ValueError, match=message), attack_mode(small_net(), **options):
        pass
