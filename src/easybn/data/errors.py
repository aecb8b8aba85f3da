"""What is raised when data is missing, damaged or of another form than asked."""

_LONGEST = 1500  # characters of a message


class DataError(ValueError):
    """One line for the person who runs this: what was wrong, where, and what to do."""

    def __init__(self, message: str) -> None:
        told = printable(message)
        # a file may quote itself: a name of 60,000 letters would hide what is said of it
        super().__init__(told if len(told) <= _LONGEST else f"{told[: _LONGEST // 2]} ... {told[-_LONGEST // 2 :]}")


def printable(text: str) -> str:
    """``text`` for a terminal or a file: the bytes of a name that is not UTF-8, and line ends, as escapes."""
    escaped = text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return escaped.replace("\n", "\\n").replace("\r", "\\r")
