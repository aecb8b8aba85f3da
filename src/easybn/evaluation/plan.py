"""What is done to every point: attacks at several radii, stage by stage, clean first."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from ..attacks.attack import Attack
from .record import CLEAN, Stage


@dataclass(frozen=True)
class Plan:
    """What is done to every point, in order.

    Args:
        attacks: for each radius, ascending, the attacks in their order; the same names at each.
        seed: of all that is random.
        batch_size: images a pass at most.
        beside: where fewer rows than that are busy, further tries of the same points run at their side.
        share: a point that fell at one radius is not attacked at the larger ones.
    """

    attacks: Mapping[float, Sequence[Attack]]
    seed: int = 0
    batch_size: int = 256
    beside: int = 32
    share: bool = True

    @property
    def stages(self) -> tuple[Stage, ...]:
        """Clean first, then every attack at every radius, the smallest radius first."""
        return (CLEAN, *self._by_stage)

    @cached_property
    def _by_stage(self) -> dict[Stage, Attack]:
        return {Stage(attack.name, eps): attack for eps in sorted(self.attacks) for attack in self.attacks[eps]}

    def attack(self, stage: Stage) -> Attack:
        """The attack of a stage other than the clean one."""
        return self._by_stage[stage]
