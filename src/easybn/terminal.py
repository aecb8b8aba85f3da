"""rich's console for text from elsewhere: control characters are escaped by :mod:`.escapes`."""

from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from .escapes import escaped


class Terminal(Console):
    """rich's console without markup, emoji and highlighting: text is printed as it is."""

    def __init__(self, **options: Any):
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Escape text that is printed, and the cells and titles of tables."""
        return super().render_str(escaped(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Escape all else, such as a Text made elsewhere; rich's own control sequences are marked as such."""
        for segment in super().render(renderable, options):
            text = segment.text if segment.control else escaped(segment.text)
            yield segment if text == segment.text else Segment(text, segment.style)
