"""Notices a training loop that forgets to call ``evolve``.

Each optimiser derived from ``torch.optim.Optimizer`` reports its steps here. A second step on a weight
whose learning rule has not been told of the first is an error: feedback weights would stand still and the
run would be of another rule than it says.
"""

import functools
from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.weak import WeakIdKeyDictionary

__all__ = ["mark_evolved", "unwatch", "watch"]

# Whether the optimiser has stepped since the rule was told, by forward weight.
_stepped: WeakIdKeyDictionary = WeakIdKeyDictionary()


def watch(weight: Tensor) -> None:
    """Expect ``evolve`` after each step that an optimiser makes on this weight."""
    _install()
    _stepped[weight] = False


def unwatch(weight: Tensor) -> None:
    """Expect nothing any more."""
    _stepped.pop(weight, None)


def mark_evolved(weight: Tensor) -> None:
    """Note that the rule has been told of the last step."""
    _stepped[weight] = False


@functools.cache
def _install() -> None:
    register_optimizer_step_post_hook(_after_step)


def _after_step(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            stepped = _stepped.get(parameter)
            if stepped:
                raise RuntimeError(
                    "the model's learning rule changes its feedback weights as it learns: call "
                    "alignonce.evolve(model, step) after each optimizer.step()"
                )
            if stepped is False:
                _stepped[parameter] = True
