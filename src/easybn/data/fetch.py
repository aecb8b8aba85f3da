"""Downloads: only what was asked for, and kept only once it is verified."""

import http.client
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO

from ..files import replacing
from ..progress import Progress
from .errors import DataError

_LARGEST = 2**31  # bytes
_PATIENCE = 30  # seconds without a byte


def fetch(urls: Sequence[str], target: Path, verify: Callable[[Path], object], progress: Progress) -> None:
    """Have the file ``target``, from the first of ``urls`` that gives a file which ``verify`` accepts.

    Args:
        verify: raises DataError for a file that is not what it should be.
        progress: told how many bytes have come.

    Raises:
        DataError: no address gave the file; nothing is kept.
    """
    failures = []
    for url in urls:
        try:
            with replacing(target) as file:
                _copy(url, file, lambda done, total: progress(target.name, done, total))
                file.flush()
                part = Path(file.name)
                try:
                    verify(part)
                except DataError as error:
                    raise OSError(str(error).replace(str(part), "what came")) from None
            return
        except (OSError, http.client.HTTPException) as error:
            failures.append(f"{url} ({error})")
    raise DataError(
        f"could not download {target.name}; tried {' and '.join(failures)}: fetch it by other means and put it "
        f"into {target.parent}"
    )


def _copy(url: str, file: BinaryIO, tick: Callable[[int, int | None], None]) -> None:
    request = urllib.request.Request(url, headers={"User-Agent": "easybn"})
    with urllib.request.urlopen(request, timeout=_PATIENCE) as answer:
        length = answer.headers.get("Content-Length", "")
        total, done = int(length) if length.isdigit() else None, 0
        while chunk := answer.read(1 << 16):
            done += len(chunk)
            if done > _LARGEST:
                raise OSError(f"more than {_LARGEST} bytes came")
            file.write(chunk)
            tick(done, total)
    if total is not None and done != total:
        raise OSError(f"{done} of {total} bytes came")
