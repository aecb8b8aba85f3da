import threading

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from easybn import convert, evaluating, frozen_stats, route
from easybn.models import resnet_tiny


def different_branches(branches=("main", "easy")) -> nn.Module:
    """A converted model whose branches give clearly different outputs."""
    model = convert(resnet_tiny(in_channels=1), branches).eval()
    for k, branch in enumerate(branches):
        model.bn1.norms[branch].bias.data.fill_(0.3 * k)
    return model


def test_restores_what_it_found_nested_and_after_an_exception():
    model = different_branches(("main", "adv", "easy"))
    with route(model, "adv"):
        with route(model, "easy"):
            assert model.bn1.active == "easy"
        assert model.bn1.active == "adv"
        with pytest.raises(KeyError), route(model, "main"):
            raise KeyError
        assert model.bn1.active == "adv"
    assert model.bn1.active == "main"


def test_restores_layer_by_layer_what_a_user_set():
    model = different_branches()
    model.bn1.active = "easy"
    with route(model, "main"):
        pass
    assert model.bn1.active == "easy"
    assert model.stages[0][0].bn1.active == "main"


@pytest.mark.parametrize(
    ("model", "branch", "says"),
    [(nn.BatchNorm1d(2), "main", "convert"), (convert(nn.BatchNorm1d(2)), "adv", "no branch 'adv'")],
)
def test_clear_errors(model, branch, says):
    with pytest.raises(ValueError, match=says), route(model, branch):
        pass


def test_two_threads_with_two_models_do_not_disturb_each_other():
    models = [different_branches(), different_branches()]
    x = torch.rand(2, 1, 8, 8)
    expected = []
    for model, branch in zip(models, ("main", "easy"), strict=True):
        with route(model, branch):
            expected.append(model(x))
    barrier = threading.Barrier(2)
    wrong: list[int] = []

    def work(k: int) -> None:
        barrier.wait()
        for _ in range(50):
            with route(models[k], ("main", "easy")[k]):
                if not torch.allclose(models[k](x), expected[k], atol=1e-4):
                    wrong.append(k)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert (expected[0] - expected[1]).abs().max() > 0.1


class Checkpointed(nn.Module):
    def __init__(self, inner: nn.Module, on: bool):
        super().__init__()
        self.inner, self.on = inner, on

    def forward(self, x):
        return checkpoint(self.inner, x, use_reentrant=False) if self.on else self.inner(x)


def test_activation_checkpointing_with_backward_inside_the_route():
    grads = []
    for on in (False, True):
        torch.manual_seed(0)
        model = Checkpointed(different_branches(), on).train()
        with route(model, "easy"), frozen_stats(model):  # the second forward must not move them twice
            model(torch.rand(4, 1, 8, 8)).square().sum().backward()
        grads.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert grads[0].keys() == grads[1].keys()
    assert all(torch.equal(grads[0][name], grads[1][name]) for name in grads[0])
    assert any("norms.easy" in name for name in grads[0])
    assert not any("norms.main" in name for name in grads[0])


def test_channels_last_and_autocast_give_the_plain_models_outputs():
    torch.manual_seed(0)
    plain = resnet_tiny().eval()
    x = torch.rand(4, 3, 16, 16)
    model = convert(plain).to(memory_format=torch.channels_last)
    with route(model, "easy"):
        torch.testing.assert_close(model(x.contiguous(memory_format=torch.channels_last)), plain(x))
        with torch.autocast("cpu", torch.bfloat16):
            out = model(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(out, plain.to(memory_format=torch.channels_last)(x))
    assert out.dtype == torch.bfloat16


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the compiler's own
def test_compiled_model_follows_its_route():
    model = different_branches()
    x = torch.rand(4, 1, 16, 16)
    compiled = torch.compile(model)
    for branch in ("main", "easy", "main"):
        with route(compiled, branch):
            torch.testing.assert_close(compiled(x), model(x))
    with route(model, "easy"):
        easy = model(x)
    assert not torch.allclose(easy, compiled(x))


def test_modes_and_routes_nest_in_any_order():
    model = different_branches().train()
    with route(model, "easy"), evaluating(model), frozen_stats(model):
        assert not model.training
        assert model.bn1.active == "easy"
    assert model.training
    assert model.bn1.active == "main"
    assert all(m.track_running_stats for m in model.modules() if isinstance(m, nn.BatchNorm2d))
