"""Code that a user names: ``my.py:MyRecipe`` (a file) or ``package.module:make`` (a module).

The syntax is the same for recipes, attacks, schedules, data sets and models. Importing a file runs it, so only names
from the command line of this very call, or from Python, may come here: never what a stored file says.

A file is imported under its own name (``my.py`` as the module ``my``), and never in the place of another module. A
module is looked for in the working folder first. What such code imports is looked for among the installed modules
first and beside it last, so that a ``torch.py`` in somebody else's folder replaces nothing.
"""

import importlib
import importlib.util
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

_FILE = re.compile(r"(?P<file>.+\.py):(?P<name>\w+)")
_MODULE = re.compile(r"(?P<module>[^\W\d]\w*(\.\w+)*):(?P<name>\w+)")
_INSTALLED = {"site-packages", "dist-packages"}  # installed modules, also of a .venv in the working folder


def is_user_code(name: str) -> bool:
    """Whether ``name`` has the form ``file.py:Name`` or ``module:name``; nothing is looked for or imported."""
    return bool(_FILE.fullmatch(name) or _MODULE.fullmatch(name))


def permit(name: str) -> None:
    """Let code of this name run where only names are stored: the command line of this call names it.

    Otherwise a stored name, such as the data set of a run, runs nothing (:func:`is_permitted`).
    """
    _permitted.add(name)


def forbid_all() -> None:
    """Withdraw all permits: they end with the command that gave them."""
    _permitted.clear()


def is_permitted(name: str) -> bool:
    """Whether :func:`permit` was called with ``name``."""
    return name in _permitted


_permitted: set[str] = set()


def code_file(name: str, option: str, folders: Sequence[Path] = ()) -> Path | None:
    """The file that ``file.py:Name`` would run, looked for in the working folder, then in ``folders``.

    Returns:
        None for ``module:name``.

    Raises:
        ValueError: there is no such file.
    """
    match = _FILE.fullmatch(name)
    if match is None:
        return None
    for folder in (Path(), *folders):
        if (path := folder / match["file"]).is_file():
            return path.resolve()
    raise ValueError(f"{option} {name}: there is no file {match['file']}")


def import_code(name: str, option: str, folders: Sequence[Path] = ()) -> tuple[ModuleType, str]:
    """The module of ``file.py:Name`` or ``module:name``, imported, and the name in it.

    Args:
        name: what the user wrote.
        option: the option it was given by, such as "--recipe", for messages.
        folders: where else a file is looked for, after the working folder.

    Raises:
        ValueError: no such file, a file named like another module, code that fails, or a name of another form.
    """
    if path := code_file(name, option, folders):
        return _import_file(path, name, option), name.rpartition(":")[2]
    match = _MODULE.fullmatch(name)
    if match is None:
        raise ValueError(f"{option} {name}: code is named as file.py:Name or module:name")
    _serve_imports_of(Path.cwd())
    try:
        with _found_here_first(match["module"]):
            return importlib.import_module(match["module"]), match["name"]
    except Exception as error:  # whatever a user's module does when it is imported
        raise ValueError(
            f"{option} {name}: {match['module']} cannot be imported: {type(error).__name__}: {error}"
        ) from error


def load_object(
    name: str, option: str, fits: Callable[[Any], bool] = callable, kind: str = "function", folders: Sequence[Path] = ()
) -> Any:
    """What ``file.py:Name`` or ``module:name`` is called in its module.

    Args:
        name, option, folders: see :func:`import_code`.
        fits: whether an object is of the kind that is asked for.
        kind: what a message calls that kind: "recipe", "attack", "function".

    Raises:
        ValueError: see :func:`import_code`; or there is no such object, or one of another kind: the message lists those
            that would fit.
    """
    module, attribute = import_code(name, option, folders)
    value = getattr(module, attribute, None)
    if not fits(value):
        fitting = [key for key, item in vars(module).items() if not key.startswith("_") and fits(item)]
        known = ", ".join(fitting[:8]) or "none"
        where = name.rpartition(":")[0]
        raise ValueError(f"{option} {name}: no {kind} {attribute!r} in {where}; it has {known}")
    return value


def call(make: Callable[..., Any], name: str, option: str, **arguments: Any) -> Any:
    """What a user's function returns; ValueError, naming it, for whatever it raises."""
    try:
        return make(**arguments)
    except Exception as error:
        function = name.rpartition(":")[2]
        raise ValueError(f"{option} {name}: {function} failed: {type(error).__name__}: {error}") from error


def _import_file(path: Path, name: str, option: str) -> ModuleType:
    """The module of a file, in ``sys.modules`` under the file's name."""
    stem = path.stem
    known = sys.modules.get(stem)
    if known is not None and getattr(known, "__file__", None) == str(path):
        return known
    other = importlib.util.find_spec(stem) if known is None and stem.isidentifier() else None
    if not stem.isidentifier() or known is not None or (other is not None and other.origin != str(path)):
        raise ValueError(
            f"{option} {name}: {stem!r} cannot be a module's name here (not letters, digits and _, or another module "
            "has it): rename the file"
        )
    spec = importlib.util.spec_from_file_location(stem, path)
    if spec is None or spec.loader is None:
        raise ValueError(f"{option} {name}: {path.name} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[stem] = module  # dataclasses look their module up while they are made
    _serve_imports_of(path.parent)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever a user's file does when it is imported
        del sys.modules[stem]
        raise ValueError(f"{option} {name}: {path.name} cannot be imported: {type(error).__name__}: {error}") from error
    return module


@contextmanager
def _found_here_first(name: str) -> Iterator[None]:
    """Inside the block, the module ``name`` and the package around it are found in the working folder first."""
    top, here = name.partition(".")[0], Path.cwd()
    finder = _Finder(lambda module: here if module == top else None)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


def _serve_imports_of(folder: Path) -> None:
    """From now on, files in ``folder`` can import modules that lie there, where none is installed under that name.

    It is kept, since a function may import when it is called; it serves files of ``folder`` alone: otherwise a
    ``wandb.py`` there would be taken by an installed module that uses ``wandb`` if there is one.
    """
    if folder not in _served:
        _served.append(folder)
        sys.meta_path.append(_Finder(lambda _: folder if _importer_is_in(folder) else None))


_served: list[Path] = []


class _Finder:
    """Finds top-level modules in the folder that ``folder_for`` gives for a name; None: in none."""

    def __init__(self, folder_for: Callable[[str], Path | None]):
        self._folder_for = folder_for

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        folder = self._folder_for(name) if path is None else None
        return None if folder is None else PathFinder.find_spec(name, [str(folder)])


def _importer_is_in(folder: Path) -> bool:
    """Whether the file whose import is being served lies in ``folder``, and is none of an installed module."""
    frame = sys._getframe(1)
    while frame.f_back and (frame.f_code.co_filename == __file__ or frame.f_code.co_filename.startswith("<frozen")):
        frame = frame.f_back
    importer = Path(frame.f_code.co_filename)
    return importer.is_relative_to(folder) and not _INSTALLED & set(importer.parts)
