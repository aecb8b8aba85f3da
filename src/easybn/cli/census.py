"""Easy examples, as the paper defines them: classified correctly, with high confidence, after the first epoch.

Trains anew for several seeds, stops after --epochs (the schedule is that of the whole training), and asks the network
about every training image and about its easy copy: how many are easy, which classes they are of, whether two trainings
find the same ones easy, and how many copies are easy. Several trainings are counted one after the other.

OUT/NAME/census.jsonl and overlap.jsonl hold the figures, answers/ those of each image: another --threshold is counted
from them, without training. The images that are easy in every seed, and as many random ones for comparison, are
written as files that training can leave out.

easybn census demo
easybn census runs/ebn runs/vanilla --threshold 0.95 --epochs 3
easybn train --config demo --leave_out runs/census/demo/easy-above-0.9-epoch-1-seeds-3.json
"""

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentError, Namespace

from ..escapes import say
from ..terminal import Terminal
from . import train as train_command
from .arguments import Parser, number, packaged
from .user_code import CLASSES, resolved

if TYPE_CHECKING:
    from ..runs.config import Experiment


def configure(parser: Parser) -> None:
    add = parser.add_argument
    what = "what to train: the folder of a run, a YAML file, or the name of a config of the package"
    add("trainings", nargs="+", type=str, metavar="RUN_OR_CONFIG", help=what)
    add("--threshold", type=float, default=0.9, help="easy is correct with a confidence above this")
    add("--epochs", type=int, default=1, help="look at the images after each of so many first epochs")
    add("--seeds", type=int, default=3, help="trainings, of seeds 0 to SEEDS - 1")
    add("--eps", type=number, default=1 / 255, help="l-infinity size of the easy copies' one step, such as 1/255")
    add("--device", type=str, default=None, help="cpu, cuda, cuda:1; by default cuda if there is one")
    add("--out", type=str, default="runs/census", help="folder of a folder for each training, NAME")
    add("--markdown", action="store_true", help="print Markdown")


def run(arguments: Namespace) -> None:
    from ..json_files import read_rows
    from ..paper.census import Census, census, census_table, subset_path
    from ..progress import progress_display
    from ..tables import formats

    wanted = Census(arguments.threshold, arguments.epochs, arguments.seeds, float(arguments.eps))
    every = [(Path(arguments.out) / name_of(each), experiment_of(each)) for each in arguments.trainings]
    if twice := [folder.name for i, (folder, _) in enumerate(every) if folder in [other for other, _ in every[:i]]]:
        raise ValueError(f"two trainings are called {twice[0]}: count one of them with another --out")
    console = Terminal(soft_wrap=True)
    for folder, experiment in every:
        with progress_display() as display:
            rows = census(experiment, folder, wanted, display, arguments.device)
        pairs = [row for row in read_rows(folder / "overlap.jsonl") if wanted.has(row)]
        table = census_table(rows, pairs)
        if arguments.markdown:
            say(formats.markdown(table))
        else:
            formats.show(table, Terminal())
            console.print(f"rows: {folder}/census.jsonl; easy in every seed: {subset_path(folder, wanted)}")


def name_of(training: str) -> str:
    """What the folder of its census is called."""
    path = Path(training)
    return path.resolve().name if _is_folder(training) else path.stem


def _is_folder(training: str) -> bool:
    """A folder that is no run does not hide the package's config of that name."""
    path = Path(training)
    return (path / "config.json").exists() or (path.is_dir() and training not in packaged())


def experiment_of(training: str) -> "Experiment":
    """What a run did, or what a config describes.

    Raises:
        ValueError, FileNotFoundError: there is neither.
    """
    parser = Parser(prog="easybn train", allow_abbrev=False, exit_on_error=False)
    train_command.configure(parser)
    stored = _is_folder(training)  # and what is stored runs no code
    words = _words_of(Path(training)) if stored else [f"--config={training}"]
    try:
        return train_command.experiment_of(parser.read(words, run_code=not stored))
    except (ArgumentError, ValueError) as error:
        raise ValueError(f"{training}: {error}") from error


def _words_of(folder: Path) -> list[str]:
    """The fields of a run's experiment as arguments of ``easybn train``.

    Raises:
        ValueError: a class that is none of the package: a file of a folder runs no code.
    """
    from ..runs.config import Experiment
    from ..runs.run import Run
    from ..train.schedule import Training

    where, described = folder / "config.json", Run(folder).config
    try:
        fields = {**described, **described["training"]}
    except (KeyError, TypeError) as error:
        raise ValueError(f"{where} describes no training ({error})") from error
    known = {name for kind in (Experiment, Training) for name in kind.__dataclass_fields__}
    dropped = ("training", "left_out")  # left_out is read anew
    fields = {key: value for key, value in fields.items() if key in known and key not in dropped and value is not None}
    fields = {key: _class_paths(value, where) if key in CLASSES else value for key, value in fields.items()}
    fields = resolved(fields, str(where), (), run_code=False)
    return [f"--{name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in fields.items()]


def _class_paths(value: Any, where: Path) -> Any:
    """A description as the parser takes it: classes under ``class_path``, their fields under ``init_args``."""
    if isinstance(value, dict):
        fields = {name: _class_paths(item, where) for name, item in value.items() if name != "class"}
        if "class" not in value:
            return fields
        if not re.fullmatch(r"\w+", str(value["class"])):
            raise ValueError(
                f"{where} names a class of yours ({value['class']}): write a YAML file with your FILE.py:CLASS as its "
                "recipe, and give that in the place of the folder"
            )
        return {"class_path": value["class"], "init_args": fields}
    return [_class_paths(item, where) for item in value] if isinstance(value, list) else value
