"""Makes ``.gpu``: wheels, packed data sets and the commit, all that ``bench/gpu/run`` needs beside the tree itself."""

import argparse
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from gpu import packed
from gpu.harness import PREPARED
from gpu.rows import commit

MOST = 50 * 2**20
"""Bytes of all of it; some ways to a machine with a GPU take no more."""
WHEELS = ("jsonargparse>=4.51", "docstring-parser", "typeshed-client", "pyautoattack==0.2.0")
"""What images with PyTorch and its companions lack. README.md says what is taken to be there."""
LARGE = 500_000
"""Bytes of a file in a wheel from which on it is left out, if it is no code."""
PLATFORMS = ("2_28", "2_27", "2_17")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="bench/gpu/prepare", description=__doc__)
    where = os.environ.get("EASYBN_DATA", "../shared/data")
    parser.add_argument("--data", type=Path, default=where, help="folder with the data sets (default: %(default)s)")
    parser.add_argument("--python", default="3.12", help="version of Python there (default: %(default)s)")
    parser.add_argument("--no-wheels", action="store_true", help="for a machine where easybn is installed")
    parser.add_argument("--out", type=Path, default=PREPARED, help=argparse.SUPPRESS)
    asked = parser.parse_args(argv)
    out: Path = asked.out
    shutil.rmtree(out, ignore_errors=True)
    (out / "wheels").mkdir(parents=True)
    try:
        files = packed.packed(asked.data, out / "data")
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if not asked.no_wheels:
        failed = download(asked.python, out / "wheels")
        if failed:
            print(f"error: pip found no wheel of: {', '.join(failed)}", file=sys.stderr)
            return 1
    (out / "commit").write_text(f"{commit()}\n", encoding="utf-8")
    files += sorted((out / "wheels").iterdir())
    for file in files:
        print(f"{file.stat().st_size:>12,}  {file.relative_to(out)}")
    total = sum(file.stat().st_size for file in files)
    print(f"{total:>12,}  {out}")
    if total > MOST:
        print(f"error: more than {MOST:,} bytes", file=sys.stderr)
        return 1
    return 0


def download(python: str, folder: Path) -> list[str]:
    """Wheels for x86-64 Linux and that version of Python, without what they need; the names that failed."""
    common = ["--no-deps", "--only-binary=:all:", "--python-version", python, "--implementation", "cp", "-q"]
    common += [word for glibc in PLATFORMS for word in ("--platform", f"manylinux_{glibc}_x86_64")]
    pip = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", *common, "-d", str(folder)]
    failed = [name for name in WHEELS if subprocess.run([*pip, name]).returncode]
    for wheel in folder.glob("*.whl"):
        slim(wheel)
    return failed


def slim(wheel: Path) -> None:
    """Leave out of a wheel what is large and no code: examples with weights, of 40 MB in one of them."""
    with zipfile.ZipFile(wheel) as archive, packed.replacing(wheel) as file:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as kept:
            for entry in archive.infolist():
                if entry.file_size < LARGE or entry.filename.endswith((".py", ".pyi", ".so")):
                    kept.writestr(entry, archive.read(entry))
