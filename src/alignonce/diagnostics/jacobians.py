"""Singular values of the maps by which layers send errors back, through W and through B."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from alignonce.diagnostics._measuring import Batch, Loss, check_batch, check_model, forward_weights
from alignonce.diagnostics._recording import LayerCall, record, send_back
from alignonce.layers import FeedbackLayer
from alignonce.undisturbed import undisturbed

__all__ = ["JacobianSpectrum", "layer_singular_values"]

_OVERSAMPLING = 10
_ITERATIONS = 20


@dataclass(frozen=True)
class JacobianSpectrum:
    """Leading singular values of one layer's backward map g ↦ dx, largest first."""

    exact: tuple[float, ...]
    """Through W."""
    feedback: tuple[float, ...]
    """Through B; of a layer without a feedback weight, the same as ``exact``."""


def layer_singular_values(
    model: nn.Module, batch: Batch, loss: Loss, count: int = 10, seed: int = 0
) -> dict[str, JacobianSpectrum]:
    """Leading singular values of each layer's backward map: of the exact one and of the learning rule's.

    A linear layer's map is its matrix, whose singular values are computed directly, as are those of each
    input projection of attention. The map of a convolution depends on the input's size, that of a bilinear
    layer on its inputs: theirs are found by subspace iteration at the batch's first sample; values that lie
    close together converge slowly.

    Source: Halko, Martinsson & Tropp 2011, doi:10.1137/090771806, algorithm 4.4.

    Args:
        model: any model.
        batch: (inputs, targets); gives the layers their inputs.
        loss: takes the model's output and the targets, returns a scalar.
        count: how many singular values; fewer where a map has fewer.
        seed: of the random start.

    Returns:
        By the weight's name, in the model's order; convolutions and bilinear layers that were not called
        do not appear.

    Raises:
        ValueError: if ``count`` is not positive, the batch is empty or the loss not finite.
    """
    model, batch = check_model(model), check_batch(batch)
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    spectra = {}
    with undisturbed(model):
        calls = {call.layer: call for call in reversed(record(model, batch, loss).calls)}
        for name, layer, weight_name in forward_weights(model):
            if (weight := getattr(layer, weight_name)).dim() == 2:
                feedback = layer.feedback_of(weight_name) if isinstance(layer, FeedbackLayer) else weight
                exact, of_rule = (_matrix_values(matrix, count) for matrix in (weight, feedback))
            elif layer in calls:
                exact = _map_values(calls[layer], True, count, seed)
                is_plain = not isinstance(layer, FeedbackLayer)
                of_rule = exact if is_plain else _map_values(calls[layer], False, count, seed)
            else:
                continue
            spectra[name] = JacobianSpectrum(exact, of_rule)
    return spectra


def _matrix_values(matrix: Tensor, count: int) -> tuple[float, ...]:
    values = torch.linalg.svdvals(matrix.detach().to("cpu", torch.float64))
    return tuple(float(value) for value in values[:count])


def _map_values(call: LayerCall, through_forward_weight: bool, count: int, seed: int) -> tuple[float, ...]:
    """Subspace iteration with the map and its adjoint, a whole block of vectors going through as a batch."""
    inputs = [_first_sample(call.layer, tensor) for tensor in call.data]
    shape = _first_sample(call.layer, call.outputs[0]).shape[1:]
    block = min(count + _OVERSAMPLING, shape.numel(), sum(x.numel() for x in inputs))
    single = LayerCall(call.name, call.layer, tuple(x.expand(block, *x.shape[1:]) for x in inputs))

    def back(errors: Tensor, create_graph: bool = False) -> Tensor:
        signals = send_back(single, [errors.unflatten(1, shape)], through_forward_weight, create_graph)
        return torch.cat([signal.flatten(1) for signal in signals], dim=1)

    def adjoint(signals: Tensor) -> Tensor:
        # The map is linear in the errors: the gradient of <back(g), v> with respect to g is its adjoint at v.
        errors = signals.new_zeros(block, shape.numel(), requires_grad=True)
        return torch.autograd.grad(back(errors, create_graph=True), errors, signals)[0]

    start = torch.randn(block, shape.numel(), generator=torch.Generator().manual_seed(seed))
    errors = _orthonormal(start.to(call.outputs[0]))
    for _ in range(_ITERATIONS):
        errors = _orthonormal(adjoint(_orthonormal(back(errors))))
    return _matrix_values(back(errors), count)


def _first_sample(layer: nn.Module, tensor: Tensor) -> Tensor:
    """The first sample of a batch, or the only one where there is no batch, with a batch dimension of 1."""
    tensor = tensor.detach()
    if isinstance(layer, nn.modules.conv._ConvNd):
        return tensor[:1] if tensor.dim() == len(layer.kernel_size) + 2 else tensor.unsqueeze(0)
    return tensor.reshape(-1, tensor.shape[-1])[:1]


def _orthonormal(rows: Tensor) -> Tensor:
    basis: Tensor = torch.linalg.qr(rows.T).Q
    return basis.T
