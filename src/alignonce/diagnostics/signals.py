"""Functional alignment: whether B says the same as W about the errors that there are.

The weight cosine weighs all directions alike. The errors of a batch live in a few of them, and what is learnt
lies just there: so W can turn away from B where it matters while their cosine stays near 1.
"""

from collections import defaultdict

import torch
from torch import Tensor, nn

from alignonce.diagnostics._measuring import Batch, Loss, check_batch, check_model
from alignonce.diagnostics._recording import LayerCall, record, send_back
from alignonce.diagnostics.agreement import Agreement, agreement
from alignonce.layers import FeedbackLayer, forward_weight_names
from alignonce.model_access import feedback_weights, weight_names
from alignonce.undisturbed import undisturbed

__all__ = ["functional_alignment"]

# The input projections of attention with keys or values of other sizes each have one input of their own.
_OWN_ARGUMENT = {"q_proj_weight": 0, "k_proj_weight": 1, "v_proj_weight": 2}


def functional_alignment(model: nn.Module, batch: Batch, loss: Loss) -> dict[str, Agreement]:
    """Compare the signals Bᵀg and Wᵀg that B and W make of a batch's own errors g, layer by layer.

    The errors are those that reach the layer under the model's learning rule (inside
    ``exact_gradients(model)``: the exact ones). Bᵀg is the layer's whole backward map: a transposed
    convolution, both inputs of a bilinear layer, attention's own backward pass before its input projections,
    a recurrent layer's way back through time with all its weights (one entry, by the layer's name).
    All samples and positions count as one long vector, so that large errors weigh more.

    Args:
        model: a model with a learning rule, in the mode that it is to be measured in.
        batch: (inputs, targets).
        loss: takes the model's output and the targets, returns a scalar.

    Returns:
        Agreement of Bᵀg with Wᵀg by the weight's name, in the order of the forward pass; layers that no
        error reaches do not appear, nor do recurrent layers that run on packed sequences.

    Raises:
        ValueError: if the model has no feedback weights, the batch is empty or the loss not finite.
    """
    model, batch = check_model(model), check_batch(batch)
    if not any(True for _ in feedback_weights(model)):
        raise ValueError("the model has no feedback weights: give it a learning rule first")
    through_b: dict[str, list[Tensor]] = defaultdict(list)
    through_w: dict[str, list[Tensor]] = defaultdict(list)
    names = weight_names(model)
    with undisturbed(model):
        recording = record(model, batch, loss)
        calls = [call for call in recording.calls if isinstance(call.layer, FeedbackLayer)]
        errors = iter(recording.gradients([output for call in calls for output in call.outputs]))
        for call in calls:
            g = [next(errors) for _ in call.outputs]
            if not call.data or all(part is None for part in g):
                continue
            filled = [torch.zeros_like(y) if e is None else e for y, e in zip(call.outputs, g, strict=True)]
            for signals, forward in ((through_b, False), (through_w, True)):
                # The same random numbers both times, should attention drop some.
                with undisturbed(call.layer):
                    for name, parts in _by_weight(call, send_back(call, filled, forward), names):
                        signals[name] += parts
    return {name: agreement(through_b[name], through_w[name]) for name in through_b}


def _by_weight(
    call: LayerCall, signals: list[Tensor], names: dict[int, str]
) -> list[tuple[str, list[Tensor]]]:
    """For each weight of a layer, the signals that it makes; those to one and the same tensor added up."""
    if isinstance(call.layer, nn.RNNBase | nn.RNNCellBase):
        return [(call.name, signals)]
    sums: dict[int, Tensor] = {}
    for tensor, signal in zip(call.data, signals, strict=True):
        sums[id(tensor)] = sums[id(tensor)] + signal if id(tensor) in sums else signal
    return [
        (
            names[id(getattr(call.layer, weight))],
            [signals[_OWN_ARGUMENT[weight]]] if weight in _OWN_ARGUMENT else list(sums.values()),
        )
        for weight in forward_weight_names(call.layer)
    ]
