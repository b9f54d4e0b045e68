"""Give a model a learning rule, and take it away again."""

from typing import cast

import torch
from torch import Tensor, nn

from alignonce import direct
from alignonce.conversion.compression import AskedFormat, Compression, check_format
from alignonce.conversion.eligibility import ConversionPlan, Where, plan_conversion
from alignonce.conversion.layer_feedback import give_feedback
from alignonce.conversion.refusals import is_norm, weights_in
from alignonce.direct.plan import plan_direct_feedback
from alignonce.formats import Dense
from alignonce.formats.compressed import HeldFeedback
from alignonce.layers.base import FeedbackLayer
from alignonce.model_access import (
    Inputs,
    call_arguments,
    check_inputs,
    exact_gradients,
    qualified,
    refuse_flat_parameters,
    unwrap,
)
from alignonce.rules.base import Backpropagation, LearningRule
from alignonce.rules.direct import DirectFeedback
from alignonce.rules.fixed import FixedScale, RandomFeedback
from alignonce.summary import FeedbackRow, RuleSummary

__all__ = ["Where", "set_learning_rule"]

_SEVERAL_IN_ONE = (nn.MultiheadAttention, nn.RNNBase, nn.RNNCellBase)
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
            stands for all that is in the module too), or a function of a module's name and the module. A
            pattern that begins with "!" excludes what it matches, wherever it stands in the list; with
            excluding patterns only, all else is selected: ``"!head"`` is all but the head.
        format: how feedback weights are stored and multiplied (:mod:`alignonce.formats`); other than
            ``Dense()`` only for rules whose feedback weights stay fixed. ``"auto"`` measures on this device
            for each sort of layer which formats pay, and takes the most aligned of the fastest: it needs
            ``inputs``, of training's batch size, and takes about a second for each sort of layer, several
            for weights of 4096 x 4096. A measurement is kept until the process ends; to have the same
            formats elsewhere, pass the mapping ``summary.formats``: from names or globs of forward weights
            to formats, the first that fits; the rest is dense.
        unconvertible: what to do with layers that should be converted and cannot be (of an unknown kind,
            quantised, with weights that are all zero, ...): ``"raise"``, or ``"exact"`` to leave them with
            exact gradients. Weights with NaN or infinite values are always an error.
        norms: how the error goes back through the scale of norm layers (BatchNorm, InstanceNorm, LayerNorm,
            GroupNorm, RMSNorm), whatever the rule: ``"exact"``, as in backpropagation, or ``"fixed"``,
            through the scale's value of this moment, which is kept as a buffer. Their scales are no forward
            weights: they have rows in the summary, but are not among ``feedback_weights`` or ``alignment``.
        inputs: a batch: one tensor, or a sequence of positional or a mapping of keyword arguments.
            :class:`DirectFeedback` and ``format="auto"`` need one. Given one, the model is run once without
            a trace: layers that it does not call are named in the summary, and those whose weights it reads
            all the same cannot be converted. And :class:`LowRank` keeps what errors need: random ones are
            sent back through the model once, by its exact gradients.

    Returns:
        A summary that prints as a table: each forward weight with its rule, format, cosine and extra
        bytes, and each module that was left exact, with the reason.

    Raises:
        TypeError: if ``model`` is no module, ``rule`` no learning rule, ``format`` no format, ``where``
            none of the above, or ``inputs`` no arguments of the model.
        ValueError: if the rule cannot have the format, a format's name or pattern is unknown, or ``"auto"``
            has no ``inputs``, if there is nothing to convert, if layers cannot be converted (all are named),
            if a pattern in ``where`` matches nothing, or if forward weights hold NaN or infinite values (all
            are named).
        RuntimeError: if the model was wrapped by FSDP1.

    Example:
        >>> model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
        >>> summary = set_learning_rule(model, SoftAlignment(cosine=0.5, seed=0))
        >>> [(row.name, round(row.cosine, 3)) for row in summary.rows]
        [('0', 0.5), ('2', 0.5)]
        >>> loss = model(torch.randn(32, 8)).square().mean()
        >>> loss.backward()  # the error goes back through B
    """
    _check_arguments(model, rule, unconvertible, norms)
    check_format(rule, format, inputs)
    model = unwrap(model)
    refuse_flat_parameters(model)
    check_inputs(model, inputs)
    # A tensor that is made in inference mode could never be saved for a backward pass.
    with torch.inference_mode(False), torch.set_grad_enabled(torch.is_grad_enabled()):
        if rule.has_direct_feedback:
            return _set_direct_feedback(model, cast(DirectFeedback, rule), where, norms, inputs)
        return _set_layer_feedback(model, rule, where, format, unconvertible, norms, inputs)


def _set_layer_feedback(
    model: nn.Module,
    rule: LearningRule,
    where: Where,
    format: AskedFormat,
    unconvertible: str,
    norms: str,
    inputs: Inputs | None,
) -> RuleSummary:
    plan = plan_conversion(model, rule, where, norms)
    if not rule.has_layer_feedback:
        _make_plain(model, plan, where)
        return RuleSummary(rule, (), plan.exact, 0, plan.all_weights)
    _check_plan(plan, where, unconvertible)
    if inputs is not None:
        plan = plan.after_a_run(model, inputs)
        _check_plan(plan, where, unconvertible)
    carriers = {name: layer for name, layer in plan.layers.items() if not is_norm(layer)}
    compression = Compression(model, carriers, plan.names, format, inputs)
    feedback: dict[int, HeldFeedback] = {}
    depths = {key: depth for depth, key in enumerate(plan.names)}
    rows: list[FeedbackRow] = []
    for name, layer in plan.layers.items():
        layer_rule = FixedScale() if is_norm(layer) else rule
        for weight_name in weights_in(layer):
            weight = getattr(layer, weight_name)
            shared = id(weight) in feedback
            if not shared:
                first, depth = plan.names.get(id(weight), name), depths.get(id(weight), 0)
                value: HeldFeedback = layer_rule.feedback_for(weight, first, depth)
                if isinstance(value, Tensor) and name in carriers:
                    value = compression.compress(name, first, value)
                feedback[id(weight)] = value
            row = FeedbackRow.of(
                qualified(name, weight_name), layer, layer_rule, weight, feedback[id(weight)], shared
            )
            rows.append(compression.describe(name, row, weight, feedback[id(weight)]))

    # From here on nothing fails.
    _make_plain(model, plan, where)
    for layer in plan.layers.values():
        give_feedback(
            layer,
            FixedScale() if is_norm(layer) else rule,
            {n: feedback[id(layer._parameters[n])] for n in weights_in(layer)},
        )
    return RuleSummary(
        rule, tuple(rows), plan.exact, plan.converted_weights, plan.all_weights, tuple(sorted(plan.idle))
    )


def _make_plain(model: nn.Module, plan: ConversionPlan, where: Where) -> None:
    """Take away the feedback that a model has from earlier calls, from what the plan is about."""
    if where is None:
        direct.uninstall(model)
    for name, module in model.named_modules():
        if name in plan.selected and isinstance(module, FeedbackLayer):
            module.end_feedback()


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
        return norms == "fixed" and is_norm(module) and bool(list(module.parameters(recurse=False)))

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
    direct.install(plan, rule)
    conversion = plan_conversion(model, Backpropagation(), None, norms)
    rows = (*(FeedbackRow.of_tap(tap, rule) for tap in plan.taps), *scales)
    return RuleSummary(rule, rows, tuple(item for item in conversion.exact if not item.refused))


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


def _check_plan(plan: ConversionPlan, where: Where, unconvertible: str) -> None:
    if plan.refused and unconvertible == "raise":
        raise ValueError(
            "these layers cannot be converted:\n"
            + "\n".join(f"  {module}" for module in plan.refused)
            + "\nexclude them with where= (where='!name' selects all but name), or leave them exact with "
            "unconvertible='exact'"
        )
    if not plan.layers:
        raise ValueError(
            "the model has nothing to convert: no Linear, Bilinear, convolution, attention or recurrent layer"
            + ("" if where is None else " among the modules that where= selects")
            + "".join(f"\n  {module}" for module in plan.exact[:10])
        )
