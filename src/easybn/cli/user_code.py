"""Files and code that a user names: YAML read with limits, and ``my.py:Name`` or ``module:name`` wherever it stands.

========================== ===================================================================
``--recipe``, ``--schedule`` a class, made with its fields
``--attacks``              a class of attacks, or an attack
``--data``                 a function that returns a data set
``--model``                a function that returns a model
========================== ===================================================================

Importing a file runs it. So code runs only if the command line of this call names it, or names the YAML file that does;
of the latter it is said first what will run. Nothing runs for ``--help``, ``--print_config`` and ``--dry_run``. Any
other class that a YAML file names must be one of easybn's: naming a module of somebody else's is enough to run it.
"""

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from ..files import MOST_TEXT, read_text
from ..user_code import code_file, import_code, is_user_code, load_object, permit

# YAML files of any origin, read with limits: a small file must not fill the memory, nor a key hide another one.

DEEPEST = 50  # levels of lists and mappings
MOST_NODES = 100_000  # values, with those that aliases repeat

_Safe: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_Safe):  # type: ignore[misc]
    """PyYAML's YAML 1.1, except that 1e-3 is a number, a date is text, and a repeated key is an error."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - replaces the class attribute of the base
        letter: [(tag, pattern) for tag, pattern in known if not tag.endswith((":timestamp", ":float"))]
        for letter, known in _Safe.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen = set()
        for key, _ in node.value:
            if key.tag.endswith(":merge"):
                continue
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.YAMLError(f"the key {key.value!r} is there twice, again in line {key.start_mark.line + 1}")
            seen.add(key.value if isinstance(key, yaml.ScalarNode) else id(key))
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"[-+]?(?:\d[\d_]*\.[\d_]*(?:[eE][-+]?\d+)?|\d[\d_]*[eE][-+]?\d+|\.[\d_]+(?:[eE][-+]?\d+)?"
        r"|\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
    ),
    list("-+0123456789."),
)


def read_yaml(path: Path) -> Any:
    """Read a file: None, or mappings, lists, text, numbers and truth values.

    Raises:
        ValueError: it is no YAML, too large, too deep, or has other values; the message lacks the file's name.
        OSError: it cannot be read.
    """
    return parse_yaml(read_text(path))


def parse_yaml(text: str) -> Any:
    """See :func:`read_yaml`."""
    if len(text) > MOST_TEXT:
        raise ValueError(f"has more than {MOST_TEXT:,} characters: no file of settings")
    try:
        _check_size(text)
        found = yaml.load(text, Loader=_Loader)
        json.dumps(found)  # raises unless all values are plain
    except yaml.YAMLError as error:
        raise ValueError(f"Problems parsing config: {' '.join(str(error).split())}") from error
    except (TypeError, ValueError, OverflowError, RecursionError) as error:  # dates, bytes, numbers of 5000 digits
        raise ValueError(f"Problems parsing config: {error}") from error
    return found


def _check_size(text: str) -> None:
    """YAMLError if there are too many levels or values, before any value is built."""
    sizes: dict[str, int] = {}
    open_: list[tuple[str | None, int]] = []  # anchors of the enclosing collections, values before each
    count = 0
    for event in yaml.parse(text, Loader=_Safe):
        if isinstance(event, yaml.AliasEvent):
            count += sizes.get(event.anchor, 1)
        elif isinstance(event, yaml.ScalarEvent):
            count += 1
            if event.anchor:
                sizes[event.anchor] = 1
        elif isinstance(event, yaml.CollectionStartEvent):
            count += 1
            open_.append((event.anchor, count))
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = open_.pop()
            if anchor:
                sizes[anchor] = count - before + 1
        if len(open_) > DEEPEST:
            raise yaml.YAMLError(f"more than {DEEPEST} levels")
        if count > MOST_NODES:
            raise yaml.YAMLError(f"more than {MOST_NODES:,} values")


CLASSES = ("recipe", "schedule")  # options whose value is a class with fields
NAMES = ("data", "model", "attacks")  # options whose value is a name, and may be that of code
_LIBRARIES = ("timm:", "torchvision:", "robustbench:", "hub:")  # of models

_names: dict[str, str] = {}  # import paths of the classes that were loaded, and what the user called them


class CodeNotRun(ValueError):
    """A file names code, which the command does not need to run."""

    def __init__(self, where: str, code: str):
        super().__init__(
            f"{where} names code, {code}, which runs only for training: leave it out, or name it on the command line"
        )
        self.code = code


def load_named(words: list[str]) -> list[str]:
    """The words of a command line with the code that they name loaded: classes become import paths.

    Raises:
        ValueError: no such file or module, or it has no such class.
    """
    out: list[str] = []
    option = ""  # that a word is the value of
    for word in words:
        key, equals, value = word.partition("=") if word.startswith("--") else (option, "", word)
        name = key.removeprefix("--")
        if _is_code(value) and name in CLASSES:
            value = load_class(value, name)
        elif _is_code(value) and name in NAMES:
            permit(value)
        out.append(f"{key}={value}" if equals else value if not word.startswith("--") else word)
        option = key if word.startswith("--") and not equals else ""
    return out


def load_class(name: str, option: str, folders: Sequence[Path] = ()) -> str:
    """Import a class that a user names; returns its import path, by which jsonargparse makes it.

    Args:
        name: ``my.py:Name`` or ``module:Name``.
        option: of which it is the value: "recipe" or "schedule"; anything else for a class inside one of them.
        folders: where a file is looked for, after the working folder.

    Raises:
        ValueError: no such file or module, or it has no such class.
    """
    from ..recipes.recipe import Recipe  # not at the top, since this module is read for every --help
    from ..train.schedule import Schedule

    base: type = {"recipe": Recipe, "schedule": Schedule}.get(option, object)
    kind = option if option in CLASSES else "class"
    load_object(
        name, _flag(option), lambda v: isinstance(v, type) and issubclass(v, base) and v is not base, kind, folders
    )
    module, attribute = import_code(name, _flag(option), folders)
    path = f"{module.__name__}.{attribute}"
    _names[path] = name
    return path


def _flag(option: str) -> str:
    """What messages call an option, or the place of a class in a file."""
    return f"--{option}" if option in (*CLASSES, *NAMES) else "class_path"


def resolved(
    content: dict[str, Any], where: str, folders: Sequence[Path], run_code: bool, started: Path | None = None
) -> dict[str, Any]:
    """The fields of an experiment in a file, with the code that they name announced and loaded.

    Args:
        content: the fields; names of classes become import paths, files found elsewhere get their full path.
        where: the name of the file, for messages.
        folders: where code files are looked for, after the working folder.
        run_code: whether code may run. Data sets and models are names until they are needed, and stay so.
        started: the folder that the command was started in, if that is not the working folder now.

    Raises:
        CodeNotRun: a class is named, and no code may run.
        ValueError: a class that is neither easybn's nor of the forms above; no such file, module or class.
    """

    def walk(value: Any, option: str) -> Any:
        """``value`` of an option, of a ``class_path`` or a ``field`` of a class; "" elsewhere."""
        if isinstance(value, dict):
            inside = {"class_path": option if option in CLASSES else "class_path"}
            return {key: walk(item, inside.get(str(key), option and "field")) for key, item in value.items()}
        if isinstance(value, list):
            return [walk(item, option) for item in value]
        if isinstance(value, str) and option in NAMES:
            return _permitted_name(value, option, where, started or Path.cwd(), folders, run_code)
        if isinstance(value, str) and option:
            return _class_path(value, option, where, folders, run_code)
        if isinstance(value, str) and (found := _yaml_inside(value)) is not None:
            walk(found, "")  # text that may be read as YAML once more
        return value

    def option_of(key: Any) -> str:
        first, *rest = str(key).split(".")
        if first in CLASSES:
            return first if rest in ([], ["class_path"]) else "class_path" if "class_path" in rest else "field"
        return first if first in NAMES and not rest else "class_path" if "class_path" in (first, *rest) else ""

    return {key: walk(value, option_of(key)) for key, value in content.items()}


def _yaml_inside(text: str) -> Any:
    """The mapping or list that a text holds if it is read as YAML; None for other texts."""
    try:
        found = parse_yaml(text)
    except ValueError:
        return None
    return found if isinstance(found, dict | list) else None


def _is_code(value: str) -> bool:
    return is_user_code(value) and not value.startswith(_LIBRARIES)


def _class_path(value: str, option: str, where: str, folders: Sequence[Path], run_code: bool) -> str:
    if is_user_code(value) and (option != "field" or ".py:" in value):
        if not run_code:
            raise CodeNotRun(where, value)
        path = code_file(value, _flag(option), folders)
        if path is None or getattr(sys.modules.get(path.stem), "__file__", None) != str(path):
            _announce(where, value, path, "class")
        return load_class(value, option, folders)
    if "." in value and not re.fullmatch(r"[-+\d.eE_/ ]+", value) and not _is_ours(value):
        raise ValueError(
            f"{where}: {value!r} is no class of easybn: a file runs no code but my.py:MyClass; name other classes on "
            "the command line, such as --recipe package.module.MyClass"
        )
    return value


def _permitted_name(value: str, option: str, where: str, started: Path, folders: Sequence[Path], run_code: bool) -> str:
    """The name of a data set or a model; if it is that of a function, it is announced and permitted."""
    if not _is_code(value) or (option == "data" and (started / value).exists()):
        return value
    path = code_file(value, f"--{option}", (started, *folders))
    file, _, function = value.rpartition(":")
    if path is not None and path != (started / file).resolve():
        value = f"{path}:{function}"
    if run_code:
        _announce(where, value, path, "class" if option == "attacks" else "function")
        permit(value)
    return value


def _announce(where: str, value: str, path: Path | None, kind: str) -> None:
    from ..escapes import say

    source, _, name = value.rpartition(":")
    say(f"easybn: {where} names code, which runs now: {path or source}, {kind} {name}", error=True)


def _is_ours(path: str) -> bool:
    """Whether a class is easybn's, or was loaded by :func:`load_class`; imports nothing."""
    if path in _names:
        return True
    name, _, attribute = path.rpartition(".")
    module = sys.modules.get(name) if name.partition(".")[0] == "easybn" else None
    return isinstance(getattr(module, attribute, None), type)


def with_names(text: str) -> str:
    """YAML that is printed, with the user's own names for the classes that were loaded."""
    for path, name in _names.items():
        text = f"{text}\n".replace(f"class_path: {path}\n", f"class_path: {name}\n")[:-1]
    return text
