"""The paper's figures 1 and 2: which half of an image stacked on its easy copy decides?

A network trained for one epoch on all classes makes the easy copy of every image of two of them; a fresh network
learns to tell the two apart on originals stacked on their copies; then one half is randomised and the accuracy
measured. The paper: 99.0 -> 0.0 if it is the easy half, 99.0 -> 99.0 if it is the other. It states neither eps
nor steps: every --eps is tried with every number of --steps. Controls: an untouched copy, and an adversarial one.

Each training's rows are written to OUT/rows.jsonl when it is done, and pictures to OUT/pictures. Stopped and
started again it goes on with the training it was at; what is done is not done again.

easybn stacked
easybn stacked --data cifar10 --classes automobile truck --eps 8/255 --steps 10
"""

from pathlib import Path

from jsonargparse import Namespace

from ..escapes import say
from ..terminal import Terminal
from .arguments import Parser, number


def configure(parser: Parser) -> None:
    add = parser.add_argument
    data = "a name that easybn data lists, the path of an image folder or zip, or my.py:make"
    add("--data", type=str, default="sample", help=data)
    add("--data_folder", type=str, default=None, help="where the data set lies; searched for by default")
    add("--resize", type=int, default=None, help="height and width to bring an image folder's pictures to")
    add("--channels", type=int, default=None, help="of an image folder: 3 (RGB, the default) or 1 (grey)")
    add("--test_fraction", type=float, default=None, help="share of an image folder drawn as test")
    classes = "two classes, by name or number; by default automobile and truck, or T-shirt/top and Shirt"
    add("--classes", nargs=2, type=str, default=None, metavar=("A", "B"), help=classes)
    add("--model", type=str, default="resnet_tiny", help="of both networks: resnet_tiny, resnet18, timm:NAME, ...")
    layout = "where the copy stands: original above copy, original left of copy, copy as further channels"
    add("--layout", choices=["above", "beside", "channels"], default="above", help=layout)
    eps = "l-infinity radii of the copies, whole 255ths; by default 1/255 8/255 16/255"
    add("--eps", nargs="+", type=number, default=None, help=eps)
    add("--steps", nargs="+", type=int, default=[1, 10], help="gradient steps of the copies")
    copies = ["easy", "untouched", "adversarial"]
    add("--copies", nargs="+", choices=copies, default=copies, help="what stands beside the originals")
    add("--seeds", type=int, default=3, help="repetitions, seeds 0 to SEEDS - 1")
    add("--epochs_first", type=int, default=1, help="epochs of the first network, on all classes")
    add("--epochs", type=int, default=5, help="epochs of the network on stacked images")
    add("--batch_size", type=int, default=128, help="images a step, in both trainings")
    add("--train_images", type=int, default=None, help="use only so many of the data set's training images")
    add("--device", type=str, default=None, help="cpu, cuda, cuda:1; by default cuda if there is one")
    add("--out", type=str, default=None, help="folder of the rows and pictures; by default runs/stacked-DATA")
    add("--markdown", action="store_true", help="print Markdown")


def run(arguments: Namespace) -> None:
    from ..paper.stacked import stacked, stacked_caption, stacked_tables
    from ..paper.stacked_images import Settings
    from ..progress import progress_display
    from ..tables import formats

    given = {name: getattr(arguments, name) for name in Settings.__dataclass_fields__}
    given |= {name: tuple(value) for name, value in given.items() if isinstance(value, list)}
    settings = Settings(**{name: value for name, value in given.items() if value is not None})
    folder = Path(arguments.out or f"runs/stacked-{Path(arguments.data).stem}")
    console = Terminal(soft_wrap=True)
    with progress_display() as display:
        rows = stacked(settings, folder, display, arguments.device)
    if arguments.markdown:
        say("\n".join([*map(formats.markdown, stacked_tables(rows)), stacked_caption(rows)]))
        return
    for table in stacked_tables(rows):
        formats.show(table, Terminal())
    console.print(stacked_caption(rows), soft_wrap=False)  # a class may have a name that looks like markup
    console.print(f"rows: {folder}/rows.jsonl, pictures: {folder}/pictures")
