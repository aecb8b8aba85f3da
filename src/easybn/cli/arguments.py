"""The parser of all commands: arguments and YAML to objects, by jsonargparse and the types of the dataclasses."""

import difflib
import json
import re
import sys
from collections.abc import Callable
from dataclasses import fields
from fractions import Fraction
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from jsonargparse import ArgumentError, ArgumentParser, Namespace
from jsonargparse.typing import register_type

from ..escapes import escaped
from ..files import MOST_TEXT, check_regular
from ..perturb.eps import parse_eps
from .messages import in_plain_words
from .renamed import refuse_old_names
from .user_code import CLASSES, load_named, parse_yaml, resolved, with_names

if TYPE_CHECKING:
    from ..study.slurm import SlurmOptions


def _fraction(text: Any) -> Fraction:
    number = parse_eps(text, "a radius")  # refuses huge exponents, which Fraction would write out
    try:
        return Fraction(text)
    except ValueError:
        return Fraction(number)


register_type(Fraction, str, _fraction, fail_already_registered=False)


class Parser(ArgumentParser):
    """A parser that suggests the nearest known name, and knows the configs that come with the package.

    Code files that a YAML file names are looked for beside it, then in the working folder.
    """

    _file = ""  # the YAML file being read
    _started = Path()  # the working folder; while a file is read, jsonargparse changes into the file's folder
    _run_code = True  # whether code that a YAML file names may be imported
    _without_classes = False

    def read(self, words: list[str], run_code: bool = True, without_classes: bool = False) -> Namespace:
        """Parse words into arguments, with objects in place of their descriptions.

        Args:
            words: of the command line of this call; with ``run_code=False`` from anywhere.
            run_code: whether code that they name may run; if not, :class:`.user_code.CodeNotRun` is raised for classes.
            without_classes: ignore the options whose values are classes, recipe and schedule.
        """
        if any(word in ("-h", "--help") for word in words):
            words = ["--help"]  # alone, since a config before it would be read first
        refuse_old_names(self._command, (_option_name(word) for word in words if word.startswith("--")), "--")
        self._run_code = run_code and not any(word.startswith("--print_config") for word in words)
        self._without_classes = without_classes
        words = _packaged_configs(words)
        if without_classes:
            words = [word for word in words if not re.match(rf"--({'|'.join(CLASSES)})\b", word)]
        return self.instantiate(self.parse_args(load_named(words) if run_code else words))

    @property
    def _command(self) -> str:
        return self.prog.removeprefix("easybn ")

    def parse_path(self, path: Any, *args: Any, **options: Any) -> Namespace:
        """Read a YAML file; error messages name it."""
        around = self._file, self._started
        self._file, self._started = str(path), Path.cwd()
        try:
            check_regular(path, MOST_TEXT)
            found = super().parse_path(path, *args, **options)
            known = {action.dest.partition(".")[0] for action in self._actions}
            if unknown := [key for key in vars(found) if key not in known]:
                self.error(f"Option '{unknown[0]}' is not accepted")
            return found
        except ValueError as error:
            if str(error).startswith(self._file):
                raise
            raise ValueError(f"{self._file}: {error}") from error
        finally:
            self._file, self._started = around

    def parse_string(self, content: str, *args: Any, **options: Any) -> Namespace:
        found = parse_yaml(content)
        if isinstance(found, dict):
            refuse_old_names(self._command, found)
            if self._without_classes:
                found = {key: value for key, value in found.items() if str(key).partition(".")[0] not in CLASSES}
            where, folders = self._file or "--config", (Path.cwd(), self._started)
            found = resolved(found, where, folders, self._run_code, self._started)
            content = json.dumps(found)  # what was examined, and nothing else
        return super().parse_string(content, *args, **options)

    def dump(self, *args: Any, **options: Any) -> str:
        return escaped(with_names(super().dump(*args, **options)))

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        message = f"{self._file}: " * bool(self._file) + " ".join(escaped(message).split())
        message += "" if "did you mean" in message else self._hint(message)
        if not self.exit_on_error:  # a parser of a nested class: the outer one reports the error
            raise ArgumentError(None, message) from ex
        message = in_plain_words(message, "" if self._file else "--")
        self.exit(2, escaped(f"{self.prog}: error: {message} (see {self.prog} --help)\n"))
        raise AssertionError  # exit does not return

    def _hint(self, message: str) -> str:
        """The nearest known name, if the message is about an unknown one."""
        own = "Problem with given class_path" not in message  # else it is of another parser, which knows its options
        pattern = r"unrecognized arguments: --([\w.-]+)|Option '([\w.-]+)' is not accepted$"
        if own and (unknown := re.search(pattern, message)):
            word = unknown[1] or unknown[2]
            known = [option[2:] for action in self._actions for option in action.option_strings if option[:2] == "--"]
            known += ["class_path", "init_args"] * (not self.exit_on_error)
        elif unknown := re.search(r"key \"recipe\": .*import path string: (\w+)", message):
            from .. import recipes

            word, known = unknown[1], list(recipes.RECIPES)
        else:
            return ""
        near = difflib.get_close_matches(word, known, n=1)
        return f" (did you mean {near[0]}?)" if near else ""


def _option_name(word: str) -> str:
    """``lr`` of ``--lr`` and of ``--lr=0.1``."""
    return word.removeprefix("--").partition("=")[0]


def packaged() -> dict[str, Path]:
    """Paths of the configs that come with the package, by name."""
    folder = Path(str(resources.files("easybn"))) / "configs"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


class number(float):
    """A positive number or a fraction such as 8/255; ValueError for anything else."""

    def __new__(cls, text: str | float) -> "number":
        return super().__new__(cls, parse_eps(text))


number.__name__ = "number or fraction"  # what the help calls it
register_type(number, float, number, fail_already_registered=False)


class time_span(float):
    """Seconds, of "90s", "10m", "2h" or a plain number; ValueError for anything else."""

    def __new__(cls, text: str | float) -> "time_span":
        word = str(text).strip()
        unit = {"s": 1, "m": 60, "h": 3600}.get(word[-1:].lower())
        try:
            return super().__new__(cls, float(word[:-1]) * unit if unit else float(word))
        except ValueError:
            raise ValueError(f"{text} is not a time such as 90s, 10m or 2h") from None


time_span.__name__ = "time such as 90s, 10m, 2h"
register_type(time_span, float, time_span, fail_already_registered=False)


class share(float):
    """A share of one, of "1%" or 0.01; ValueError for anything else."""

    def __new__(cls, text: str | float) -> "share":
        word = str(text).strip()
        try:
            return super().__new__(cls, float(word[:-1]) / 100 if word.endswith("%") else float(word))
        except ValueError:
            raise ValueError(f"{text} is not a share such as 1% or 0.01") from None


share.__name__ = "share such as 1% or 0.01"
register_type(share, float, share, fail_already_registered=False)


def _packaged_configs(words: list[str]) -> list[str]:
    """Replace ``--config NAME`` by the path of the packaged config of that name.

    Raises:
        ValueError: there is neither a file nor a packaged config of that name.
    """
    known = packaged()

    def path(value: str) -> str:
        if Path(value).exists() and not Path(value).is_dir():
            return value
        if value in known:
            return str(known[value])
        near = difflib.get_close_matches(value, known, n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise ValueError(f"--config {value}: no such file, and no config of the package{hint}")

    out: list[str] = []
    for i, word in enumerate(words):
        if word.startswith("--config="):
            out.append(f"--config={path(word.partition('=')[2])}")
        else:
            out.append(path(word) if i and words[i - 1] == "--config" else word)
    return out


# Where a command's work is done: in processes of this machine, or in jobs of a cluster.


def add_executor_options(parser: Parser, what: str) -> Callable[..., Any]:
    """Add --executor and the options of Slurm's jobs in a group; returns the group's ``add_argument``.

    Args:
        what: is done in a job each.
    """
    add: Callable[..., Any] = parser.add_argument_group("a Slurm cluster").add_argument
    where = (
        f"local: on this machine; slurm: {what} in an element of a job array of its own (pip install 'easybn[slurm]')"
    )
    add("--executor", choices=["local", "slurm"], default="local", help=where)
    add("--slurm.partition", type=str, default=None, help="partition of the jobs; by default the cluster's")
    time = "minutes of each element; one that needs more saves, is queued again and goes on"
    add("--slurm.time", type=int, default=60, help=time)
    add("--slurm.cpus", type=int, default=1, help="processors, and threads, of each element")
    add("--slurm.gpus", type=int, default=None, help="GPUs of each element")
    add("--slurm.memory", type=float, default=None, metavar="GB", help="memory of each element")
    add("--slurm.account", type=str, default=None, help="account that pays")
    add("--slurm.constraint", type=str, default=None, help="features that the nodes must have")
    add("--slurm.at_once", type=int, default=None, help="elements that run at the same time, at most")
    extra = "other options of sbatch, such as qos=long exclusive"
    add("--slurm.extra", nargs="+", type=str, default=[], metavar="KEY=VALUE", help=extra)
    add(
        "--slurm.detach", action="store_true", help="end when the jobs are submitted; the same command shows them again"
    )
    return add


def safe_path() -> list[str]:
    """Python's option not to import modules from the working folder, unless this package itself is there."""
    return [] if Path(__file__).parents[2] == Path.cwd() else ["-P"]


def easybn() -> list[str]:
    """The words with which this very command was called, in another process."""
    script = [sys.argv[0]] if Path(sys.argv[0]).name == "easybn" else [*safe_path(), "-m", "easybn"]
    return [sys.executable, *script]


def slurm_options_of(arguments: Namespace) -> "SlurmOptions | None":
    """What the jobs ask for; None if the work is done here.

    Raises:
        ValueError: no jobs can be submitted here; an option out of range, or without --executor slurm.
    """
    from ..study.slurm import SlurmOptions, check_available

    given = vars(arguments.slurm)
    values = {each.name: given[each.name] for each in fields(SlurmOptions)}
    options = SlurmOptions(**{**values, "extra": tuple(values["extra"])})
    if arguments.executor == "slurm":
        check_available()
        return options
    unused = {"shards": 1, "detach": False} | {each.name: each.default for each in fields(SlurmOptions)}
    for name, value in given.items():
        if (tuple(value) if isinstance(value, list) else value) != unused[name]:
            raise ValueError(f"--slurm.{name} goes with --executor slurm")
    return None


# What a command measures: runs, or a user's model, by the options that name it.
