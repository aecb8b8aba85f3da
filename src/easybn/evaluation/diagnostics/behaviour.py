"""Whether the model is one fixed function from an image to its logits, and in which state it came."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.optim.optimizer import register_optimizer_step_pre_hook

from ...modes import changed, preserve_state
from .subject import Finding, Severity, Subject

# One function: not random, logits and not probabilities, the same with and without gradients and in every batch.

PASSES = 5
SPREAD = 1e-4
"""Largest l2 distance between normalised logits of two passes (AutoAttack, checks.py, check_randomized)."""
PROBABILITY_SLACK = 1e-5
"""Of sums and bounds (AutoAttack, checks.py, check_range_output)."""


MASKED = 1000.0
"""A logit that far below the largest one is a mask (-inf, -1e9): its probability is 0 in every precision."""
COMPANY_IMAGES = 16
"""Images that are classified in several batches."""
COMPANY = 1e-4
"""Largest distance, as of ``SPREAD``, between batches of one shape, in which kernels round alike."""
OTHER_SHAPE = 1e-2
"""The same where position or number of images differ: kernels round otherwise there, in TF32 and bf16 the more."""
SHOWN = 3
ROUNDING = 16
"""Or this many times what images changed by one rounding step make of it, if that is more."""


def spread(a: Tensor, b: Tensor) -> float:
    """The largest l2 distance between rows of two (n, K) logits, each row scaled to length 1.

    Logits that are masked in both (``MASKED``), or NaN in both, do not count: -1e9 would outweigh all others, and the
    difference of two infinities is no number. NaN or +inf in one alone is infinitely far.
    """
    a, b = a.double(), b.double()
    broken = [each.isnan() | each.isposinf() for each in (a, b)]
    if bool((broken[0] != broken[1]).any()):
        return torch.inf
    floors = [each.masked_fill(broken[0], -torch.inf).amax(1, keepdim=True) - MASKED for each in (a, b)]
    nothing = broken[0] | ((a < floors[0]) & (b < floors[1]))
    clipped = [torch.maximum(each, floor).masked_fill(nothing, 0) for each, floor in zip((a, b), floors, strict=True)]
    unit = [each / (each.norm(dim=1, keepdim=True) + 1e-10) for each in clipped]
    return float((unit[0] - unit[1]).norm(dim=1).max())


def randomised(subject: Subject) -> list[Finding]:
    """Several passes over the first batch agree, in predictions and in normalised logits."""
    x = subject.x[: subject.batch_size]
    passes = [subject.classify(x) for _ in range(PASSES)]
    far = max(spread(a, b) for i, a in enumerate(passes) for b in passes[:i])
    flips = int((torch.stack([each.argmax(1) for each in passes]) != passes[0].argmax(1)).any(0).sum())
    size = f"{flips} of {len(x)} predictions change over {PASSES} passes, logits by {far:.2g} (bound {SPREAD:g})"
    if not flips and far <= SPREAD:
        return [Finding("randomised", "ok", "every pass gives the same answer", size)]
    return [
        Finding(
            "randomised", "warning", "the model is randomised", size,
            "one pass's gradient points to one draw; clean accuracy is that of one pass, and so is the verdict of the "
            "robustness protocol, while other attacks go by most passes over an image",
            "use attacks='rand' (AutoAttack with 20 draws a gradient), and repeat the evaluation with other seeds",
        )
    ]  # fmt: skip


def probabilities(subject: Subject) -> list[Finding]:
    """The outputs are not probabilities."""
    logits = subject.logits.double()
    with torch.no_grad():
        given = subject.ready.original(subject.ready.load(subject.x[:1])).dtype
    slack = max(PROBABILITY_SLACK, torch.finfo(given).eps)  # 16 bits round by more
    sums = float((logits.sum(1) - 1).abs().max())
    low, high = (float(v) for v in logits.aminmax())
    size = f"values {low:.3g} .. {high:.3g}, sums of rows differ from 1 by up to {sums:.2g}"
    if low <= -slack or high >= 1 + slack or sums >= slack:
        return [Finding("outputs", "ok", "the outputs are not probabilities", size)]
    return [
        Finding(
            "outputs", "warning", "the outputs are probabilities", size,
            "attacks put a softmax on top of what is one already, and gradients of confident points vanish",
            "return the logits: leave the softmax out of the model",
        )
    ]  # fmt: skip


def two_faced(subject: Subject) -> list[Finding]:
    """With and without gradients the model says the same; otherwise attack and score see two functions."""
    with_gradient, plain = subject.clean_slope.logits, subject.logits[: subject.some]
    far, noise = spread(with_gradient, plain), spread(subject.classify(subject.x[: subject.some]), plain)
    flips = int((with_gradient.argmax(1) != plain.argmax(1)).sum())
    if noise > SPREAD:  # the check for randomised models says so
        return []
    bound = max(SPREAD, torch.finfo(subject.ready.dtype or torch.float32).eps)  # half precision rounds by more
    size = f"logits differ by {far:.2g} (bound {bound:.2g}), {flips} of {subject.some} predictions"
    if far <= bound:
        return [Finding("one function", "ok", "the model answers the same with and without gradients", size)]
    return [
        Finding(
            "one function", "warning", "the model answers differently where gradients are taken", size,
            "attack and score go through different functions (branches?), so that the attack attacks another model",
            "let the forward pass not depend on requires_grad, grad mode or where the call comes from",
        )
    ]  # fmt: skip


def batch_company(subject: Subject) -> list[Finding]:
    """The same images in other batches (alone, in another order, beside others, more of them) get the same logits.

    In a batch of the same shape kernels round the same way, so that other images at the other places tell a model
    that mixes them (batch statistics, attention or a maximum over the batch) from one that rounds.
    """
    x = subject.x[:COMPANY_IMAGES]
    size = max(2, min(2 * len(x), subject.batch_size))
    x = x[: size // 2]
    company = torch.cat([subject.x[len(x) :], 1 - x])[: size - len(x)]

    def beside(others: Tensor, images: Tensor = x) -> Tensor:
        return subject.classify(torch.cat([images, others]), size)[: len(x)]

    as_given = beside(company)
    if spread(as_given, beside(company)) > SPREAD:  # the check for randomised models says so
        return []
    step = torch.finfo(subject.ready.dtype or x.dtype).eps
    far = max(OTHER_SHAPE, ROUNDING * spread(as_given, beside(company, x * (1 - step))))
    dim, light = 0.25 + x / 2, torch.ones_like(company)  # dim: so that the company decides what the largest value is
    pairs = [
        ("beside black images", as_given, beside(torch.zeros_like(company)), COMPANY),
        ("beside white images", as_given, beside(light), COMPANY),
        ("beside brighter images", beside(torch.cat([dim, dim])[: len(company)], dim), beside(light, dim), COMPANY),
        ("in reversed order", as_given, subject.classify(torch.cat([x, company]).flip(0), size).flip(0)[: len(x)], far),
        (f"in a batch of {len(x)}", as_given, subject.classify(x, len(x)), far),
        (f"in batches of {subject.batch_size}", as_given, subject.logits[: len(x)], far),
    ]
    refused, differing = "", []
    try:
        pairs.insert(0, ("one by one", as_given, subject.classify(x, 1), far))
    except (RuntimeError, ValueError) as error:  # batch statistics of one value
        refused = f"one image alone is refused ({str(error).partition(chr(10))[0][:80]}); "
    for where, one, other, bound in pairs:
        if (distance := spread(one, other)) > bound:
            flips = int((one.argmax(1) != other.argmax(1)).sum())
            what = f"{where} {flips} of {len(x)} predictions change, logits by {distance:.2g} (bound {bound:.2g})"
            differing.append((flips, distance, what))
    worst = [what for *_, what in sorted(differing, reverse=True)[:SHOWN]]
    if not worst and not refused:
        how_much = f"logits of {len(x)} images differ by less than {COMPANY:g}, and than {far:.2g} where shapes differ"
        return [Finding("company", "ok", "an image gets the same answer in every batch", how_much)]
    return [
        Finding(
            "company", "warning", "the answer to an image depends on the rest of its batch", refused + "; ".join(worst),
            "a verdict belongs to a batch: accuracies change with batch_size, and so does what attacks can do",
            "take no statistics over the batch: batch norms with running statistics, each image normalised by itself",
        )
    ]  # fmt: skip


# Models that learn or differentiate while they predict.

IMAGES = 8
"""Images of the pass that is watched: what a forward pass does does not depend on how many there are."""


def dynamic(subject: Subject) -> list[Finding]:
    """A forward pass runs no backward pass and no optimiser, and changes no parameter and no buffer.

    AutoAttack traces Python calls named ``grad`` and ``backward``. Here autograd itself tells: whatever a backward
    pass reads was packed by the forward pass and is unpacked (``saved_tensors_hooks``).
    """
    model, seen = subject.ready.model, set[str]()
    with preserve_state(model), _thawed(model), _watched(seen):
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        try:
            subject.ready.original(subject.ready.load(subject.x[:IMAGES]))
        except RuntimeError as error:
            if "saved tensor hooks" not in str(error):  # torch.func refuses to be watched, which says it all
                raise
            seen.add("torch.func differentiates")
        if names := changed(model, before):
            seen.add(f"{len(names)} tensor{'s' * (len(names) > 1)} of the state changed, such as {names[0]}")
    if not seen:
        return [Finding("dynamic", "ok", "a forward pass neither differentiates nor learns", "")]
    return [
        Finding(
            "dynamic", "warning", "a forward pass does more than predict", ", ".join(sorted(seen)),
            "attacks take the gradient of one pass as it is, not of what the model will do to the image next time",
            "AutoAttack may overrate it: attack the whole procedure with an adaptive attack",
        )
    ]  # fmt: skip


@contextmanager
def _watched(seen: set[str]) -> Iterator[None]:
    """What happens inside the block is written into ``seen``."""

    packed = WeakSet[_Packed]()

    def pack(tensor: Tensor) -> _Packed:
        packed.add(new := _Packed(tensor))
        return new

    def unpack(kept: _Packed) -> Tensor:
        seen.add("autograd runs a backward pass")
        return kept.tensor

    def step(*_: Any) -> None:
        seen.add("an optimiser takes a step")

    hook = register_optimizer_step_pre_hook(step)
    try:
        with saved_tensors_hooks(pack, unpack), torch.enable_grad():
            yield
    finally:
        hook.remove()
        for kept in packed:
            kept.tensor = kept.tensor.detach()


class _Packed:
    """What autograd keeps: an operation that keeps its own result by it would, with its graph, stay alive for good."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


@contextmanager
def _thawed(model: nn.Module) -> Iterator[None]:
    """Parameters with gradients, which a model in attack mode has not: models that learn ask for them."""
    frozen = [p for p in model.parameters() if p.is_floating_point() and not p.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_(True)
    try:
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)


# The state the model came in: a finding for each note of ``attack_mode``.

MEANING: dict[str, tuple[Severity, str, str]] = {
    "train mode": (
        "note", "in train mode dropout and batch statistics would make another function of it",
        "call model.eval() before an evaluation of your own",
    ),
    "the model has branches": (
        "note", "one branch was evaluated, and says nothing of the others",
        "keep the branch that is deployed with strip(), and evaluate the others inside route()",
    ),
    "no running statistics": (
        "warning", "a verdict belongs to a batch, and no attack on single points means anything",
        "give the batch norms running statistics (track_running_stats=True, one pass over training data)",
    ),
}  # fmt: skip
"""For the words that a note holds: how bad it is, why, and what to do."""


def model_state(subject: Subject) -> list[Finding]:
    """Train mode, branches, batch norms without statistics, and whatever else was noted."""
    findings = []
    for note in subject.ready.notes:
        severity, why, remedy = next((MEANING[key] for key in MEANING if key in note), ("note", "", ""))
        what, _, size = note.partition(": ")
        findings.append(Finding("as found", severity, what, size, why, remedy))
    return findings
