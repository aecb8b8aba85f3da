"""Clean and robust accuracy on test images; what was measured already is shown again, not measured again.

Without --attacks, PGD under two protocols: "robustness", the paper's columns, faithful to the library of that
name, and "strong", which no saturated loss can mislead. Where the two disagree, believe the second.

--attacks autoattack is the standard AutoAttack (apgd-ce, apgd-t, fab-t, square): the number to report. Every
verdict is stored in the run's folder below verdicts/. Kill it, stop it with Ctrl-C or lose the machine: the same
command goes on and ends with the verdicts of an undisturbed run. How long it will take: --estimate. No time for
all points: --budget 10m. Several machines: --shard 0/3, 1/3, 2/3, or the same command on each.

easybn evaluate --model fashion-mnist-vanilla --attacks autoattack --points 20
easybn evaluate runs/ebn --attacks autoattack --norm linf --eps 8/255
easybn evaluate --model my_module:make_model --weights mine.safetensors --data cifar10 --attacks autoattack
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from jsonargparse import Namespace
from rich.console import Console

from ..perturb.eps import format_eps
from ..tables.formats import show
from ..tables.table import Cell, Table, TableRow
from ..terminal import Terminal
from .arguments import Parser, number, time_span
from .train import duration
from .user_model import add_model_options, check_said_once, show_notes, subjects

if TYPE_CHECKING:
    from ..evaluation import Score
    from ..evaluation.diagnostics import Finding
    from ..evaluation.estimate import Estimate
    from ..runs.evaluate import Attacks, Measurement, Result
    from ..runs.target import EvaluationTarget


# What an evaluation found, in the terminal.


def show_result(console: Console, evaluated: "EvaluationTarget", wanted: "Attacks", result: "Result") -> None:
    """Accuracies with their intervals, what broke how many points, notes and findings; or what is still missing."""
    found = result.evaluation
    n, where = len(found.clean), evaluated.run.folder
    branch = "" if evaluated.branch == "main" else f", branch {evaluated.branch}"
    clean, *attacked = found.scores
    title = f"{where}{branch}: {'+'.join(wanted.attacks)}, {wanted.norm}, {n:,} test images"
    names = _show_attacks_attacks(attacked)
    columns = ["accuracy", "95% interval", *names, "farthest"]
    lines = [_line("clean", [*_accuracy(clean), *[""] * len(columns[2:])])]
    for score in attacked:
        broke = [f"{score.broke[name]:,}" if name in score.broke else "" for name in names]
        eps = format_eps(score.eps or 0.0, score.norm)
        lines.append(_line(eps, [*_accuracy(score), *broke, f"{score.max_perturbation:.5f}"]))
    show(Table(title, "eps", columns, lines, _caption(wanted, found.asked, n)), console)
    for note in found.remarks:
        console.print(f"note: {note}")
    _show_findings(console, result.findings)
    if not found.complete and not wanted.budget:
        console.print(f"no score is written yet: {n:,} of {found.asked:,} points have their verdicts")
    console.print(f"verdicts: {result.store} ({duration(result.seconds)} this time)")


def _line(name: str, texts: Sequence[str]) -> TableRow:
    return TableRow(name, [Cell(text) for text in texts])


def show_kept(console: Console, evaluated: "EvaluationTarget") -> None:
    """Notes and findings that the rows of PGD keep, without the notes of the data."""
    from ..evaluation.diagnostics import Finding
    from ..evaluation.diagnostics.run import ORDER

    rows = [row for row in evaluated.run.scores if row["attack"] == "pgd" and row.get("branch") == evaluated.branch]
    findings = dict.fromkeys(Finding(**each) for row in rows for each in row.get("findings", ()))
    notes = dict.fromkeys(note for row in rows for note in row.get("notes", ()) if note not in evaluated.notes)
    if not findings and not notes:
        return
    console.print(f"{evaluated.run.folder}:")
    for note in notes:
        console.print(f"note: {note}")
    _show_findings(console, sorted(findings, key=lambda each: ORDER.index(each.severity)))


def _show_findings(console: Console, findings: "Sequence[Finding]") -> None:
    fine = dict.fromkeys(finding.name for finding in findings if finding.fine)
    for finding in findings:
        if not finding.fine:
            console.print(str(finding))
    if fine:
        told = f"ok       {len(fine)} checks found nothing: {', '.join(fine)}"
        console.print(told)


def _caption(wanted: "Attacks", asked: int, n: int) -> str:
    words = "Columns of attacks: points that each was the first to break."
    if wanted.budget:
        words += f" A budget of {duration(wanted.budget)}: {n:,} of {asked:,} points, drawn at random."
    return words


def _show_attacks_attacks(scores: "list[Score]") -> list[str]:
    return list(dict.fromkeys(name for score in scores for name in score.broke))


def _accuracy(score: "Score") -> tuple[str, str]:
    low, high = score.interval
    return f"{100 * score.accuracy:.2f} ±{100 * score.interval.half_width:.1f}", f"{100 * low:.1f} .. {100 * high:.1f}"


def show_estimate(console: Console, evaluated: "EvaluationTarget", found: "Estimate") -> None:
    """Between which times it will end."""
    looks = ", ".join(f"{name} {1000 * seconds:.3g}" for name, seconds in found.seconds_a_look.items())
    console.print(f"{evaluated.run.folder}: ms an image and move: {looks}")
    console.print(
        f"{found.points:,} points: {duration(found.least)} if nothing survives .. {duration(found.most)} if all do, on "
        f"this machine as it is now (a point that falls: {1000 * found.fallen:.3g} ms, a robust one: "
        f"{found.robust:.3g} s)",
    )


OF_A_STORE = ("chunk", "shard", "budget", "keep_images", "estimate", "compile", "precision")


def configure(parser: Parser) -> None:
    add = parser.add_argument
    add("runs", nargs="*", type=str, default=[], help="folders of finished runs, or of folders of runs; or --model")
    attacks = "pgd; clean; AutoAttack's presets autoattack (standard), plus, rand (for models that draw random numbers)"
    add("--attacks", nargs="+", type=str, default=["pgd"], help=f"{attacks}; or names such as apgd-ce square")
    add("--norm", choices=["l2", "linf"], default=None, help="of the perturbations; pgd: l2, others: linf")
    radii = "radii in [0, 1] pixel units, such as 8/255; by default 0.1 0.5 1.0 for pgd, else 8/255 in linf, 0.5 in l2"
    add("--eps", nargs="+", type=number, default=None, help=radii)
    points = "test images attacked, drawn by --seed; 1000 by default, and under --budget as many as fit"
    add("--points", type=int, default=None, help=points)
    add("--seed", type=int, default=0, help="of the draw of the test images, and of all that is random in attacks")
    size = "images a pass, 100 for pgd (part of the 'robustness' protocol's result), else 256"
    add("--batch_size", type=int, default=None, help=size)
    add("--device", type=str, default=None, help="cpu, cuda, cuda:1; by default the CPU")
    add(
        "--branch", type=str, default=None, help="a branch of the run instead of the deployed one (needs checkpoint.pt)"
    )
    pgd = parser.add_argument_group("pgd")
    pgd.add_argument("--protocols", nargs="+", choices=["robustness", "strong"], default=["robustness", "strong"])
    pgd.add_argument("--steps", type=int, default=100, help="gradient steps an image, for each loss")
    group = parser.add_argument_group("all other attacks")
    add = group.add_argument
    add("--estimate", action="store_true", help="time a few moves on these images and say how long it will take here")
    add("--budget", type=time_span, default=None, help="as many points as fit into 90s, 10m or 2h, drawn at random")
    chunk = "points whose attacks are run together (1000; 32 under --budget)"
    add("--chunk", type=int, default=None, help=chunk)
    shard = "do every n-th chunk, from the i-th on (0/3, 1/3, 2/3); the score comes when all are done"
    add("--shard", type=str, default=None, metavar="I/N", help=shard)
    add("--keep_images", action="store_true", help="store the adversarial images, for easybn verify")
    add("--no_share", action="store_true", help="attack again at a larger eps what fell at a smaller one")
    add("--compile", action="store_true", help="attack a compiled copy of the model: for long evaluations")
    add("--precision", choices=["float32", "bf16"], default=None, help="of gradients; verdicts stay in float32")
    add("--no_diagnosis", action="store_true", help="do not look for what makes the figures misleading")
    add = add_model_options(parser)
    add("--out", type=str, default=None, help="folder of its results; by default runs/evaluations/NAME")


def run(arguments: Namespace) -> None:
    pgd = is_pgd(arguments)
    check_said_once(arguments)
    if pgd:
        _pgd(arguments)
    else:
        _evaluate_attacks(arguments)


def is_pgd(arguments: Namespace) -> bool:
    """Whether PGD under its protocols is asked for; ValueError for an option that does not go with it."""
    pgd = list(arguments.attacks) == ["pgd"]
    if pgd and (given := [name for name in OF_A_STORE if getattr(arguments, name)]):
        raise ValueError(
            f"--{given[0]} is for attacks with stored verdicts: --attacks autoattack, or pgd-ce pgd-margin"
        )
    return pgd


def _pgd(arguments: Namespace) -> None:
    from ..progress import progress_display
    from ..runs.evaluate import score
    from .table import show

    every = subjects(arguments)
    wanted = measurement_of(arguments)
    with progress_display() as display:
        for each in every:
            score(each.run, display, wanted, each)
    console = Terminal(soft_wrap=True)
    show(Terminal(), [each.run for each in every])
    show_notes(console, every)
    for each in every:
        show_kept(console, each)


def _evaluate_attacks(arguments: Namespace) -> None:
    from ..progress import ProgressBars, progress_display
    from ..runs.evaluate import measure, time_needed

    wanted, console = wanted_of(arguments), Terminal(soft_wrap=True)
    for each in subjects(arguments):
        if arguments.estimate:
            show_estimate(console, each, time_needed(each, wanted))
            show_notes(console, [each])
            continue
        with progress_display() as display:
            result = measure(each, wanted, ProgressBars(display, each.run.folder.name))
        show_result(console, each, wanted, result)
        show_notes(console, [each])


def measurement_of(arguments: Namespace) -> "Measurement":
    """What the arguments say of PGD."""
    from ..runs.evaluate import Measurement

    return Measurement(
        norm=arguments.norm or "l2",
        eps=tuple(arguments.eps or (0.1, 0.5, 1.0)),
        protocols=tuple(arguments.protocols),
        steps=arguments.steps,
        points=1000 if arguments.points is None else arguments.points,
        batch_size=100 if arguments.batch_size is None else arguments.batch_size,
        seed=arguments.seed,
        device=_device(arguments),
        diagnosed=not arguments.no_diagnosis,
    )


def wanted_of(arguments: Namespace) -> "Attacks":
    """The attacks that the arguments describe."""
    from ..runs.evaluate import Attacks

    norm = arguments.norm or "linf"
    return Attacks(
        attacks=tuple(arguments.attacks),
        norm=norm,
        eps=tuple(float(e) for e in sorted(set(arguments.eps or [8 / 255 if norm == "linf" else 0.5]))),
        points=arguments.points,
        seed=arguments.seed,
        batch_size=256 if arguments.batch_size is None else arguments.batch_size,
        chunk=arguments.chunk,
        shard=_shard(arguments.shard),
        budget=None if arguments.budget is None else float(arguments.budget),
        keep_images=arguments.keep_images,
        share=not arguments.no_share,
        compile=arguments.compile,
        precision=arguments.precision or "float32",
        device=_device(arguments),
        diagnosed=not arguments.no_diagnosis,
    )


def _shard(text: str | None) -> tuple[int, int] | None:
    part, _, parts = (text or "").partition("/")
    if text is None:
        return None
    if not (part.isdigit() and parts.isdigit() and int(part) < int(parts)):
        last = f" .. {int(parts) - 1}/{parts}" if parts.isdigit() and int(parts) > 1 else ""
        raise ValueError(f"--shard {text}: a shard is i/n with i from 0 to n - 1, such as 0/{parts or 3}{last}")
    return int(part), int(parts)


def _device(arguments: Namespace) -> str | None:
    from ..train.prepare import usable_device

    return None if arguments.device is None else str(usable_device(arguments.device))
