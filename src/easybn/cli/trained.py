"""What is done with a trained model or its stored verdicts: export or push it, verify them, perturb an image for it."""

import io
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import Namespace
from rich.console import Console

from ..escapes import say
from ..files import MOST_IMAGE, read_bytes
from ..tables.formats import show as shown
from ..tables.table import Cell, Table, TableRow
from ..terminal import Terminal
from .arguments import Parser, number
from .targets import add_model_options, repeats_model, user_model_of

if TYPE_CHECKING:
    from torch import Tensor

    from ..runs.perturb_image import PerturbedImage


def configure_export(parser: Parser) -> None:
    add = parser.add_argument
    add("run", type=str, help="a run's folder, or a weights file (.safetensors)")
    add("--format", choices=["safetensors", "torch", "onnx"], default=None)
    add("--out", type=str, default=None, help="the file to write")
    add("--size", type=int, default=None, help="size of the images, if the weights file lacks it")
    add = parser.add_argument_group("a folder for RobustBench").add_argument
    add(
        "--robustbench",
        type=str,
        default=None,
        metavar="DIR",
        help="the folder to write, instead of --format and --out",
    )
    add("--name", type=str, default=None, help="in RobustBench's table, such as Rice2020Overfitting")
    add("--threat_model", choices=["Linf", "L2", "corruptions"], default=None, help="by default Linf")
    add("--eps", type=number, default=None, help="by default the leaderboard's: 8/255 for Linf, 0.5 for L2")


def run_export(arguments: Namespace) -> None:
    """Export a trained model to a file that other programs read, or to a folder for RobustBench.

    safetensors: the weights with a description of the model, for easybn.load. torch: a .pt2 file for
    torch.export.load(FILE).module(), without easybn. onnx: for any ONNX runtime. Each takes batches of any size of
    images in [0, 1]; the file is written only if its outputs agree with the model's.

    --robustbench DIR: of a model for CIFAR-10 or CIFAR-100, the network as a file that needs torch only, the weights, a
    file register.py that adds it to RobustBench's models, its model_info, and the text of an issue that submits it,
    with the scores of the run. robustbench.load_model and benchmark work on it as it is.
    """
    if arguments.robustbench is not None:
        _export_to_robustbench(arguments)
        return
    for name in ("name", "threat_model", "eps"):
        if getattr(arguments, name) is not None:
            raise ValueError(f"--{name} goes with --robustbench DIR")
    if arguments.format is None or arguments.out is None:
        raise ValueError("say what to write: --format FORMAT and --out FILE, or --robustbench DIR")
    from ..runs.export import BATCHES, export

    difference = export(arguments.run, arguments.out, arguments.format, arguments.size)
    batches = " and ".join(map(str, BATCHES))
    say(f"written: {arguments.out}; largest difference of a logit, batches of {batches} images: {difference:.1e}")


def _export_to_robustbench(arguments: Namespace) -> None:
    for name in ("format", "out", "size"):
        if getattr(arguments, name) is not None:
            raise ValueError(f"--{name} does not go with --robustbench DIR")
    from ..runs.robustbench import export_to_robustbench

    given = {name: value for name in ("name", "threat_model", "eps") if (value := getattr(arguments, name)) is not None}
    found = export_to_robustbench(arguments.run, arguments.robustbench, **given)
    entry, at = found.entry, f" at eps {found.entry.eps_text}" if found.entry.eps_text else ""
    say(f"written: {arguments.robustbench}, model {entry.name} for {entry.dataset}, {entry.threat_model}{at}")
    say(f"largest difference of a logit: {found.difference:.1e}")
    say(f"clean accuracy: {found.clean.words}")
    say(f"robust accuracy: {found.robust.words}")
    say("how to use it: register.py in that folder; to be filled in: new_model.md and model_info")


def configure_push(parser: Parser) -> None:
    add = parser.add_argument
    add("run", type=str, help="folder of a finished run")
    add("repo", type=str, help="where to: USER/NAME, made if it is not there")
    add("--private", action="store_true", help="only you and those you name may read it")
    add("--revision", type=str, default=None, help="a branch to write to; by default the main one")
    add("--licence", type=str, default=None, help="of the weights, as the Hub calls it, such as mit or cc-by-4.0")
    add("--message", type=str, default=None, help="of the commit")


def run_push(arguments: Namespace) -> None:
    """Put a finished run on the Hugging Face Hub: weights, config, and a card with its scores, in one commit.

    The card is the run's README.md with the scores of scores.jsonl and their 95% intervals; folders of this machine are
    left out. A repository that holds another model is refused. Log in before: hf auth login, or HF_TOKEN.

    easybn push runs/ebn me/ebn-fashion-mnist --private
    easybn evaluate --model hub:me/ebn-fashion-mnist --attacks fast
    """
    from ..runs.hub import address, push_to_hub

    given = {name: getattr(arguments, name) for name in ("private", "revision", "licence", "message")}
    name = push_to_hub(arguments.run, arguments.repo, **given)
    say(f"written: {address(name)}")
    say(f"to use it: easybn.from_hub({name!r}), or --model hub:{name}")


SHOWN = 20  # problems


def configure_verify(parser: Parser) -> None:
    add = parser.add_argument
    add("store", type=str, help="folder of verdicts")
    add("--batch_size", type=int, default=256, help="images per pass")
    add("--device", type=str, default=None, help="cpu, cuda, cuda:1; by default the CPU")
    add_model_options(parser)


def run_verify(arguments: Namespace) -> None:
    """Test stored adversarial images again on the model: inside the ball, inside [0, 1], misclassified.

    STORE is a folder of verdicts made with easybn evaluate --keep_images. Inside a run's folder (runs/x/verdicts/...)
    the model and its test images are found automatically; for a store made in Python, name them. The exit status is 1
    if anything is wrong, missing or damaged. Without --keep_images only the record can be tested, which is no
    verification: exit status 2.
    """
    from ..progress import ProgressBars, progress_display
    from ..runs.evaluate import is_of_user_model, verify_store
    from ..train.prepare import usable_device

    model = user_model_of(arguments) if arguments.model or arguments.weights else None
    repeated = (
        model if model is not None and repeats_model(arguments) and is_of_user_model(Path(arguments.store)) else None
    )
    device = None if arguments.device is None else str(usable_device(arguments.device))
    console = Terminal(soft_wrap=True)
    with progress_display() as display:
        bars = ProgressBars(display, arguments.store)
        found = verify_store(
            Path(arguments.store), None if repeated else model, device, arguments.batch_size, bars, repeated
        )
    for problem in found.problems[:SHOWN]:
        console.print(str(problem))
    if len(found.problems) > SHOWN:
        console.print(f"and {len(found.problems) - SHOWN:,} more")
    if not found.kept and not found.problems:
        raise ValueError(f"{arguments.store}: {found}")
    console.print(f"{arguments.store}: {found}")
    if found.problems:
        raise SystemExit(1)


TOP = 3  # classes shown for each image


def configure_perturb(parser: Parser) -> None:
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


def run_perturb(arguments: Namespace) -> None:
    """Perturb one image so that a trained model takes it for another class, or is more confident of the true one.

    Writes original.png (as the model sees it), perturbed.png and difference.png (amplified; grey is no change), and
    prints the model's confidences before and after, also for the 8-bit image in the file.
    """
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
