"""``easybn evaluate --corruptions``: its options, and what it shows."""

from collections.abc import Mapping
from dataclasses import fields

from jsonargparse import Namespace

from ..evaluation.corruptions import FROST, SOURCES, CorruptionConfig
from ..tables.formats import show
from ..terminal import Terminal
from .arguments import Parser
from .show_evaluation import show_tracked
from .targets import show_notes, targets_of
from .train import duration

OPTIONS = ("corruptions", "corruptions_source", "corruptions_folder")


def add_options(parser: Parser) -> None:
    """Add them in a group."""
    add = parser.add_argument_group("common corruptions").add_argument
    add("--corruptions", action="store_true", help="measure accuracy under common corruptions, and no attack")
    where = "auto (the default): the published files where they are found, else generated; or one of both"
    add("--corruptions_source", choices=list(SOURCES), default=None, help=where)
    where = "folder of the published files, such as CIFAR-10-C; by default searched for in EASYBN_DATA"
    add("--corruptions_folder", type=str, default=None, help=where)


def are_asked_for(arguments: Namespace) -> bool:
    """Whether --corruptions is given; ValueError if only an option of it is."""
    only = [name for name in OPTIONS if getattr(arguments, name)]
    if only and not arguments.corruptions:
        raise ValueError(f"--{only[0]} goes with --corruptions")
    return bool(only)


def config_of(arguments: Namespace, options: Mapping[str, str], device: str | None) -> CorruptionConfig:
    """The evaluation that the arguments describe.

    Args:
        options: of attacks, with the field that each sets.
        device: where to compute; None for the CPU.

    Raises:
        ValueError: an option of attacks.
    """
    own = {each.name for each in fields(CorruptionConfig)}
    for option, name in options.items():
        if name not in own and getattr(arguments, option) not in (None, False):
            raise ValueError(f"--{option} is for attacks and does not go with --corruptions")
    source = arguments.corruptions_source or ("published" if arguments.corruptions_folder else None)
    given = {name: getattr(arguments, name) for name in ("points", "seed", "batch_size", "branch")}
    given |= {"source": source, "folder": arguments.corruptions_folder, "device": device}
    return CorruptionConfig(**{name: value for name, value in given.items() if value is not None})


def run(arguments: Namespace, config: CorruptionConfig) -> None:
    """Evaluate, or estimate the time, and print mCA in one line, the table of kinds and severities, and notes."""
    from ..evaluation.corruptions import corruption_headline
    from ..progress import ProgressBars, progress_display
    from ..runs.corruptions import estimate_run_corrupted, evaluate_run_corrupted
    from ..tables.corruptions import kinds_table

    console = Terminal(soft_wrap=True)
    targets = targets_of(arguments)
    for target in targets:
        name = str(target.run.folder) + ("" if target.branch == "main" else f", branch {target.branch}")
        if arguments.estimate:
            seconds = estimate_run_corrupted(target, config)
            console.print(f"{name}: about {duration(seconds)} on this machine as it is now, if nothing is there yet")
            continue
        with progress_display() as display:
            result = evaluate_run_corrupted(target, config, ProgressBars(display, target.run.folder.name))
        found = result.evaluation
        line = corruption_headline(found.mean_accuracy, found.interval(), result.points, result.total)
        about = f"{line}, {result.source} corruptions"
        console.print(f"{name}: {about}" if len(targets) > 1 or target.branch != "main" else about)
        show(kinds_table(name, [found], result.source), console)
        for note in found.notes:
            if note != FROST:  # the table says it
                console.print(f"note: {note}")
        show_notes(console, [target])
        show_tracked(console, [target])
