"""The device that a test runs on: the CPU among the slow tests, and CUDA (marked ``gpu``) where there is one.

``EASYBN_GPU_TESTS`` is how ``bench/gpu/run smoke`` asks for a part of them: the device, the time (``time.time()``) from
which on none is started, and how many at most.
"""

import os
import time

import pytest
import torch

NO_CUDA = "there is no CUDA device here"


@pytest.fixture(params=[pytest.param("cpu", marks=pytest.mark.slow), pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> str:
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip(NO_CUDA)
    return request.param


def asked() -> tuple[str, float, int] | None:
    device, until, most = os.environ.get("EASYBN_GPU_TESTS", ",,").split(",")
    return (device, float(until), int(most)) if device else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if asked() is None:
        return
    device, _, most = asked()
    specs = [getattr(item, "callspec", None) for item in items]
    of = [spec and spec.params.get("device") for spec in specs]
    kept = [item for item, where in zip(items, of, strict=True) if where == device][:most]
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = kept


def pytest_runtest_setup(item: pytest.Item) -> None:
    if (limit := asked()) and time.time() > limit[1]:
        pytest.skip("no time is left on this GPU")
