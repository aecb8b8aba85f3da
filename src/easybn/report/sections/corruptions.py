"""Accuracy under common corruptions: recipes side by side, and each by kind and severity."""

from collections.abc import Iterator

from ...evaluation.corruptions import CorruptionEvaluation
from ...tables.aggregate import Setting
from ...tables.corruptions import SOURCES, evaluations, kinds_table, means_table, side_by_side
from ..elements import Block, Content, Material, section


@section(
    "corruptions",
    "Common corruptions",
    order=37,
    lead="Accuracy under noise, blurs, weather and digital changes of five severities (Hendrycks and Dietterich, "
    "2019), and its mean over all of them, mCA. The greener a cell, the higher the accuracy.",
)
def corruptions(material: Material) -> Content:
    blocks = [block for setting in material.settings for block in _blocks(setting)]
    return Content(
        blocks, "" if blocks else "Nothing is measured under corruptions: easybn evaluate RUNS --corruptions."
    )


def _blocks(setting: Setting) -> Iterator[Block]:
    found = {
        recipe.label: [evaluations(run.corruptions, run.folder) for run in recipe.runs.values()]
        for recipe in setting.recipes
    }
    for source, words in SOURCES.items():
        models: dict[str, list[CorruptionEvaluation]] = {
            label: [each[source] for each in seeds if source in each] for label, seeds in found.items()
        }
        models = {label: seeds for label, seeds in models.items() if seeds}
        if not models:
            continue
        title = f"{setting.title}: {words}"
        means, kinds = means_table(title, models, source), side_by_side(title, models, source)
        yield Block("table", title, means.caption, table=means)
        yield Block("table", caption=kinds.caption, table=kinds, folded=f"{title}, by kind")
        for label, seeds in models.items():
            table = kinds_table(label, seeds, source)
            yield Block("table", caption=table.caption, table=table, folded=f"{title}, by severity: {label}")
