import copy

import pytest
import torch
from torch import nn

from easybn import convert, route
from easybn.attacks.prepare import prepared
from easybn.evaluation import evaluate

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
    with prepared(model) as ready:
        assert not any(module.training for module in model.modules())
        assert not any(parameter.requires_grad for parameter in model.parameters())
        assert ready.model is model
        logits = ready(ready.load(small_images(3)).requires_grad_())
    assert logits.requires_grad


def test_train_mode_is_noted_and_evaluated_in_eval_mode():
    x = small_images(30)
    model = small_net()
    y = model(x).argmax(1)
    still, moving = evaluate(model, x, y, steps=3), evaluate(model.train(), x, y, steps=3)
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
    with prepared(model) as ready:
        assert ready(ready.load(x)).dtype == dtype
        assert ready.load(x).dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        assert ready.load(x).is_contiguous(memory_format=torch.channels_last)
    result = evaluate(model, x, torch.arange(10) % 4, eps=0.5, steps=3, keep_images=True)
    assert result.images.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


@pytest.mark.parametrize(
    ("head", "error", "message"),
    [
        (lambda z: {"logits": z}, TypeError, "must return a tensor of logits, got dict"),
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
