"""Products of the loss's Hessian or GGN with vectors, for hessian-eigenthings."""

import importlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from alignonce.diagnostics._measuring import (
    Batch,
    Loss,
    batch_shares,
    call,
    check_batches,
    check_model,
    learnt_parameters,
    loss_on,
)
from alignonce.model_access import exact_gradients
from alignonce.undisturbed import undisturbed

Matrix = Literal["hessian", "ggn"]


@contextmanager
def curvature_operator(
    model: nn.Module, batches: Iterable[Batch], loss: Loss, matrix: Matrix
) -> Iterator[tuple[Any, Any]]:
    """The library and its operator for products with the matrix, valid within the context."""
    library = _library()
    model = check_model(model)
    learnt_parameters(model)
    if matrix not in ("hessian", "ggn"):
        raise ValueError(f"matrix must be 'hessian' or 'ggn', got {matrix!r}")
    with undisturbed(model, "eval"), exact_gradients(model), _unfused(model):
        pairs = check_batches(batches)
        with torch.no_grad():
            for batch in pairs:
                loss_on(model, batch, loss)
        # The library averages over its "batches" alike: each loss brings its weight along. What it calls
        # batches are indices here, so that it never has to know how inputs are nested.
        weights = [share * len(pairs) for share in batch_shares(pairs)]
        indices = range(len(pairs))

        def loss_at(model: nn.Module, i: int) -> Tensor:
            value = loss_on(model, pairs[i], loss) * weights[i]
            # Adds nothing, but makes every gradient depend on every parameter: those that the loss does not
            # use, or is linear in, have a curvature of 0 and not an error.
            return value + 0 * sum(p.square().sum() for p in learnt_parameters(model).values())

        def loss_of_output(output: Tensor, i: int) -> Tensor:
            value: Tensor = loss(output, pairs[i][1]) * weights[i]
            return value + 0 * output.square().sum()

        yield (
            library,
            (
                library.HessianOperator(model, indices, loss_at)
                if matrix == "hessian"
                else library.GGNOperator(
                    model, indices, lambda adapter, i: call(adapter, pairs[i][0]), loss_of_output
                )
            ),
        )


@contextmanager
def _unfused(model: nn.Module) -> Iterator[None]:
    """Run attention and recurrent layers in operations that have the derivatives which curvature needs.

    Fused attention kernels have no second derivative, attention's fast path has none at all; the recurrent
    kernels of cuDNN have no second and those of oneDNN no forward-mode derivative.
    """
    recurrent = any(isinstance(module, nn.RNNBase) for module in model.modules())
    # Not through their flags(): that sets other things too, and warns of a missing Intel GPU.
    libraries: list[Any] = [torch.backends.cudnn, torch.backends.mkldnn] if recurrent else []
    enabled = [library.enabled for library in libraries]
    fast_path = torch.backends.mha.get_fastpath_enabled()
    try:
        torch.backends.mha.set_fastpath_enabled(False)
        for library in libraries:
            library.enabled = False
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
        for library, before in zip(libraries, enabled, strict=True):
            library.enabled = before


def _library() -> Any:
    try:
        return importlib.import_module("hessian_eigenthings")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "curvature needs the package hessian-eigenthings: pip install 'alignonce[diagnostics]'"
        ) from error
