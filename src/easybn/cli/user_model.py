"""What a command measures: runs, or a model of the user's by the options that name it."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import Namespace
from rich.console import Console

from ..user_code import is_user_code
from .arguments import Parser

if TYPE_CHECKING:
    from ..runs.target import EvaluationTarget
    from ..runs.user_model import UserModel

OWN = (
    *("model", "weights", "weights_key", "data", "data_folder", "model_options", "mean", "std"),
    *("resize", "channels", "test_fraction", "classes"),
)


def add_model_options(parser: Parser) -> Callable[..., Any]:
    """Add the options, in a group; returns what adds more to it."""
    add: Callable[..., Any] = parser.add_argument_group("a model of yours").add_argument
    where = (
        "module:function (from the working folder), timm:NAME, torchvision:NAME, resnet18 and the like (images in "
        "[0, 1] to logits), or fashion-mnist-vanilla and fashion-mnist-adversarial, trained models of the package"
    )
    add("--model", type=str, default=None, help=where)
    add(
        "--weights", type=str, default=None, help="a checkpoint: .safetensors, or what torch.save wrote, under any name"
    )
    inside = "where in the checkpoint the weights are, such as state_dict_ema or ema.model; by default found by name"
    add("--weights_key", type=str, default=None, help=inside)
    add("--data", type=str, default=None, help="a name that easybn data lists, an image folder or zip, or my.py:make")
    add("--data_folder", type=str, default=None, help="where the data set lies; searched for by default")
    add("--model_options", type=dict[str, Any], default={}, help="passed on, such as '{pretrained: true}'")
    add("--mean", nargs="+", type=float, default=None, help="a model by name normalises by that; by default the data's")
    add("--std", nargs="+", type=float, default=None, help="see --mean")
    size = "height and width to bring an image folder's pictures to: the shorter side, then the middle of the longer"
    add("--resize", type=int, default=None, help=size)
    add("--channels", type=int, default=None, help="of an image folder: 3 (RGB, the default) or 1 (grey)")
    add("--test_fraction", type=float, default=None, help="share of an image folder drawn as test; all by default")
    names = "a file with the class of each of the model's outputs, one name a line: labels are then matched by name"
    add("--classes", type=str, default=None, help=names)
    return add


def own(arguments: Namespace) -> "UserModel":
    """The model that the arguments describe.

    Raises:
        ValueError: they name none.
    """
    from ..runs.user_model import UserModel

    values = {name: getattr(arguments, name) for name in OWN}
    values |= {name: None if values[name] is None else tuple(values[name]) for name in ("mean", "std")}
    return UserModel(**values)


def repeats(arguments: Namespace) -> bool:
    """Whether --model and --model_options repeat the code that a folder of results names: a file runs no code."""
    repeating = ("model", "model_options", *(["data"] if repeats_data(arguments) else []))
    others = [getattr(arguments, name, None) for name in (*OWN, "out") if name not in repeating]
    return ":" in (arguments.model or "") and not any(others)


def repeats_data(arguments: Namespace) -> bool:
    """Whether --data repeats the code that makes the data set of a run."""
    return bool(getattr(arguments, "runs", None)) and is_user_code(arguments.data or "")


def check_said_once(arguments: Namespace) -> None:
    """ValueError unless it is said what is measured, once: ``runs``, or a model of one's own.

    With ``runs``, --model repeats the model of those that are a user's, and --data the code that makes their images.
    """
    given = [name for name in (*OWN, "out") if getattr(arguments, name)]
    if repeats_data(arguments):
        given.remove("data")
    if arguments.runs and not repeats(arguments) and given:
        raise ValueError(f"--{given[0]} is for a model of yours: leave it out, or name no runs")
    if not arguments.runs and not (arguments.model or arguments.weights):
        raise ValueError(
            "nothing to measure: name runs, --model module:function, or a model of the package: "
            "--model fashion-mnist-vanilla (see --help)"
        )
    if arguments.branch and not arguments.runs:
        raise ValueError("--branch is for runs: route the model to a branch in your function")


def subjects(arguments: Namespace) -> "list[EvaluationTarget]":
    """What is measured; FileNotFoundError if a run among it is not finished, before hours of work on the others."""
    from ..runs.user_model import evaluated_in
    from .table import find

    if not arguments.runs:
        model = own(arguments)
        return [model.evaluated(Path(arguments.out or f"runs/evaluations/{model.name}"))]
    runs = find(arguments.runs)
    if unfinished := [each for each in runs if (each.folder / "config.json").exists() and not each.finished]:
        raise FileNotFoundError(f"{unfinished[0].folder} is not finished: run its easybn train again")
    if repeats_data(arguments):
        for each in runs:
            if (each.folder / "config.json").exists() and (named := each.config["data"]) != arguments.data:
                raise ValueError(f"--data {arguments.data}: {each.folder} was trained on {named}: leave it out")
    repeated = own(arguments) if repeats(arguments) else None
    return [evaluated_in(each.folder, arguments.branch, repeated) for each in runs]


def show_notes(console: Console, every: "list[EvaluationTarget]") -> None:
    """What was done to the images and the labels, each note once."""
    for note in dict.fromkeys(note for each in every for note in each.notes):
        console.print(f"note: {note}")
