"""The real RobustBench: ``python tests/with_robustbench/environment.py FOLDER`` makes an environment for it.

RobustBench pins old versions. They are installed into a virtual environment of their own, which sees the packages of
this one behind its own, so that torch is not installed again: it takes seconds. The tests in test_package.py use it.
"""

import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

PACKAGES = (
    # of the extra, and what they need that this environment may lack
    *("robustbench==1.1.1", "timm==1.0.9", "gdown==5.1.0", "setuptools<82"),
    *("torchdiffeq", "geotorch", "pandas", "python-dateutil", "six", "tqdm"),
    *("requests", "urllib3", "certifi", "charset-normalizer", "idna", "beautifulsoup4", "soupsieve", "PySocks"),
)


def make(folder: Path) -> None:
    """Make the environment; what is in ``folder`` already is replaced."""
    venv.create(folder, clear=True, with_pip=False)
    python = folder / "bin/python"
    pip = [sys.executable, "-m", "pip", "--quiet", "--python", str(python)]
    subprocess.run([*pip, "install", "--no-deps", *PACKAGES], check=True)
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    own = subprocess.run([python, "-c", where], capture_output=True, text=True, check=True).stdout.strip()
    Path(own, "behind.pth").write_text(sysconfig.get_path("purelib") + "\n")


if __name__ == "__main__":
    make(Path(sys.argv[1]))
