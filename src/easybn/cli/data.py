"""Data sets: which of them are here, and what is in one.

Without a name, every known data set is listed, with where it was found or how to get it. A data set that is named, by a
name of that list, the path of an image folder or zip, or my.py:make, is loaded (decoded into the cache the first time),
and its sizes, classes and statistics are printed. Nothing is downloaded without --download.
"""

from typing import TYPE_CHECKING

from jsonargparse import Namespace
from rich.console import Console

from ..terminal import Terminal
from ..user_code import permit
from .arguments import Parser

if TYPE_CHECKING:
    from ..data import Source

OPTIONS = ("data_folder", "download", "channels", "resize", "test_fraction")


def configure(parser: Parser) -> None:
    parser.add_argument(
        "name", nargs="?", type=str, help="a name that easybn data lists, or the path of an image folder or zip"
    )
    parser.add_argument("--download", action="store_true", help="fetch the named data set if it is not here")
    where = "folder of the data set; by default it is searched for"
    parser.add_argument("--data_folder", type=str, default=None, help=where)
    parser.add_argument("--resize", type=int, default=None, help="for an image folder: height and width of all images")
    parser.add_argument("--channels", type=int, default=None, help="for an image folder: 3 (RGB) or 1 (grey)")
    parser.add_argument(
        "--test_fraction", type=float, default=None, help="for an image folder: share used as test images"
    )


def run(arguments: Namespace) -> None:
    from ..data import load

    options = {name: getattr(arguments, name) for name in OPTIONS}
    console = Terminal(soft_wrap=True)
    if arguments.name is not None:
        permit(arguments.name)
        show(console, load(arguments.name, folder=options.pop("data_folder"), **options))
    elif given := [f"--{name}" for name, value in options.items() if value not in (None, False)]:
        raise ValueError(f"{given[0]} is for one data set: easybn data NAME {given[0]}")
    else:
        list_known(console)


def list_known(console: Console) -> None:
    """One line per known data set: where it is, or how to get it, and its size."""
    from ..data import available

    for status in available():
        where = f"not here: easybn data {status.name} --download"
        if status.found:
            where = "comes with the package" if status.name == "sample" else f"found in {status.found[0].parent}"
        console.print(f"{status.name:14} {where}  ({status.about})")


def show(console: Console, source: "Source") -> None:
    """Name, sizes, classes, shape and statistics of ``source``."""
    from ..data import licence

    channels, height, width = source.train.shape
    shown = ", ".join(source.classes[:20]) + (", ..." if len(source.classes) > 20 else "")
    rows = {
        "name": source.name,
        "images": f"{len(source.train):,} for training, {len(source.test):,} for test",
        "shape": f"{channels} x {height} x {width} (channels, height, width), 8 bits",
        "classes": f"{len(source.classes)}: {shown}",
        "mean": ", ".join(f"{value:.4f}" for value in source.mean) + " (of each channel of the training images)",
        "std": ", ".join(f"{value:.4f}" for value in source.std),
    }
    if not len(source.train):
        del rows["mean"], rows["std"]
        rows["train"] = "none: these images can be evaluated on; to train, see --test_fraction, or add a train/ folder"
    if terms := licence(source.name):
        rows["licence"] = terms
    for name, text in rows.items():
        console.print(f"{name:8} {text}")
    for note in source.notes:
        console.print(f"{'note':8} {note}")
