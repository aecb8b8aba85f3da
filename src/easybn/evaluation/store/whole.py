"""What makes a stage whole: without it a point might count as robust for no reason."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...sealed import Damaged
from ..record import CLEAN, Record, Stage
from .stage_file import StageFile


def check_stage(record: Record, stage: Stage, points: NDArray[np.int64]) -> None:
    """See that a stage tried all it had to and nothing else, and gave no point up that nothing made fall.

    Args:
        record: the rows of the stage.
        stage: which it is.
        points: int64 (n,), ids of the points that it had to attack.

    Raises:
        ValueError: what is wrong, with an example.
    """

    def none_of(wrong: NDArray[Any], what: str) -> None:
        if len(wrong):
            raise ValueError(f"{stage}: {what}: {len(wrong)}, such as point {wrong[0]}")

    if len(record) and {*zip(record.attack.tolist(), record.eps.tolist(), strict=True)} != {tuple(stage)}:
        raise ValueError(f"{stage}: rows of another stage")
    none_of(np.setdiff1d(record.point, points), "tries at points that were not to be attacked")
    none_of(np.setdiff1d(points, record.point), "points without a try")
    none_of(record.point[record.fell & ~np.isfinite(record.distance)], "points that fell at no distance")
    near = ~record.fell & (record.distance <= record.eps)
    none_of(record.point[near], "points with an adversarial image within eps that have not fallen")
    given_up = np.setdiff1d(record.point[~record.finished], record.point[record.fell])
    none_of(given_up, "points given up that have not fallen")


def check_images(record: Record, stage: Stage, point: NDArray[np.int64], image: NDArray[np.float32]) -> None:
    """See that there is one image a point, and one for every point for which one was found (clean: its own serves).

    Args:
        record: the rows of the stage.
        stage: which it is.
        point: int64 (k,), whose images they are.
        image: float32 (k, ...).

    Raises:
        ValueError: what is wrong.
        TypeError: images that are not float32, which rounding would make other images.
    """
    if image.dtype != np.float32:
        raise TypeError(f"{stage}: images must be float32, got {image.dtype}")
    if point.shape != image.shape[:1] or len(np.unique(point)) < len(point):
        raise ValueError(f"{stage}: {len(image)} images for {len(np.unique(point))} points: one a point")
    found = record.point[np.isfinite(record.distance)]
    if len(extra := np.setdiff1d(point, found)):
        raise ValueError(f"{stage}: an image of point {extra[0]}, for which none was found")
    if stage != CLEAN and len(missing := np.setdiff1d(found, point)):
        raise ValueError(f"{stage}: no image of {len(missing)} points for which one was found, such as {missing[0]}")


def checked(file: StageFile, stage: Stage, points: NDArray[np.int64]) -> Record | None:
    """What is stored of a stage, or None.

    Args:
        file: of the stage.
        stage: which it is.
        points: int64 (n,), ids of the points that it has to attack now.

    Raises:
        Damaged: it is not as it was written, or was made for other points. That happens where an earlier stage
            was computed again on a machine whose kernels round differently.
    """
    if (found := file.load()) is None:
        return None
    try:
        check_stage(found[0], stage, points)
    except ValueError as error:
        raise Damaged(f"it does not follow from the stages before ({error})") from error
    return found[0]
