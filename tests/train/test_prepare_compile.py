"""``Training(compile=True)``: the same training for every recipe, as many operations, few graphs.

``aot_eager`` makes the graphs that the default backend is given, and runs them operation by operation.
"""

from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from easybn import convert
from easybn.recipes import EBN, AdvProp, Context, EBNShared, FastEBN
from easybn.train.checkpoint import load
from easybn.train.fit import fit
from easybn.train.observers import Observer
from easybn.train.prepare import compile_model
from easybn.train.schedule import Training
from easybn.train.step import take_step

from ..recipes.conftest import every_recipe
from ..small import small_images

# the compiler's own warnings are not ours
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

RECIPES = pytest.mark.parametrize("recipe", [make() for make in every_recipe()], ids=lambda r: type(r).__name__)
TRAINING = Training(epochs=2, batch_size=20, lr=0.05)  # 96 images: 4 steps an epoch
COMPILED = Training(epochs=2, batch_size=20, lr=0.05, compile=True)


class Graphs:
    """A backend that counts the graphs it is given and their passes, and the operations of each pass."""

    def __init__(self, monkeypatch):
        from torch._dynamo.backends.common import aot_autograd  # takes seconds, also where this file is not run

        self.made, self.passes = 0, []
        backend = aot_autograd(fw_compiler=partial(self._make, "forward"), bw_compiler=partial(self._make, "backward"))
        monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))

    def count(self, kind: str) -> int:
        return sum(name == kind for name, _ in self.passes)

    def _make(self, kind, graph, inputs):
        from functorch.compile import make_boxed_func

        self.made += kind == "forward"

        def run(*arguments):
            with FlopCounterMode(display=False) as counter:
                out = torch.fx.Interpreter(graph).run(*arguments)
            self.passes.append((kind, counter.get_total_flops()))
            return out

        return make_boxed_func(run)


class Wide(nn.Module):
    """In float64: no sign of a gradient depends on the order of a sum. Keeps the ways that passes with a graph took."""

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = inner.double()

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x.double())


class Ways(Observer):
    """The ways through an uncompiled model: branch, mode, frozen statistics or not, size of the batch, gradient of the
    images or not."""

    def __init__(self):
        self.all = []

    def start(self, state):
        norm = state.model.inner[1]

        def way(module, arguments):
            (x,) = arguments
            if torch.is_grad_enabled():
                branch = getattr(norm, "active", "main")
                frozen = not norm.track_running_stats
                self.all.append((branch, module.training, frozen, len(x), x.requires_grad))

        self.hook = state.model.register_forward_pre_hook(way)

    def end(self, state):
        self.hook.remove()


def assert_same(found, expected, rtol):
    a, b = found.branched.state_dict(), expected.branched.state_dict()
    assert a.keys() == b.keys()  # no prefix of the compiler's
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=rtol, atol=rtol, msg=name)
    for row, other in zip(found.history, expected.history, strict=True):
        for name, term in other["train"].items():
            assert row["train"][name] == {"loss": pytest.approx(term["loss"], rel=rtol), "accuracy": term["accuracy"]}


@RECIPES
def test_the_same_training_in_a_graph_for_each_way_through_the_model(recipe, small, images, monkeypatch):
    ways = Ways()
    expected = fit(Wide(small), recipe, images, TRAINING, observers=[ways])
    graphs = Graphs(monkeypatch)
    found = fit(Wide(small), recipe, images, COMPILED)
    assert_same(found, expected, 1e-10)
    assert graphs.made == len(set(ways.all))
    assert graphs.made <= 5  # within the compiler's limit of 8
    assert graphs.count("forward") == graphs.count("backward") == len(ways.all)  # none of them uncompiled


@RECIPES
def test_a_compiled_step_has_the_operations_of_an_uncompiled_one(recipe, monkeypatch):
    graphs = Graphs(monkeypatch)

    def net() -> nn.Module:
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
            nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten(), nn.Linear(1024, 4),
        )  # fmt: skip
        return convert(model, recipe.branches) if len(recipe.branches) > 1 else model

    def step(model):
        x, y, ctx = small_images(10), torch.arange(10) % 4, Context(torch.arange(10))
        take_step(model, torch.optim.SGD(model.parameters(), lr=0.01), lambda: recipe(model, x, y, ctx))

    plain = net()
    step(plain)  # the first one looks for what can be folded
    with FlopCounterMode(display=False) as counter:
        step(plain)
    step(compile_model(net()))
    assert sum(flops for _, flops in graphs.passes) == pytest.approx(counter.get_total_flops(), rel=0.02)


def test_trainings_in_one_process_do_not_use_up_each_others_graphs(small, images, monkeypatch):
    graphs = Graphs(monkeypatch)
    with torch._dynamo.config.patch(recompile_limit=3):
        for n, recipe in enumerate((EBN(), AdvProp(), EBN()), 1):
            fit(small, recipe, images, Training(epochs=1, batch_size=48, compile=True))
            assert (graphs.made, graphs.count("forward")) == (3 * n, 6 * n)  # 2 steps of 3 passes each


@pytest.mark.parametrize("recipe", [EBN(), FastEBN()], ids=lambda r: type(r).__name__)
def test_going_on_from_a_checkpoint_is_exact(recipe, small, images, tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    path = tmp_path / "c.pt"

    class Stop(Observer):
        def step(self, state):
            state.stop = state.step == 3

    whole = fit(small, recipe, images, COMPILED)
    fit(small, recipe, images, COMPILED, checkpoint=path, observers=[Stop()])
    assert load(path).model.keys() == convert(small, recipe.branches).state_dict().keys()
    found = fit(small, recipe, images, COMPILED, checkpoint=path)
    assert load(path).step == 8
    assert_same(found, whole, 0)


@pytest.mark.parametrize("recipe", [EBN(), EBNShared()], ids=lambda r: type(r).__name__)
def test_the_default_backend_makes_the_same_training(recipe, small, images):
    assert_same(fit(Wide(small), recipe, images, COMPILED), fit(Wide(small), recipe, images, TRAINING), 1e-10)
