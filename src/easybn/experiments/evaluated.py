"""What is evaluated: a model, test images, and the folder that keeps the scores and verdicts."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from torch import nn

from .. import data
from ..data import Source
from .branch import branch_model
from .run import Run


@dataclass(frozen=True)
class Evaluated:
    """A model with its test images; both are read when they are first asked for.

    Args:
        run: the folder of the scores; of a finished run, or of a user's model.
        load_model: gives the model.
        load_data: gives the data set.
        branch: its name; "main" for the deployed one.
        claim: makes the folder the model's; called once the model and the data are known to be there.
    """

    run: Run
    load_model: Callable[[], nn.Module]
    load_data: Callable[[], Source]
    branch: str = "main"
    claim: Callable[[], None] = lambda: None

    @cached_property
    def model(self) -> nn.Module:
        """In eval mode, on the CPU."""
        return self.load_model().eval()

    @cached_property
    def source(self) -> Source:
        """The data set whose test images are attacked."""
        return self.load_data()

    @classmethod
    def of_run(cls, run: Run, branch: str | None = None) -> "Evaluated":
        """A finished run, or one of its branches."""
        config = run.config
        return cls(
            run,
            lambda: branch_model(run, branch),
            lambda: data.load(config["data"], folder=config.get("data_folder")),
            branch or "main",
        )
