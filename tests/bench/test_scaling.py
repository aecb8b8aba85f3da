"""bench/scaling.py: the table of what a step moves, as docs/performance.md shows it."""

import importlib.util
import sys
from pathlib import Path

import pytest

from easybn import convert
from easybn.models import build
from easybn.train.distributed import GradientAverage, Processes

ROOT = Path(__file__).parents[2]


def test_bytes_of_a_step_by_hand():
    model = convert(build("resnet_tiny", num_classes=10, in_channels=1))
    numbers = sum(p.numel() for p in model.parameters())
    statistics = sum(b.numel() for name, b in model.named_buffers() if "running" in name)
    others = sum(b.numel() for name, b in model.named_buffers() if "norms" not in name and b.is_floating_point())
    assert statistics == sum(p.numel() for name, p in model.named_parameters() if "norms" in name)  # two of each
    assert GradientAverage(Processes(), model).bytes == 4 * (numbers + statistics + others)


@pytest.mark.slow
def test_the_table_of_the_documents_is_that_of_the_bench(capsys, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "bench")  # it imports its neighbours
    spec = importlib.util.spec_from_file_location("bench_scaling", ROOT / "bench/scaling.py")
    scaling = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, scaling)
    spec.loader.exec_module(scaling)
    scaling.paper()
    printed = capsys.readouterr().out.splitlines()
    text = (ROOT / "docs/performance.md").read_text().splitlines()
    rows = [line for line in printed if line.startswith("|")]
    assert len(rows) == 2 + len(scaling.NETS) * len(scaling.COMPUTERS)
    start = text.index(rows[0])
    assert text[start : start + len(rows)] == rows
