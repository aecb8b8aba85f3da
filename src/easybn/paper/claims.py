"""The paper's claims, where it states them, and what our rows say to each."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Literal

from ..json_files import Row
from ..perturb.eps import format_eps
from ..stats import PairedT, paired_t
from ..tables.aggregate import RecipeRuns, Setting, settings
from ..tables.comparison import McNemar, compare, pairs
from ..tables.rows import CLEAN, Column, Rows, StackedRows
from .columns import AUTO_ATTACK, LIBRARY, STRONG
from .stacked_images import Condition

# When a claim holds: by the 95% interval of a paired difference, never by the mean alone.

Verdict = Literal["holds", "does not hold", "undecided at this scale", "not measured"]
HOLDS: Verdict = "holds"
FAILS: Verdict = "does not hold"
UNDECIDED: Verdict = "undecided at this scale"
NOT_MEASURED: Verdict = "not measured"
NEGLIGIBLE = 0.0005
"""0.05 points of a percent: the smallest gain in clean accuracy that the paper reports."""

RULES = (
    "A comparison is the difference, paired by seed, of what the claim calls better and what it calls worse, with the "
    "95% interval of its mean over seeds (Student). It holds if the interval lies above 0 and reaches beyond a "
    "negligible margin. It does not hold if the interval ends at or below that margin: on the other side, or any gain "
    "is negligible. Otherwise, and with a single seed, it is undecided at this scale. The margin is 0.05 points, the "
    "smallest gain that the paper reports (C1: 10 points, since it says 'drastically'; C6: none). A claim holds if all "
    "of its comparisons hold, and does not hold if one of them does not; C1, for which the paper states no settings, "
    "holds if any of the settings shows it, and does not hold if none does."
)


@dataclass(frozen=True)
class Evidence:
    """One comparison that supports or contradicts a claim.

    Args:
        what: what is subtracted from what, where.
        unit: of the difference: "points" of a percent, or "" for a plain number.
        test: of the differences, positive where the claim says so; None if nothing was measured.
        verdict: of this comparison; "not measured" without a test; None for a control, which decides nothing.
        why: why it is undecided, or what else to know; a phrase.
        points: the test over points, where there is one.
        about: label of the recipe it is about, for its colour.
    """

    what: str
    unit: str
    test: PairedT | None
    verdict: Verdict | None
    why: str = ""
    points: McNemar | None = None
    about: str = ""

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95% interval in the unit shown; None if there is none."""
        if self.test is None or self.test.half_width is None:
            return None
        mean, half = self.scale * self.test.mean, self.scale * self.test.half_width
        return mean - half, mean + half

    @property
    def scale(self) -> int:
        """What the test's numbers are multiplied with to be shown in the unit."""
        return 100 if self.unit == "points" else 1

    @property
    def digits(self) -> int:
        """Digits after the decimal point, as shown."""
        return 2 if self.unit == "points" else 3


def verdict_of(test: PairedT | None, margin: float = NEGLIGIBLE, saturated: bool = False) -> tuple[Verdict, str]:
    """The verdict of one comparison, and why it is undecided or what else to know.

    Args:
        test: None if nothing was measured.
        margin: gains up to it are negligible; in the unit of the test.
        saturated: both are at 0% or both at 100%, so that no difference could show.
    """
    if test is None:
        return NOT_MEASURED, ""
    if saturated:
        return UNDECIDED, "both at the end of the scale"
    if test.half_width is None:
        return UNDECIDED, "one seed" if test.seeds == 1 else "the same difference at all seeds"
    low, high = test.mean - test.half_width, test.mean + test.half_width
    if high <= margin:
        return FAILS, "a gain, but a negligible one" if low > 0 else ""
    return (HOLDS, "") if low > 0 else (UNDECIDED, "")


def combined_verdict(verdicts: Sequence[Verdict], some: bool = False) -> Verdict:
    """The verdict of a claim: all comparisons must hold, or with ``some`` any; one not measured decides nothing."""
    if not set(verdicts) - {NOT_MEASURED}:
        return NOT_MEASURED
    first, last = (HOLDS, FAILS) if some else (FAILS, HOLDS)
    if first in verdicts:
        return first
    return UNDECIDED if {UNDECIDED, NOT_MEASURED} & set(verdicts) else last


# The evidence in the rows: comparisons of recipes, of stacked halves, of hidden states.

DRASTIC = 0.10
Kind = tuple[str, str, float, int, int, int]
ADVERSARIAL = "untargeted"


def of_recipes(
    settings: Sequence[Setting], first: Sequence[str], second: str, columns: Sequence[Column]
) -> list[Evidence]:
    """Each recipe whose class is in ``first`` minus one of class ``second``, in each column that both have."""
    evidence = []
    for setting in settings:
        for ours, theirs in pairs(setting):
            if ours.method not in first or theirs.method != second:
                continue
            for column in columns:
                compared = compare(ours, theirs, column)
                if (test := compared.seed_test) is None:
                    continue
                verdict, why = verdict_of(test, NEGLIGIBLE, compared.saturated)
                what = f"{setting.title}: {ours.label} \N{MINUS SIGN} {theirs.label}, {column.name}"
                evidence.append(Evidence(what, "points", test, verdict, why, compared.point_test, ours.label))
    return evidence


def of_stacked(folders: Sequence[StackedRows]) -> list[Evidence]:
    """Accuracy with noise in the original minus that with noise in the easy copy; the other copies are controls."""
    evidence = []
    for folder in folders:
        for condition in dict.fromkeys(Condition.of(row) for row in folder.rows):
            rows = [row for row in folder.rows if Condition.of(row) == condition]
            original, copy = (_noise_accuracies(rows, half) for half in ("original", "copy"))
            differences = [original[seed] - copy[seed] for seed in original if seed in copy]
            test = paired_t(differences, 1 / rows[0]["n"]) if differences else None
            verdict, why = verdict_of(test, DRASTIC)
            what = f"{rows[0]['data']}, {' against '.join(rows[0]['classes'])}: {condition}"
            easy = condition.copy == "easy"
            evidence.append(Evidence(what, "points", test, verdict if easy else None, why if easy else "control"))
    return evidence


def _noise_accuracies(rows: Sequence[Row], half: str) -> dict[int, float]:
    return {row["seed"]: row["accuracy"] for row in rows if (row["half"], row["how"]) == (half, "noise")}


def of_hidden_states(settings: Sequence[Setting]) -> list[Evidence]:
    """The relative distance of adversarial images' states in the deepest hidden layer: the other's minus EBN's."""
    evidence = []
    for setting in settings:
        for method in ("AdvProp", "Vanilla"):
            for ebn, other in pairs(setting):
                if (ebn.method, other.method) == ("EBN", method):
                    for kind in _kinds(ebn, other):
                        evidence += _of_kind(setting, ebn, other, kind)
    return evidence


def kind_of(row: Row) -> Kind:
    """(perturbation, norm, eps, steps, images, seed) of a row of hidden.jsonl; no steps: 0.

    Rows are compared within a kind, so on the same images.
    """
    eps, steps, images, seed = (row.get(name) or 0 for name in ("eps", "steps", "images", "seed"))
    return str(row["perturbation"]), str(row.get("norm")), float(eps), int(steps), int(images), int(seed)


def kind_text(kind: Kind) -> str:
    """A kind as text: ``untargeted, linf 8/255, 1 step``."""
    name, norm, eps, steps = kind[:4]
    return f"{name}, {norm} {format_eps(eps, norm)}" + (f", {steps} step{'s' * (steps != 1)}" if steps else "")


def _of_kind(setting: Setting, ebn: RecipeRuns, other: RecipeRuns, kind: Kind) -> list[Evidence]:
    ours, theirs = _by_layer(ebn, kind), _by_layer(other, kind)
    layers = sorted(set(ours) & set(theirs))
    if not layers:
        return []
    below = [
        mean(ours[layer].values()) < mean(theirs[layer].values())
        for layer in layers
        if set(ours[layer]) & set(theirs[layer])
    ]
    last = layers[-1]
    seeds = [seed for seed in ours[last] if seed in theirs[last]]
    test = paired_t([theirs[last][seed] - ours[last][seed] for seed in seeds]) if seeds else None
    verdict, why = verdict_of(test, 0.0)
    what = f"{setting.title}: {other.label} \N{MINUS SIGN} {ebn.label}, {last[1]}, {kind_text(kind)}"
    closer = f"EBN closer in {sum(below)} of {len(layers)} layers"
    return [Evidence(what, "", test, verdict, f"{why}; {closer}" if why else closer, about=ebn.label)]


def _by_layer(recipe: RecipeRuns, kind: Kind) -> dict[tuple[float, str], Mapping[int, float]]:
    """{(depth, layer): {seed: relative distance}} of the hidden layers: neither the image nor the logits."""
    distances: dict[tuple[float, str], dict[int, float]] = {}
    for seed, run in recipe.runs.items():
        for row in run.hidden:
            if kind_of(row) == kind and 0 < row["depth"] != row.get("depths"):
                distances.setdefault((row["depth"], str(row["layer"])), {})[seed] = float(row["relative_distance"])
    return dict(distances)


def _kinds(*recipes: RecipeRuns) -> list[Kind]:
    kinds = {kind_of(row) for recipe in recipes for run in recipe.runs.values() for row in run.hidden}
    return sorted((kind for kind in kinds if kind[0] == ADVERSARIAL), key=lambda kind: kind[1:])


# The claims.


@dataclass(frozen=True)
class Claim:
    """A claim of the paper.

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
    """The verdict on every claim by all rows."""
    by_setting = settings(rows.runs, rows.across)
    judged = []
    for claim in CLAIMS:
        evidence = claim.find(by_setting, rows.stacked)
        verdicts = [each.verdict for each in evidence if each.verdict is not None]
        judged.append(Judged(claim, evidence, combined_verdict(verdicts, claim.some)))
    return judged
