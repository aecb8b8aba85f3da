"""What is raised when data is missing, damaged or of another form than asked."""


class DataError(ValueError):
    """One line for the person who runs this: what was wrong, where, and what to do."""

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


def printable(text: str) -> str:
    """``text`` for a terminal or a file: the bytes of a name that is not UTF-8, and line ends, as escapes."""
    escaped = text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return escaped.replace("\n", "\\n").replace("\r", "\\r")
