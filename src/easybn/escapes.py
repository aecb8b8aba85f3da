"""Printing: names, paths, notes and messages that come from elsewhere are shown, and control nothing.

In them a control character (ESC, BEL, CR, the C1 range) could clear the screen or fake a line, and a bidirectional
override could show a path backwards: they are shown as ``\\x1b``, ``\\u202e``. All that the program prints goes through
:func:`say` or :class:`.terminal.Terminal`.
"""

import re
import sys
import unicodedata

_KEPT = "\n\t\u200c\u200d"  # the last two join letters in some scripts and emoji, and hide nothing
_SUSPECT = re.compile(r"[^\n\t -~\xa1-\xac\xae-\u0377]")  # a fast first test: what may be a control character


def escaped(text: str) -> str:
    r"""``text`` with every control character but line ends replaced by an escape such as ``\x1b``."""
    return _SUSPECT.sub(_shown, text)


def _shown(found: re.Match[str]) -> str:
    letter = found[0]
    if letter in _KEPT or unicodedata.category(letter) not in ("Cc", "Cf", "Cs", "Zl", "Zp"):
        return letter
    code = ord(letter)
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" if code < 65536 else f"\\U{code:08x}"


def say(text: str = "", error: bool = False, end: str = "\n", drawn: bool = False) -> None:
    """Print text on stdout, or on stderr; as it is if a :class:`.terminal.Terminal` has ``drawn`` it."""
    print(text if drawn else escaped(text), end=end, file=sys.stderr if error else sys.stdout, flush=True)
