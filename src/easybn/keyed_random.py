"""Random numbers as a function of (seed, purpose, step, sample id, element), the package's only source of randomness.

They are the same on every device, in every batch composition and after every restart. All but the element are hashed
into a 64-bit key; the elements of a key are the outputs of SplitMix64 (Steele, Lea &
Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014) started at that key.

Integers and uniform numbers are bit-identical everywhere; normal numbers go through the device's
logarithm and cosine and agree to rounding.
"""

import hashlib
import math
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

_GAMMA = -7046029254386353131  # 0x9E3779B97F4A7C15, the golden ratio of 2^64, as a signed number
_MIX_1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
_MIX_2 = -7723592293110705685  # 0x94D049BB133111EB
_ALL = (1 << 64) - 1
_GENERATORS = threading.RLock()


def _xor_shift(z: Tensor, bits: int) -> Tensor:
    # torch shifts int64 arithmetically; the mask makes the shift logical
    return z.bitwise_xor_((z >> bits).bitwise_and_((1 << (64 - bits)) - 1))


def _mix(z: Tensor) -> Tensor:
    """SplitMix64's finaliser, in place (int64 products wrap around, as the algorithm wants)."""
    _xor_shift(z, 30).mul_(_MIX_1)
    _xor_shift(z, 27).mul_(_MIX_2)
    return _xor_shift(z, 31)


def _mix_one(z: int) -> int:
    """:func:`_mix` of one Python number, signed or not; returns a signed one. Faster than a tensor of one element."""
    z &= _ALL
    z = (z ^ z >> 30) * _MIX_1 & _ALL
    z = (z ^ z >> 27) * _MIX_2 & _ALL
    z ^= z >> 31
    return z - (z >> 63 << 64)


def _fold(key: Tensor, value: Tensor | int) -> Tensor:
    """A key for (key, value); folding a then b differs from folding b then a."""
    return _mix(key + (_mix(value + _GAMMA) if isinstance(value, Tensor) else _mix_one(value + _GAMMA)))


def _purpose_number(purpose: str) -> int:
    return int.from_bytes(hashlib.blake2b(purpose.encode(), digest_size=8).digest(), "little", signed=True)


def check_seed(seed: int) -> int:
    """``seed``, or ValueError if torch's own generators would not take it."""
    if not -(2**63) <= seed < 2**64:
        raise ValueError(f"seed must be a whole number in -2^63 .. 2^64 - 1, got {seed}")
    return seed


def _root(seed: int, purpose: str, step: int | Tensor) -> int | Tensor:
    """The key of (seed, purpose, step), into which a sample's id is folded last."""
    named = 0
    for value in (check_seed(seed), _purpose_number(purpose)):
        named = _mix_one(named + _mix_one(value + _GAMMA))
    if isinstance(step, Tensor):
        return _mix(_mix(step + _GAMMA) + named)
    return _mix_one(named + _mix_one(step + _GAMMA))


def number(seed: int, purpose: str, step: int = 0) -> int:
    """The first 64 bits of the stream of sample 0, as a signed number; computed without a tensor."""
    root = _root(seed, purpose, step)
    assert isinstance(root, int)
    return _mix_one(_mix_one(_mix_one(_GAMMA) + root) + _GAMMA)


@dataclass(frozen=True)
class Noise:
    """One stream of random numbers per sample.

    Asking twice gives the same numbers: use a :meth:`child` for each further purpose.

    Args:
        keys: int64 tensor of shape (N,), one key per sample.
    """

    keys: Tensor

    @classmethod
    def of(cls, seed: int, purpose: str, ids: Tensor, step: int | Tensor = 0) -> "Noise":
        """The streams named (seed, purpose, step, id) for each of ``ids`` (int64, shape (N,)).

        A ``step`` that is a tensor (int64, shape ()) on the device of ``ids`` names the same streams: a CUDA graph can
        be replayed with other steps.
        """
        return cls(_mix(_mix(ids + _GAMMA) + _root(seed, purpose, step)))

    @classmethod
    def fresh(cls, n: int, device: torch.device | str = "cpu") -> "Noise":
        """Streams with keys drawn from torch's global generator, so that ``torch.manual_seed`` applies."""
        return cls(torch.randint(-(2**63), 2**63 - 1, (n,)).to(device))

    def child(self, purpose: str) -> "Noise":
        """Independent streams of the same samples for another purpose."""
        return Noise(_fold(self.keys, _purpose_number(purpose)))

    def numbered(self, number: Tensor | int) -> "Noise":
        """Independent streams for each ``number``: one for all samples, or one per sample (int64, shape (N,))."""
        return Noise(_fold(self.keys, number))

    def bits(self, n: int) -> Tensor:
        """(N, n) int64: the first n outputs of SplitMix64 started at each key."""
        count = torch.arange(1, n + 1, dtype=torch.int64, device=self.keys.device)
        return _mix(self.keys[:, None] + count * _GAMMA)

    def _units(self, n: int) -> Tensor:
        """(N, n) float32 whole numbers in [0, 2^24), two from each 64-bit output."""
        halves = self.bits((n + 1) // 2).view(torch.int32)
        return halves[:, :n].bitwise_and(0xFFFFFF).to(torch.float32)

    def uniform(self, *shape: int) -> Tensor:
        """(N, \\*shape) float32, uniform in [0, 1)."""
        return self._units(math.prod(shape)).mul_(2.0**-24).view(-1, *shape)

    def normal(self, *shape: int) -> Tensor:
        """(N, \\*shape) float32, standard normal (Box & Muller, 1958), at most 5.8 in absolute value."""
        n = math.prod(shape)
        pairs = (n + 1) // 2
        units = self._units(2 * pairs)
        radius = units[:, :pairs].add(1.0).mul_(2.0**-24).log_().mul_(-2.0).sqrt_()
        angle = units[:, pairs:].mul(2.0 * math.pi * 2.0**-24)
        both = torch.cat((angle.cos().mul_(radius), angle.sin().mul_(radius)), dim=1)
        return both[:, :n].reshape(-1, *shape)

    def integers(self, high: int, *shape: int) -> Tensor:
        """(N, \\*shape) int64, uniform in [0, high), high at most 2^31."""
        if not 0 < high <= 2**31:
            raise ValueError(f"high must be in 1 .. 2^31, got {high}")
        bits = self.bits(math.prod(shape)).bitwise_and_(0xFFFFFFFF)
        return (bits * high >> 32).view(-1, *shape)


@contextmanager
def torch_generators(devices: Sequence[torch.device] = (), seed: int | None = None) -> Iterator[None]:
    """torch's global generators, used by dropout and initial weights, for one block; then their state is restored.

    A process has one generator per device for all its threads, so that blocks in several threads run one after the
    other: otherwise none of them could be repeated.

    Args:
        devices: CUDA devices whose generators are included.
        seed: what to seed them with; by default they keep their state.
    """
    with _GENERATORS, torch.random.fork_rng(list(devices)):
        if seed is not None:
            if devices:
                torch.manual_seed(seed)
            else:
                torch.default_generator.manual_seed(seed)  # manual_seed formats a stack trace for each other device
        yield


def permutation(n: int, seed: int, purpose: str, step: int = 0, device: torch.device | str = "cpu") -> Tensor:
    """The permutation of 0 .. n-1 (int64, shape (n,)) named (seed, purpose, step), the same on every device."""
    name = Noise.of(seed, purpose, torch.zeros(1, dtype=torch.int64, device=device), step)
    return torch.argsort(name.bits(n)[0], stable=True)
