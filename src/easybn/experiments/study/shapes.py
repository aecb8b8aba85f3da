"""How many images of what shape a data set has; those of the named ones are known without their files."""

from dataclasses import dataclass

from ... import data
from ...data import DataError
from ..experiment import DATA_OPTIONS, Experiment


@dataclass(frozen=True)
class Shape:
    """Of a data set.

    Args:
        image: channels, height, width.
        classes: how many.
        train, test: images.
    """

    image: tuple[int, int, int]
    classes: int
    train: int
    test: int

    def split(self, experiment: Experiment) -> tuple[int, int]:
        """Numbers of images trained on and of images held out."""
        every = self.train if experiment.train_images is None else experiment.train_images
        held_out = round(experiment.validation * every)
        return every - held_out, held_out


KNOWN = {
    "sample": Shape((1, 28, 28), 10, 5_000, 1_000),
    "fashion-mnist": Shape((1, 28, 28), 10, 60_000, 10_000),
    "cifar10": Shape((3, 32, 32), 10, 50_000, 10_000),
    "cifar100": Shape((3, 32, 32), 100, 50_000, 10_000),
}


def shape_of(experiment: Experiment) -> Shape | None:
    """Of the experiment's data set; None if it is an image folder that is not here."""
    if experiment.data in KNOWN:
        return KNOWN[experiment.data]
    try:
        options = {name: getattr(experiment, name) for name in DATA_OPTIONS}
        source = data.load(experiment.data, folder=experiment.data_folder, **options)
    except DataError:
        return None
    return Shape(source.train.shape, len(source.classes), len(source.train), len(source.test))
