"""Which images each recipe helps: differences of accuracy on the hardest tenth of the test images, and so on."""

from collections.abc import Iterator

from ...tables.aggregate import Setting
from ...tables.deciles import ChangesOf, all_changes, decile_tables, latest
from ...tables.rows import CLEAN
from ..charts import Chart, Point, Series
from ..elements import Block, Content, Figure, Key, Material, section


@section(
    "deciles",
    "Which images each recipe helps",
    order=38,
    lead="By how many points of a percent a recipe's accuracy differs from the first one's, on each tenth of the test "
    "images, from the hardest to the easiest, with its 95% interval. Other networks say how hard an image is.",
)
def which_images(material: Material) -> Content:
    blocks = [block for setting in material.settings for block in _blocks(setting, material)]
    missing = "No census of test images is here: easybn census NAME --split test, with its --out in this folder."
    if material.rows.deciles:
        missing = "No two recipes have verdicts on the test images of a census: easybn evaluate, easybn summarise."
    return Content(blocks, "" if blocks else missing)


def _blocks(setting: Setting, material: Material) -> Iterator[Block]:
    deciles = latest(material.rows.deciles, setting.data)
    found = list(all_changes(setting, deciles))
    if not found:
        return
    title = f"{setting.title}: beside {found[0].base}"
    labels = dict.fromkeys(label for each in found for label in each.by_recipe)
    legend = [Key(label, material.colours.css_class(label), material.colours.dash(label)) for label in labels]
    tables = decile_tables(setting, deciles)
    caption = f"{found[0].sentence()} {tables[0].caption}"
    yield Block("figures", title, caption, [_figure(each, title, material) for each in found], legend)
    for table in tables:
        yield Block("table", caption=table.caption, table=table, folded=table.title)


def _figure(found: ChangesOf, title: str, material: Material) -> Figure:
    name = "clean accuracy" if found.column == CLEAN else found.column.name
    series = [
        Series(
            label,
            [Point(each.group + 1, 100 * each.difference, 100 * each.low, 100 * each.high) for each in changes],
            material.colours.css_class(label),
            material.colours.dash(label),
        )
        for label, changes in found.by_recipe.items()
    ]
    x = "tenth of the images, from the hardest on"
    ticks = [(group, str(group)) for group in range(1, 11)]
    ends = [end for each in series for p in each.points for end in (p.low, p.high) if end is not None]
    low, high = min(0.0, *ends), max(0.0, *ends)
    room = 0.05 * (high - low) or 1.0
    chart = Chart(f"{title}, {name}", x, "difference, points", series, (low - room, high + room), ticks)
    return Figure(name, chart.svg())
