"""What a diagnosis says of the preset fast: what its audit broke, and whether its gradients can be relied on."""

from collections.abc import Sequence

from ...perturb.eps import format_eps
from ..config import FAST
from ..result import Evaluation, Score
from .subject import FEW_POINTS, Finding, share

MASKED = (
    "zero gradients", "non-finite gradients", "zero gradients of attacks", "non-finite gradients of attacks",
    "square",
)  # fmt: skip
"""Checks whose warnings mean that gradients do not lead where they should."""
MISSED_SHARE = 0.01
"""From this estimated share of the points on it is a warning."""
REMEDY = "use attacks='standard' (--attacks autoattack), whose Square needs no gradient"


def about_fast(evaluation: Evaluation | None, findings: Sequence[Finding]) -> list[Finding]:
    """Findings about an evaluation by fast, given those of the checks; none about other attacks."""
    scores = [] if evaluation is None else [score for score in evaluation.scores if score.attack == FAST]
    if not scores:
        return []
    return [*_masked(scores, findings), *_audits(scores)]


def _masked(scores: Sequence[Score], findings: Sequence[Finding]) -> list[Finding]:
    names = [finding.name for finding in findings if finding.severity == "warning" and finding.name in MASKED]
    by_square = max((score.audit.broke.get("square", 0) for score in scores if score.audit), default=0)
    if by_square >= FEW_POINTS:
        names.append(f"the audit, where Square broke {by_square}")
    if not names:
        return []
    why = "all attacks of fast follow gradients, so that its upper bound may be far too high"
    seen = f"see {', '.join(dict.fromkeys(names))}"
    return [Finding("fast", "warning", "fast relies on gradients that are masked here", seen, why, REMEDY)]


def _audits(scores: Sequence[Score]) -> list[Finding]:
    found = [(score, score.audit) for score in scores if score.audit is not None and score.audit.survivors]
    if not found:
        return []
    score, audit = max(found, key=lambda each: each[1].falling)
    at = f"at {score.norm} {format_eps(score.eps or 0.0, score.norm)}"
    size = f"{share(audit.broken, audit.audited)} audited {at}"
    if not audit.broken:
        return [Finding("audit", "ok", "AutoAttack standard broke none of the points that it audited", size)]
    in_all = f"{size}, about {audit.falling:.0f} of the {score.n:,} attacked in all" if not audit.whole else size
    what, why = "AutoAttack standard broke points that fast left", "the figure of fast alone is too high by as much"
    remedy = "quote the audited figure with its interval; attacks='standard' attacks every point so"
    if audit.whole:
        remedy = "quote it with its audit, which attacked every point that fast left"
    many = audit.broken >= FEW_POINTS and audit.falling > MISSED_SHARE * score.n
    return [Finding("audit", "warning" if many else "note", what, in_all, why, remedy)]
