"""What an evaluation found or would take, in the terminal: headlines, a table, notes and findings."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console

from ..evaluation.config import FAST, EvaluateConfig
from ..perturb.eps import format_eps
from ..tables.formats import show
from ..tables.table import Cell, Table, TableRow
from .train import duration

if TYPE_CHECKING:
    from ..evaluation import Score
    from ..evaluation.diagnostics import Finding
    from ..evaluation.estimate import Estimate
    from ..runs.evaluate import Result
    from ..runs.target import EvaluationTarget


def show_result(
    console: Console, target: "EvaluationTarget", config: EvaluateConfig, result: "Result", named: bool = False
) -> None:
    """A line for each robust accuracy (and its audit), a table of what broke how many points, notes and findings.

    Args:
        named: whether the lines say which model they are about, as they have to where there are several.
    """
    from ..evaluation.result import audit_line, headline

    evaluation = result.evaluation
    assert evaluation is not None
    n, folder = len(evaluation.clean), target.run.folder
    branch = "" if target.branch == "main" else f", branch {target.branch}"
    clean, *attacked = evaluation.scores
    about = branch
    if config.budget:
        about += f", drawn at random in a budget of {duration(config.budget)}"
    elif not result.complete:
        about += f", not finished: {evaluation.asked:,} points were asked for"
    for score in attacked or [clean]:
        line = f"{headline(score, len(target.source.test))}{about}"
        for told in filter(None, (line, audit_line(score))):
            console.print(f"{folder}: {told}" if named else told)
    title = f"{folder}{branch}: {'+'.join(config.names)}, {config.norm}, {n:,} test images"
    names = list(dict.fromkeys(name for score in attacked for name in score.broke))
    headings = [name if len(name) <= LONG_NAME else name.replace("-", " ") for name in names]
    columns = ["accuracy", "95% interval", *headings]
    lines = [_line("clean", [*_accuracy(clean), *[""] * len(columns[2:])])]
    for score in attacked:
        broke = [f"{score.broke[name]:,}" if name in score.broke else "" for name in names]
        lines.append(_line(format_eps(score.eps or 0.0, score.norm), [*_accuracy(score), *broke]))
    show(Table(title, "eps", columns, lines, _caption(attacked)), console)
    for note in evaluation.remarks:
        console.print(f"note: {note}")
    _show_findings(console, result.findings)
    if not result.complete and not config.budget:
        console.print(f"no score is written yet: {n:,} of {evaluation.asked:,} points have their verdicts")
    console.print(f"verdicts: {result.store} ({duration(result.seconds)} this time)")


LONG_NAME = 10  # characters of an attack's name; the heading of a longer one may take two lines


def _line(name: str, texts: Sequence[str]) -> TableRow:
    return TableRow(name, [Cell(text) for text in texts])


def _accuracy(score: "Score") -> tuple[str, str]:
    low, high = score.interval
    return f"{100 * score.accuracy:.2f}", f"{100 * low:.1f} .. {100 * high:.1f}"


def _caption(attacked: "Sequence[Score]") -> str:
    if not attacked:
        return "Accuracy in %."
    farthest = ", ".join(f"{score.max_perturbation:.5f}" for score in attacked)
    rows = " (a number a row)" if len(attacked) > 1 else ""
    figure = "Accuracy in %"
    if attacked[0].attack == FAST and not all(score.audit and score.audit.whole for score in attacked):
        figure += ", of fast an upper bound, with its interval under fast and AutoAttack standard"
    return (
        f"{figure}. Columns of attacks: points that each was the first to break. Farthest image found: "
        f"{farthest}{rows}."
    )


def show_notes_of_rows(console: Console, target: "EvaluationTarget") -> None:
    """Notes and findings that the rows of PGD keep, without the notes of the data."""
    from ..evaluation.diagnostics import Finding
    from ..evaluation.diagnostics.run import ORDER

    rows = [row for row in target.run.scores if row["attack"] == "pgd" and row.get("branch") == target.branch]
    findings = dict.fromkeys(Finding(**each) for row in rows for each in row.get("findings", ()))
    notes = dict.fromkeys(note for row in rows for note in row.get("notes", ()) if note not in target.notes)
    if not findings and not notes:
        return
    console.print(f"{target.run.folder}:")
    for note in notes:
        console.print(f"note: {note}")
    _show_findings(console, sorted(findings, key=lambda each: ORDER.index(each.severity)))


def _show_findings(console: Console, findings: "Sequence[Finding]") -> None:
    fine = dict.fromkeys(finding.name for finding in findings if finding.fine)
    for finding in findings:
        if not finding.fine:
            console.print(str(finding))
    if fine:
        console.print(f"ok       {len(fine)} checks found nothing: {', '.join(fine)}")


def show_estimate(console: Console, target: "EvaluationTarget", estimate: "Estimate") -> None:
    """Between which times it will end."""
    steps = ", ".join(f"{name} {1000 * seconds:.3g}" for name, seconds in estimate.seconds_per_step.items())
    console.print(f"{target.run.folder}: ms per image and step: {steps}")
    console.print(
        f"{estimate.points:,} points: {duration(estimate.least)} if nothing survives .. {duration(estimate.most)} if "
        f"all do, on this machine as it is now (a point that is broken at once: {1000 * estimate.broken:.3g} ms, a "
        f"robust one: {estimate.robust:.3g} s"
        + (f", each of {estimate.audited:,} that are audited: {estimate.audit:.3g} s)" if estimate.audited else ")"),
    )


def show_tracked(console: Console, targets: Sequence["EvaluationTarget"]) -> None:
    """Send the scores of runs that trackers follow, and print to which, or why not."""
    from ..runs.tracked import send_scores

    for folder, run in {target.run.folder: target.run for target in targets}.items():
        sent = send_scores(run)
        if taken := [name for name, problem in sent.items() if not problem]:
            console.print(f"{folder}: scores are in {', '.join(taken)} too")
        for name, problem in sent.items():
            if problem:
                console.print(f"note: {folder}: the tracker {name} lacks scores: {problem}")
