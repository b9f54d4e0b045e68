"""Gradient flow: how large errors and updates are from the output back to the input."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import nn

from alignonce.diagnostics._measuring import Batch, Loss, check_batch, check_model, forward_weights
from alignonce.diagnostics._recording import record
from alignonce.undisturbed import undisturbed

__all__ = ["GradientFlow", "gradient_flow", "log_variance", "log_variance_over_steps"]


@dataclass(frozen=True)
class GradientFlow:
    """Norms of a backward pass, layer by layer, from output to input."""

    input_norms: dict[str, float]
    """‖dx‖ of the error that each layer sends back, by the layer's name; over the whole batch."""
    weight_norms: dict[str, float]
    """‖dW‖, by the weight's name."""
    input_log_variance: float
    """Variance over depth of ln ‖dx‖: 0 if errors neither grow nor fade."""
    weight_log_variance: float
    """Variance over depth of ln ‖dW‖."""


def gradient_flow(model: nn.Module, batch: Batch, loss: Loss) -> GradientFlow:
    """Measure the norms of dx and dW in each layer, under the model's learning rule.

    Inside ``exact_gradients(model)`` it measures backpropagation's.

    Args:
        model: any model, in the mode that it is to be measured in.
        batch: (inputs, targets).
        loss: takes the model's output and the targets, returns a scalar.

    Returns:
        The norms; weights and layers that the loss does not depend on do not appear, a layer that is called
        several times appears once, where its last call is.

    Raises:
        ValueError: if the batch is empty or the loss not finite.
    """
    model, batch = check_model(model), check_batch(batch)
    with undisturbed(model):
        recording = record(model, batch, loss)
        order = list(dict.fromkeys(call.name for call in reversed(recording.calls)))
        errors = recording.input_errors()
        names = {layer: name for name, layer in model.named_modules()}
        weights = [
            (names[layer], label, weight)
            for label, layer, key in forward_weights(model)
            if (weight := getattr(layer, key)).requires_grad
        ]
        gradients = recording.gradients([weight for _, _, weight in weights])
    depth = {name: position for position, name in enumerate(order)}
    found = [
        (depth.get(name, len(order)), label, float(gradient.double().norm()))
        for (name, label, _), gradient in zip(weights, gradients, strict=True)
        if gradient is not None
    ]
    weight_norms = {label: norm for _, label, norm in sorted(found, key=lambda row: row[0])}
    input_norms = {
        name: math.hypot(*(float(e.double().norm()) for e in errors[name]))
        for name in order
        if name in errors
    }
    return GradientFlow(
        input_norms, weight_norms, log_variance(input_norms.values()), log_variance(weight_norms.values())
    )


def log_variance(norms: Iterable[float]) -> float:
    """Variance of the natural logarithm of norms: the same for any unit of the loss.

    Args:
        norms: of any number of layers or steps.

    Returns:
        The population variance; infinite if some norms are 0 and others are not, NaN if there are none or
        all are 0.
    """
    values = np.array(list(norms), dtype=np.float64)
    if not values.any():
        return math.nan
    return math.inf if (values == 0).any() else float(np.log(values).var())


def log_variance_over_steps(norms: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Variance over training steps of the logarithm of norms, layer by layer.

    Args:
        norms: one mapping from layer to norm for each step, such as ``[f.input_norms for f in flows]``.

    Returns:
        By the layer's name: :func:`log_variance` of its norms.

    Raises:
        ValueError: if there are no steps, or their layers differ.
    """
    if not norms:
        raise ValueError("there are no steps")
    layers = norms[0].keys()
    if any(step.keys() != layers for step in norms):
        raise ValueError("the steps have different layers")
    return {layer: log_variance(step[layer] for step in norms) for layer in layers}
