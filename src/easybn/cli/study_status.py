"""``easybn study NAME --status``: how a study stands that was started, at once.

It answers before the parser of all commands could be imported, not to mention torch: of a thousand runs in under a
second. Nothing here imports either, or rich.
"""

import argparse
import difflib
from collections.abc import Sequence
from fnmatch import fnmatchcase
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from ..escapes import say
from ..study.plan_file import plan_of, read_plan
from ..study.status import overview

if TYPE_CHECKING:
    from ..study.plan import Planned
    from ..study.state import Expected

Run = TypeVar("Run", "Planned", "Expected")


def answer(words: list[str]) -> bool:
    """Show the status that a command line asks for.

    Args:
        words: after ``easybn study``.

    Returns:
        False if that takes the parser of the command: other options, mistakes, a study that was not started.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("study")
    parser.add_argument("--status", action="store_true")
    parser.add_argument("--out")
    parser.add_argument("--only", nargs="+")
    try:
        given, unknown = parser.parse_known_args(words)
    except (argparse.ArgumentError, SystemExit):
        return False
    return given.status and not unknown and show_status(given.study, given.out, given.only)


def show_status(study: str, out_option: str | None, only: list[str] | None) -> bool:
    """Print how a study stands, by its plan and the folders of its runs.

    Args:
        study: its file, its name or its folder.
        out_option, only: see the options of these names.

    Returns:
        False if no study was started there, so that its file has to be read.
    """
    file, out = None, Path(study)
    if out.is_dir() and out_option:
        raise ValueError(f"{out} is the folder of a study: leave --out out")
    if not out.is_dir():
        file = find_study(study)
        from .user_code import read_yaml

        content = read_yaml(file)
        name = content.get("name", file.stem) if isinstance(content, dict) else file.stem
        out = Path(out_option or f"runs/{name}")
    plan = read_plan(out)
    if plan is None and file is None:
        raise ValueError(f"{out} has no study.json: no study was started there; name the study's file instead")
    if plan is None:
        say(f"note: no study was started in {out} (there is no study.json)")
        return False
    if plan.has_changed() or (file and plan_of("", (), file).file_digest != plan.file_digest):
        say(f"note: {file or plan.file} has changed since the study was last started, with what is shown here")
    for line in overview(chosen(plan.name, plan.runs, only), out):
        say(line)
    return True


def chosen(study: str, runs: Sequence[Run], globs: list[str] | None) -> list[Run]:
    """The runs of the study of that name whose names match; ValueError if a pattern matches none."""
    for glob in globs or []:
        if not any(fnmatchcase(run.name, glob) for run in runs):
            raise ValueError(f"--only {glob}: {study} has no such run; its first run is {runs[0].name}")
    return [run for run in runs if globs is None or any(fnmatchcase(run.name, glob) for glob in globs)]


def packaged_studies() -> dict[str, Path]:
    """Paths of the studies that come with the package, by name."""
    folder = Path(str(resources.files("easybn"))) / "configs" / "studies"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def find_study(name: str) -> Path:
    """The file of that path, or the package's study of that name; ValueError if there is neither."""
    path, known = Path(name), packaged_studies()
    if path.is_file():
        return path
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
    raise ValueError(f"{name}: no such file, and no study of the package ({hint})")
