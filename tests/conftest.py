"""What all tests share: nothing of the caller's environment but what is asked for.

``OMP_NUM_THREADS`` is the number of threads, 1 by default: the suite runs in parallel, and a machine's cores are no
setting. ``EASYBN_DATA`` is where tests that ask for a real data set look first. ``EASYBN_SKIPS`` is set in CI: a
pattern of the reasons for which a test may be skipped; a skip for another reason fails.
"""

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import settings
from torch import Tensor, nn

from easybn.data import load
from easybn.recipes import EBN
from easybn.runs import run as run_module
from easybn.runs.config import Experiment
from easybn.runs.run import Run, train
from easybn.train.schedule import Training

from .slurm import Cluster, unavailable
from .small import trained_net

if TYPE_CHECKING:
    from .hub_server import Hub

# commands that a test starts as processes of their own use as many
torch.set_num_threads(int(os.environ.setdefault("OMP_NUM_THREADS", "1")))
CACHE = pytest.StashKey[str]()
settings.register_profile("easybn", deadline=None, max_examples=40)
settings.load_profile("easybn")


def pytest_configure(config: pytest.Config) -> None:
    for name in ("COLUMNS", "LINES", "FORCE_COLOR", "NO_COLOR", "EASYBN_TRACEBACK", "EASYBN_DATA"):
        value = os.environ.pop(name, "")
        if name == "EASYBN_DATA" and value:  # seen by those that ask for it, in the processes that share the work too
            os.environ["EASYBN_TEST_DATA"] = str(Path(value).absolute())
    config.stash[CACHE] = os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="easybn-tests-")


def pytest_unconfigure(config: pytest.Config) -> None:
    shutil.rmtree(config.stash[CACHE], ignore_errors=True)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Iterator[None]:
    report = yield
    return no_other_skips(report)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Iterator[None]:
    report = yield
    return no_other_skips(report)


def no_other_skips(report: pytest.TestReport | pytest.CollectReport):
    """The report; a failure if it is of a skip for which ``EASYBN_SKIPS`` has no reason."""
    allowed = os.environ.get("EASYBN_SKIPS")
    if allowed and report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        if not re.search(allowed, reason):
            report.outcome, report.longrepr = "failed", f"{report.nodeid} would not run here: {reason}"
    return report


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def trained() -> tuple[nn.Module, Tensor, Tensor]:
    """A small CNN trained on the bundled sample (tests/small.py), and 200 of its test images."""
    source, rows = load("sample"), torch.arange(0, 1000, 5)
    return trained_net(), source.test.images[rows].float() / 255, source.test.labels[rows]


@pytest.fixture(scope="session")
def hub_server() -> "Iterator[Hub]":
    from .hub_server import running

    with running() as server:
        yield server


@pytest.fixture
def hub(hub_server: "Hub", tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> "Hub":
    """A Hugging Face Hub of this machine, without repositories; huggingface_hub has its token, and an empty cache."""
    from huggingface_hub import constants

    from .hub_server import TOKEN, use

    hub_server.repositories.clear()
    hub_server.asked.clear()
    hub_server.headers.clear()
    use(hub_server.address, monkeypatch)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no token"))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    return hub_server


TINY = Experiment(
    recipe=EBN(), train_images=100, validation=0.2, training=Training(epochs=2, batch_size=40, lr=0.05, seed=1)
)


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """TINY, trained; not to be written to."""
    return train(TINY, tmp_path_factory.mktemp("runs") / "tiny", device="cpu")


@pytest.fixture(scope="session")
def slurm() -> Iterator[Cluster]:
    """A Slurm of two nodes of one processor each, of this process alone; a test leaves both idle and no job behind."""
    if reason := unavailable():
        pytest.skip(reason)
    with tempfile.TemporaryDirectory(prefix="easybn-slurm-", ignore_cleanup_errors=True) as folder:
        cluster = Cluster(Path(folder))
        try:
            cluster.start()
            yield cluster
        finally:
            cluster.stop()


@pytest.fixture
def no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any training fails."""

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("trained")

    monkeypatch.setattr(run_module, "fit", fail)
