"""How robust the models are: the paper's tables, accuracy against eps, and what each attack broke."""

from collections.abc import Mapping, Sequence

from ...evaluation.audit import Audit
from ...evaluation.config import FAST
from ...json_files import Row
from ...paper.columns import OURS
from ...paper.tables import paper_table
from ...perturb.eps import format_eps
from ...stats import Interval, accuracy_interval, aggregate
from ...tables.aggregate import RecipeRuns, Setting
from ...tables.comparison import differences_table
from ...tables.rows import CLEAN, RunRows
from ...tables.table import Cell, Table, TableRow
from ..charts import Chart, Point, Series, Shares, shares_chart
from ..elements import Block, Colours, Content, Figure, Key, Material, attack_appearances, legend, section

# Tables 1 and 2 of the paper from our runs, and the tests behind them.


@section(
    "tables",
    "Tables 1 and 2",
    order=10,
    lead="The paper's columns from our runs; below each of our rows the paper's, of its larger networks.",
)
def tables(material: Material) -> Content:
    blocks = []
    for setting in material.settings:
        if not any(recipe.scores(CLEAN) for recipe in setting.recipes):
            continue
        table, tests = paper_table(setting), differences_table(setting, OURS)
        blocks.append(Block("table", table.title, table.caption, table=table))
        if tests.rows:
            blocks.append(Block("table", caption=tests.caption, table=tests, folded="Paired tests between recipes"))
    return Content(blocks, "" if blocks else "Nothing is measured yet: easybn evaluate RUNS.")


# Robust accuracy against eps, one curve per recipe.

COMMANDS = {
    "l2": "easybn evaluate RUNS --eps 0.1 0.5 1.0",
    "linf": "easybn evaluate RUNS --attacks autoattack --norm linf --eps 2/255 4/255 8/255",
}
NORMS = {"l2": "l2", "linf": "l-infinity"}
ATTACKS = {"pgd": "PGD", "autoattack": "AutoAttack", FAST: "fast (an upper bound)"}
PROTOCOLS = {"robustness": " (as the library robustness)", "standard": ""}
Attack = tuple[str, str | None, str]  # attack, protocol and norm of a score


@section(
    "eps",
    "Robust accuracy against eps",
    order=20,
    lead="Accuracy left when every image may be moved by up to eps; at eps 0 it is clean accuracy, on all test images. "
    "Bands: 95% intervals of the mean over seeds; of a single seed, those of the test images drawn (Wilson).",
)
def eps_curves(material: Material) -> Content:
    blocks = [
        block for setting in material.settings for block in (_curves(setting, material), _audits(setting)) if block
    ]  # fmt: skip
    norms = {norm for setting in material.settings for _, _, norm in measured_attacks(setting)}
    absent = [f"No rows in {NORMS[norm]}: {command}." for norm, command in COMMANDS.items() if norm not in norms]
    return Content(blocks, " ".join(absent))


def measured_attacks(setting: Setting) -> list[Attack]:
    """Every attack that was measured in a setting, l2 first."""
    scores = [score for recipe in setting.recipes for run in recipe.runs.values() for score in run.scores]
    measured = {attack_key(score) for score in scores if score.get("eps")}
    return sorted(measured, key=lambda each: (each[2], each[0] != "pgd", str(each[1]), each[0]))


def attack_key(score: Row) -> Attack:
    """Attack, protocol and norm of a score or a verdict row."""
    return score["attack"], score.get("protocol"), score["norm"]


def attack_name(attack: Attack, labels: Mapping[str, str]) -> str:
    """An attack as text: ``PGD (strong), l2``."""
    name, protocol, norm = attack
    words = PROTOCOLS.get(protocol, f" ({protocol})") if protocol else ""
    return f"{ATTACKS.get(name) or labels.get(name, name)}{words}, {NORMS.get(norm, norm)}"


def attack_labels(setting: Setting) -> dict[str, str]:
    """The labels of users' attacks by name."""
    return {name: str(shown.get("label") or name) for name, shown in attack_appearances(setting).items()}


def _curve(recipe: RecipeRuns, attack: Attack) -> list[Point]:
    """A point for each radius, from clean accuracy on."""
    scores_at: dict[float, dict[int, Row]] = {0.0: dict(recipe.scores(CLEAN))}
    for seed, run in recipe.runs.items():
        for score in run.scores:
            if score.get("eps") and attack_key(score) == attack:
                scores_at.setdefault(round(float(score["eps"]), 9), {})[seed] = score
    return [accuracy_point(eps, list(scores.values())) for eps, scores in sorted(scores_at.items()) if scores]


def accuracy_point(eps: float, scores: Sequence[Row]) -> Point:
    """The mean accuracy of one or several seeds at ``eps`` with its 95% interval: over seeds, or of one (Wilson)."""
    mean, half, _ = aggregate([score["correct"] / score["n"] for score in scores], resolution=1 / scores[0]["n"])
    if half is None:
        return Point(eps, mean, *_interval(scores[0]))
    return Point(eps, mean, max(0.0, mean - half), min(1.0, mean + half))


def _interval(score: Row) -> Interval:
    audit = Audit.of_row(score)
    return accuracy_interval(score["correct"], score["n"]) if audit is None else audit.population_interval(score["n"])


def eps_chart(setting: Setting, attack: Attack, colours: Colours) -> Chart:
    """Accuracy over eps under one attack, a curve for each recipe that was measured under it."""
    series = []
    for recipe in setting.recipes:
        points = _curve(recipe, attack)
        if any(point.x for point in points):
            series.append(Series(recipe.label, points, colours.css_class(recipe), colours.dash(recipe)))
    return accuracy_chart(f"{setting.title}: {attack_name(attack, attack_labels(setting))}", attack[2], series)


def accuracy_chart(title: str, norm: str, series: Sequence[Series]) -> Chart:
    """Accuracy in % from 0 to 100 over eps, with a tick at each radius that a point is at."""
    radii = sorted({point.x for curve in series for point in curve.points})
    ticks = [(eps, "0" if eps == 0 else format_eps(eps, norm)) for eps in radii]
    return Chart(title, f"eps, {norm}", "accuracy, %", series, (0.0, 1.0), ticks, percent=True)


def _curves(setting: Setting, material: Material) -> Block | None:
    figures, colours = [], material.colours
    for attack in measured_attacks(setting):
        name = attack_name(attack, attack_labels(setting))
        figures.append(Figure(name, eps_chart(setting, attack, colours).svg()))
    return Block("figures", setting.title, figures=figures, legend=legend(setting, colours)) if figures else None


# The audits of fast: the upper bound, what standard would leave, and what it broke.


def _audits(setting: Setting) -> Block | None:
    rows = [
        row for recipe in setting.recipes for seed, run in recipe.runs.items()
        for row in _audit_rows(recipe.label, seed, run)
    ]  # fmt: skip
    columns = ["recipe", "seed", "at most", "audited", "on these points", "audit", "95% interval"]
    title = f"{setting.title}: what fast may have missed"
    table = Table(title, "Eps", columns, rows, numeric=[False, True, True, True, True, False, True])
    return Block("table", table.title, AUDIT_CAPTION, table=table) if rows else None


AUDIT_CAPTION = (
    "Robust accuracy in %. Fast gives an upper bound; its audit lets AutoAttack standard attack some of the points "
    "that are left. At most: what neither broke. Audited: the estimate under both, and its exact 95% interval on these "
    "points. Audit: points that standard broke, of those that it attacked, of those that fast left. Last: the interval "
    "with the draw of the points from all test images in it."
)


def _audit_rows(label: str, seed: int, run: RunRows) -> list[TableRow]:
    latest = {(row["norm"], row["eps"]): row for row in run.scores if row["attack"] == FAST and row.get("eps")}
    rows = []
    for (norm, eps), row in sorted(latest.items()):
        n, audit = row["n"], Audit.of_row(row)
        cells = [Cell(label), Cell(str(seed), seed), _percent(row["correct"] / n)]
        if audit is None:
            cells += [Cell(), Cell(), Cell("not audited"), Cell()]
        else:
            found = Cell(f"{audit.broken:,} of {audit.audited:,} of {audit.survivors:,}")
            ends = [_ends(interval) for interval in (audit.accuracy_interval(n), audit.population_interval(n))]
            cells += [_percent(audit.accuracy(n)), ends[0], found, ends[1]]
        rows.append(TableRow(f"{NORMS.get(norm, norm)} {format_eps(eps, norm)}", cells, recipe=label))
    return rows


def _percent(share: float) -> Cell:
    return Cell(f"{100 * share:.1f}", 100 * share)


def _ends(interval: Interval) -> Cell:
    low, high = (100 * end for end in interval)
    return Cell(f"{low:.1f} to {high:.1f}", low, low, high)


# What each attack broke: for every point, the first attack that did.

ROBUST, CLEAN_ERROR = "robust", "wrong as it is"
Broken = Mapping[str, int]  # number of points by the attack that broke them, and those of the two names above


@section(
    "broken",
    "What each attack broke",
    order=30,
    lead="The share of points that each attack was the first to break, in the order in which they were run; what a "
    "smaller eps broke counts here too. All seeds together.",
)
def broken(material: Material) -> Content:
    blocks = []
    for setting in material.settings:
        by_title: dict[str, dict[str, Broken]] = {}
        labels = attack_labels(setting)
        for attack in measured_attacks(setting):
            for eps in _radii(setting, attack):
                by_recipe = {each.label: count for each in setting.recipes if (count := _broken_by(each, attack, eps))}
                if by_recipe:
                    by_title[f"{attack_name(attack, labels)} {format_eps(eps, attack[2])}"] = by_recipe
        figures = [_shares(title, by_recipe, material, labels) for title, by_recipe in by_title.items()]
        if figures:
            table = _counts_table(setting.title, by_title, labels)
            blocks.append(Block("figures", setting.title, figures=figures))
            blocks.append(Block("table", table=table, folded=f"{setting.title}: the counts"))
    missing = "" if blocks else "No attack's own count is kept: easybn evaluate RUNS --attacks autoattack."
    return Content(blocks, missing)


def _counted(run: RunRows, attack: Attack) -> list[Row]:
    """The scores of an attack that count what each of its parts broke."""
    return [row for row in run.scores if row.get("broke") and row.get("eps") and attack_key(row) == attack]


def _radii(setting: Setting, attack: Attack) -> list[float]:
    runs = [run for recipe in setting.recipes for run in recipe.runs.values()]
    return sorted({round(float(row["eps"]), 9) for run in runs for row in _counted(run, attack)})


def _broken_by(recipe: RecipeRuns, attack: Attack, eps: float) -> Broken:
    """How many points each attack broke, over all seeds and in the order of the attacks; then the robust ones."""
    latest = {}
    for seed, run in recipe.runs.items():
        for row in _counted(run, attack):
            if abs(row["eps"] - eps) < 1e-8:
                latest[seed] = row
    counts: dict[str, int] = {}
    for row in latest.values():
        for name, count in row["broke"].items():
            key = CLEAN_ERROR if name == "clean" else name
            counts[key] = counts.get(key, 0) + count
    if counts:
        counts[ROBUST] = sum(row["correct"] for row in latest.values())
    return counts


def _parts(by_recipe: Mapping[str, Broken]) -> list[str]:
    names = dict.fromkeys(name for counts in by_recipe.values() for name in counts)
    return [CLEAN_ERROR, *(name for name in names if name not in (CLEAN_ERROR, ROBUST)), ROBUST]


def _shares(title: str, by_recipe: Mapping[str, Broken], material: Material, labels: Mapping[str, str]) -> Figure:
    parts = _parts(by_recipe)
    own = material.colours.attacks
    shades = {name: own.get(name, f"part{i}") for i, name in enumerate(parts[1:-1])}
    shades = {CLEAN_ERROR: "part-clean", **shades, ROBUST: "part-left"}
    shown = {name: labels.get(name, name) for name in parts}
    bars = []
    for label, counts in by_recipe.items():
        n = max(sum(counts.values()), 1)
        shares = [(shown[name], counts.get(name, 0) / n) for name in parts]
        bars.append(Shares(label, shares, material.colours.css_class(label)))
    chart = shares_chart(title, bars, {shown[name]: shade for name, shade in shades.items()})
    return Figure(title, chart, keys=[Key(shown[name], shades[name]) for name in parts])


def _counts_table(title: str, by_title: Mapping[str, Mapping[str, Broken]], labels: Mapping[str, str]) -> Table:
    parts = _parts({f"{attack} {label}": counts for attack, each in by_title.items() for label, counts in each.items()})
    rows = [
        TableRow(attack, [Cell(label), *(_count(counts.get(name)) for name in parts)])
        for attack, by_recipe in by_title.items()
        for label, counts in by_recipe.items()
    ]
    columns = ["recipe", *(labels.get(name, name) for name in parts)]
    return Table(title, "Attack", columns, rows, numeric=[False, *[True] * len(parts)])


def _count(count: int | None) -> Cell:
    return Cell() if count is None else Cell(f"{count:,}", count)
