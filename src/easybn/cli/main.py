"""The command line: finds the command asked for and shows every mistake of a user in one line.

Nothing here imports torch, so that ``easybn --help`` answers at once; each command is a module of
``easybn.cli`` with ``configure(parser)`` and ``run(arguments)``.
"""

import codecs
import gc
import os
import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from types import TracebackType

from .. import __version__
from ..escapes import escaped, say
from ..interrupt import Interrupted
from ..user_code import forbid_all

COMMANDS = {
    "demo": "train vanilla, AdvProp and EBN on the bundled sample, attack them, print the table",
    "train": "train one model by one recipe",
    "evaluate": "clean and robust accuracy of trained models and of any model of yours: PGD, AutoAttack",
    "verify": "stored adversarial images tested again: inside the ball, inside [0, 1], misclassified",
    "study": "a grid of runs from one file: each trained and evaluated, only what is missing is done",
    "table": "the scores of several runs side by side",
    "stacked": "the paper's figures 1 and 2: which half of an image stacked on its easy copy decides",
    "census": "which training images are easy after the first epoch, over seeds; files to leave them out",
    "hidden": "how far perturbations move the hidden states, layer by layer, and branches their statistics",
    "claims": "the paper's claims against our rows, each with its verdict and interval",
    "summarise": "what only a model can tell, as rows for the report: confidences, a gallery, verdicts a point",
    "report": "one HTML page about a folder of runs; the paper's tables over seeds",
    "perturb": "an image made harder or easier for a trained model, as pictures and confidences",
    "export": "a trained model as safetensors, torch.export or ONNX file, checked against itself",
    "data": "data sets: which are here, how to get the others, what is in one",
    "doctor": "whether everything needed is here, and what mends it if not",
}

USAGE = f"""usage: easybn COMMAND [OPTIONS]

Train image classifiers with auxiliary batch normalisation (AdvProp, Easy Batch Normalization and your own
recipe), and measure their robustness.

commands:
{chr(10).join(f"  {name:10} {text}" for name, text in COMMANDS.items())}

easybn COMMAND --help explains a command; easybn --version prints the version.
Begin with: easybn demo
"""


OUT_OF_MEMORY = ("allocate memory", "out of memory", "bad_alloc", "failed to map segment", "not enough memory")
PLAIN = {"\u00b1": "+-", "\u2026": "...", "\u2212": "-", "\u00d7": "x"}
"""For terminals that cannot show the character."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status: 0, 2 for a mistake of the user, 128 + signal if stopped."""
    codecs.register_error("easybn", _plain)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # an hour's result must not be lost because a terminal is ASCII
            stream.reconfigure(errors="easybn")
    try:
        try:
            return _main(list(sys.argv[1:] if argv is None else argv))
        finally:
            if sys.stdout is not None:  # as where it was closed: >&-
                sys.stdout.flush()  # here, where a reader that has gone away can be told from a failure
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
        )  # a line to a reader, without the line of code that Python prints
        return _run(words[0], words[1:])


def _run(name: str, words: list[str]) -> int:
    if "OMP_WAIT_POLICY" not in os.environ:
        # torch's threads (GNU OpenMP) wait for each other in a busy loop, by default so long that another process
        # on the same cores makes a training several times slower; read when torch is loaded
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    # torch is made of a million objects that stay: looking through them for garbage again and again while they
    # are imported takes a tenth of the time to the first step
    gc.set_threshold(50_000)
    sys.excepthook = _show_bug
    try:
        command = import_module(f".{name}", __package__)
        from .arguments import Parser

        parser = Parser(prog=f"easybn {name}", description=command.__doc__, allow_abbrev=False)
        command.configure(parser)
        command.run(parser.read(words))
    except Interrupted as stop:
        say(f"easybn: {stop}", error=True)
        return 128 + stop.signum
    except KeyboardInterrupt:
        say("easybn: stopped; the same command goes on from what was saved", error=True)
        return 130
    except BrokenPipeError:
        raise
    except Exception as error:
        message = None if os.environ.get("EASYBN_TRACEBACK") else _mistake(error)
        if message is None:  # the traceback helps to mend it
            error.add_note("This is a fault of easybn's own: please report it with the lines above.")
            raise
        return _fail(message)
    finally:
        forbid_all()
    return 0


def _mistake(error: Exception) -> str | None:
    """What the user can do something about, in a line; None for a fault of easybn's own."""
    text = str(error)
    if isinstance(error, MemoryError) or any(words in text.lower() for words in OUT_OF_MEMORY):
        return f"not enough memory: {text or 'none is left'}: a smaller --batch_size or model needs less"
    if isinstance(error, RuntimeError) and "home directory" in text:
        return "this user has no home folder: set HOME, or XDG_CACHE_HOME to a folder for decoded data sets"
    if place := _place_in_users_file(error):
        return f"{place}: {type(error).__name__}: {text} (EASYBN_TRACEBACK=1 shows where it came from)"
    if isinstance(error, OSError) and error.errno and error.filename:
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, (ValueError, OSError, ArithmeticError)):  # what the library raises for mistakes
        place = _place_in_users_file(error.__cause__) if error.__cause__ else None
        return f"{text} ({place})" if place else text or type(error).__name__
    return None


def _place_in_users_file(error: BaseException) -> str | None:
    """The innermost line of a file of the user's (a recipe, a model) that the error passed through."""
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
    """An error handler of codecs: characters that an encoding lacks, in ones that every encoding has."""
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
