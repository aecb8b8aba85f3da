"""What an evaluation found, in the terminal."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console

from ..experiments.over_seeds.layout import Cell, Line, Table
from ..experiments.over_seeds.terminal import show
from ..perturb.eps import format_eps
from .train import duration

if TYPE_CHECKING:
    from ..evaluation import Score
    from ..evaluation.diagnose import Finding
    from ..evaluation.estimate import Estimate
    from ..experiments.evaluated import Evaluated
    from ..experiments.score_attacks import Attacks, Result


def show_result(console: Console, evaluated: "Evaluated", wanted: "Attacks", result: "Result") -> None:
    """Accuracies with their intervals, what broke how many points, notes and findings; or what is still missing."""
    found = result.evaluation
    n, where = len(found.clean), evaluated.run.folder
    branch = "" if evaluated.branch == "main" else f", branch {evaluated.branch}"
    clean, *attacked = found.scores
    title = f"{where}{branch}: {'+'.join(wanted.attacks)}, {wanted.norm}, {n:,} test images"
    names = _attacks(attacked)
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


def _line(name: str, texts: Sequence[str]) -> Line:
    return Line(name, [Cell(text) for text in texts])


def show_kept(console: Console, evaluated: "Evaluated") -> None:
    """Notes and findings that the rows of PGD keep, without the notes of the data."""
    from ..evaluation.diagnose import Finding
    from ..evaluation.diagnose.run import ORDER

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


def _attacks(scores: "list[Score]") -> list[str]:
    return list(dict.fromkeys(name for score in scores for name in score.broke))


def _accuracy(score: "Score") -> tuple[str, str]:
    low, high = score.interval
    return f"{100 * score.accuracy:.2f} ±{100 * score.interval.half_width:.1f}", f"{100 * low:.1f} .. {100 * high:.1f}"


def show_estimate(console: Console, evaluated: "Evaluated", found: "Estimate") -> None:
    """Between which times it will end."""
    looks = ", ".join(f"{name} {1000 * seconds:.3g}" for name, seconds in found.seconds_a_look.items())
    console.print(f"{evaluated.run.folder}: ms an image and move: {looks}")
    console.print(
        f"{found.points:,} points: {duration(found.least)} if nothing survives .. {duration(found.most)} if all do, on "
        f"this machine as it is now (a point that falls: {1000 * found.fallen:.3g} ms, a robust one: "
        f"{found.robust:.3g} s)",
    )
