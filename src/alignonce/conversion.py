"""Give a model a learning rule, and take it away again."""

from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase

from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

import alignonce.attention
import alignonce.recurrent  # noqa: F401  (both make their kinds of layers known)
from alignonce import direct
from alignonce.compression import AskedFormat, Compression, check_format
from alignonce.direct import DirectFeedback
from alignonce.direct_plan import plan_direct_feedback
from alignonce.formats import Dense, FeedbackFormat
from alignonce.formats.compressed import HeldFeedback
from alignonce.layers import FeedbackLayer, computes_like, feedback_class, feedback_name, layer_kind
from alignonce.model_access import Inputs, call_arguments, exact_gradients, qualified, unwrap, weight_names
from alignonce.norms import FixedScale
from alignonce.rules import Backpropagation, LearningRule, RandomFeedback, SoftAlignment
from alignonce.summary import ExactModule, FeedbackRow, RuleSummary

__all__ = ["Where", "set_learning_rule"]

Where = str | Sequence[str] | Callable[[str, nn.Module], bool] | None

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
    format: AskedFormat = _DENSE,
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
    check_format(rule, format, inputs)
    model = unwrap(model)
    if isinstance(rule, DirectFeedback):
        return _set_direct_feedback(model, rule, where, norms, inputs)
    selected = _selection(model, where)
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
        if where is None:
            direct.uninstall(model)
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

    names = weight_names(model)
    carriers = {name: layer for name, layer in layers.items() if not _is_norm(layer)}
    compression = Compression(model, carriers, names, format, inputs, _aligned)
    feedback: dict[int, HeldFeedback] = {}
    depths = {key: depth for depth, key in enumerate(names)}
    rows: list[FeedbackRow] = []
    for name, layer in layers.items():
        layer_rule = FixedScale() if _is_norm(layer) else rule
        for weight_name in _weights_in(layer):
            weight = getattr(layer, weight_name)
            shared = id(weight) in feedback
            if not shared:
                first, depth = names.get(id(weight), name), depths.get(id(weight), 0)
                value: HeldFeedback = layer_rule.feedback_for(weight, first, depth)
                if isinstance(value, Tensor) and name in carriers:
                    value = compression.compress(name, first, value)
                feedback[id(weight)] = value
            row = FeedbackRow.of(
                qualified(name, weight_name), layer, layer_rule, weight, feedback[id(weight)], shared
            )
            rows.append(compression.describe(name, row, weight, feedback[id(weight)]))
    if where is None:
        direct.uninstall(model)
    _free_norms(model, selected)
    for layer in layers.values():
        if not isinstance(layer, FeedbackLayer):
            layer.__class__ = feedback_class(type(layer))
        layer.start_feedback(
            FixedScale() if layer.is_norm else rule,
            {n: feedback[id(layer._parameters[n])] for n in _weights_in(layer)},
        )
    return RuleSummary(rule, tuple(rows), tuple(exact))


def _set_direct_feedback(
    model: nn.Module, rule: DirectFeedback, where: Where, norms: str, inputs: Inputs | None
) -> RuleSummary:
    if where is not None:
        raise ValueError(
            "where= does not go with DirectFeedback: choose its modules with DirectFeedback(taps=)"
        )
    if inputs is None:
        raise ValueError("DirectFeedback needs inputs=, a batch, to learn the shapes of the errors")
    with exact_gradients(model):
        plan = plan_direct_feedback(model, rule, *call_arguments(inputs))

    def has_weights_within(module: nn.Module) -> bool:
        return rule.taps == "layers" and isinstance(module, _SEVERAL_IN_ONE)

    def has_scale(module: nn.Module) -> bool:
        return norms == "fixed" and _is_norm(module) and bool(list(module.parameters(recurse=False)))

    def keeps_feedback(_: str, module: nn.Module) -> bool:
        return has_weights_within(module) or has_scale(module)

    scales: tuple[FeedbackRow, ...] = ()
    if any(keeps_feedback("", module) for module in model.modules()):
        # In one call, which is the last that may raise an error.
        kept = set_learning_rule(model, RandomFeedback(rule.seed), where=keeps_feedback, norms=norms)
        scales = tuple(row for row in kept.rows if isinstance(row.rule, FixedScale))
    if rule.taps == "layers":
        set_learning_rule(model, Backpropagation(), where=lambda *pair: not keeps_feedback(*pair))
    direct.uninstall(model)
    direct.install(plan)
    exact = _left_exact(model, _selection(model, None), norms)
    rows = (*(FeedbackRow.of_tap(tap, rule) for tap in plan.taps), *scales)
    return RuleSummary(rule, rows, tuple(item for item in exact if not item.refused))


def _aligned(layer: nn.Module, format: FeedbackFormat) -> float:
    """Give a layer feedback weights that are aligned as far as a format lets them; return the cosine."""
    rows = set_learning_rule(layer, SoftAlignment(1.0), format=format).rows
    return sum(row.cosine for row in rows) / len(rows)


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
