"""Give a model a learning rule, and take it away again."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils.parametrize import is_parametrized

import alignonce.attention
import alignonce.recurrent  # noqa: F401  (both make their kinds of layers known)
from alignonce import direct
from alignonce.direct import DirectFeedback
from alignonce.error_samples import ErrorSample, sample_errors
from alignonce.format_choice import Choice, choose_formats
from alignonce.formats import Dense, FeedbackFormat
from alignonce.formats.base import gathered
from alignonce.formats.compressed import CompressedFeedback, HeldFeedback, as_matrix
from alignonce.layers import (
    FeedbackLayer,
    computes_like,
    feedback_class,
    feedback_name,
    forward_weight_names,
    layer_kind,
)
from alignonce.norms import FixedScale
from alignonce.rules import Backpropagation, LearningRule, RandomFeedback, SoftAlignment
from alignonce.summary import ExactModule, FeedbackRow, RuleSummary, cosine_similarity

__all__ = ["Where", "exact_gradients", "feedback_weights", "set_learning_rule", "unwrap", "weight_names"]

Where = str | Sequence[str] | Callable[[str, nn.Module], bool] | None

Inputs = Tensor | Sequence[Any] | Mapping[str, Any]

_RECURRENT = (nn.RNNBase, nn.RNNCellBase)
_SEVERAL_IN_ONE = (nn.MultiheadAttention, *_RECURRENT)
_NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
_EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)
_DENSE = Dense()


def set_learning_rule(
    model: nn.Module,
    rule: LearningRule,
    *,
    where: Where = None,
    format: FeedbackFormat | Mapping[str, FeedbackFormat] | str = _DENSE,
    unconvertible: str = "raise",
    norms: str = "exact",
    inputs: Inputs | None = None,
) -> RuleSummary:
    """Make a model learn by a rule, in place, from its present forward weights.

    Layers keep their identity, forward values, parameters (and their names), hooks, flags, dtype and
    device; feedback weights are added as buffers, so that they move and are saved with the model while an
    optimiser never sees them. Forward weights that are shared stay shared and have one feedback weight.
    Nothing changes if an error is raised. A further call begins anew from the forward weights of that
    moment; ``Backpropagation()`` gives the plain classes and a plain state_dict back.

    Converted are ``nn.Linear``, ``nn.Bilinear``, all convolutions, ``nn.MultiheadAttention`` (with its
    output projection), ``nn.RNN``, ``nn.LSTM``, ``nn.GRU``, their cells, and subclasses of these that keep
    the forward of their base. Norm layers, embeddings and modules of other kinds keep their exact
    gradients: the summary lists them.

    Args:
        model: any module, a layer itself included.
        rule: the learning rule.
        where: the layers to change, all others staying as they are: names or globs of modules (a name
            stands for all that is in the module too), or a function of a module's name and the module.
        format: how feedback weights are stored and multiplied (:mod:`alignonce.formats`); other than
            ``Dense()`` only for rules whose feedback weights stay fixed. ``"auto"`` measures on this device
            for each sort of layer which formats pay, and takes the most aligned of the fastest: it needs
            ``inputs``, of training's batch size, and takes about a second for each sort of layer, several
            for weights of 4096 x 4096. A measurement is kept until the process ends; to have the same
            formats elsewhere, pass the mapping ``summary.formats``: from names or globs of forward weights
            to formats, the first that fits; the rest is dense.
        unconvertible: what to do with layers that should be converted and cannot be: ``"raise"``, or
            ``"exact"`` to leave them with exact gradients.
        norms: how the error goes back through the scale of norm layers (BatchNorm, InstanceNorm, LayerNorm,
            GroupNorm, RMSNorm), whatever the rule: ``"exact"``, as in backpropagation, or ``"fixed"``,
            through the scale's value of this moment, which is kept as a buffer. Their scales are no forward
            weights: they have rows in the summary, but are not among ``feedback_weights`` or ``alignment``.
        inputs: a batch: one tensor, or a sequence of positional or a mapping of keyword arguments.
            :class:`DirectFeedback` and ``format="auto"`` need one. Given one, :class:`LowRank` keeps what
            errors need: random ones are sent back through the model once, by its exact gradients.

    Returns:
        A summary that prints as a table: each forward weight with its rule, format, cosine and extra
        bytes, and each module that was left exact, with the reason.

    Raises:
        TypeError: if ``model`` is no module, ``rule`` no learning rule or ``format`` no format.
        ValueError: if the rule cannot have the format, a format's name or pattern is unknown, or ``"auto"``
            has no ``inputs``, if there is nothing to convert, if layers cannot be
            converted (all are named), if a pattern in ``where`` fits nothing, or if a forward weight fits
            no feedback weight (all zero, NaN, out of the rule's reach).
    """
    _check_arguments(model, rule, unconvertible, norms)
    _check_format(rule, format, inputs)
    model = unwrap(model)
    if isinstance(rule, DirectFeedback):
        return _set_direct_feedback(model, rule, where, norms, inputs)
    selected = _selection(model, where)
    if where is None:
        direct.uninstall(model)
    exact = list(_left_exact(model, selected, norms))
    refused = [item for item in exact if item.refused]
    if refused and unconvertible == "raise" and not isinstance(rule, Backpropagation):
        raise ValueError(
            "these layers cannot be converted:\n"
            + "\n".join(
                f"  {item.name or '(the model itself)'} ({item.kind}): {item.reason}" for item in refused
            )
            + "\nexclude them with where=, or leave them exact with unconvertible='exact'"
        )
    layers = {
        name: module
        for name, module in model.named_modules()
        if name in selected and _kind(module, norms) and _refusal(module, norms) is None
    }
    if isinstance(rule, Backpropagation):
        _free_norms(model, selected)
        for layer in layers.values():
            if isinstance(layer, FeedbackLayer):
                layer.end_feedback()
        return RuleSummary(rule, (), tuple(exact))
    if not layers:
        raise ValueError(
            "the model has nothing to convert: no Linear, Bilinear, convolution, attention or recurrent layer"
            + ("" if where is None else " among the modules that where= selects")
        )

    feedback: dict[int, HeldFeedback] = {}
    names = weight_names(model)
    depths = {key: depth for depth, key in enumerate(names)}
    if isinstance(format, Mapping):
        _check_patterns(format, names.values())
    measured = _measured_formats(model, layers, inputs) if format == "auto" else None
    wanted = [choice.format for choice in measured.values()] if measured else _formats_in(format)
    errors = _error_samples(model, layers, inputs) if any(f.fits_errors for f in wanted) else {}
    rows: list[FeedbackRow] = []
    for name, layer in layers.items():
        layer_rule = FixedScale() if _is_norm(layer) else rule
        for weight_name in _weights_in(layer):
            weight = getattr(layer, weight_name)
            shared = id(weight) in feedback
            if not shared:
                first, depth = names.get(id(weight), name), depths.get(id(weight), 0)
                value: HeldFeedback = layer_rule.feedback_for(weight, first, depth)
                if isinstance(value, Tensor) and not _is_norm(layer):
                    one = measured[name].format if measured else _named(format, first)
                    value = _compressed(value, one, errors.get(name))
                feedback[id(weight)] = value
            row = FeedbackRow.of(
                _join(name, weight_name), layer, layer_rule, weight, feedback[id(weight)], shared
            )
            if measured and name in measured:
                row = replace(row, format=f"{row.format} (auto: {measured[name].share:.2f} of dense's time)")
            if row.stored_as.fits_errors and name in errors:
                carried = _carried_alike(errors[name].checking, weight, feedback[id(weight)])
                row = replace(row, format=f"{row.format}, fitted (cosine of errors: {carried:.2f})")
            rows.append(row)
    _free_norms(model, selected)
    for layer in layers.values():
        if not isinstance(layer, FeedbackLayer):
            layer.__class__ = feedback_class(type(layer))
        layer.start_feedback(
            FixedScale() if layer.is_norm else rule,
            {n: feedback[id(layer._parameters[n])] for n in _weights_in(layer)},
        )
    return RuleSummary(rule, tuple(rows), tuple(exact))


@contextmanager
def exact_gradients(model: nn.Module) -> Iterator[None]:
    """Within the context, a model's backward pass is backpropagation's: for measuring and honest attacks.

    It is the forward pass that decides: what is computed within the context gets exact gradients, also if
    ``backward`` is called after it. Contexts can be nested.

    Args:
        model: a model with or without a learning rule.
    """
    model = unwrap(model)
    layers = [m for m in model.modules() if isinstance(m, FeedbackLayer)]
    switches: list[Any] = [*layers, *direct.states_of(model)]
    before = [switch.exact for switch in switches]
    for switch in switches:
        switch.exact = True
    try:
        yield
    finally:
        for switch, exact in zip(switches, before, strict=True):
            switch.exact = exact


def feedback_weights(model: nn.Module) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Iterate over (name, forward weight W, feedback weight B), a shared W once, in the model's order.

    Weights that are spread over processes (:mod:`alignonce.distributed`) come whole, as copies: all processes
    must iterate.
    """
    seen: set[int] = set()
    for name, layer in unwrap(model).named_modules():
        if isinstance(layer, FeedbackLayer):
            for weight_name in forward_weight_names(layer):
                weight = getattr(layer, weight_name)
                if id(weight) not in seen:
                    seen.add(id(weight))
                    yield (
                        _join(name, weight_name),
                        gathered(weight),
                        gathered(layer.feedback_of(weight_name)),
                    )


def unwrap(model: nn.Module) -> nn.Module:
    """The model inside what ``torch.compile`` and DistributedDataParallel put around it."""
    while True:
        if isinstance(model, torch._dynamo.OptimizedModule):
            model = model._orig_mod
        elif isinstance(model, DistributedDataParallel):
            model = model.module
        else:
            return model


def call_arguments(inputs: Inputs) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword arguments of a forward pass on ``inputs``."""
    if isinstance(inputs, Tensor):
        return (inputs,), {}
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    return tuple(inputs), {}


def _set_direct_feedback(
    model: nn.Module, rule: DirectFeedback, where: Where, norms: str, inputs: Inputs | None
) -> RuleSummary:
    if where is not None:
        raise ValueError(
            "where= does not go with DirectFeedback: choose its modules with DirectFeedback(taps=)"
        )
    if inputs is None:
        raise ValueError("DirectFeedback needs inputs=, a batch, to learn the shapes of the errors")
    direct.uninstall(model)
    if rule.taps == "layers":
        set_learning_rule(model, Backpropagation())
        if any(isinstance(module, _SEVERAL_IN_ONE) for module in model.modules()):
            set_learning_rule(
                model, RandomFeedback(rule.seed), where=lambda _, module: isinstance(module, _SEVERAL_IN_ONE)
            )
    scales: tuple[FeedbackRow, ...] = ()
    if norms == "fixed" and any(_is_norm(m) and list(m.parameters(recurse=False)) for m in model.modules()):
        scales = set_learning_rule(
            model, RandomFeedback(rule.seed), where=lambda _, module: _is_norm(module), norms=norms
        ).rows
    taps = direct.install(model, rule, *call_arguments(inputs))
    return RuleSummary(rule, (*(FeedbackRow.of_tap(tap, rule) for tap in taps), *scales), ())


def _check_arguments(model: object, rule: object, unconvertible: str, norms: str) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    if not isinstance(rule, LearningRule):
        hint = " (an instance, with parentheses)" if isinstance(rule, type) else ""
        raise TypeError(f"rule must be a LearningRule{hint}, got {rule!r}")
    if unconvertible not in ("raise", "exact"):
        raise ValueError(f"unconvertible must be 'raise' or 'exact', got {unconvertible!r}")
    if norms not in ("exact", "fixed"):
        raise ValueError(f"norms must be 'exact' or 'fixed', got {norms!r}")


def _check_format(rule: LearningRule, format: object, inputs: Inputs | None) -> None:
    for one in _formats_in(format):
        if not isinstance(one, FeedbackFormat) and format != "auto":
            hint = " (an instance, with parentheses)" if isinstance(one, type) else ""
            raise TypeError(
                f"format must be a FeedbackFormat{hint}, a mapping from names to such, or 'auto', got {one!r}"
            )
    if format == _DENSE:
        return
    if format == "auto" and inputs is None:
        raise ValueError("format='auto' needs inputs=, a batch of training's size, to measure with")
    if isinstance(rule, Backpropagation):
        raise ValueError(f"format={format}: backpropagation has no feedback weights to compress")
    if rule.evolves or isinstance(rule, DirectFeedback):
        why = "changes its own" if rule.evolves else "has others"
        raise ValueError(
            f"format={format} is for rules with one fixed feedback weight for each layer (RandomFeedback, "
            f"SoftAlignment, SignSymmetry(once=True)); {rule} {why}: leave format= out"
        )


def _check_patterns(formats: Mapping[str, FeedbackFormat], names: Iterable[str]) -> None:
    known = list(names)
    for pattern in formats:
        if not any(fnmatchcase(name, pattern) for name in known):
            raise ValueError(f"format: {pattern!r} fits no forward weight; there are {', '.join(known)}")


def _named(format: Any, name: str) -> FeedbackFormat:
    """The format of the forward weight of this name."""
    if not isinstance(format, Mapping):
        return format
    return next((one for pattern, one in format.items() if fnmatchcase(name, pattern)), _DENSE)


def _measured_formats(
    model: nn.Module, layers: dict[str, nn.Module], inputs: Inputs | None
) -> dict[str, Choice]:
    assert inputs is not None  # for the type checker: _check_format has seen to it

    def convert(layer: nn.Module, format: FeedbackFormat) -> float:
        rows = set_learning_rule(layer, SoftAlignment(1.0), format=format).rows
        return sum(row.cosine for row in rows) / len(rows)

    carriers = {name: layer for name, layer in layers.items() if not _is_norm(layer)}
    return choose_formats(model, carriers, *call_arguments(inputs), convert)


def _formats_in(format: Any) -> list[Any]:
    return list(format.values()) if isinstance(format, Mapping) else [format]


def _error_samples(
    model: nn.Module, layers: dict[str, nn.Module], inputs: Inputs | None
) -> dict[str, ErrorSample]:
    if inputs is None:
        return {}
    with exact_gradients(model):
        return sample_errors(model, layers, *call_arguments(inputs))


def _carried_alike(errors: Tensor, weight: Tensor, feedback: HeldFeedback) -> float:
    """Cosine between what W and B make of a sample of errors, all as one vector."""
    b = feedback if isinstance(feedback, Tensor) else feedback.to_dense()
    exact, carried = (errors @ matrix.detach().flatten(1).to(errors.dtype) for matrix in (weight, b))
    return cosine_similarity(exact, carried)


def _compressed(feedback: Tensor, format: FeedbackFormat, errors: ErrorSample | None) -> HeldFeedback:
    fitted = format.fitted(as_matrix(tuple(feedback.shape)))
    if fitted == _DENSE:
        return feedback
    return CompressedFeedback(fitted, feedback, errors.fitting if errors else None)


def _selection(model: nn.Module, where: Where) -> set[str]:
    """Names of the modules that ``where`` selects; an output projection goes with its attention."""
    modules = dict(model.named_modules())
    if where is None:
        return set(modules)
    if callable(where):
        selected = {name for name, module in modules.items() if where(name, module)}
    else:
        selected = set()
        for pattern in [where] if isinstance(where, str) else where:
            fits = {n for n in modules if fnmatchcase(n, pattern) or n.startswith(f"{pattern}.")}
            if not fits:
                raise ValueError(f"where: {pattern!r} fits no module; there are {', '.join(modules)}")
            selected |= fits
    for name, module in modules.items():
        if isinstance(module, nn.MultiheadAttention):
            follow = selected.add if name in selected and _refusal(module) is None else selected.discard
            follow(f"{name}.out_proj" if name else "out_proj")
    return selected


def _left_exact(model: nn.Module, selected: set[str], norms: str) -> Iterator[ExactModule]:
    for name, module in model.named_modules():
        kind = type(module).__name__
        refusal = _refusal(module, norms)
        if name not in selected:
            if _kind(module, norms) and not isinstance(module, FeedbackLayer):
                yield ExactModule(name, kind, "not selected")
        elif refusal is not None:
            yield ExactModule(name, kind, refusal, refused=True)
        elif _kind(module, norms) is not None:
            continue
        elif _is_norm(module) and list(module.parameters(recurse=False)):
            yield ExactModule(name, kind, "norm layer: its error goes back through its own scale")
        elif isinstance(module, _EMBEDDINGS):
            yield ExactModule(name, kind, "embedding: no error goes back through it")
        elif list(module.parameters(recurse=False)):
            yield ExactModule(name, kind, "own parameters of unknown use: audit_weight_transport tells")


def _kind(module: nn.Module, norms: str) -> type[FeedbackLayer] | None:
    """The feedback layer that a module is to become; a norm layer only where its scale is to be fixed."""
    kind = layer_kind(type(module), norms=norms == "fixed")
    return None if kind is not None and kind.is_norm and not kind.present_names(module) else kind


def _is_norm(module: nn.Module) -> bool:
    kind = layer_kind(type(module), norms=True)
    return isinstance(module, _NORMS) or (kind is not None and kind.is_norm)


def _weights_in(layer: nn.Module) -> list[str]:
    """Names of the parameters that get feedback values in a conversion, a norm's scale included."""
    kind = layer_kind(type(layer), norms=True)
    return [] if kind is None else kind.present_names(layer)


def _free_norms(model: nn.Module, selected: set[str]) -> None:
    """Let the scales of norm layers that were fixed carry the error again."""
    for name, module in model.named_modules():
        if name in selected and isinstance(module, FeedbackLayer) and module.is_norm:
            module.end_feedback()


def _refusal(module: nn.Module, norms: str = "exact") -> str | None:
    """Why a layer that has forward weights cannot be converted; None if it can or is no such layer."""
    kind = _kind(module, norms)
    other_norm = norms == "fixed" and isinstance(module, _NORMS) and list(module.parameters(recurse=False))
    if kind is None and not other_norm:
        return "a recurrent layer of another kind" if isinstance(module, _RECURRENT) else None
    if isinstance(module, nn.modules.lazy.LazyModuleMixin) and module.has_uninitialized_params():
        return "not initialised yet: run one forward pass first"
    if kind is None:
        return "a norm layer of another kind, whose scale cannot be fixed"
    if is_parametrized(module):
        return "parametrised: call torch.nn.utils.parametrize.remove_parametrizations on it first"
    candidates = kind.weight_names_of(module)
    if any(name in vars(module) or f"{name}_g" in module._parameters for name in candidates):
        return "its weight is recomputed by a hook (weight_norm, spectral_norm, pruning): remove that first"
    if not isinstance(module, FeedbackLayer) and not computes_like(type(module), kind):
        return f"a subclass of {kind.plain_class.__name__} with a forward of its own"
    if not isinstance(module, FeedbackLayer) and "forward" in vars(module):
        return "its forward is replaced on the module itself (by a hook of accelerate, a fused kernel, ...)"
    names = _weights_in(module)
    if not names:
        return "its weight is not one of its parameters"
    for name in names:
        weight = getattr(module, name)
        if not weight.is_floating_point():
            return f"weights of dtype {weight.dtype} are not supported"
        if hasattr(weight, "full_tensor"):
            return "already spread over processes: set the learning rule before alignonce.distributed.shard"
        if weight.is_meta:
            return "on the meta device, without values: materialise it first"
        if not isinstance(module, FeedbackLayer) and hasattr(module, feedback_name(name)):
            return f"it has an attribute {feedback_name(name)!r} of its own"
    return None


def weight_names(model: nn.Module) -> dict[int, str]:
    """By identity of each forward weight of known layers, in the model's order: its first name.

    Counted over the whole model, so that a weight's seed and depth do not depend on ``where``.
    """
    names: dict[int, str] = {}
    for name, module in model.named_modules():
        for weight_name in forward_weight_names(module):
            names.setdefault(id(module._parameters[weight_name]), _join(name, weight_name))
    return names


def _join(module_name: str, weight_name: str) -> str:
    """A forward weight goes by the name of its layer, unless the layer has several."""
    if weight_name == "weight":
        return module_name or "weight"
    return f"{module_name}.{weight_name}".removeprefix(".")
