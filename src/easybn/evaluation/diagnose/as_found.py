"""How the model was found, which ``prepared`` notes: a finding for each note."""

from .finding import Finding, Severity
from .subject import Subject

MEANING: dict[str, tuple[Severity, str, str]] = {
    "train mode": (
        "note", "in train mode dropout and batch statistics would make another function of it",
        "call model.eval() before an evaluation of your own",
    ),
    "the model has branches": (
        "note", "one branch was evaluated, and says nothing of the others",
        "keep the branch that is deployed with strip(), and evaluate the others inside route()",
    ),
    "no running statistics": (
        "warning", "a verdict belongs to a batch, and no attack on single points means anything",
        "give the batch norms running statistics (track_running_stats=True, one pass over training data)",
    ),
}  # fmt: skip
"""For the words that a note holds: how bad it is, why, and what to do."""


def as_found(subject: Subject) -> list[Finding]:
    """Train mode, branches, batch norms without statistics, and whatever else was noted."""
    findings = []
    for note in subject.ready.notes:
        severity, why, remedy = next((MEANING[key] for key in MEANING if key in note), ("note", "", ""))
        what, _, size = note.partition(": ")
        findings.append(Finding("as found", severity, what, size, why, remedy))
    return findings
