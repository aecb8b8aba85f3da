"""The paper's experiments beside training and evaluation: ``easybn stacked``, ``census`` and ``hidden``."""

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentError, Namespace

from ..escapes import say
from ..terminal import Terminal
from . import train
from .arguments import Parser, number, packaged
from .messages import in_plain_words
from .table_format import add_format_option, print_in_format
from .targets import add_model_options, check_one_target, short_names, show_notes, targets_of
from .user_code import CLASSES, resolved

if TYPE_CHECKING:
    from ..runs.config import Experiment


def configure_stacked(parser: Parser) -> None:
    add = parser.add_argument
    data = "a name that easybn data lists, the path of an image folder or zip, or my.py:make"
    add("--data", type=str, default="sample", help=data)
    add("--data_folder", type=str, default=None, help="folder of the data set; by default it is searched for")
    add("--resize", type=int, default=None, help="for an image folder: height and width of all images")
    add("--channels", type=int, default=None, help="for an image folder: 3 (RGB, the default) or 1 (grey)")
    add("--test_fraction", type=float, default=None, help="for an image folder: share to hold out as test images")
    classes = "two classes, by name or number; by default automobile and truck, or T-shirt/top and Shirt"
    add("--classes", nargs=2, type=str, default=None, metavar=("A", "B"), help=classes)
    model = "architecture of both networks: resnet_tiny, resnet18, timm:NAME, ..."
    add("--model", type=str, default="resnet_tiny", help=model)
    layout = "original above the copy, left of (beside) the copy, or the copy as additional channels"
    add("--layout", choices=["above", "beside", "channels"], default="above", help=layout)
    eps = "l-infinity radii of the copies, in whole 255ths; by default 1/255 8/255 16/255"
    add("--eps", nargs="+", type=number, default=None, help=eps)
    add("--steps", nargs="+", type=int, default=[1, 10], help="numbers of gradient steps of the copies")
    copies = ["easy", "untouched", "adversarial"]
    add("--copies", nargs="+", choices=copies, default=copies, help="kinds of copies")
    add("--seeds", type=int, default=3, help="number of repetitions, with seeds 0 to SEEDS - 1")
    add("--epochs_first", type=int, default=1, help="epochs of the first network, on all classes")
    add("--epochs", type=int, default=5, help="epochs of the network on stacked images")
    add("--batch_size", type=int, default=128, help="images per step, in both trainings")
    add("--train_images", type=int, default=None, help="number of training images to use; by default all")
    add("--device", type=str, default=None, help="cpu, cuda, cuda:1; by default cuda if there is one")
    add("--out", type=str, default=None, help="folder of the rows and pictures; by default runs/stacked-DATA")
    add_format_option(parser)


def run_stacked(arguments: Namespace) -> None:
    """Which half of an image stacked on its easy copy decides? The paper's figures 1 and 2.

    A network trained for one epoch on all classes makes the easy copy of every image of two of them; a new network
    learns to tell the two apart on originals stacked on their copies; then one half is randomised and the accuracy
    measured. The paper: 99.0 -> 0.0 if it is the easy half, 99.0 -> 99.0 if it is the other. It states neither eps
    nor steps: every --eps is tried with every number of --steps. Controls: an untouched and an adversarial copy.

    Rows of each training are written to OUT/rows.jsonl when it is done, pictures to OUT/pictures. After a stop the same
    command continues with the training that was interrupted.

    easybn stacked
    easybn stacked --data cifar10 --classes automobile truck --eps 8/255 --steps 10
    """
    from ..paper.stacked import stacked, stacked_caption, stacked_tables
    from ..paper.stacked_images import Settings
    from ..progress import progress_display
    from ..tables import formats

    given = {name: getattr(arguments, name) for name in Settings.__dataclass_fields__}
    given |= {name: tuple(value) for name, value in given.items() if isinstance(value, list)}
    settings = Settings(**{name: value for name, value in given.items() if value is not None})
    folder = Path(arguments.out or f"runs/stacked-{Path(arguments.data).stem}")
    console = Terminal(soft_wrap=True)
    with progress_display(stderr=arguments.format != "terminal") as display:
        rows = stacked(settings, folder, display, arguments.device)
    if arguments.format != "terminal":
        print_in_format(stacked_tables(rows), arguments.format)
        if arguments.format == "markdown":
            say(stacked_caption(rows))
        return
    for table in stacked_tables(rows):
        formats.show(table, Terminal())
    console.print(stacked_caption(rows), soft_wrap=False)  # names of classes may look like markup
    console.print(f"rows: {folder}/rows.jsonl, pictures: {folder}/pictures")


def configure_census(parser: Parser) -> None:
    add = parser.add_argument
    what = "what to train: the folder of a run, a YAML file, or the name of a config of the package"
    add("trainings", nargs="+", type=str, metavar="RUN_OR_CONFIG", help=what)
    add("--threshold", type=float, default=0.9, help="easy means correct with a confidence above this")
    add("--epochs", type=int, default=1, help="classify the training images after each of the first EPOCHS epochs")
    add("--seeds", type=int, default=3, help="number of trainings, with seeds 0 to SEEDS - 1")
    add("--eps", type=number, default=1 / 255, help="l-infinity radius of the easy copies, such as 1/255")
    split = "test: classify the test images instead, and put them into ten groups by how easy they are"
    add("--split", choices=["train", "test"], default="train", help=split)
    add("--device", type=str, default=None, help="cpu, cuda, cuda:1; by default cuda if there is one")
    add("--out", type=str, default="runs/census", help="folder for a folder per training, NAME")
    add_format_option(parser)


def run_census(arguments: Namespace) -> None:
    """Count easy examples: training images classified correctly, with high confidence, after the first epoch.

    Trains anew for several seeds, stops after --epochs (the schedule is that of the whole training), and classifies
    every training image and its easy copy: how many are easy, which classes they are of, whether two trainings find the
    same ones easy, and how many copies are easy. Several trainings are counted one after the other.

    The counts are in OUT/NAME/census.jsonl and overlap.jsonl, the answers for each image in answers/: another
    --threshold is counted from them, without training. The images that are easy in every seed, and as many random ones
    for comparison, are written as files for --leave_out of easybn train.

    --split test: how easy is each test image for networks that are trained anew (seeds from 1000 on), in ten groups in
    OUT/NAME/deciles.jsonl; easybn table RUNS --deciles OUT/NAME, and easybn report of a folder that holds both, then
    show which images each recipe helps.

    easybn census demo
    easybn census runs/ebn runs/vanilla --threshold 0.95 --epochs 3
    easybn census fashion-mnist-vanilla --split test --out runs/cpu/census
    easybn train --config demo --leave_out runs/census/demo/easy-above-0.9-epoch-1-seeds-3.json
    """
    from ..json_files import read_rows
    from ..paper.census import DECILES_FILE, Census, census, census_table, subset_path
    from ..progress import progress_display
    from ..tables import formats

    settings = Census(arguments.threshold, arguments.epochs, arguments.seeds, float(arguments.eps), arguments.split)
    trainings = [(Path(arguments.out) / _census_name(each), experiment_of(each)) for each in arguments.trainings]
    folders = [folder for folder, _ in trainings]
    if twice := [folder.name for i, folder in enumerate(folders) if folder in folders[:i]]:
        raise ValueError(f"two trainings are called {twice[0]}: count one of them with another --out")
    console = Terminal(soft_wrap=True)
    tables = []
    for folder, experiment in trainings:
        with progress_display(stderr=arguments.format != "terminal") as display:
            rows = census(experiment, folder, settings, display, arguments.device)
        pairs = [row for row in read_rows(folder / "overlap.jsonl") if settings.has(row)]
        table = census_table(rows, pairs)
        if arguments.format != "terminal":
            tables.append(table)
        else:
            formats.show(table, Terminal())
            made = DECILES_FILE if settings.split == "test" else subset_path(folder, settings).name
            told = "how easy each test image is" if settings.split == "test" else "easy in every seed"
            console.print(f"rows: {folder}/census.jsonl; {told}: {folder / made}")
    print_in_format(tables, arguments.format)


def _census_name(training: str) -> str:
    """Name of the folder of a training's census."""
    path = Path(training)
    return path.resolve().name if _is_run(training) else path.stem


def _is_run(training: str) -> bool:
    """Whether it is a run's folder; another folder does not hide the package's config of its name."""
    path = Path(training)
    return (path / "config.json").exists() or (path.is_dir() and training not in packaged())


def experiment_of(training: str) -> "Experiment":
    """The experiment of a run's folder, or of a config.

    Raises:
        ValueError, FileNotFoundError: there is neither.
    """
    parser = Parser(prog="easybn train", allow_abbrev=False, exit_on_error=False)
    train.configure_train(parser)
    stored = _is_run(training)  # what is stored runs no code
    words = _stored_words(Path(training)) if stored else [f"--config={training}"]
    try:
        return train.experiment_of(parser.read(words, run_code=not stored))
    except (ArgumentError, ValueError) as error:
        raise ValueError(f"{training}: {in_plain_words(str(error))}") from error


def _stored_words(folder: Path) -> list[str]:
    """The experiment of a run as arguments of ``easybn train``.

    Raises:
        ValueError: it names a class that is not easybn's: a stored name runs no code.
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
    dropped = ("training", "left_out")  # left_out is computed again
    fields = {key: value for key, value in fields.items() if key in known and key not in dropped and value is not None}
    fields = {key: _class_paths(value, where) if key in CLASSES else value for key, value in fields.items()}
    fields = resolved(fields, str(where), (), run_code=False)
    return [f"--{name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in fields.items()]


def _class_paths(value: Any, where: Path) -> Any:
    """A stored description in the parser's form: classes under ``class_path``, their fields under ``init_args``."""
    if isinstance(value, dict):
        fields = {name: _class_paths(item, where) for name, item in value.items() if name != "class"}
        if "class" not in value:
            return fields
        if not re.fullmatch(r"\w+", str(value["class"])):
            raise ValueError(
                f"{where} names a class of yours ({value['class']}): write a YAML file with your my.py:MyClass as its "
                "recipe, and give that instead of the folder"
            )
        return {"class_path": value["class"], "init_args": fields}
    return [_class_paths(item, where) for item in value] if isinstance(value, list) else value


def configure_hidden(parser: Parser) -> None:
    add = parser.add_argument
    add("runs", nargs="*", type=str, default=[], help="folders of finished runs, or of folders of runs; or --model")
    kinds = ["easy", "untargeted", "noise"]
    add("--perturbations", nargs="+", choices=kinds, default=kinds, help="kinds of perturbations")
    add("--norm", choices=["linf", "l2"], default="linf", help="norm of the perturbations")
    radii = "radii in [0, 1] pixel units; by default 1/255 8/255, in l2 0.1 0.5"
    add("--eps", nargs="+", type=number, default=None, help=radii)
    add("--steps", type=int, default=1, help="gradient steps")
    add("--images", type=int, default=1000, help="number of test images, drawn by --seed")
    add("--seed", type=int, default=0, help="seed of the draw of test images, and of the noise")
    layers = "names of modules, such as network.stages.0; by default the model's blocks"
    add("--layers", nargs="+", type=str, default=None, help=layers)
    branch = "measure this branch of the run instead of the deployed one (needs checkpoint.pt)"
    add("--branch", type=str, default=None, help=branch)
    add("--batch_size", type=int, default=100, help="images per pass; does not change results")
    add("--device", type=str, default=None, help="cpu, cuda, cuda:1; by default cuda if there is one")
    add_format_option(parser)
    add = add_model_options(parser)
    add("--out", type=str, default=None, help="folder of the results; by default runs/evaluations/NAME")


def run_hidden(arguments: Namespace) -> None:
    """How far do perturbations move the hidden states of a network, layer by layer?

    For each layer and perturbed test image ||h(x') - h(x)|| / ||h(x)||, with images made easier, made harder, and, as
    the control, with noise of the same size. Perturbations are computed for the deployed model itself. Rows are kept in
    RUN/hidden.jsonl and not measured again. If the checkpoint of a run holds several branches, RUN/branches.jsonl tells
    how far apart their batch norms are.

    easybn hidden runs/ebn runs/advprop runs/vanilla
    easybn hidden --model fashion-mnist-vanilla --images 500
    """
    check_one_target(arguments)
    from ..progress import ProgressBars, progress_display
    from ..runs.hidden_states import Hidden, measure, rows_of, write_branch_distances
    from ..tables import formats
    from ..tables.single_runs import HIDDEN_CAPTION, hidden_tables

    default = (1 / 255, 8 / 255) if arguments.norm == "linf" else (0.1, 0.5)
    settings = Hidden(
        perturbations=tuple(dict.fromkeys(arguments.perturbations)),
        norm=arguments.norm,
        eps=tuple(dict.fromkeys(float(eps) for eps in arguments.eps or default)),
        steps=arguments.steps,
        images=arguments.images,
        seed=arguments.seed,
        layers=None if arguments.layers is None else tuple(arguments.layers),
        batch_size=arguments.batch_size,
    )
    targets = targets_of(arguments)
    with progress_display(stderr=arguments.format != "terminal") as display:
        for target in targets:
            bars = ProgressBars(display, target.run.folder.name, "hidden states")
            measure(target, settings, bars, arguments.device)
    console = Terminal(soft_wrap=True)
    rows = (rows_of(target, settings) for target in targets)
    tables = hidden_tables(dict(zip(short_names(targets), rows, strict=True)))
    if arguments.format == "terminal":
        for table in tables:
            formats.show(table, Terminal())
        show_notes(console, targets)
        console.print(HIDDEN_CAPTION)
    else:
        print_in_format(tables, arguments.format)
        if arguments.format == "markdown":
            say(HIDDEN_CAPTION)
    for target in targets if arguments.runs else []:
        done = write_branch_distances(target.run)
        if arguments.format == "terminal":
            console.print(done)
