"""The command line: runs a command, and shows every mistake of a user in one line.

A command is a module of ``easybn.cli`` of its name, with ``configure(parser)`` and ``run(arguments)``; its docstring is
the help. Commands that belong together share a module (``MODULES``) with ``configure_NAME(parser)`` and
``run_NAME(arguments)``, whose docstring is the help. Nothing here imports torch, so that ``easybn --help`` is quick.
"""

import codecs
import gc
import inspect
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from .. import __version__
from ..escapes import escaped, say
from ..interrupt import Interrupted
from ..memory import is_out_of_memory
from ..user_code import forbid_all

if TYPE_CHECKING:
    from jsonargparse import Namespace

    from .arguments import Parser

COMMANDS = {
    "demo": "train vanilla, AdvProp and EBN on the bundled sample, attack them, print the table",
    "train": "train one model by one recipe",
    "evaluate": "clean and robust accuracy of trained models and of any model of yours: PGD, AutoAttack",
    "verify": "test stored adversarial images again: inside the ball, inside [0, 1], misclassified",
    "compare": "two evaluations of the same points: the paired difference, and who withstands which",
    "curve": "robust accuracy at every eps from one evaluation, as SVG or PNG",
    "study": "train and evaluate a grid of runs from one file; what is done is not done again",
    "table": "the scores of several runs side by side",
    "stacked": "the paper's figures 1 and 2: which half of an image stacked on its easy copy decides",
    "census": "which training images are easy after the first epoch, over seeds; files to leave them out",
    "hidden": "how far perturbations move the hidden states, layer by layer, and branches their statistics",
    "analyse": "what a network is like beside its accuracy: rank, latent space and more, with intervals",
    "claims": "test the paper's claims on our rows, each with its verdict and interval",
    "summarise": "what the report needs models for, as rows: confidences, a gallery, one verdict per point",
    "report": "one HTML page about a folder of runs; the paper's tables over seeds",
    "perturb": "make an image harder or easier for a trained model: pictures and confidences",
    "export": "write a trained model as safetensors, torch.export or ONNX file, or for RobustBench, and check it",
    "push": "put a finished run on the Hugging Face Hub: weights, config, and a card with its scores",
    "data": "data sets: which are here, how to get the others, what is in one",
    "doctor": "check the installation, and how to fix what is missing",
}
MODULES = {
    **dict.fromkeys(("stacked", "census", "hidden"), "experiments"),
    **dict.fromkeys(("report", "claims", "summarise"), "report"),
    **dict.fromkeys(("train", "demo"), "train"),
    **dict.fromkeys(("compare", "curve"), "verdicts"),
    **dict.fromkeys(("export", "push", "verify", "perturb"), "trained"),
}
"""Modules that several commands share; every other command has the module of its own name."""

USAGE = f"""usage: easybn COMMAND [OPTIONS]

Train image classifiers with auxiliary batch normalisation (AdvProp, Easy Batch Normalization and your own
recipe), and measure their robustness.

commands:
{chr(10).join(f"  {name:10} {text}" for name, text in COMMANDS.items())}

easybn COMMAND --help explains a command; easybn --version prints the version.
Begin with: easybn demo
"""


PLAIN = {"\u00b1": "+-", "\u2026": "...", "\u2212": "-", "\u00d7": "x"}
"""Replacements for characters that a terminal's encoding lacks."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status: 0, 2 for a mistake of the user, 128 + signal if stopped."""
    codecs.register_error("easybn", _plain)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a result must not be lost because the terminal is ASCII
            stream.reconfigure(errors="easybn")
    try:
        try:
            return _main(list(sys.argv[1:] if argv is None else argv))
        finally:
            if sys.stdout is not None:  # None if it was closed: >&-
                sys.stdout.flush()  # here, so that a closed pipe is not taken for a failure
    except BrokenPipeError:
        # Python flushes once more when it ends, and would complain
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def _main(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        say(USAGE, end="")
        return 0 if words else 2
    if words[0] in ("-V", "--version"):
        say(f"easybn {__version__}")
        return 0
    if words[0] not in COMMANDS:
        import difflib

        near = difflib.get_close_matches(words[0], COMMANDS, n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        return _fail(f"no command {words[0]!r}{hint}; there are {', '.join(COMMANDS)}")
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_: _note(
            message
        )  # one line, without the source line that Python prints
        return _run(words[0], words[1:])


def _command(name: str) -> tuple[Callable[["Parser"], None], Callable[["Namespace"], None], str | None]:
    """Functions that add its options and run it, and its help."""
    module = import_module(f".{MODULES.get(name, name)}", __package__)
    if name not in MODULES:
        return module.configure, module.run, module.__doc__
    run = getattr(module, f"run_{name}")
    return getattr(module, f"configure_{name}"), run, inspect.getdoc(run)


def _run(name: str, words: list[str]) -> int:
    if "OMP_WAIT_POLICY" not in os.environ:
        # torch's threads (GNU OpenMP) wait for each other in a busy loop, by default so long that another process on
        # the same cores makes a training several times slower; this is read when torch is loaded
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    # importing torch makes a million objects that stay; searching them for garbage again and again takes a tenth of the
    # time to the first step
    gc.set_threshold(50_000)
    sys.excepthook = _show_bug
    try:
        if name == "study" and "--status" in words:
            from .study_status import answer

            if answer(words):
                return 0
        from .arguments import Parser

        configure, run, description = _command(name)
        parser = Parser(prog=f"easybn {name}", description=description, allow_abbrev=False)
        configure(parser)
        run(parser.read(words))
    except Interrupted as stop:
        say(f"easybn: {stop}", error=True)
        return 128 + stop.signum
    except KeyboardInterrupt:
        say("easybn: stopped; run the same command to continue from what was saved", error=True)
        return 130
    except BrokenPipeError:
        raise
    except Exception as error:
        message = None if os.environ.get("EASYBN_TRACEBACK") else _mistake(error)
        if message is None:  # the traceback helps to fix it
            error.add_note("This is a bug in easybn: please report it with the lines above.")
            raise
        return _fail(message)
    finally:
        forbid_all()
    return 0


def _mistake(error: Exception) -> str | None:
    """A user's mistake in one line; None for a bug in easybn."""
    text = str(error)
    if is_out_of_memory(error):
        return f"not enough memory: {text or 'none is free'}: use a smaller --batch_size or model"
    if isinstance(error, RuntimeError) and "home directory" in text:
        return "this user has no home folder: set HOME, or XDG_CACHE_HOME to a folder for decoded data sets"
    if place := _place_in_users_file(error):
        return f"{place}: {type(error).__name__}: {text} (EASYBN_TRACEBACK=1 shows where it came from)"
    if isinstance(error, OSError) and error.errno and error.filename:
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, (ValueError, OSError, ArithmeticError)):  # what the library raises for mistakes of users
        place = _place_in_users_file(error.__cause__) if error.__cause__ else None
        return f"{text} ({place})" if place else text or type(error).__name__
    return None


def _place_in_users_file(error: BaseException) -> str | None:
    """The innermost line of a user's file (a recipe, a model) in the error's traceback."""
    import sysconfig
    import traceback

    ours = [
        Path(__file__).parent.parent,
        *(Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib", "platlib")),
    ]
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        file = Path(frame.filename)
        generated = frame.filename.startswith("<") or "torchinductor" in frame.filename
        if not generated and not any(file.is_relative_to(folder) for folder in ours):
            return f"{frame.filename}, line {frame.lineno}, in {frame.name}"
    return None


def _plain(error: UnicodeError) -> tuple[str, int]:
    """A codecs error handler: writes characters that the encoding lacks with ASCII characters."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    import unicodedata

    plain = ""
    for character in error.object[error.start : error.end]:
        letters = unicodedata.normalize("NFKD", character)
        near = PLAIN.get(character) or "".join(each for each in letters if not unicodedata.combining(each))
        plain += near if near and near.isascii() else character.encode("ascii", "backslashreplace").decode()
    return plain, error.end


def _note(message: Warning | str) -> None:
    say(f"easybn: note: {' '.join(escaped(str(message)).split())}", error=True)


def _show_bug(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    import traceback

    say("".join(traceback.format_exception(kind, error, trace)), error=True, end="")


def _fail(message: str) -> int:
    say(f"easybn: error: {' '.join(escaped(message).split())}", error=True)
    return 2
