"""Parameters as one flat vector, and back."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from alignonce.model_access import unwrap

Solution = nn.Module | Mapping[str, Tensor] | Tensor
"""Forward weights: a model, a state_dict, or a flat vector as :func:`parameter_vector` makes it."""


def parameter_vector(solution: Solution, model: nn.Module) -> Tensor:
    """All parameters as one vector, in the order of the model's ``named_parameters``.

    Args:
        solution: a model of the same architecture, a state_dict of one, or already a vector.
        model: says which parameters there are.

    Returns:
        (parameters,), float64, on the CPU; exact for float32 and below.

    Raises:
        ValueError: if a parameter is missing or has another shape.
    """
    parameters = dict(model.named_parameters())
    if isinstance(solution, Tensor):
        size = sum(p.numel() for p in parameters.values())
        if solution.shape != (size,):
            raise ValueError(
                f"the model has {size} parameters, got a vector of shape {tuple(solution.shape)}"
            )
        return solution.detach().to("cpu", torch.float64)
    tensors = dict(unwrap(solution).named_parameters()) if isinstance(solution, nn.Module) else solution
    for name, parameter in parameters.items():
        if name not in tensors:
            raise ValueError(f"the solution has no parameter {name!r}")
        if tensors[name].shape != parameter.shape:
            shapes = f"{tuple(tensors[name].shape)}, not {tuple(parameter.shape)}"
            raise ValueError(f"the solution's parameter {name!r} has shape {shapes}")
    return torch.cat([tensors[n].detach().reshape(-1).to("cpu", torch.float64) for n in parameters])


def set_parameters(model: nn.Module, vector: Tensor) -> None:
    """Write a vector, as :func:`parameter_vector` makes it, into the model."""
    parameters = list(model.parameters())
    for parameter, part in zip(parameters, vector.split([p.numel() for p in parameters]), strict=True):
        parameter.data.copy_(part.reshape(parameter.shape))


@contextmanager
def parameters_restored(model: nn.Module) -> Iterator[None]:
    """Within the context parameters may be overwritten; after it they are, bit for bit, as before.

    Writing goes through ``.data``, which autograd does not see: a graph of the caller's stays valid.
    """
    saved = [(parameter, parameter.detach().clone()) for parameter in model.parameters()]
    try:
        yield
    finally:
        for parameter, values in saved:
            parameter.data.copy_(values)
