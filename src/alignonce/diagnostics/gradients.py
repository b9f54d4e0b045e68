"""How far a learning rule's gradients are from the exact ones."""

from dataclasses import dataclass

from torch import Tensor, nn

from alignonce.diagnostics._measuring import (
    Batch,
    Loss,
    check_batch,
    check_model,
    forward_weights,
    learnt_parameters,
)
from alignonce.diagnostics._recording import record
from alignonce.diagnostics.agreement import Agreement, agreement
from alignonce.model_access import exact_gradients
from alignonce.undisturbed import undisturbed

__all__ = ["GradientComparison", "compare_gradients"]


@dataclass(frozen=True)
class GradientComparison:
    """The rule's gradients against the exact ones on the same batch."""

    weight: dict[str, Agreement]
    """Of dW, by the weight's name, in the model's order."""
    input: dict[str, Agreement]
    """Of dx, the error that a layer sends back to its input, by the layer's name, from input to output."""
    total: Agreement
    """Of all parameters' gradients as one vector, biases and norm layers included: the step that is taken."""


def compare_gradients(model: nn.Module, batch: Batch, loss: Loss) -> GradientComparison:
    """Compare the gradients of a model's learning rule with exact ones: angle and norm ratio.

    Both passes see the same random numbers (dropout). The first layer's dx is measured too: training does
    not use it, an attack on the input does. An attention's output projection has no dx here, since PyTorch
    computes its exact gradient in one call with the attention's.

    Args:
        model: any model, in the mode that it is to be measured in; one without a learning rule has angles 0.
        batch: (inputs, targets).
        loss: takes the model's output and the targets, returns a scalar.

    Returns:
        The agreements; weights and layers that the loss does not depend on do not appear.

    Raises:
        ValueError: if the batch is empty, the loss not finite, or no parameter requires a gradient.
    """
    model, batch = check_model(model), check_batch(batch)
    parameters = learnt_parameters(model)
    with undisturbed(model):
        recording = record(model, batch, loss)
        of_rule = _named(parameters, recording.gradients(list(parameters.values())))
        errors_of_rule = recording.input_errors()
    del recording  # the graph of one pass at a time
    with undisturbed(model), exact_gradients(model):
        recording = record(model, batch, loss)
        exact = _named(parameters, recording.gradients(list(parameters.values())))
        exact_errors = recording.input_errors()

    names = {id(p): name for name, p in parameters.items()}
    weights = {label: names.get(id(getattr(layer, key))) for label, layer, key in forward_weights(model)}
    return GradientComparison(
        weight={k: agreement(of_rule[n], exact[n]) for k, n in weights.items() if n in of_rule},
        input={
            name: agreement(errors, exact_errors[name])
            for name, errors in errors_of_rule.items()
            if name in exact_errors
        },
        total=agreement(list(of_rule.values()), list(exact.values())),
    )


def _named(parameters: dict[str, nn.Parameter], gradients: list[Tensor | None]) -> dict[str, Tensor]:
    return {n: g for n, g in zip(parameters, gradients, strict=True) if g is not None}
