"""The paper's claims, where it states them, and what our rows say to each."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..over_seeds.columns import AUTO_ATTACK, CLEAN, LIBRARY, STRONG
from ..over_seeds.recipes import Setting, settings
from ..over_seeds.rows import Rows, StackedRows
from .evidence import of_hidden_states, of_recipes, of_stacked
from .verdict import Evidence, Verdict, together


@dataclass(frozen=True)
class Claim:
    """Something that the paper says.

    Args:
        name: C1 to C6.
        says: the claim in one sentence.
        where: section of the paper, and its words.
        command: what measures it, for readers without the rows.
        find: the comparisons in our rows.
        some: it holds if any comparison does, rather than all.
    """

    name: str
    says: str
    where: str
    command: str
    find: Callable[[Sequence[Setting], Sequence[StackedRows]], list[Evidence]]
    some: bool = False


@dataclass(frozen=True)
class Judged:
    """A claim, what supports it here, and the verdict."""

    claim: Claim
    evidence: Sequence[Evidence]
    verdict: Verdict

    @property
    def decisive(self) -> Evidence | None:
        """The comparison to look at first: the clearest failure, the weakest support, or the largest undecided one."""
        ours = [each for each in self.evidence if each.verdict == self.verdict and each.test is not None]
        if not ours:
            return None
        if self.verdict == "undecided at this scale":
            return max(ours, key=lambda each: abs(each.test.mean) if each.test else 0.0)
        end = {"does not hold": 1, "holds": 0}[self.verdict]
        best = max if self.claim.some and end == 0 else min
        return best(ours, key=lambda each: (each.interval or (0.0, 0.0))[end])


_MEASURE = "easybn study cpu; or easybn train of EBN, AdvProp and Vanilla at several seeds, then easybn evaluate"
_ATTACK = "easybn evaluate RUNS --attacks autoattack --norm linf, and --norm l2"
_ROBUST = (*STRONG, *AUTO_ATTACK)

CLAIMS = (
    Claim(
        "C1",
        "Of an image stacked on its easy copy, the network reads the easy half.",
        "Section 3: 'the accuracy drops drastically from 99.0 → 0.0 if we randomize the easy part of the image and do "
        "not change 99.0 → 99.0 otherwise'",
        "easybn stacked",
        lambda _, stacked: of_stacked(stacked),
        some=True,
    ),
    Claim(
        "C2",
        "EBN has a higher clean accuracy than AdvProp.",
        "Section 1: 'even outperforms it in the standard accuracy'; tables 1 and 2, Basic: +0.05 to +0.19",
        _MEASURE,
        lambda settings, _: of_recipes(settings, ("EBN",), "AdvProp", (CLEAN,)),
    ),
    Claim(
        "C3",
        "EBN withstands l2 PGD better than AdvProp.",
        "Section 4: 'improves standard and robust accuracy for most cases'; tables 1 and 2, l2: 11 of 12 higher",
        "easybn evaluate RUNS",
        lambda settings, _: of_recipes(settings, ("EBN",), "AdvProp", (*LIBRARY, *STRONG)),
    ),
    Claim(
        "C4",
        "EBN withstands AutoAttack better than AdvProp.",
        "Section 4, tables 1 and 2: higher in l-infinity (4 of 4), lower in l2 (4 of 4)",
        _ATTACK,
        lambda settings, _: of_recipes(settings, ("EBN",), "AdvProp", AUTO_ATTACK),
    ),
    Claim(
        "C5",
        "EBN and AdvProp are both better than basic training.",
        "Section 5: 'our method outperforms basic training settings'; the tables have no such row",
        _MEASURE,
        lambda settings, _: of_recipes(settings, ("EBN", "AdvProp"), "Vanilla", (CLEAN, *_ROBUST)),
    ),
    Claim(
        "C6",
        "The EBN network maps hidden states of adversarial images back to those of clean ones.",
        "Section 4: 'learns to neutralize adversarial perturbations and maps hidden states back to the data manifold'",
        "easybn hidden RUNS",
        lambda settings, _: of_hidden_states(settings),
    ),
)


def judge(rows: Rows) -> list[Judged]:
    """Every claim against all rows."""
    by_setting = settings(rows.runs, rows.across)
    out = []
    for claim in CLAIMS:
        evidence = claim.find(by_setting, rows.stacked)
        verdicts = [each.verdict for each in evidence if each.verdict is not None]
        out.append(Judged(claim, evidence, together(verdicts, claim.some)))
    return out
