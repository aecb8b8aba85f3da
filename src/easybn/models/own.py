"""A user's own model: ``module:function``, from the working folder or whatever is installed.

Its code runs: only what the command line of this very call names comes here, never what a file names.
"""

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from .external import LIBRARIES


def is_code(name: str | None) -> bool:
    """Whether a model's name is that of a function: ``module:function``."""
    library, _, rest = (name or "").partition(":")
    return bool(rest) and library not in LIBRARIES


def own_model(where: str, options: dict[str, Any] | None = None) -> nn.Module:
    """What ``function`` of ``module`` returns; a class serves as well.

    Args:
        where: "module:function"; the module is looked for in the working folder first, what it imports there last.
        options: keyword arguments.

    Raises:
        ValueError: no such module or function, one that fails, or that returns no model.
    """
    name, _, function = where.partition(":")
    name = name.removesuffix(".py").removeprefix("./").replace("/", ".")
    with _found_here(name):
        module = _imported(name, where)
        make = getattr(module, function, None)
        if not callable(make):
            names = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
            known = f"; it has {', '.join(names[:8])}" if names else ""
            raise ValueError(f"--model {where}: there is no function {function!r} in {name}{known}")
        try:
            model = make(**(options or {}))
        except Exception as error:
            raise ValueError(f"--model {where}: {function} failed: {type(error).__name__}: {error}") from error
    if not isinstance(model, nn.Module):
        raise ValueError(f"--model {where}: {function} returned a {type(model).__name__}, not a torch.nn.Module")
    return model


def _imported(name: str, where: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except Exception as error:  # whatever a user's file does when it is imported
        raise ValueError(f"--model {where}: {name} cannot be imported: {type(error).__name__}: {error}") from error


@contextmanager
def _found_here(name: str) -> Iterator[None]:
    """The module ``name`` is found in the working folder first; what files of that folder import is found there last.

    So a torch.py or timm.py in a folder of somebody else's does not take the place of the installed one, nor a wandb.py
    that of a module that is not installed and that timm would use if it was.
    """
    first, last = _Here(lambda wanted: wanted == name.partition(".")[0]), _Here(lambda _: _importer_is_here())
    sys.meta_path.insert(0, first)
    sys.meta_path.append(last)
    try:
        yield
    finally:
        sys.meta_path.remove(first)
        sys.meta_path.remove(last)


class _Here:
    """Finds modules in the working folder."""

    def __init__(self, serves: Callable[[str], bool]):
        self._serves = serves

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        found = path is None and self._serves(name)
        return PathFinder.find_spec(name, [str(Path.cwd())]) if found else None


def _importer_is_here() -> bool:
    """Whether a file of the working folder is what imports."""
    frame = sys._getframe(1)
    while frame.f_back and (frame.f_code.co_filename == __file__ or frame.f_code.co_filename.startswith("<frozen")):
        frame = frame.f_back
    return Path(frame.f_code.co_filename).is_relative_to(Path.cwd())
