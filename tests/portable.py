"""The fast tests as other machines would run them: ``python tests/portable.py``, or ``make test-portable``.

A processor chooses its kernels, and each rounds in its own way; variables make one processor round like several. Each
run combines a processor, a number of threads, hashes, an order of the tests and a path, so that few runs have every
value, and most pairs. A table at the end says what passed, and the exit status is 1 if one failed. ``--only NAME``
picks one, ``--list`` says what they are; what else is given goes to pytest.

The processor that no variable gives is simulated: as a pytest plugin (``-p tests.portable``) this module takes sums in
another order for every size of a batch, as kernels that divide their work by it do. What a test compares across sizes
of a batch then differs in the last bits on any machine.

``python tests/portable.py --lower-bounds`` prints pyproject.toml's oldest versions as constraints for pip.
"""

import argparse
import itertools
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
KILLED = "tests/cli/test_processes.py::test_kills_at_any_moment_change_nothing"
TESTS = ("-m", "pytest", "-n", "2", "-m", "not slow", "-p", "no:cacheprovider")


@dataclass(frozen=True)
class Setting:
    """One run.

    Args:
        environment: variables; those that libraries read when they are loaded.
        options: of pytest.
        elsewhere: in a copy of the tree, in a path with a space and letters outside ASCII.
    """

    environment: dict[str, str]
    options: tuple[str, ...] = ()
    elsewhere: bool = False

    def __str__(self) -> str:
        words = [f"{name}={value}" for name, value in self.environment.items()]
        return " ".join([*words, *self.options, *(["in a path like 'Bücher & 測試'"] if self.elsewhere else [])])


def in_order(seed: int) -> tuple[str, ...]:
    """Options that shuffle the tests."""
    return ("-p", "randomly", f"--randomly-seed={seed}")


SETTINGS = {
    "default": Setting({"OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}, elsewhere=True),
    # threads of several processes on as many cores do not spin while they wait for each other
    "avx2": Setting(
        {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2",
         "OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "passive", "PYTHONHASHSEED": "random"}, in_order(1),
    ),
    "sse": Setting(
        {"ONEDNN_MAX_CPU_ISA": "SSE41", "ATEN_CPU_CAPABILITY": "default", "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
         "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "random"}, in_order(2), elsewhere=True,
    ),
    "sums": Setting(
        {"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "passive", "PYTHONHASHSEED": "0"},
        # the processes of that one are no pytest: they take the usual sums, and are compared with one that does not
        (*in_order(3), "-p", "tests.portable", "--deselect", KILLED),
    ),
}  # fmt: skip


@dataclass
class Result:
    """What became of a run: pytest's exit status and last line, the tests that failed, seconds."""

    status: int
    summary: str = "no summary"
    failed: list[str] = field(default_factory=list)
    seconds: float = 0.0


def run(setting: Setting, root: Path, options: list[str]) -> Result:
    """Run the tests of ``root`` and show what they print."""
    environment = {**os.environ, **setting.environment, "PYTHONPATH": str(root / "src")}
    if (data := ROOT.parent / "shared" / "data").is_dir():
        environment.setdefault("EASYBN_DATA", str(data))
    result, began = Result(1), time.monotonic()
    command = [sys.executable, *TESTS, *setting.options, *options]
    with subprocess.Popen(command, cwd=root, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            if re.match(r"(FAILED|ERROR) ", line):
                result.failed.append(line.partition(" - ")[0].strip())
            if found := re.match(r"=*\s*(.*\b(?:passed|failed|errors?)\b.* in [\d.]+s)", line):
                result.summary = found[1]
    result.status, result.seconds = process.returncode, time.monotonic() - began
    return result


def copied(to: Path) -> Path:
    """A copy of what git knows of the tree, changed files as they are."""
    names = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
    ).stdout.decode()
    for name in filter(None, names.split("\0")):
        if (ROOT / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, to / name)
    return to


def lower_bounds(text: str) -> list[str]:
    """``name==version`` for every ``name>=version`` of a pyproject.toml's dependencies, extras and groups."""
    project = tomllib.loads(text)
    lists = [
        project["project"]["dependencies"],
        *project["project"]["optional-dependencies"].values(),
        *project["dependency-groups"].values(),
    ]
    found = set()
    for each in itertools.chain(*lists):
        if bound := re.match(r"([\w.-]+)(?:\[[^]]*\])?\s*>=\s*([\w.]+)", each if isinstance(each, str) else ""):
            found.add(f"{bound[1]}=={bound[2]}")
    return sorted(found)


def main() -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--only", action="append", choices=SETTINGS, help="one setting of all")
    parser.add_argument("--list", action="store_true", help="say what each setting is, and run nothing")
    parser.add_argument("--lower-bounds", action="store_true", help="print the oldest versions allowed, for pip -c")
    asked, options = parser.parse_known_args()
    if asked.lower_bounds:
        print(*lower_bounds((ROOT / "pyproject.toml").read_text(encoding="utf-8")), sep="\n")
        return 0
    wanted = {name: SETTINGS[name] for name in asked.only or SETTINGS}
    results: dict[str, Result] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, setting in wanted.items():
            print(f"\n### {name}: {setting}", flush=True)
            if not asked.list:
                root = copied(Path(folder, "Bücher & 測試", name)) if setting.elsewhere else ROOT
                results[name] = run(setting, root, options)
    if asked.list:
        return 0
    print("\n| setting | result | minutes |\n| --- | --- | ---: |")
    for name, result in results.items():
        word = "passed" if result.status == 0 else f"FAILED (status {result.status})"
        print(f"| {name} | {word}: {result.summary} | {result.seconds / 60:.1f} |")
    for name, result in results.items():
        for line in result.failed:
            print(f"{name}: {line}")
    return int(any(result.status for result in results.values()))


def split(kernel: Callable[..., Any], axes: tuple[int, ...]) -> Callable[..., Any]:
    """``kernel(x, weight, bias, ...)``, linear in the weight, with the weight cut in two and the results added.

    Where it is cut depends on the size of the batch; a third of all sizes are computed as ever.

    Args:
        kernel: a convolution or a linear layer.
        axes: of the weight; it is cut along the first that has more than one entry.
    """
    import torch
    from torch.utils._python_dispatch import _get_current_dispatch_mode

    def other_sums(x: Any, weight: Any, bias: Any = None, *more: Any, **options: Any) -> Any:
        if torch.compiler.is_compiling():
            return kernel(x, weight, bias, *more, **options)
        part = len(x) % 3 if type(x) is torch.Tensor and x.dim() == weight.dim() else 0
        exact = x.dtype in (torch.float32, torch.float64) and not torch.is_autocast_enabled("cpu")
        axis = next((axis for axis in axes if weight.shape[axis] > 1), None)
        # a mode is at work where operations are counted
        if not part or not exact or axis is None or _get_current_dispatch_mode() is not None:
            return kernel(x, weight, bias, *more, **options)
        first = torch.arange(weight.shape[axis]) < max(1, weight.shape[axis] // (part + 1))
        mask = first.to(weight).view([-1 if i == axis else 1 for i in range(weight.dim())])
        return kernel(x, weight * (1 - mask), None, *more, **options) + kernel(x, weight * mask, bias, *more, **options)

    return other_sums


def pytest_configure() -> None:
    """Take sums in other orders from now on."""
    import torch.nn.functional as F

    F.conv2d, F.linear = split(F.conv2d, (1, 2)), split(F.linear, (1,))


if __name__ == "__main__":
    sys.exit(main())
