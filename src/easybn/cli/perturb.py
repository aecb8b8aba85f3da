"""Perturb one image so that a trained model takes it for another class, or is more confident of the true one.

Writes original.png (as the model sees it), perturbed.png and difference.png (amplified; grey is no change), and prints
the model's confidences before and after, also for the 8-bit image in the file.
"""

import io
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import Namespace
from rich.console import Console

from ..files import MOST_IMAGE, read_bytes
from ..tables.formats import show as shown
from ..tables.table import Cell, Table, TableRow
from ..terminal import Terminal
from .arguments import Parser, number

if TYPE_CHECKING:
    from torch import Tensor

    from ..runs.perturb_image import PerturbedImage

TOP = 3  # classes shown for each image


def configure(parser: Parser) -> None:
    parser.add_argument("image", type=str, help="a picture: PNG, JPEG, WebP, BMP, PPM, TIFF, GIF or AVIF")
    parser.add_argument("--model", type=str, required=True, help="a run's folder, or a weights file (.safetensors)")
    parser.add_argument(
        "--goal",
        choices=["easy", "untargeted", "targeted"],
        default="untargeted",
        help="easy: more like the label; untargeted: away from it; targeted: toward --target",
    )
    parser.add_argument("--target", type=str, default=None, help="target class, by name or number")
    parser.add_argument("--label", type=str, default=None, help="true class; by default the model's prediction")
    parser.add_argument("--norm", choices=["linf", "l2"], default="linf", help="norm of the perturbation")
    parser.add_argument("--eps", type=number, default=None, help="radius; by default 8/255 for linf, 0.5 for l2")
    parser.add_argument("--steps", type=int, default=10, help="gradient steps")
    parser.add_argument("--out", type=str, required=True, help="folder for the three images")


def run(arguments: Namespace) -> None:
    if (arguments.goal == "targeted") != (arguments.target is not None):
        raise ValueError("--goal targeted and --target CLASS go together: give both or neither")
    from .. import models
    from ..files import replacing
    from ..models import weights
    from ..perturb.ball import L2, Linf
    from ..perturb.goal import easy, targeted, untargeted
    from ..perturb.pgd import PGD
    from ..runs.perturb_image import as_seen, class_number, confidences, perturb

    eps = arguments.eps if arguments.eps is not None else {"linf": 8 / 255, "l2": 0.5}[arguments.norm]
    attack = PGD({"linf": Linf, "l2": L2}[arguments.norm](eps), steps=arguments.steps)
    console = Terminal(soft_wrap=True)
    model, about = models.load(arguments.model), weights.trained_on(arguments.model)
    channels = about.shape[0] if about else len(model.get_submodule("normalise").mean)  # type: ignore[arg-type]
    path = Path(arguments.image)
    x, changes = as_seen(read_bytes(path, MOST_IMAGE), str(path), channels, about.shape[1:] if about else None)
    if about is None:
        console.print(
            "the weights file does not say the size and classes of its images: the size is kept, classes are numbers"
        )
    before = confidences(model, x)
    classes = about.classes if about else tuple(str(i) for i in range(len(before)))
    if arguments.label is None:
        label = int(before.argmax())
        console.print(f"no --label given: taking the model's own prediction, {classes[label]}")
    else:
        label = class_number(arguments.label, classes, "--label")
    y = before.new_tensor([label]).long()
    if arguments.goal == "targeted":
        goal = targeted(y.new_tensor([class_number(arguments.target, classes, "--target")]))
    else:
        goal = easy(y) if arguments.goal == "easy" else untargeted(y)
    found = perturb(model, x, attack, goal)
    out = Path(arguments.out)
    for name, image in {
        "original": found.original,
        "perturbed": found.saved,
        "difference": found.difference,
    }.items():
        with replacing(out / f"{name}.png") as file:
            file.write(png(image))
    console.print(f"image: {', '.join(changes) or 'as it is'}; {' x '.join(map(str, x.shape))}")
    console.print(
        f"{arguments.norm} distance {found.distance:.5f} of at most {eps:.5f}; {found.distance_saved:.5f} once "
        "rounded to the file's 8 bits"
    )
    show(console, found, classes, {label, int(goal.labels)})
    console.print(f"written: {out}/original.png, perturbed.png, difference.png ({found.amplification} times amplified)")


def show(console: Console, found: "PerturbedImage", classes: tuple[str, ...], asked: set[int]) -> None:
    """Print the confidences in the classes ``asked`` for and in the first ones of each image."""
    columns = (found.before, found.after, found.after_saved)
    rows = asked | {int(i) for column in columns for i in column.topk(min(TOP, len(classes))).indices}
    order = sorted(rows, key=lambda i: -float(found.before[i]))
    lines = [TableRow(classes[i], [Cell(f"{float(column[i]):.2%}") for column in columns]) for i in order]
    shown(Table("confidence", "class", ["original", "perturbed", "perturbed.png (8 bits)"], lines), console)


def png(image: "Tensor") -> bytes:
    """A PNG file of an image (C, H, W) in [0, 1], C 1 or 3."""
    from PIL import Image

    pixels = (image * 255).round().byte().permute(1, 2, 0).numpy()
    buffer = io.BytesIO()
    Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).save(buffer, "PNG")
    return buffer.getvalue()
