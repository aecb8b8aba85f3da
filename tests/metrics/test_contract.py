"""What holds for every instrument: found in the package, on a run whose branches are there and on one without."""

import json
import math

import pytest
import torch

from easybn.metrics.instrument import Instrument, Subject
from easybn.metrics.registry import INSTRUMENTS, instruments
from easybn.norm.convert import strip
from easybn.runs.description import describe
from easybn.runs.evaluate import draw_test_points
from easybn.runs.run import Run
from easybn.runs.target import EvaluationTarget, branched_model

IMAGES = 24
SMALL: dict[str, dict] = {
    "boundary": {"grid": 6, "halvings": 2, "directions": 2, "segment": 6},
    "clever": {"maxima": 10, "samples": 1, "targets": 1, "search": 2},
    "linearity": {"steps": 1},
}
"""Fields with which an instrument has little work, by name; those without any are quick as they are."""


@pytest.fixture(scope="module")
def target(finished_run: Run) -> EvaluationTarget:
    return EvaluationTarget.of_run(finished_run)


def subject(target: EvaluationTarget, batch_size: int = 10, branches: bool = True) -> Subject:
    branched, _ = branched_model(target.run)
    return Subject(
        strip(branched) if branches else target.model,
        target.source.test,
        draw_test_points(target.source, IMAGES, 0),
        len(target.source.classes),
        branched=branched if branches else None,
        batch_size=batch_size,
    )


@pytest.fixture(scope="module", params=INSTRUMENTS)
def instrument(request) -> Instrument:
    (found,) = instruments([request.param], {request.param: SMALL.get(request.param, {})})
    return found


def state(model) -> dict:
    return {name: value.clone() for name, value in model.state_dict().items()}


def test_it_says_what_it_is(instrument):
    kind = type(instrument)
    assert kind.title
    assert kind.title[0].isupper()
    assert kind.reads.endswith(".")
    assert kind.plots
    assert not kind.plots[0].folded
    assert 2 <= kind.images <= 1000
    settings = describe(instrument)
    assert json.loads(json.dumps(settings)) == settings  # plain values, of which rows are known again


@pytest.mark.parametrize("branches", [True, False])
def test_values_are_finite_and_inside_their_intervals(instrument, target, branches):
    of = subject(target, branches=branches)
    known = set(of.models)
    before = {name: state(model) for name, model in of.models.items()}
    in_training = [module for model in of.models.values() for module in model.modules() if module.training]
    randomness, done = torch.get_rng_state(), []
    found = instrument.measure(of, lambda *words: done.append(words))
    assert found
    for each in found:
        assert math.isfinite(each.value)
        assert math.isfinite(each.depth)
        assert (each.low is None) == (each.high is None)
        if each.low is not None:
            assert each.low - 1e-9 <= each.value <= each.high + 1e-9
            assert math.isfinite(each.high - each.low)
        assert 0 <= each.n <= IMAGES
        json.dumps(dict(each.detail), allow_nan=False)
    keys = [(each.measure, each.series, each.place) for each in found]
    assert len(set(keys)) == len(keys)
    shown = {plot.measure for plot in type(instrument).plots}
    assert shown <= {each.measure for each in found} or not branches  # what is drawn is measured
    assert type(instrument).sentence({"a": found, "b": found}).endswith(".")
    assert done
    assert all(0 < i <= total and words for i, total, words in done)
    assert all(words is not None for _, _, words in done)
    assert known == set(of.models)
    for name, model in of.models.items():
        assert all(torch.equal(value, model.state_dict()[key]) for key, value in before[name].items())
        assert all(p.grad is None and p.requires_grad for p in model.parameters())
        assert not any(module._forward_hooks for module in model.modules())
    assert in_training == [module for model in of.models.values() for module in model.modules() if module.training]
    assert torch.equal(torch.get_rng_state(), randomness)


def test_the_same_again_and_in_other_batches(instrument, target):
    of = subject(target)
    first, again = instrument.measure(of), instrument.measure(of)
    assert first == again
    for a, b in zip(first, instrument.measure(subject(target, batch_size=7)), strict=True):
        assert a[:5] == b[:5]
        # where a gradient is next to nothing rounding may turn the sign of a step in a pixel
        assert a.value == pytest.approx(b.value, rel=1e-3, abs=1e-3)
        if a.low is not None:
            assert (a.low, a.high) == pytest.approx((b.low, b.high), rel=1e-3, abs=2e-3)


def test_modes_are_as_they_were(instrument, target):
    of = subject(target)
    of.model.train()
    of.models  # noqa: B018 (plain copies, made from here on)
    for model in of.models.values():
        model.train()
    instrument.measure(of)
    assert all(module.training for model in (of.model, *of.models.values()) for module in model.modules())
