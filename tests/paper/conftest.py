"""A data set small enough to train on within a test."""

import pytest
import torch

from easybn import data
from easybn.data import Source

from ..tables.conftest import setting  # noqa: F401 a fixture


def images(labels: torch.Tensor, seed: int) -> torch.Tensor:
    """Noise of 8 x 8, brighter the higher the label."""
    noise = torch.randint(0, 100, (len(labels), 1, 8, 8), generator=torch.Generator().manual_seed(seed))
    return (noise + 60 * labels.view(-1, 1, 1, 1)).byte()


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> Source:
    """Three classes, 60 training and 30 test images; what any data set's name loads."""
    labels = torch.arange(60) % 3
    source = Source.from_tensors(
        images(labels, 0), labels, images(labels[:30], 1), labels[:30], classes=("a", "b", "[c]"), name="tiny"
    )
    monkeypatch.setattr(data, "load", lambda *_, **__: source)
    return source
