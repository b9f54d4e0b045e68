"""Layers of other classes that compute what PyTorch's layers compute, and the check that they do."""

import copy
import inspect
import re

import torch
from torch import Tensor, nn

from alignonce.layers.base import FeedbackLayer
from alignonce.layers.kinds import known_kind, register_kind
from alignonce.rules.fixed import RandomFeedback
from alignonce.undisturbed import undisturbed

__all__ = ["calls_base_only", "mismatch", "register_equivalent"]


def register_equivalent(
    cls: type[nn.Module], plain_class: type[nn.Module], *, calls_base: bool = False
) -> type[FeedbackLayer]:
    """Declare that a class of layers computes what a class of PyTorch computes, so that rules convert it.

    What a layer computes is checked each time one is converted, on random inputs: a linear layer or
    convolution against the plain one of the same weight, bias and settings; a norm layer, of which it is
    enough that its output is affine in its ``weight``, for that. A layer that fails is refused by name.

    Args:
        cls: the class. It has the parameters of ``plain_class`` under the same names.
        plain_class: ``nn.Linear``, a convolution, or a norm layer.
        calls_base: that a subclass of ``plain_class`` has a forward of its own, which touches the weight by
            calls of ``super().forward`` only: it then runs as it is, around the base's. Nothing is checked.

    Returns:
        The class that layers of ``cls`` have while they have a learning rule.

    Raises:
        ValueError: if there is no such kind of plain layer, or ``cls`` would have to derive from it.

    Example:
        >>> from torch import nn
        >>> from alignonce import SoftAlignment, register_equivalent, set_learning_rule
        >>> class Projection(nn.Linear):
        ...     def forward(self, x):
        ...         return x @ self.weight.T + self.bias
        >>> _ = register_equivalent(Projection, nn.Linear)
        >>> set_learning_rule(nn.Sequential(Projection(4, 2)), SoftAlignment(0.5)).rows[0].kind
        'Projection'
    """
    kind = known_kind(plain_class)
    if kind is None or not kind.has_equivalents:
        raise ValueError(
            f"plain_class must be Linear, a convolution or a norm layer, got {plain_class.__name__}"
        )
    is_subclass = issubclass(cls, plain_class)
    bases: tuple[type, ...]
    if calls_base and is_subclass:
        bases = cls, kind
    elif is_subclass:
        bases = kind, cls
    elif (kind.is_norm or plain_class is nn.Linear) and not calls_base:
        bases = kind.__bases__[0], cls  # what the kind is made of, without the plain class
    else:
        raise ValueError(f"{cls.__name__} must be a subclass of {plain_class.__name__}")
    members = {
        "plain_class": cls,
        "equivalent_to": None if calls_base else plain_class,
        "__module__": cls.__module__,
    }
    return register_kind(type(f"Feedback{cls.__name__}", bases, members))


def calls_base_only(cls: type[nn.Module]) -> bool:
    """Return whether the code of a class's forward calls its base's, and names no weight."""
    try:
        code = inspect.getsource(cls.forward)
    except (OSError, TypeError):  # no file
        return False
    return "super().forward" in code and not re.search(r"\.weight\b|_conv_forward", code)


def mismatch(layer: nn.Module, kind: type[FeedbackLayer]) -> str | None:
    """How a layer differs from what its class was said to be equivalent to; None if it does not.

    Args:
        layer: a plain layer, which is left as it was.
        kind: its kind of feedback layer.
    """
    if kind.equivalent_to is None:
        return None
    name = kind.equivalent_to.__name__
    with undisturbed(layer, "eval"), torch.no_grad():
        for arguments in kind.sample_arguments(layer):
            try:
                expected = type(layer).forward(layer, *arguments)
            except (RuntimeError, ValueError, TypeError, IndexError, AssertionError):
                continue  # inputs of another shape than it takes
            pair = (
                _affine(layer, arguments) if kind.is_norm else (expected, _as_kind(layer, kind)(*arguments))
            )
            if pair[0].shape == pair[1].shape and _is_close(*pair):
                return None
            what = (
                "is not affine in its weight" if kind.is_norm else "computes something else on random inputs"
            )
            return f"its class was registered as equivalent to {name}, but it {what}"
    return (
        f"its class was registered as equivalent to {name}, but it takes none of the inputs of such a layer"
    )


def _as_kind(layer: nn.Module, kind: type[FeedbackLayer]) -> nn.Module:
    """A copy that shares the values of the layer's parameters, with feedback weights equal to them."""
    shared: dict[int, object] = {id(p): nn.Parameter(p.detach(), False) for p in layer.parameters()}
    twin = copy.deepcopy(layer, shared)
    twin.__class__ = kind
    assert isinstance(twin, FeedbackLayer)  # for the type checker
    twin.start_feedback(
        RandomFeedback(), {n: twin.get_parameter(n).detach() for n in kind.present_names(twin)}
    )
    return twin


def _affine(layer: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """Two sums that are equal if the output is affine in the weight."""
    weight = layer.get_parameter("weight").detach()
    other = torch.linspace(-1, 2, weight.numel(), dtype=weight.dtype, device=weight.device).view_as(weight)

    def output(scale: Tensor) -> Tensor:
        result: Tensor = torch.func.functional_call(layer, {"weight": scale}, arguments)
        return result.double()

    return output(weight) + output(other), output(weight + other) + output(torch.zeros_like(weight))


def _is_close(a: Tensor, b: Tensor) -> bool:
    tolerance = max(torch.finfo(x.dtype).eps for x in (a, b)) ** 0.5
    tolerance = max(tolerance, 1e-3)  # the order of sums, in any dtype
    return bool(
        torch.linalg.vector_norm((a - b).double()) <= tolerance * torch.linalg.vector_norm(b.double())
    )
