"""The options that name a model of the user's."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from jsonargparse import Namespace

from .arguments import Parser

if TYPE_CHECKING:
    from ..experiments.own_model import OwnModel

OWN = ("model", "weights", "data", "data_folder", "model_options", "mean", "std")


def of_own_model(parser: Parser) -> Callable[..., Any]:
    """Add the options, in a group; returns what adds more to it."""
    add: Callable[..., Any] = parser.add_argument_group("a model of yours").add_argument
    where = (
        "module:function (from the working folder), timm:NAME, torchvision:NAME, resnet18 and the like (images in "
        "[0, 1] to logits), or fashion-mnist-vanilla and fashion-mnist-adversarial, trained models of the package"
    )
    add("--model", type=str, default=None, help=where)
    add("--weights", type=str, default=None, help=".safetensors, or a state dict saved by torch (.pt, .pth)")
    add("--data", type=str, default=None, help="sample, fashion-mnist, cifar10, cifar100, or an image folder or zip")
    add("--data_folder", type=str, default=None, help="where the data set lies; searched for by default")
    add("--model_options", type=dict[str, Any], default={}, help="passed on, such as '{pretrained: true}'")
    add("--mean", nargs="+", type=float, default=None, help="a model by name normalises by that; by default the data's")
    add("--std", nargs="+", type=float, default=None, help="see --mean")
    return add


def own(arguments: Namespace) -> "OwnModel":
    """The model that the arguments describe.

    Raises:
        ValueError: they name none.
    """
    from ..experiments.own_model import OwnModel

    values = {name: getattr(arguments, name) for name in OWN}
    values |= {name: None if values[name] is None else tuple(values[name]) for name in ("mean", "std")}
    return OwnModel(**values)
