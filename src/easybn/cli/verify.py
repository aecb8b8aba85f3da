"""Test stored adversarial images again on the model: inside the ball, inside [0, 1], misclassified.

STORE is a folder of verdicts made with easybn evaluate --keep_images. Inside a run's folder (runs/x/verdicts/...)
the model and its test images are found automatically; for a store made in Python, name them. The exit status is 1 if
anything is wrong, missing or damaged. Without --keep_images only the record can be tested, which is no verification:
exit status 2.
"""

from pathlib import Path

from jsonargparse import Namespace

from ..terminal import Terminal
from .arguments import Parser
from .user_model import add_model_options, repeats_model, user_model_of

SHOWN = 20  # problems


def configure(parser: Parser) -> None:
    add = parser.add_argument
    add("store", type=str, help="folder of verdicts")
    add("--batch_size", type=int, default=256, help="images per pass")
    add("--device", type=str, default=None, help="cpu, cuda, cuda:1; by default the CPU")
    add_model_options(parser)


def run(arguments: Namespace) -> None:
    from ..progress import ProgressBars, progress_display
    from ..runs.verify import is_of_user_model, verify_store
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
