"""Stores whose verdicts are known: written stage by stage from the distance of each point's nearest image."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from easybn.evaluation.record import CLEAN, Record
from easybn.evaluation.store import Manifest, Store

RADII = (0.1, 0.2, 0.4)


def stored(folder: Path, nearest: Mapping[int, float], chunks: int | None = None, **changes: Any) -> Store:
    """A store of FAB, then an attack that breaks what FAB left, just inside the radius, where it is said to.

    Args:
        nearest: by id of a point the distance at which FAB finds an image: 0 if it is wrong as it is, infinite if it
            finds none; a negative number -d if FAB finds none and the other attack succeeds from the radius d on.
        chunks: how many of its chunks are done; by default all.
        changes: fields of the manifest.
    """
    fields = {"model": folder.name, "data": "d", "norm": "linf", "eps": RADII, "attacks": ("fab-t", "apgd-ce"),
              "branch": "main", "points": tuple(nearest)}  # fmt: skip
    manifest = Manifest(**(fields | changes))
    store = Store.open(folder, manifest)
    for chunk in range(manifest.chunks if chunks is None else chunks):
        points, done = manifest.points_of(chunk), Record.joined([])
        for number, stage in enumerate(manifest.stages):
            todo = manifest.to_attack(done, stage, points)
            given = np.array([nearest[int(point)] for point in todo])
            if stage == CLEAN:
                distance = np.where(given == 0, 0.0, np.inf)
            elif stage.attack == "fab-t":
                distance = np.where(given > 0, given, np.inf)
            else:
                distance = np.where((given < 0) & (-given <= stage.eps), 0.9 * stage.eps, np.inf)
            record = Record.of(stage, todo, success=distance <= stage.eps, distance=distance)
            store.write(chunk, number, todo, record)
            done = Record.joined([done, record])
    return store
