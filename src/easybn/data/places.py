"""Where data sets are looked for."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

VARIABLE = "EASYBN_DATA"


def cache_folder() -> Path:
    """``$XDG_CACHE_HOME/easybn``, or ``~/.cache/easybn``."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    # the XDG base directory specification: a relative path is to be ignored
    return (Path(base) if Path(base).is_absolute() else Path.home() / ".cache") / "easybn"


def is_file(path: Path) -> bool:
    """Whether ``path`` is a file that may be seen; a folder that may not be entered has none."""
    try:
        return path.is_file()
    except OSError:
        return False


@dataclass(frozen=True)
class Wanted:
    """What a data set's original files are called, and where they may be.

    Args:
        title: the data set's own name.
        files: the files to put into a folder by hand.
        subfolders: what the folder with the files may be called below a root folder.
        here: the files in a folder, or None if not all of them are there.
        extra: further folders that may hold the files.
    """

    title: str
    files: tuple[str, ...]
    subfolders: tuple[str, ...]
    here: Callable[[Path], tuple[Path, ...] | None]
    extra: tuple[Path, ...] = ()

    def roots(self, folder: str | Path | None = None) -> list[Path]:
        """The folders that are looked into, and below: ``folder`` alone if it is given."""
        if folder is not None:
            return [Path(folder).expanduser()]
        named = os.environ.get(VARIABLE, "")
        return [*([Path(named).expanduser()] if named else []), cache_folder(), *self.extra]

    def find(self, folder: str | Path | None = None) -> tuple[Path, ...] | None:
        """The files in the first folder that has them all."""
        for root in self.roots(folder):
            for place in (root, *(root / name for name in self.subfolders)):
                if (found := self.here(place)) is not None:
                    return found
        return None

    def home(self, folder: str | Path | None = None) -> Path:
        """Where a download goes: ``folder`` if it is given, else into the cache."""
        return cache_folder() / self.subfolders[0] if folder is None else Path(folder).expanduser()

    def advice(self, folder: str | Path | None = None) -> str:
        """One line: what is missing, where it was looked for, and what to do."""
        below = " or ".join(f"{name}/" for name in self.subfolders)
        looked = ", ".join(map(str, self.roots(folder)))
        return (
            f"{self.title} was not found in {looked} (nor in {below} below): put {', '.join(self.files)} into one "
            f"of these, name their folder by {VARIABLE}, or fetch it: easybn data "
            f"{self.subfolders[0]} --download (in Python download=True)"
        )
