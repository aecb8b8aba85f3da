"""The first file of an evaluation's folder: its manifest, written once."""

import json
from pathlib import Path

from ...files import new_folder
from ...sealed import Damaged, read_sealed, write_json
from .manifest import Manifest

NAME = "manifest.json"


def place(folder: Path, manifest: Manifest) -> None:
    """See that ``folder`` is that of the job ``manifest``; one that is missing or empty becomes it.

    Raises:
        ValueError: it is another job's (the message names what differs) or holds other things.
        OSError: it cannot be written.
    """
    if not (folder / NAME).exists():
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ValueError(f"{folder} holds other things and no {NAME}: use another folder")
        with new_folder(folder) as part:
            write_json(part / NAME, json.loads(manifest.to_json()), indent=1)
    # of several processes that come at the same time one was first; the others find its manifest
    if differences := read(folder).differences(manifest):
        what = f"{folder} is of another evaluation: use another folder, or move this one away"
        raise ValueError("\n  ".join([what, *differences]))


def read(folder: Path) -> Manifest:
    """The manifest of a folder.

    Raises:
        FileNotFoundError: it has none.
        ValueError: it is damaged, or cannot be understood.
    """
    path = folder / NAME
    try:
        return Manifest.from_json(json.dumps(read_sealed(path)))
    except FileNotFoundError:
        raise FileNotFoundError(f"{folder} is no folder of verdicts: it has no {NAME}") from None
    except Damaged as error:
        raise Damaged(f"{error}: restore it, or use another folder") from error
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is damaged or of another version of easybn ({error})") from error
