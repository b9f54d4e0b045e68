"""Which layers of a model a learning rule converts, which it leaves exact or must refuse, and why.

All of it is decided here, once, as a value: the conversion carries it out and the summary reports it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from torch import nn
from torch.nn.parameter import is_lazy

from alignonce.conversion.refusals import (
    is_finite,
    is_norm,
    kind_for,
    plain_name,
    refusal,
    refusal_of_values,
    weights_in,
)
from alignonce.conversion.usage import observe_usage
from alignonce.layers.base import FeedbackLayer
from alignonce.layers.equivalents import mismatch
from alignonce.layers.kinds import read_past_forward
from alignonce.model_access import Inputs, qualified, weight_names
from alignonce.rules.base import LearningRule
from alignonce.summary import ExactModule

__all__ = ["ConversionPlan", "Where", "plan_conversion"]

Where = str | Sequence[str] | Callable[[str, nn.Module], bool] | None
"""What ``set_learning_rule(where=...)`` takes."""

_EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)


@dataclass(frozen=True)
class ConversionPlan:
    """What a learning rule is to do with each layer of a model."""

    layers: Mapping[str, nn.Module]
    """The layers to convert, by name; norm layers too, where their scales are to be fixed."""
    exact: tuple[ExactModule, ...]
    """All other modules whose weights errors can go back through."""
    selected: frozenset[str]
    """Names of the modules that ``where`` selects."""
    names: Mapping[int, str]
    """The name of each forward weight of the model, by identity, in the model's order."""
    converted_weights: int
    """Numbers in the weights of ``layers``, a shared weight once."""
    all_weights: int
    """Numbers in all weights that errors can go back through.

    These are all parameters but biases, and embeddings that are tied to no other layer.
    """
    idle: frozenset[str] = frozenset()
    """Those of ``layers`` that did not run on the inputs, as far as there were any."""

    @property
    def refused(self) -> tuple[ExactModule, ...]:
        """The layers that were to be converted and cannot be."""
        return tuple(module for module in self.exact if module.refused)

    def after_a_run(self, model: nn.Module, inputs: Inputs) -> "ConversionPlan":
        """The plan with what a run of the model shows: layers that it does not call.

        Args:
            model: the model of the plan, which is left as it was.
            inputs: a batch.

        Returns:
            A plan that refuses layers whose weights are read past their forward.
        """
        carriers = {name: layer for name, layer in self.layers.items() if not is_norm(layer)}
        usage = observe_usage(model, carriers, inputs)
        layers = {name: layer for name, layer in self.layers.items() if name not in usage.bypassed}
        reason = (
            "its weight is read by another module, past its own forward, so that a feedback weight would "
            "carry no error"
        )
        refused = [
            ExactModule(name, plain_name(layer), reason, refused=True)
            for name, layer in self.layers.items()
            if name in usage.bypassed
        ]
        converted, total = _count_weights(model, layers)
        return replace(
            self,
            layers=layers,
            exact=(*self.exact, *refused),
            converted_weights=converted,
            all_weights=total,
            idle=usage.idle - usage.bypassed,
        )


def plan_conversion(model: nn.Module, rule: LearningRule, where: Where, norms: str) -> ConversionPlan:
    """Decide what is to become of each layer of a model; nothing is changed.

    Args:
        model: an unwrapped model.
        rule: the learning rule.
        where: as for :func:`alignonce.set_learning_rule`.
        norms: as there.

    Returns:
        The plan.

    Raises:
        TypeError: if ``where`` is none of what it can be.
        ValueError: if a pattern in ``where`` matches no module, or forward weights are not finite.
    """
    attention_of = {
        f"{name}.out_proj".removeprefix("."): name
        for name, module in model.named_modules()
        if isinstance(module, nn.MultiheadAttention)
    }
    selected = _selection(model, where)
    for projection, attention in attention_of.items():  # which is one layer with its attention
        (selected.add if attention in selected else selected.discard)(projection)
    names = weight_names(model)
    depths = {key: depth for depth, key in enumerate(names)}
    layers: dict[str, nn.Module] = {}
    exact: list[ExactModule] = []
    not_finite: list[str] = []
    readers = {
        f"{name}.{child}".removeprefix("."): plain_name(module)
        for name, module in model.named_modules()
        for child in read_past_forward(type(module))
    }
    for name, module in model.named_modules():
        attention, chosen = attention_of.get(name), name in selected
        kind = kind_for(module, norms)
        reason = refusal(module, norms)
        if chosen and kind is not None and reason is None and rule.has_layer_feedback:
            if attention is not None and attention not in layers:
                reason = f"part of the attention {attention or '(the model itself)'}, which is left exact"
            else:
                found = [(n, module._parameters[n]) for n in weights_in(module)]
                not_finite += [qualified(name, n) for n, w in found if w is not None and not is_finite(w)]
                reason = refusal_of_values(rule, kind, found, names, depths)
                if reason is None and not isinstance(module, FeedbackLayer):
                    reason = mismatch(module, kind)
        if not chosen:
            if kind is not None and not isinstance(module, FeedbackLayer):
                exact.append(ExactModule(name, plain_name(module), "not selected"))
        elif reason is not None:
            exact.append(ExactModule(name, plain_name(module), reason, refused=True))
        elif name in readers:
            reason = f"its weight is read by {readers[name]}, past its own forward"
            exact.append(ExactModule(name, plain_name(module), reason))
        elif kind is not None:
            layers[name] = module
        else:
            exact += _left_exact(name, module)
    if not_finite:
        raise ValueError(
            f"weights hold NaN or infinite values: {', '.join(not_finite)}. The model has diverged "
            "or was not loaded: begin from finite weights, or leave these layers out with where="
        )
    converted, total = _count_weights(model, layers)
    return ConversionPlan(layers, tuple(exact), frozenset(selected), names, converted, total)


def _selection(model: nn.Module, where: Where) -> set[str]:
    """Names of the modules that ``where`` selects."""
    modules = dict(model.named_modules())
    if where is None:
        return set(modules)
    if callable(where):
        return {name for name, module in modules.items() if where(name, module)}
    patterns = [where] if isinstance(where, str) else where
    if not isinstance(patterns, Sequence) or not all(isinstance(pattern, str) for pattern in patterns):
        raise TypeError(
            "where must be a name or glob of modules, a list of such, or a function of a module's name and "
            f"the module, got {where!r}"
        )

    def fits(pattern: str) -> set[str]:
        found = {n for n in modules if fnmatchcase(n, pattern) or n.startswith(f"{pattern}.")}
        if not found:
            raise ValueError(f"where: {pattern!r} matches no module; there are {', '.join(modules)}")
        return found

    excluded = [pattern[1:] for pattern in patterns if pattern.startswith("!")]
    included = [pattern for pattern in patterns if not pattern.startswith("!")]
    selected: set[str] = set(modules) if excluded and not included else set()
    for pattern in included:
        selected |= fits(pattern)
    for pattern in excluded:
        selected -= fits(pattern)
    return selected


def _left_exact(name: str, module: nn.Module) -> Iterator[ExactModule]:
    """A module that no feedback layer stands for."""
    if not list(module.parameters(recurse=False)):
        return
    if is_norm(module):
        reason = "norm layer: its error goes back through its own scale"
    elif isinstance(module, _EMBEDDINGS):
        reason = "embedding: no error goes back through it"
    else:
        reason = "has parameters of its own; run audit_weight_transport to see whether they transport weights"
    yield ExactModule(name, plain_name(module), reason)


def _count_weights(model: nn.Module, layers: Mapping[str, nn.Module]) -> tuple[int, int]:
    """Numbers in the weights of ``layers``, and in all weights that errors can go back through."""
    converted = {
        id(w): w.numel() for layer in layers.values() for w in map(layer.get_parameter, weights_in(layer))
    }
    every = {
        id(parameter): parameter.numel()
        for module in model.modules()
        if not isinstance(module, _EMBEDDINGS)
        for name, parameter in module._parameters.items()
        if parameter is not None and "bias" not in name and not is_lazy(parameter)
    }
    return sum(converted.values()), sum((converted | every).values())
