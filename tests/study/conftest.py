"""What the tests of studies share."""

import shutil
from pathlib import Path

import pytest

from easybn.runs.run import Run
from easybn.study.plan import CLEAN, Planned, record_evaluation

from ..conftest import TINY


@pytest.fixture
def done(finished_run: Run, tmp_path: Path) -> Path:
    """A folder in which TINY is done."""
    folder = tmp_path / "done"
    shutil.copytree(finished_run.folder, folder)
    Run(folder).add_scores([{"attack": "clean", "n": 1000, "correct": 300, "accuracy": 0.3, "branch": "main"}])
    record_evaluation(folder, CLEAN, 2.0, [])
    return folder


def runs(*names: str) -> list[Planned]:
    return [Planned(name, TINY) for name in names]
