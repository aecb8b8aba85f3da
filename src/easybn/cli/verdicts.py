"""What stored verdicts tell beside a score: two evaluations compared point by point, and a curve over eps."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import Namespace

from ..escapes import say
from ..terminal import Terminal
from .arguments import Parser, number

if TYPE_CHECKING:
    from ..evaluation.store import Store

PNG = "a PNG file needs matplotlib: pip install 'easybn[plot]', or name a .svg file"


def _add_choice(parser: Parser) -> None:
    """The options that choose among the evaluations of a run."""
    add: Any = parser.add_argument_group("which evaluation of a run").add_argument
    add(
        "--attacks",
        nargs="+",
        type=str,
        default=[],
        help="a preset such as autoattack, or names such as apgd-ce square",
    )
    add("--norm", choices=["linf", "l2"], default=None, help="of the perturbations")
    add("--eps", nargs="+", type=number, default=[], help="radii that it attacked, such as 8/255")
    add("--branch", type=str, default=None, help="a branch other than the deployed one")


def _store(folder: str, arguments: Namespace) -> "Store":
    from ..runs.verdicts import find_store

    chosen = (arguments.attacks, arguments.norm, arguments.eps, arguments.branch)
    return find_store(Path(folder), *chosen)


def configure_compare(parser: Parser) -> None:
    folder = "a run, or a folder below its verdicts/"
    parser.add_argument("first", type=str, help=f"A: {folder}")
    parser.add_argument("second", type=str, help=f"B: {folder}")
    _add_choice(parser)
    parser.add_argument("--list", action="store_true", help="print the numbers of the points that only one withstands")
    parser.add_argument("--json", action="store_true", help="print all of it as JSON instead")
    keep = "keep it in this new folder, with pictures of the points, for easybn report"
    parser.add_argument("--out", type=str, default=None, help=keep)
    repeated = "the code that makes the data set, my.py:make, named again for --out: a stored name runs nothing"
    parser.add_argument("--data", type=str, default=None, help=repeated)


def run_compare(arguments: Namespace) -> None:
    """Compare two evaluations of the same points: which points only one of the two models withstands.

    For each eps that both attacked: the difference of robust accuracy with its 95% interval (Tango's, for pairs), the p
    of McNemar's exact test, and how many points both, one or neither withstand. That is sharper than two intervals of
    their own, since both faced the same images. Nothing is computed by a model. Evaluations are refused that are not of
    the same points, test images and norm.

    --out FOLDER keeps the comparison for easybn report, with pictures of the first dozen points that only one
    withstands; put it into the folder that the report is made of.

    easybn compare runs/ebn runs/vanilla --attacks autoattack
    easybn compare runs/ebn runs/vanilla --norm linf --eps 8/255 --list
    easybn compare runs/ebn runs/vanilla --out runs/ebn-and-vanilla
    """
    from ..runs.compare import compare_stores, write_comparison
    from ..tables.comparison import LETTERS, paired_lines, paired_table
    from ..tables.formats import show

    first, second = _store(arguments.first, arguments), _store(arguments.second, arguments)
    compared = compare_stores((arguments.first, arguments.second), first, second)
    row = compared.to_dict()
    if arguments.out:
        write_comparison(compared, Path(arguments.out))
    if arguments.json:
        say(json.dumps(row))
        return
    console = Terminal(soft_wrap=True)
    for letter, name, about in zip(LETTERS, row["names"], row["about"], strict=True):
        console.print(f"{letter}: {name} ({about})")
    for line in paired_lines(row):
        console.print(line)
    show(paired_table(row), console)
    for note in row["notes"]:
        console.print(f"note: {note}")
    if arguments.list:
        for pair in compared.pairs[1:]:
            for letter, ids in zip(LETTERS, (pair.only_first, pair.only_second), strict=True):
                at = _at(compared.norm, pair.eps)
                console.print(f"only {letter}, {at} ({len(ids):,}): {' '.join(map(str, ids.tolist())) or 'none'}")
    if arguments.out:
        console.print(f"{arguments.out}/comparison.json, points.png: easybn report shows them")


def _at(norm: str, eps: float) -> str:
    from ..perturb.eps import format_eps

    return f"{norm} {format_eps(eps, norm)}"


def configure_curve(parser: Parser) -> None:
    parser.add_argument("runs", nargs="+", type=str, help="runs, or folders below their verdicts/")
    _add_choice(parser)
    parser.add_argument("-o", "--out", type=str, default="curve.svg", help="file: .svg, or .png with the extra plot")


def run_curve(arguments: Namespace) -> None:
    """Draw robust accuracy at every eps from one evaluation of each run: as an SVG file, or PNG.

    Attacks find images at some distance, FAB the nearest it can: for every eps the share of points without a known
    adversarial image within eps is an upper bound of robust accuracy. It is exact at the radii that were attacked,
    which are marked, and nothing is drawn beyond the largest of them. The shaded area reaches down to what withstood
    the next larger radius: an attack at an eps in between would end inside it. No model is run.

    easybn curve runs/ebn runs/vanilla --attacks autoattack -o curve.svg
    """
    from ..files import replacing, write_text
    from ..report.curve_file import curves_svg, draw_png
    from ..runs.verdicts import curve_of, describe_store, finished_verdicts

    out = Path(arguments.out)
    if out.suffix.lower() not in (".svg", ".png"):
        raise ValueError(f"--out {out}: a curve is written as .svg or .png")
    console = Terminal(soft_wrap=True)
    curves = {}
    for name in dict.fromkeys(arguments.runs):
        store = _store(name, arguments)
        curves[name] = curve_of(store, finished_verdicts(store))
        console.print(f"{name}: {describe_store(store)}")
    if len(norms := {curve.norm for curve in curves.values()}) > 1:
        raise ValueError(f"the evaluations are in {' and '.join(sorted(norms))}: choose by --norm")
    if out.suffix.lower() == ".svg":
        write_text(out, curves_svg(curves))
    else:
        try:
            drawn = draw_png(curves)
        except ImportError as error:
            raise ValueError(PNG) from error
        with replacing(out) as file:
            file.write(drawn)
    console.print(f"written: {out}")
