"""What is a trained network like, beside its accuracy? Instruments measure it on test images, each with its interval.

--list names the instruments, with what they measure, their number of images and their options. Rows are kept in
RUN/analysis.jsonl and not measured again; easybn report draws them. Where the checkpoint of a run is there, its
branches are compared.

easybn analyse runs/vanilla runs/advprop runs/ebn
easybn analyse runs/ebn --instruments rank latent --images 500
easybn analyse runs/ebn --instruments rank --epochs
easybn analyse runs/ebn --instruments my.py:Margin
easybn analyse --model fashion-mnist-vanilla --instruments latent --options '{latent: {eps: 4/255}}'
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from jsonargparse import Namespace

from ..escapes import say
from ..terminal import Terminal
from .arguments import Parser
from .table_format import add_format_option, print_in_format
from .targets import add_model_options, check_one_target, short_names, show_notes, targets_of

if TYPE_CHECKING:
    from ..json_files import Row
    from ..metrics.instrument import Instrument
    from ..tables.analysis import Shown
    from ..tables.table import Table


def configure(parser: Parser) -> None:
    add = parser.add_argument
    add("runs", nargs="*", type=str, default=[], help="folders of finished runs, or of folders of runs; or --model")
    which = "which, such as rank latent or my.py:Mine, a class of yours; by default all of the package"
    add("--instruments", nargs="+", type=str, default=None, help=which)
    add("--list", action="store_true", help="print the instruments, what they measure and their options, and stop")
    images = "number of test images, drawn by --seed; by default each instrument's own"
    add("--images", type=int, default=None, help=images)
    add("--epochs", action="store_true", help="also the networks that easybn train --keep_epochs kept, as curves")
    add("--seed", type=int, default=0, help="seed of the draw of test images, and of what an instrument draws")
    fields = "options of instruments by name, such as '{latent: {eps: 4/255}}'"
    add("--options", type=dict[str, Any], default={}, help=fields)
    branch = "measure this branch of the run instead of the deployed one (needs checkpoint.pt)"
    add("--branch", type=str, default=None, help=branch)
    add("--batch_size", type=int, default=100, help="images per pass; does not change results but for rounding")
    add("--device", type=str, default=None, help="cpu, cuda, cuda:1; by default cuda if there is one")
    add("--all", action="store_true", help="print all tables, also those that the report folds away")
    add_format_option(parser)
    add = add_model_options(parser)
    add("--out", type=str, default=None, help="folder of the results; by default runs/evaluations/NAME")


def run(arguments: Namespace) -> None:
    if not arguments.list:
        check_one_target(arguments)
    from ..metrics.registry import instruments

    chosen = instruments(arguments.instruments, arguments.options)
    if arguments.list:
        for each in chosen:
            _describe(each)
        return
    from ..progress import ProgressBars, progress_display
    from ..runs.analyse import Analysis, analyse_run, rows_of
    from ..tables.analysis import Shown, over_training

    analysis = Analysis(chosen, arguments.images, arguments.seed, arguments.batch_size, arguments.epochs)
    targets = targets_of(arguments)
    notes: list[str] = []
    with progress_display(stderr=arguments.format != "terminal") as display:
        for target in targets:
            bars = ProgressBars(display, target.run.folder.name)
            notes += analyse_run(target, analysis, bars, arguments.device)
    console = Terminal(soft_wrap=True)
    rows = dict(zip(short_names(targets), (rows_of(target, analysis) for target in targets), strict=True))
    alone: list[Table] = []  # of LaTeX and CSV, which are one document
    for each in chosen:
        of_runs = {name: found[each.name] for name, found in rows.items() if found[each.name]}
        shown = Shown.of_kind(type(each))
        at_the_end = {n: [row for row in r if not row.get("epoch")] for n, r in of_runs.items()}
        alone += _show(console, shown, at_the_end, arguments)
        over, _ = over_training(shown, [row for found in of_runs.values() for row in found])
        if over.plots:
            along = {name: over_training(shown, found)[1] for name, found in of_runs.items()}
            alone += _show(console, over, along, arguments)
    print_in_format(alone, arguments.format)
    if arguments.format == "terminal":
        show_notes(console, targets)
        for note in notes:
            console.print(note, soft_wrap=False)


def _show(
    console: Terminal, shown: "Shown", of_runs: "dict[str, list[Row]]", arguments: Namespace
) -> "Sequence[Table]":
    """Print the tables of one instrument, of runs by name, with what they say; or return them, for LaTeX and CSV."""
    from ..tables import formats
    from ..tables.analysis import instrument_tables, settings_text, values

    curves = {name: values(found) for name, found in of_runs.items() if found}
    asked = dict.fromkeys(settings_text(row) for found in of_runs.values() for row in found)
    heading = f"{shown.title} ({'; '.join(asked)})"
    tables = instrument_tables(shown, curves) + (instrument_tables(shown, curves, True) if arguments.all else [])
    if arguments.format == "markdown":
        say("\n\n".join([f"### {heading}", *map(formats.markdown, tables), shown.reads, shown.sentence(curves)]))
        return []
    if arguments.format != "terminal":
        return tables
    console.print(f"\n{heading}", soft_wrap=False)
    for table in tables:
        formats.show(table, Terminal())
    console.print(shown.reads, soft_wrap=False)
    console.print(shown.sentence(curves), soft_wrap=False, style="bold")
    return []


def _describe(instrument: "Instrument") -> None:
    """Print its name, title, what it measures, and its options."""
    from dataclasses import fields

    console = Terminal()
    kind = type(instrument)
    options = ", ".join(f"{field.name} {getattr(instrument, field.name)}" for field in fields(kind)) or "none"
    console.print(f"{kind.name}: {kind.title}", style="bold")
    console.print(f"  {kind.reads}\n  {kind.images:,} test images by default; options: {options}")
