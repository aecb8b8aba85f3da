"""What is raised when data is missing, damaged or of another form than asked."""


class DataError(ValueError):
    """One line for the person who runs this: what was wrong, where, and what to do."""
