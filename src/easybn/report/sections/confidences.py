"""How sure the models are when they are right, and when they are wrong."""

from ..charts import histogram
from ..page import Block, Figure, Material, Section


def section(material: Material) -> Section:
    blocks = []
    for setting in material.settings:
        figures = []
        for each in setting.recipes:
            found = [run.summary["confidence"] for run in each.runs.values() if run.summary.get("confidence")]
            if not found:
                continue
            right, wrong = ([sum(bins) for bins in zip(*(one[side] for one in found), strict=True)]
                            for side in ("right", "wrong"))  # fmt: skip
            above, below = ([count / max(sum(side), 1) for count in side] for side in (right, wrong))
            svg = histogram(f"{setting.title}: {each.label}", above, below, material.colours.css_class(each))
            caption = f"{sum(right):,} right, {sum(wrong):,} wrong; {gap(right, wrong)}"
            figures.append(Figure(each.label, svg, caption, "small"))
        if figures:
            blocks.append(Block("figures", setting.title, figures=figures))
    missing = "" if blocks else "No run has a summary.json: easybn summarise RUNS writes it."
    lead = (
        "The confidence in the class that the model names, over all clean test images: above the line where it is "
        "right, below where it is wrong, each side in shares of its own images."
    )
    return Section("confidences", "Confidence", lead if blocks else "", blocks, missing)


def gap(right: list[int], wrong: list[int]) -> str:
    """Mean confidence, by the middles of the bins, beside accuracy."""
    bins, n = len(right), sum(right) + sum(wrong)
    if not n:
        return "no images"
    sure = sum((i + 0.5) / bins * (a + b) for i, (a, b) in enumerate(zip(right, wrong, strict=True))) / n
    return f"{100 * sure:.1f}% sure on average, {100 * sum(right) / n:.1f}% right"
