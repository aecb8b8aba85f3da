"""Stage ``smoke``: the tests marked ``gpu``, a row each as soon as it has run; what no time is left for is skipped."""

import importlib.util
import os
import time
from pathlib import Path
from typing import Any

from gpu.rows import Rows

ROOT = Path(__file__).resolve().parents[2]
WORKERS = 8
"""Processes side by side: most tests are small, and wait for compilers and for the start of kernels."""
LAST = 15.0
"""Seconds before the end from which on no test is started."""


def main(out: Path, seconds: float, small: bool, device: str) -> None:
    import pytest

    until = time.time() + seconds - LAST
    os.environ["EASYBN_GPU_TESTS"] = f"{device},{until},{4 if small else 1000}"
    os.environ.pop("EASYBN_SKIPS", None)
    # warnings of versions that nobody has tried yet are shown, and fail nothing
    words = [str(ROOT / "tests" / "gpu"), "--rootdir", str(ROOT), "-q", "--tb=short", "-p", "no:cacheprovider"]
    words += ["-W", "default"]
    if not small and importlib.util.find_spec("xdist"):
        words += ["-n", str(WORKERS)]
    raise SystemExit(pytest.main(words, plugins=[Written(Rows(out, "smoke", device))]))


class Written:
    """A row for each test, whichever process it runs in."""

    def __init__(self, rows: Rows):
        self._rows, self._seconds = rows, {}

    def pytest_runtest_logreport(self, report: Any) -> None:
        spent = self._seconds[report.nodeid] = self._seconds.get(report.nodeid, 0.0) + report.duration
        if report.when != "call" and report.passed:
            return
        name = report.nodeid.partition("tests/gpu/")[2] or report.nodeid
        why = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr or "")[-1500:]
        self._rows.write(test=name, outcome=report.outcome, when=report.when, seconds=round(spent, 2), why=why or None)
