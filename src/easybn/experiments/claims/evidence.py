"""What the rows say to each claim: comparisons of recipes, of stacked halves, of hidden states."""

from collections.abc import Mapping, Sequence
from statistics import mean

from ...evaluation.over_seeds import paired_t
from ...evaluation.paper_numbers import Column
from ...perturb.eps import format_eps
from ...rows import Row
from ..over_seeds.comparison import compare, pairs
from ..over_seeds.recipes import RecipeRuns, Setting
from ..over_seeds.rows import StackedRows
from ..stacked.settings import Condition
from .verdict import NEGLIGIBLE, Evidence, judged

DRASTIC = 0.10
Kind = tuple[str, str, float, int, int, int]
ADVERSARIAL = "untargeted"


def of_recipes(
    settings: Sequence[Setting], first: Sequence[str], second: str, columns: Sequence[Column]
) -> list[Evidence]:
    """Each pair of the recipes called ``first`` with the one called ``second``, in each column that both have."""
    out = []
    for setting in settings:
        for ours, theirs in pairs(setting):
            if ours.method not in first or theirs.method != second:
                continue
            for column in columns:
                found = compare(ours, theirs, column)
                if found.over_seeds is None:
                    continue
                verdict, why = judged(found.over_seeds, NEGLIGIBLE, found.nothing_left)
                what = f"{setting.title}: {ours.label} \N{MINUS SIGN} {theirs.label}, {column.name}"
                out.append(Evidence(what, "points", found.over_seeds, verdict, why, found.over_points, ours.label))
    return out


def of_stacked(folders: Sequence[StackedRows]) -> list[Evidence]:
    """Accuracy with noise in the original minus that with noise in the easy copy; the other copies are controls."""
    out = []
    for folder in folders:
        conditions = dict.fromkeys(Condition(row["copy"], row["eps"], row["steps"]) for row in folder.rows)
        for condition in conditions:
            rows = [row for row in folder.rows if Condition(row["copy"], row["eps"], row["steps"]) == condition]
            halves = {half: _accuracies(rows, half) for half in ("original", "copy")}
            seeds = [seed for seed in halves["original"] if seed in halves["copy"]]
            differences = [halves["original"][seed] - halves["copy"][seed] for seed in seeds]
            test = paired_t(differences, 1 / rows[0]["n"]) if differences else None
            verdict, why = judged(test, DRASTIC)
            what = f"{rows[0]['data']}, {' against '.join(rows[0]['classes'])}: {condition}"
            easy = condition.copy == "easy"
            out.append(Evidence(what, "points", test, verdict if easy else None, why if easy else "control"))
    return out


def of_hidden_states(settings: Sequence[Setting]) -> list[Evidence]:
    """The relative distance of adversarial images' states in the deepest hidden layer: the other's minus EBN's."""
    out = []
    for setting in settings:
        advprop = [pair for pair in pairs(setting) if pair[0].method == "EBN" and pair[1].method == "AdvProp"]
        vanilla = [pair for pair in pairs(setting) if pair[0].method == "EBN" and pair[1].method == "Vanilla"]
        for ebn, other in advprop + vanilla:
            for kind in _kinds(ebn, other):
                out += _of_kind(setting, ebn, other, kind)
    return out


def kind_of(row: Row) -> Kind:
    """(perturbation, norm, eps, steps, images, seed) of a row of hidden.jsonl; no steps: 0.

    Rows are compared within a kind, so on the same images.
    """
    eps, steps, images, seed = (row.get(name) or 0 for name in ("eps", "steps", "images", "seed"))
    return str(row["perturbation"]), str(row.get("norm")), float(eps), int(steps), int(images), int(seed)


def called(kind: Kind) -> str:
    """``untargeted, linf 8/255, 1 step``"""
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
    verdict, why = judged(test, 0.0)
    what = f"{setting.title}: {other.label} \N{MINUS SIGN} {ebn.label}, {last[1]}, {called(kind)}"
    closer = f"EBN closer in {sum(below)} of {len(layers)} layers"
    return [Evidence(what, "", test, verdict, f"{why}; {closer}" if why else closer, about=ebn.label)]


def _by_layer(recipe: RecipeRuns, kind: Kind) -> dict[tuple[float, str], Mapping[int, float]]:
    """{(depth, layer): {seed: relative distance}} of the hidden layers: neither the image nor the logits."""
    out: dict[tuple[float, str], dict[int, float]] = {}
    for seed, run in recipe.runs.items():
        for row in run.hidden:
            if kind_of(row) == kind and 0 < row["depth"] != row.get("depths"):
                out.setdefault((row["depth"], str(row["layer"])), {})[seed] = float(row["relative_distance"])
    return dict(out)


def _kinds(*recipes: RecipeRuns) -> list[Kind]:
    found = {kind_of(row) for recipe in recipes for run in recipe.runs.values() for row in run.hidden}
    return sorted((kind for kind in found if kind[0] == ADVERSARIAL), key=lambda kind: kind[1:])


def _accuracies(rows: Sequence[Row], half: str) -> dict[int, float]:
    return {row["seed"]: row["accuracy"] for row in rows if (row["half"], row["how"]) == (half, "noise")}
