"""``python -m easybn``."""

import sys
from pathlib import Path

if sys.path and sys.path[0] in ("", str(Path.cwd())) and not sys.flags.safe_path:
    del sys.path[0]  # Python's own habit with -m: a torch.py in the working folder would take the place of torch

from .cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
