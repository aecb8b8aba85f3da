"""What single points tell: robust accuracy at every eps, and the points that only one of two models withstands."""

from collections.abc import Sequence
from typing import Any

from ...json_files import Row
from ...perturb.eps import format_eps
from ...runs.verdicts import verdict_rows
from ...stats import accuracy_interval
from ...tables.aggregate import RecipeRuns, Setting
from ...tables.comparison import LETTERS, paired_lines, paired_table
from ...tables.rows import ComparedRows, RunRows
from ..charts import Chart, Point, Series
from ..elements import Block, Content, Figure, Material, legend, section
from .networks import MOST_PICTURES, data_uri, open_sheet
from .robustness import Attack, attack_key, attack_labels, attack_name

# Robust accuracy at every eps: from the nearest adversarial image known of each point.

HOW_TO_READ = (
    "Dots: radii that were attacked.",
    "Line: points without a known adversarial image within eps, an upper bound between the dots.",
    "Shaded: down to what withstood the next larger radius. Nothing is known beyond the last dot.",
)


@section(
    "every-eps",
    "Robust accuracy at every eps",
    order=25,
    lead="From one evaluation: the share of points without a known adversarial image within eps, whichever attack "
    "found it at whatever radius (FAB looks for the nearest). Exact at the dots, the radii that were attacked; between "
    "them an upper bound, and the shaded area reaches down to what withstood the next larger radius. Nothing is drawn "
    "beyond the largest radius. All seeds together.",
)
def every_eps(material: Material) -> Content:
    blocks = [block for setting in material.settings if (block := _curves(setting, material))]
    return Content(blocks, "" if blocks else "No curve is kept: easybn evaluate RUNS --attacks autoattack.")


def _curves(setting: Setting, material: Material) -> Block | None:
    figures, labels, colours = [], attack_labels(setting), material.colours
    stored = {each.label: [_stored_curves(run) for run in each.runs.values()] for each in setting.recipes}
    for attack in dict.fromkeys(attack for runs in stored.values() for curves in runs for attack in curves):
        series = []
        for recipe in setting.recipes:
            curves = [curves[attack] for curves in stored[recipe.label] if attack in curves]
            if curves:
                series += _series(recipe, [each for each in curves if each["eps"] == curves[0]["eps"]], material)
        name = attack_name(attack, labels)
        figures.append(Figure(name, curve_chart(f"{setting.title}: {name}", attack[2], series).svg()))
    return Block("figures", setting.title, figures=figures, legend=legend(setting, colours)) if figures else None


def _stored_curves(run: RunRows) -> dict[Attack, Row]:
    """The latest curve of each attack."""
    rows = verdict_rows(run.folder, run.scores, run.verdicts)
    return {attack_key(row): row["curve"] for row in rows if row.get("curve")}


def _series(recipe: RecipeRuns, curves: Sequence[Row], material: Material) -> list[Series]:
    """Of all seeds together."""
    summed = {name: [sum(counts) for counts in zip(*(each[name] for each in curves), strict=True)]
              for name in ("most", "least")}  # fmt: skip
    pooled = {**curves[0], **summed, "n": sum(each["n"] for each in curves)}
    return curve_series(recipe.label, pooled, material.colours.css_class(recipe), material.colours.dash(recipe))


def curve_series(label: str, curve: Row, css_class: str, dash: str = "", whiskers: bool = False) -> list[Series]:
    """The steps of a curve with the area below them, and the dots of the attacked radii.

    Args:
        curve: of :meth:`easybn.evaluation.curve.RobustnessCurve.sampled`.
        whiskers: draw the 95% intervals at the dots.
    """
    n, eps = curve["n"], curve["eps"]
    steps = []
    for i in range(len(eps) - 1):
        low, high = curve["least"][i + 1] / n, curve["most"][i] / n
        steps += [Point(eps[i], high, low, high), Point(eps[i + 1], high, low, high)]
    steps.append(Point(eps[-1], curve["most"][-1] / n))
    dots = []
    for radius, most in zip(eps, curve["most"], strict=True):
        if radius == 0 or radius in curve["attacked"]:
            dots.append(Point(radius, most / n, *(accuracy_interval(most, n) if whiskers else (None, None))))
    return [
        Series(label, steps, css_class, dash, marks=False),
        Series(f"{label}, attacked", dots, css_class, whiskers=whiskers, joined=False),
    ]


def curve_chart(title: str, norm: str, series: Sequence[Series]) -> Chart:
    """Accuracy in % over eps, with a tick at each radius that was attacked."""
    radii = sorted({point.x for each in series if not each.joined for point in each.points})
    ticks = [(eps, "0" if eps == 0 else format_eps(eps, norm)) for eps in radii]
    return Chart(title, f"eps, {norm}", "accuracy, %", series, (0.0, 1.0), ticks, percent=True)


# Two evaluations of the same points: what easybn compare --out has written.

SHEET = "points.png"


@section(
    "compared",
    "Points that only one of two models withstands",
    order=35,
    lead="Two evaluations of the same points: how far their robust accuracies differ, and the first points on which "
    "they do, as they are before any attack, with their number and class, and what broke the other model.",
)
def compared(material: Material) -> Content:
    blocks: list[Block] = []
    used = left_out = 0
    for each in material.rows.compared:
        table, (a, b) = paired_table(each.row), each.row["names"]
        both = zip(LETTERS, (a, b), each.row["about"], strict=True)
        about = ". ".join(f"{letter}: {name} ({what})" for letter, name, what in both)
        blocks.append(Block("text", f"{each.name}: {a} and {b}", f"{about}."))
        blocks += [Block("text", caption=f"{line[0].upper()}{line[1:]}.") for line in paired_lines(each.row)]
        notes = "".join(f" {note[0].upper()}{note[1:]}." for note in each.row.get("notes", ()))
        blocks.append(Block("table", caption=table.caption + notes, table=table))
        if used > MOST_PICTURES:
            left_out += 1
            continue
        for title, tiles in _tiles(each).items():
            used += sum(len(tile["png"]) for tile in tiles)
            blocks.append(Block("tiles", title, content={"tiles": tiles}))
    command = "easybn compare RUN RUN --out FOLDER, in this report's folder, keeps two evaluations of the same points."
    missing = "" if blocks else f"Nothing is compared: {command}"
    if left_out:
        missing = f"The pictures of {left_out} more are left out to keep the page small."
    return Content(blocks, missing)


def _tiles(compared: ComparedRows) -> dict[str, list[dict[str, Any]]]:
    """By title, the pictures of the points that only one withstands at a radius."""
    stored: Row = compared.row.get("pictures") or {"tiles": ()}
    if not stored["tiles"] or not (compared.folder / SHEET).exists():
        return {}
    sheet, (height, width) = open_sheet(compared.folder / SHEET), stored["size"]
    if width * len(stored["tiles"]) > sheet.width or height > sheet.height:
        path, room = compared.folder / SHEET, f"{len(stored['tiles']):,} tiles of {height:,} x {width:,}"
        raise ValueError(f"{path} is damaged: it has no room for {room} pixels")
    by_title = {}
    for pair in compared.row["pairs"]:
        at = f"{compared.row['norm']} {format_eps(pair['eps'], compared.row['norm'])}"
        for which, winner, loser in (("first", *LETTERS), ("second", *LETTERS[::-1])):
            tiles = []
            for i, tile in enumerate(stored["tiles"]):
                if (tile["eps"], tile["only"]) == (pair["eps"], which):
                    picture = data_uri(sheet.crop((i * width, 0, (i + 1) * width, height)))
                    how = "wrong as it is" if tile["broken_by"] == "clean" else f"broken by {tile['broken_by']}"
                    about = {"name": f"{tile['point']:,} {tile['class']}", "text": f"{loser}: {how}"}
                    tiles.append({"png": picture, "alt": f"a test image of {tile['class']}", **about})
            total = pair[f"only_{which}"]
            first = "" if len(tiles) == total else f", the first {len(tiles)}"
            if tiles:
                points = "1 point" if total == 1 else f"{total:,} points"
                by_title[f"{at}: {points} that only {winner} withstands{first}"] = tiles
    return by_title
