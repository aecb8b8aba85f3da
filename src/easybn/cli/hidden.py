"""Does the network map hidden states back? How far a perturbation moves them, layer by layer.

For each layer and perturbed test image ||h(x') - h(x)|| / ||h(x)||: made easier, made harder, and, as the control,
noise of the same size. The perturbation is made for the deployed model itself. Rows are kept in RUN/hidden.jsonl,
and what is there is not measured again. Where a run's checkpoint holds several branches, RUN/branches.jsonl tells
how far their batch norms have moved apart.

easybn hidden runs/ebn runs/advprop runs/vanilla
easybn hidden --model fashion-mnist-vanilla --images 500
"""

from typing import TYPE_CHECKING

from jsonargparse import Namespace

from ..escapes import say
from ..terminal import Terminal
from .arguments import Parser, number
from .user_model import add_model_options, check_said_once, show_notes, subjects

if TYPE_CHECKING:
    from ..runs.hidden_states import Hidden
    from ..runs.target import EvaluationTarget


def configure(parser: Parser) -> None:
    add = parser.add_argument
    add("runs", nargs="*", type=str, default=[], help="folders of finished runs, or of folders of runs; or --model")
    made = ["easy", "untargeted", "noise"]
    add("--perturbations", nargs="+", choices=made, default=made, help="what is done to the images")
    add("--norm", choices=["linf", "l2"], default="linf", help="of the perturbations")
    radii = "radii in [0, 1] pixel units; by default 1/255 8/255, in l2 0.1 0.5"
    add("--eps", nargs="+", type=number, default=None, help=radii)
    add("--steps", type=int, default=1, help="gradient steps")
    add("--images", type=int, default=1000, help="test images, drawn by --seed")
    add("--seed", type=int, default=0, help="of the draw of the test images, and of the noise")
    layers = "names of modules, such as network.stages.0; by default the model's blocks"
    add("--layers", nargs="+", type=str, default=None, help=layers)
    branch = "a branch of the run instead of the deployed one (needs checkpoint.pt)"
    add("--branch", type=str, default=None, help=branch)
    add("--batch_size", type=int, default=100, help="images a pass; no result depends on it")
    add("--device", type=str, default=None, help="cpu, cuda, cuda:1; by default cuda if there is one")
    add("--markdown", action="store_true", help="print Markdown")
    add = add_model_options(parser)
    add("--out", type=str, default=None, help="folder of its results; by default runs/evaluations/NAME")


def run(arguments: Namespace) -> None:
    check_said_once(arguments)
    from ..progress import ProgressBars, progress_display
    from ..runs.hidden_states import measure, rows_of, write_branch_distances
    from ..tables import formats
    from ..tables.single_runs import HIDDEN_CAPTION, hidden_tables

    wanted, every = _wanted(arguments), subjects(arguments)
    with progress_display() as display:
        for each in every:
            measure(each, wanted, ProgressBars(display, each.run.folder.name, "hidden states"), arguments.device)
    console = Terminal(soft_wrap=True)
    for table in hidden_tables(dict(zip(_names(every), (rows_of(each, wanted) for each in every), strict=True))):
        say(formats.markdown(table)) if arguments.markdown else formats.show(table, Terminal())
    if not arguments.markdown:
        show_notes(console, every)
    say(HIDDEN_CAPTION) if arguments.markdown else console.print(HIDDEN_CAPTION)
    for each in every if arguments.runs else []:
        told = write_branch_distances(each.run)
        if not arguments.markdown:
            console.print(told)


def _wanted(arguments: Namespace) -> "Hidden":
    from ..runs.hidden_states import Hidden

    default = (1 / 255, 8 / 255) if arguments.norm == "linf" else (0.1, 0.5)
    return Hidden(
        perturbations=tuple(dict.fromkeys(arguments.perturbations)),
        norm=arguments.norm,
        eps=tuple(dict.fromkeys(float(eps) for eps in arguments.eps or default)),
        steps=arguments.steps,
        images=arguments.images,
        seed=arguments.seed,
        layers=None if arguments.layers is None else tuple(arguments.layers),
        batch_size=arguments.batch_size,
    )


def _names(every: "list[EvaluationTarget]") -> list[str]:
    """The folders' names, longer where two are alike."""
    short = [each.run.folder.name for each in every]
    return [name if short.count(name) == 1 else str(each.run.folder) for name, each in zip(short, every, strict=True)]
