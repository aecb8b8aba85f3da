"""The sections of the page: functions in the files here, each with :func:`easybn.report.elements.section` before it."""

from importlib import import_module
from pkgutil import iter_modules

from ..elements import SECTIONS, Section


def all_sections() -> list[Section]:
    """The sections of every file in this folder, in the order of the page."""
    for module in iter_modules(__path__):
        import_module(f"{__name__}.{module.name}")
    return sorted(SECTIONS.values(), key=lambda section: (section.order, section.id))
