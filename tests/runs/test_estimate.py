import time
from dataclasses import replace

import pytest

from easybn import models
from easybn.runs import prepare as estimate_module
from easybn.runs.prepare import WARM_UP, Estimate, estimate
from easybn.train.schedule import Training

from ..conftest import TINY


def test_the_sum_of_its_parts():
    found = Estimate(
        steps=102, batch_size=50, timed=5, warm=2, first_seconds=3.0, step_seconds=0.2, validation_seconds=7.0
    )
    assert found.seconds == pytest.approx(3 + 100 * 0.2 + 7)
    assert found.images_per_second == pytest.approx(250)


def test_it_times_the_very_training_and_writes_nothing(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    built, waited = models.build, []

    def slow(**description):
        model = built(**description)

        def wait(module, args):
            if module.training:
                waited.append(len(args[0]))
                time.sleep(0.02)

        model.register_forward_pre_hook(wait)
        return model

    monkeypatch.setattr(models, "build", slow)
    experiment = replace(TINY, training=Training(epochs=50, batch_size=20))
    found = estimate(experiment, "cpu", most=3)
    assert (found.steps, found.batch_size, found.timed) == (50 * 4, 20, 3)
    # EBN: two forward passes in train mode a step, of clean and of easy images; before them the model is tried on a few
    assert [n for n in waited if n == 20] == [20] * 2 * (WARM_UP + 3)
    assert found.step_seconds > 0.04
    assert found.seconds > 198 * found.step_seconds
    assert found.validation_seconds > 0
    assert list(tmp_path.iterdir()) == []


def test_a_training_of_one_step_can_be_timed():
    found = estimate(replace(TINY, validation=0.0, training=Training(epochs=1, batch_size=100)), "cpu")
    assert (found.steps, found.timed, found.validation_seconds) == (1, 1, 0.0)
    assert found.seconds == pytest.approx(found.step_seconds + found.first_seconds, rel=1e-6)


def test_it_stops_in_time(monkeypatch):
    clock = iter(range(1000))
    monkeypatch.setattr(estimate_module, "_now", lambda state: float(next(clock)))
    found = estimate(replace(TINY, validation=0.0, training=Training(epochs=99, batch_size=50)), "cpu", seconds=4.5)
    assert (found.timed, found.step_seconds, found.first_seconds) == (5, 1.0, WARM_UP)


def test_a_mistake_is_told():
    with pytest.raises(ValueError, match="unknown data set"):
        estimate(replace(TINY, data="smaple"))
