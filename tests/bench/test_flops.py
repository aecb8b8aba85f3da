"""bench/flops.py: costs against torch's counter on steps that are really computed, and against counting by hand."""

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from easybn import convert, data, models
from easybn.evaluation.config import EvaluateConfig
from easybn.recipes import EBN, AdversarialTraining, AdvProp, AdvPropEBN, EBNShared, Vanilla
from easybn.runs.config import Experiment
from easybn.study.plan import CLEAN, Planned
from easybn.train.schedule import Training

FILE = Path(__file__).parents[2] / "bench" / "flops.py"
spec = importlib.util.spec_from_file_location("bench_flops", FILE)
flops_module = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = flops_module  # dataclasses look their module up
spec.loader.exec_module(flops_module)
Cost, Costs, Passes = (getattr(flops_module, name) for name in ("Cost", "Costs", "Passes"))
evaluation_cost, shape_of, training_cost = (
    flops_module.evaluation_cost,
    flops_module.shape_of,
    flops_module.training_cost,
)

SHAPE = shape_of(Experiment())
ONES = SimpleNamespace(forward=1.0, look=lambda attack: 1.0)


def counted_by_torch(work) -> int:
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


@pytest.fixture(scope="module")
def passes() -> Passes:
    return Passes(Experiment(), SHAPE)


@pytest.mark.parametrize(
    "recipe",
    [Vanilla(), AdvProp(), EBN(), EBNShared(), AdvPropEBN(), AdversarialTraining()],
    ids=lambda recipe: type(recipe).__name__,
)
def test_a_step_costs_what_torch_counts_when_it_is_computed(recipe, passes):
    model = models.build("resnet_tiny", 10, 1, [0.5], [0.5]).train()
    if len(recipe.branches) > 1:
        model = convert(model, recipe.branches)
    x, y = torch.rand(2, 1, 28, 28), torch.tensor([0, 1])

    def step() -> None:
        for term in recipe(model, x, y):
            (term.weight * term.loss).backward()

    step()
    assert passes.step(Experiment(recipe=recipe)) == counted_by_torch(step) / 2


def test_a_pass_costs_what_torch_counts_and_an_attacks_look_a_pass_or_two(passes):
    model = models.build("resnet_tiny", 10, 1, [0.5], [0.5]).eval()
    with torch.no_grad():
        forward = counted_by_torch(lambda: model(torch.rand(1, 1, 28, 28)))
    assert passes.forward == forward
    suite = EvaluateConfig(("apgd-ce", "apgd-t", "fab-t", "square"), "linf", (8 / 255,)).attacks_at(8 / 255)
    looks = {attack.name: passes.look(attack) / forward for attack in suite}
    assert looks.pop("square") == 1
    assert looks == pytest.approx(dict.fromkeys(looks, 2.0), abs=0.05)


def test_what_winograds_algorithm_saves_on_a_cpu_is_counted():
    image = (3, 64, 64)
    counted = Passes(Experiment(model="resnet18"), replace(SHAPE, image=image)).forward
    model = models.build("resnet18").to("meta").eval()
    with torch.no_grad():
        assert counted == counted_by_torch(lambda: model(torch.rand(1, *image, device="meta")))


def test_a_training_by_hand():
    experiment = Experiment(recipe=EBN(), train_images=1000, training=Training(epochs=7, batch_size=128))
    # 900 images make 7 whole batches; 100 are held out and go through both branches
    assert training_cost(experiment, SHAPE, 8.0, 1.0) == 7 * (7 * 128 * 8 + 100 * 2)
    tiny = replace(experiment, train_images=100, validation=0.0)
    assert training_cost(tiny, SHAPE, 8.0, 1.0) == 7 * 100 * 8


@pytest.mark.parametrize(
    ("config", "looks"),
    [
        (EvaluateConfig.of_run(protocols=()), 1000),
        (EvaluateConfig.of_run(points=50, steps=10, eps=(0.1, 0.5), protocols=("strong",)), 50 * (1 + 2 * 2 * 11)),
        (EvaluateConfig.of_run(points=50, steps=10, eps=(0.1, 0.5)), 50 * (1 + 2 * 2 * 11 + 1 + 2 * 11)),
        (EvaluateConfig.of_run(points=5000, steps=10, eps=(0.1,), protocols=("robustness",)), 1000 * (1 + 11)),
        (EvaluateConfig.of_run(["square"], eps=(0.1,), points=10), 10 * (1 + 5001)),
        (EvaluateConfig.of_run(["fab-t"], eps=(0.1, 0.2), points=10), 10 * (1 + 9 * 101)),  # one search for both radii
        (EvaluateConfig.of_run(["apgd-ce"], eps=(0.1, 0.2)), 1000 * (1 + 2 * 101)),
    ],
    ids=str,
)
def test_looks_by_hand(config, looks):
    found = evaluation_cost(config, SHAPE, ONES)
    assert found == pytest.approx(looks, rel=1e-12 if config.is_pgd else 0.02)


def test_runs_that_differ_in_the_seed_are_counted_once(monkeypatch):
    steps = []
    monkeypatch.setattr(Passes, "step", lambda self, experiment: steps.append(experiment) or 8.0)
    costs = Costs()
    found = [costs(Planned(str(seed), Experiment(training=Training(epochs=2, seed=seed)))) for seed in range(3)]
    assert len(steps) == 1
    assert found[0] == found[1] == found[2]
    assert found[0].evaluation == 1000 * Passes(Experiment(), SHAPE).forward
    assert costs(Planned("x", Experiment(data="lost.zip"))) is None
    assert Cost(1.0, 2.0) + Cost(3.0, 4.0) == Cost(4.0, 6.0)


def test_shapes():
    source = data.load("sample")
    assert (source.train.shape, len(source.classes)) == (SHAPE.image, SHAPE.classes)
    assert (len(source.train), len(source.test)) == (SHAPE.train, SHAPE.test)
    assert shape_of(Experiment(data="lost.zip")) is None
    known = shape_of(Experiment(data="cifar100"))  # whose files are not here
    assert (known.image, known.classes, known.train, known.test) == ((3, 32, 32), 100, 50_000, 10_000)
    assert CLEAN.protocols == ()
