"""Code that a user names: ``--recipe ./my_recipe.py:MyRecipe``, and the same in YAML.

Code is taken from the command line of this call, and from a YAML file that it names: then it is said first what will
run, and nothing runs where the command only shows or lists something. What a YAML file names as a class is otherwise
one of ours: naming a module of somebody else's is enough to run it.
"""

import importlib.util
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from ..user_code import code_file, is_user_code, permit
from .yaml_files import parse_yaml

OBJECTS = ("recipe", "schedule")  # fields of an experiment that hold objects
_FILE = re.compile(r"(.+\.py):(\w+)")
_called: dict[str, str] = {}  # import paths of the classes loaded, and what the user called them


class CodeNotRun(ValueError):
    """A file names code, and what was asked for does not need it."""

    def __init__(self, where: str, code: str):
        super().__init__(
            f"{where} names code, {code}, which runs only for training: leave it out, or name it on the command line"
        )
        self.code = code


def with_own_recipe(words: list[str]) -> list[str]:
    """``words`` of a command line with FILE.py:CLASS after ``--recipe`` replaced by a class path, the file imported.

    Raises:
        ValueError: no such file, no such class in it, or one that is no Recipe.
    """
    out = list(words)
    for i, word in enumerate(words):
        if word.startswith("--recipe=") and ".py:" in word:
            out[i] = f"--recipe={load(word.partition('=')[2])}"
        elif i and words[i - 1] == "--recipe" and ".py:" in word:
            out[i] = load(word)
    return out


def permit_data(words: Sequence[str]) -> None:
    """Let the code run that the words of a command line name as ``--data``, see :func:`easybn.user_code.permit`."""
    for before, word in zip(["", *words], words, strict=False):
        value = word.removeprefix("--data=") if word.startswith("--data=") else word if before == "--data" else ""
        if is_user_code(value):
            permit(value)


def with_data(
    content: dict[str, Any], where: str, started: Path, folders: Sequence[Path], run_code: bool
) -> dict[str, Any]:
    """The fields of an experiment in a file, whose ``data`` may be code: it is said that it runs, and it is permitted.

    Args:
        where: the name of the file, for messages.
        started: the folder that the command was started in; what is found elsewhere gets its full path.
        folders: where else a file is looked for.
        run_code: whether the data set is needed.
    """
    value = content.get("data")
    if not (isinstance(value, str) and is_user_code(value)) or (started / value).exists():
        return content
    file, _, name = value.rpartition(":")
    path = code_file(value, "--data", (started, *folders))
    if path is not None and path != (started / file).resolve():
        value = f"{path}:{name}"
    if run_code:
        from ..escapes import say

        say(f"easybn: {where} names code, which runs now: {path or file}, function {name}", error=True)
        permit(value)
    return {**content, "data": value}


def resolved(content: dict[str, Any], where: str, folders: Sequence[Path], run_code: bool) -> dict[str, Any]:
    """The fields of an experiment in a file, with FILE.py:CLASS replaced by a class path, the file imported.

    Args:
        where: the name of the file, for messages.
        folders: where a FILE.py is looked for.
        run_code: whether it may be imported.

    Raises:
        CodeNotRun: it may not.
        ValueError: a class that is neither ours nor in a FILE.py; no such file or class.
    """

    def walk(value: Any, is_class: bool) -> Any:
        if isinstance(value, dict):
            return {key: walk(item, is_class or key == "class_path") for key, item in value.items()}
        if isinstance(value, list):
            return [walk(item, is_class) for item in value]
        if isinstance(value, str) and is_class:
            return _class_path(value, where, folders, run_code)
        if isinstance(value, str) and (inside := _yaml_inside(value)) is not None:
            walk(inside, False)  # a text may be read as YAML once more
        return value

    def of_object(key: Any) -> bool:
        words = str(key).split(".")
        return words[0] in OBJECTS or "class_path" in words

    return {key: walk(value, of_object(key)) for key, value in content.items()}


def _yaml_inside(text: str) -> Any:
    """The mapping or list that a text is if it is read as YAML; None for all other texts."""
    try:
        found = parse_yaml(text)
    except ValueError:
        return None
    return found if isinstance(found, dict | list) else None


def _class_path(value: str, where: str, folders: Sequence[Path], run_code: bool) -> str:
    if found := _FILE.fullmatch(value):
        if not run_code:
            raise CodeNotRun(where, value)
        path = _find(value, found[1], folders)
        if getattr(sys.modules.get(path.stem), "__file__", None) != str(path):
            from ..escapes import say

            say(f"easybn: {where} names code, which runs now: {path}, class {found[2]}", error=True)
        return load(value, folders)
    if "." in value and not re.fullmatch(r"[-+\d.eE_/ ]+", value) and not _is_ours(value):
        raise ValueError(
            f"{where}: {value!r} is no class of easybn: a file runs no code but FILE.py:CLASS; name others on the "
            "command line, such as --recipe package.module.Class"
        )
    return value


def _is_ours(path: str) -> bool:
    """Whether it is a class of the package, or of a file that was loaded by :func:`load`; imports nothing."""
    if path in _called:
        return True
    name, _, attribute = path.rpartition(".")
    module = sys.modules.get(name) if name.partition(".")[0] == "easybn" else None
    return isinstance(getattr(module, attribute, None), type)


def unimported(text: str) -> str:
    """The inverse of :func:`resolved`, for YAML that is printed."""
    for path, where in _called.items():
        text = f"{text}\n".replace(f"class_path: {path}\n", f"class_path: {where}\n")[:-1]
    return text


def load(where: str, folders: Sequence[Path] = ()) -> str:
    """Import FILE.py:CLASS, looked for here and in ``folders``; returns the class's import path."""
    from ..recipes.recipe import Recipe  # not at the top: this module is read for every --help

    file, _, name = where.rpartition(":")
    path = _find(where, file, folders)
    module = _imported(path, where)
    found = getattr(module, name, None)
    if not (isinstance(found, type) and issubclass(found, Recipe)):
        classes = [
            n for n, v in vars(module).items() if isinstance(v, type) and issubclass(v, Recipe) and v is not Recipe
        ]
        raise ValueError(f"--recipe {where}: no recipe {name!r} in {file}; it has {', '.join(classes) or 'none'}")
    _called[f"{path.stem}.{name}"] = where
    return f"{path.stem}.{name}"


def _find(where: str, file: str, folders: Sequence[Path]) -> Path:
    path = next((place.resolve() for folder in (Path(), *folders) if (place := folder / file).is_file()), None)
    if path is None:
        raise ValueError(f"--recipe {where}: there is no file {file}")
    return path


def _imported(path: Path, where: str) -> ModuleType:
    """The module of the file at ``path``, findable under the file's name."""
    known = sys.modules.get(path.stem)
    if known is not None and getattr(known, "__file__", None) == str(path):
        return known
    other = importlib.util.find_spec(path.stem) if known is None and path.stem.isidentifier() else None
    if not path.stem.isidentifier() or known is not None or (other is not None and other.origin != str(path)):
        raise ValueError(
            f"--recipe {where}: {path.stem!r} cannot be a module's name here (not letters, digits and _, "
            "or another module has it): rename the file"
        )
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ValueError(f"--recipe {where}: {path.name} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # dataclasses look their module up while they are made
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[path.stem]
        raise ValueError(
            f"--recipe {where}: {path.name} cannot be imported: {type(error).__name__}: {error}"
        ) from error
    return module
