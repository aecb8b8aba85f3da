"""Whether an error says that there was not enough memory: on a GPU, or in the machine."""

WORDS = ("allocate memory", "out of memory", "bad_alloc", "failed to map segment", "not enough memory")
"""In the messages of torch's allocators, of CUDA and of the system; torch has a class only for some of them."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether ``error``, or what it was raised from, says so."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, MemoryError) or type(seen).__name__ == "OutOfMemoryError":
            return True
        if any(words in str(seen).lower() for words in WORDS):
            return True
        seen = seen.__cause__
    return False
