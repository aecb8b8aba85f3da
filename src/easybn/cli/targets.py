"""What a command measures, runs or a user's model: the options that name it, the same in every command."""

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

MODEL_OPTIONS = (
    *("model", "weights", "weights_key", "data", "data_folder", "model_options", "mean", "std"),
    *("resize", "channels", "test_fraction", "classes", "output"),
)


def add_model_options(parser: Parser) -> Callable[..., Any]:
    """Add the options of a user's model in a group; returns the group's ``add_argument``."""
    add: Callable[..., Any] = parser.add_argument_group("a model of yours").add_argument
    where = (
        "my.py:make or module:make, a function that returns a model from images in [0, 1] to logits; timm:NAME, "
        "torchvision:NAME, resnet18 and so on; robustbench:NAME, whose weights have to be here (--model_options "
        "'{dataset: cifar10, threat_model: Linf, model_dir: models}'); fashion-mnist-vanilla, "
        "fashion-mnist-adversarial, trained models; hub:USER/NAME[@REVISION], a run on the Hugging Face Hub; or an "
        "ONNX file, model.onnx, for --attacks square"
    )
    add("--model", type=str, default=None, help=where)
    add(
        "--weights", type=str, default=None, help="a checkpoint: .safetensors, or what torch.save wrote, under any name"
    )
    inside = "where in the checkpoint the weights are, such as state_dict_ema or ema.model; by default found by name"
    add("--weights_key", type=str, default=None, help=inside)
    add("--data", type=str, default=None, help="a name that easybn data lists, an image folder or zip, or my.py:make")
    add("--data_folder", type=str, default=None, help="folder of the data set; by default it is searched for")
    add("--model_options", type=dict[str, Any], default={}, help="keyword arguments, such as '{pretrained: true}'")
    add(
        "--mean",
        nargs="+",
        type=float,
        default=None,
        help="for the first layer of a model by name, by default the data's; of an ONNX file none by default",
    )
    add("--std", nargs="+", type=float, default=None, help="see --mean")
    size = "for an image folder: height and width of all images: the shorter side is resized, the longer one cropped"
    add("--resize", type=int, default=None, help=size)
    add("--channels", type=int, default=None, help="for an image folder: 3 (RGB, the default) or 1 (grey)")
    add(
        "--test_fraction",
        type=float,
        default=None,
        help="for an image folder: share used as test images; by default all",
    )
    names = "file with the class of each output of the model, one name per line: labels are then matched by name"
    add("--classes", type=str, default=None, help=names)
    output = "of a model that returns several outputs: the name or index of its logits, such as logits or 0"
    add("--output", type=str, default=None, help=output)
    return add


def user_model_of(arguments: Namespace) -> "UserModel":
    """The user's model that the arguments name.

    Raises:
        ValueError: they name none.
    """
    from ..models.hub import is_hub, pinned
    from ..runs.user_model import UserModel

    values = {name: getattr(arguments, name) for name in MODEL_OPTIONS}
    values |= {name: None if values[name] is None else tuple(values[name]) for name in ("mean", "std")}
    if is_hub(values["model"]):
        values["model"] = pinned(values["model"])  # results say of which commit they are
    return UserModel(**values)


def repeats_model(arguments: Namespace) -> bool:
    """Whether --model and --model_options name again the code that a folder names, since a file runs no code."""
    repeating = ("model", "model_options", *(["data"] if repeats_data(arguments) else []))
    others = [getattr(arguments, name, None) for name in (*MODEL_OPTIONS, "out") if name not in repeating]
    return ":" in (arguments.model or "") and not any(others)


def repeats_data(arguments: Namespace) -> bool:
    """Whether --data names again the code that makes the data set of runs."""
    return bool(getattr(arguments, "runs", None)) and is_user_code(arguments.data or "")


def check_one_target(arguments: Namespace) -> None:
    """Raise ValueError unless the arguments name either ``runs`` or a user's model.

    With ``runs``, --model and --data may name again the code of their models and data sets.
    """
    given = [name for name in (*MODEL_OPTIONS, "out") if getattr(arguments, name)]
    if repeats_data(arguments):
        given.remove("data")
    if arguments.runs and not repeats_model(arguments) and given:
        raise ValueError(f"--{given[0]} is for a model of yours: leave it out, or name no runs")
    if not arguments.runs and not (arguments.model or arguments.weights):
        raise ValueError(
            "nothing to measure: name runs, --model my.py:make, or a model of the package: "
            "--model fashion-mnist-vanilla (see --help)"
        )
    if arguments.branch and not arguments.runs:
        raise ValueError("--branch is for runs: route the model to a branch in your function")


def targets_of(arguments: Namespace) -> "list[EvaluationTarget]":
    """The models to measure; FileNotFoundError, before any work, if one of the runs is not finished."""
    from ..runs.user_model import target_in
    from .table import find

    if not arguments.runs:
        model = user_model_of(arguments)
        return [model.target(Path(arguments.out or f"runs/evaluations/{model.name}"))]
    runs = find(arguments.runs)
    if unfinished := [each for each in runs if (each.folder / "config.json").exists() and not each.finished]:
        raise FileNotFoundError(f"{unfinished[0].folder} is not finished: run its easybn train again")
    if repeats_data(arguments):
        for each in runs:
            if (each.folder / "config.json").exists() and (named := each.config["data"]) != arguments.data:
                raise ValueError(f"--data {arguments.data}: {each.folder} was trained on {named}: leave it out")
    repeated = user_model_of(arguments) if repeats_model(arguments) else None
    return [target_in(each.folder, arguments.branch, repeated) for each in runs]


def show_notes(console: Console, targets: "list[EvaluationTarget]") -> None:
    """Print what was done to images and labels, each note once."""
    for note in dict.fromkeys(note for target in targets for note in target.notes):
        console.print(f"note: {note}")


def short_names(targets: "list[EvaluationTarget]") -> list[str]:
    """Names of the folders, with their paths where two are equal."""
    names = [target.run.folder.name for target in targets]
    return [
        name if names.count(name) == 1 else str(target.run.folder) for name, target in zip(names, targets, strict=True)
    ]
