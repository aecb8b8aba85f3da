"""One thread a process: the suite runs in parallel, and results must not depend on how many cores there are."""

import pytest
import torch
from hypothesis import settings

torch.set_num_threads(1)
settings.register_profile("easybn", deadline=None, max_examples=40)
settings.load_profile("easybn")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)
