"""What is remembered of each forward weight whose learning rule changes its feedback weight.

Optimisers derived from ``torch.optim.Optimizer`` report their steps here, through the hooks that PyTorch runs
around every ``step()``. So a rule follows the weights that a step has changed and no others, and a loop that
forgets to call ``evolve`` gets an error: feedback weights would stand still, and the run would be of another
rule than it says.

Optimisers may wrap optimisers: steps within a step count once, when the outermost one ends.
"""

import functools
import math
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

__all__ = [
    "FLATTENED",
    "Watched",
    "after_this_step",
    "as_one_step",
    "install",
    "own_rows",
    "unwatch",
    "watch",
    "watched",
]


FLATTENED = (
    "the model is wrapped by FullyShardedDataParallel (FSDP1), which keeps forward weights as parts of one "
    "flat parameter, where a learning rule finds none of them: set the rule on the plain model and spread it "
    "by FSDP2 with alignonce.distributed.shard(model, mesh), or use DistributedDataParallel"
)
"""The error for what goes with FSDP2 only."""


class Watched:
    """A forward weight W between two evolutions of its feedback weight."""

    def __init__(self, weight: Tensor, remembers: bool) -> None:
        self.held = False
        """Whether an optimiser that reports its steps has this weight: then no report is no step."""
        self.stepped = False
        """Whether an optimiser has stepped it, with a gradient, since the rule was told."""
        self.jumped = False
        """Whether something else has changed it in between."""
        self._previous = own_rows(weight.detach()).clone() if remembers else None
        self._fingerprint = () if remembers else _fingerprint(weight)
        self._version = weight._version

    def previous(self, weight: Tensor) -> Tensor | None:
        """W as the last evolution left it (this process's rows), for rules that remember it."""
        if self._previous is not None:
            self._previous = self._previous.to(own_rows(weight))  # the model may have been moved since
        return self._previous

    def is_due(self, weight: Tensor) -> bool:
        """Return whether W has made a step since the last evolution."""
        if self.held:
            return self.stepped
        # Of an optimiser that reports nothing only the weight itself shows it.
        previous = self.previous(weight)
        if previous is not None:
            return not torch.equal(previous, own_rows(weight))
        # Rows that are spread must be reported together: a rule may add up over processes.
        return hasattr(weight, "to_local") or self._fingerprint != _fingerprint(weight)

    def evolved(self, weight: Tensor) -> None:
        """Note that the rule has been told of the last step."""
        previous = self.previous(weight)
        if previous is not None:
            previous.copy_(own_rows(weight))
        elif not self.held:
            self._fingerprint = _fingerprint(weight)
        self._version = weight._version
        self.stepped = False

    def before_step(self, weight: Tensor) -> None:
        """Notice what is not the optimiser's work, where a rule would take it for that."""
        if self._previous is None or weight._version == self._version:
            return
        self._version = weight._version
        # Something wrote into it. It may have restored what was there, but for rounding.
        rows, previous = own_rows(weight.detach()), self.previous(weight)
        assert previous is not None  # for the type checker
        size = float(torch.linalg.vector_norm(previous)) / math.sqrt(max(1, previous.numel()))
        rounding = 16 * torch.finfo(rows.dtype).eps
        self.jumped |= not torch.allclose(rows, previous, rtol=rounding, atol=rounding * size)


def watch(weight: Tensor, remembers: bool) -> None:
    """Expect ``evolve`` after each step that an optimiser makes on this weight.

    Args:
        weight: the forward weight.
        remembers: whether the rule needs its value from before the step.
    """
    install()
    key = id(weight)
    _watched[key] = weakref.ref(weight, lambda _: _watched.pop(key, None)), Watched(weight, remembers)


def unwatch(weight: Tensor) -> None:
    """Expect nothing any more."""
    _watched.pop(id(weight), None)


def watched(weight: Tensor) -> Watched | None:
    """What is remembered of a weight; None if no rule that changes feedback weights was set for it."""
    _, found = _watched.get(id(weight), (None, None))
    return found


def own_rows(tensor: Tensor) -> Tensor:
    """The rows that this process has of a tensor that is spread over processes; any other as it is."""
    # As in formats.base.gathered, by the method and not by the class.
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


@functools.cache
def install() -> None:
    """Have all optimisers report; from the first weight that is watched on."""
    # Not for the compiler, where steps are compiled.
    register_optimizer_step_pre_hook(torch.compiler.disable(_before_step))
    register_optimizer_step_post_hook(torch.compiler.disable(_after_step))


def as_one_step(step: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap the ``step`` of what runs no hooks itself, so that all steps within a call count as one."""

    @functools.wraps(step)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        steps.begin(wrapper, sys._getframe())
        try:
            result = step(*args, **kwargs)
        except BaseException:
            steps.forget(wrapper)
            raise
        steps.end(wrapper)
        return result

    return wrapper


def after_this_step(optimizer: Optimizer, function: Callable[[set[int]], None]) -> None:
    """From a post-hook of an optimiser: call a function once the outermost step has ended.

    Args:
        optimizer: the optimiser.
        function: gets the ids of the weights that were stepped. Not called if a gradient scaler has skipped
            the step.
    """
    if not _skipped(optimizer) and function not in steps.waiting:
        steps.waiting.append(function)


class _Steps(threading.local):
    """The steps that this thread is in."""

    def __init__(self) -> None:
        self.running: list[tuple[object, FrameType]] = []
        """Optimisers, or what else makes steps, each with the frame of its call."""
        self.stepped: dict[int, Watched] = {}
        self.waiting: list[Callable[[set[int]], None]] = []

    def begin(self, stepper: object, frame: FrameType) -> bool:
        """Enter a step; return whether it is an outermost one."""
        if self.running:
            # A step that raised has run no hook at its end: its frame shows that it has ended.
            alive = _frames_from(frame)
            self.running = [entry for entry in self.running if entry[1] in alive]
        outermost = not self.running
        if outermost:
            self.stepped.clear()
            self.waiting.clear()
        self.running.append((stepper, frame))
        return outermost

    def end(self, stepper: object) -> None:
        """Leave a step; after an outermost one, notify whoever waits for it."""
        self.forget(stepper)
        if self.running:
            return
        for found in self.stepped.values():
            found.stepped = True
        stepped, waiting = set(self.stepped), list(self.waiting)
        self.stepped.clear()
        self.waiting.clear()
        for function in waiting:
            function(stepped)

    def forget(self, stepper: object) -> None:
        """Leave a step, and all that began in it and did not end."""
        last = max((i for i, (s, _) in enumerate(self.running) if s is stepper), default=len(self.running))
        del self.running[last:]


steps = _Steps()
# With a weak reference, whose only use is to remove the entry when the weight is gone.
_watched: dict[int, tuple[weakref.ref[Tensor], Watched]] = {}


def _before_step(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
    for _, found in _watched_in(optimizer):
        if found.stepped:
            raise RuntimeError(
                "the model's learning rule changes its feedback weights as it learns: call "
                "alignonce.evolve(model, step) after each optimizer.step(), or once, before training, "
                "alignonce.evolve_after(optimizer, model)"
            )
    _refuse_flat_parameters(optimizer)
    if steps.begin(optimizer, _caller()):
        for weight, found in _watched_in(optimizer):
            found.before_step(weight)


def _after_step(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
    skipped = _skipped(optimizer)
    for weight, found in _watched_in(optimizer):
        found.held = True
        if weight.grad is not None and not skipped:
            steps.stepped[id(weight)] = found
    steps.end(optimizer)


def _refuse_flat_parameters(optimizer: Optimizer) -> None:
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            # What FSDP1 has put in place of weights that would be watched else.
            for _, layer, *_ in getattr(parameter, "_param_infos", ()):
                if hasattr(layer, "learning_rule") and layer.learning_rule.evolves:
                    raise RuntimeError(FLATTENED)


def _watched_in(optimizer: Optimizer) -> Iterator[tuple[Tensor, Watched]]:
    for group in optimizer.param_groups:
        for weight in group["params"]:
            entry = _watched.get(id(weight))
            if entry is not None:
                yield weight, entry[1]


def _skipped(optimizer: Optimizer) -> bool:
    """Return whether a gradient scaler has let a fused optimiser find out by itself that it must not step."""
    found_inf = getattr(optimizer, "found_inf", None)
    return found_inf is not None and bool(found_inf)


def _caller() -> FrameType:
    """The frame that calls a hook, past those of ``torch.compiler.disable``."""
    frame = sys._getframe(2)
    while frame.f_back is not None and frame.f_globals["__name__"].startswith("torch._dynamo"):
        frame = frame.f_back
    return frame


def _frames_from(frame: FrameType | None) -> set[FrameType]:
    frames = set()
    while frame is not None:
        frames.add(frame)
        frame = frame.f_back
    return frames


@torch.no_grad()
def _fingerprint(weight: Tensor) -> tuple[float, ...]:
    """Two numbers that any step changes."""
    if hasattr(weight, "to_local") or weight.is_meta:
        return ()
    wide = torch.float32 if weight.device.type == "mps" else torch.float64
    numbers = weight.sum(dtype=wide), torch.linalg.vector_norm(weight, dtype=wide)
    return tuple(torch.stack(numbers).tolist())
