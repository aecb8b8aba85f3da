"""``--recipe ./my_recipe.py:MyRecipe``, and the same in YAML: a recipe from a file of the user's."""

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

_called: dict[str, str] = {}  # import paths of the classes loaded, and what the user called them


def with_own_recipe(words: list[str]) -> list[str]:
    """``words`` with FILE.py:CLASS after ``--recipe`` replaced by a class path, the file imported.

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


def imported(text: str, folder: Path) -> str:
    """YAML with FILE.py:CLASS replaced by a class path, the file imported, and maybe found in ``folder``."""
    line = re.compile(r"^(\s*(?:recipe|class_path):\s*)[\"']?([^\s\"']+\.py:\w+)[\"']?", re.M)
    return line.sub(lambda found: found[1] + load(found[2], folder), text)


def unimported(text: str) -> str:
    """The inverse of :func:`imported`, for YAML that is printed."""
    for path, where in _called.items():
        text = f"{text}\n".replace(f"class_path: {path}\n", f"class_path: {where}\n")[:-1]
    return text


def load(where: str, folder: Path = Path()) -> str:
    """Import FILE.py:CLASS, looked for here and in ``folder``; returns the class's import path."""
    from ..recipes.recipe import Recipe  # not at the top: this module is read for every --help

    file, _, name = where.rpartition(":")
    path = next((place.resolve() for place in (Path(file), folder / file) if place.exists()), None)
    if path is None:
        raise ValueError(f"--recipe {where}: there is no file {file}")
    module = _imported(path, where)
    found = getattr(module, name, None)
    if not (isinstance(found, type) and issubclass(found, Recipe)):
        classes = [
            n for n, v in vars(module).items() if isinstance(v, type) and issubclass(v, Recipe) and v is not Recipe
        ]
        raise ValueError(f"--recipe {where}: no recipe {name!r} in {file}; it has {', '.join(classes) or 'none'}")
    _called[f"{path.stem}.{name}"] = where
    return f"{path.stem}.{name}"


def _imported(path: Path, where: str) -> ModuleType:
    """The module of the file at ``path``, findable under the file's name."""
    known = sys.modules.get(path.stem)
    if known is not None and known.__file__ == str(path):
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
