"""Options that had another name in an earlier version. The old name is refused in one line that says the new one.

On the command line, in a config and in a study's file alike; nothing runs. An entry stays for as long as somebody may
have the old name in a script: two minor versions at least.
"""

from collections.abc import Iterable, Mapping

RENAMED: Mapping[tuple[str, str], str] = {
    ("data", "folder"): "data_folder",  # 0.2.0: as every other command calls it
    **{(command, "markdown"): "format markdown" for command in ("table", "analyse", "stacked", "census", "hidden")},
    # 0.2.0: as of easybn claims; latex and csv too
}
"""The new name of an option by its command and its old name, without dashes."""


def refuse_old_names(command: str, names: Iterable[object], dashes: str = "") -> None:
    """Raise ValueError if one of ``names`` is that of an option which has another name now.

    Args:
        command: ``data`` for ``easybn data``.
        names: of options, or keys of a YAML file, without dashes.
        dashes: before a name where the user wrote it: ``--`` on the command line.
    """
    for old in names:
        if new := RENAMED.get((command, str(old))):
            raise ValueError(f"{dashes}{old} is called {dashes}{new} now (easybn {command} --help)")
