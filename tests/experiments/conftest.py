"""Tiny runs on the bundled sample."""

import pytest

from easybn.experiments import run as run_module
from easybn.experiments.experiment import Experiment
from easybn.experiments.run import Run, train
from easybn.recipes import EBN
from easybn.train.training import Training

TINY = Experiment(
    recipe=EBN(), train_images=100, validation=0.2, training=Training(epochs=2, batch_size=40, lr=0.05, seed=1)
)


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """TINY, trained; not to be written to."""
    return train(TINY, tmp_path_factory.mktemp("runs") / "tiny", device="cpu")


@pytest.fixture
def no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any training fails."""

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("trained")

    monkeypatch.setattr(run_module, "fit", fail)
