"""Gradients for the audit, and what compiled code makes of them."""

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.utils._pytree import tree_map_only

from alignonce.model_access import Inputs, call_arguments, unwrap
from alignonce.undisturbed import undisturbed

__all__ = ["compiled_otherwise", "eagerly", "gradients"]

_TOLERANCE = 0.05
"""Of the norm of a gradient: fused code rounds less often to 16 bits than other code does."""

_ROUNDING = 1e-3
"""Gradients below this part of the largest one may be rounding alone."""


def gradients(
    value: Tensor, targets: Mapping[str, Tensor], error: Tensor, retain_graph: bool = True
) -> dict[str, Tensor | None]:
    """Gradients of a value by name of the target, whose ``.grad`` stays as it is.

    Args:
        value: a scalar.
        targets: leaves that require gradients, by name.
        error: where the backward pass starts: a tensor of ones.
        retain_graph: whether there will be another backward pass.

    Returns:
        By name; None where there is none.

    Raises:
        ValueError: if a parameter has a hook that acts on accumulated gradients where these must be used.
    """
    tensors = list(targets.values())
    nodes = list(_nodes(value))
    if not any("CheckpointFunction" in node.name() for node in nodes):
        found = torch.autograd.grad(value, tensors, error, retain_graph=retain_graph, allow_unused=True)
        return dict(zip(targets, found, strict=True))
    # Checkpoints with use_reentrant=True know backward() only, which adds to .grad.
    leaves = {id(t): t for t in (*tensors, *(n.variable for n in nodes if hasattr(n, "variable")))}
    if any(leaf._post_accumulate_grad_hooks for leaf in leaves.values()):
        raise ValueError(
            "with use_reentrant=True in a checkpoint, the audit would run the hooks that "
            "register_post_accumulate_grad_hook gave to parameters: remove them, or use_reentrant=False"
        )
    before = [(leaf, leaf.grad) for leaf in leaves.values()]
    try:
        for leaf, _ in before:
            leaf.grad = None
        value.backward(error, retain_graph=retain_graph)
        return {name: target.grad for name, target in targets.items()}
    finally:
        for leaf, grad in before:
            leaf.grad = grad


def compiled_otherwise(
    model: nn.Module, inputs: Inputs, loss: Callable[[Any], Tensor], parameters: Mapping[str, Tensor]
) -> tuple[str, ...]:
    """Find out whether compiled code computes other gradients than the model that it was compiled from.

    Both are held against each other with forward weights that are changed at random, so that code which reads
    W is not taken for code which reads a B that equals it. Everything is left as it was.

    Args:
        model: a model as it was given, compiled or wrapped, or with compiled parts.
        inputs: a batch. It is given as it is, requiring gradients or not: another one may be compiled anew.
        loss: maps the model's output to a scalar.
        parameters: the parameters, by name.

    Returns:
        Names of the parameters whose gradients differ by more than rounding; none if nothing is compiled.

    Raises:
        ValueError: if gradients differ and compiled code draws random numbers in a way of its own.
    """
    targets = {name: p for name, p in parameters.items() if p.requires_grad}

    def run() -> Tensor:
        args, kwargs = tree_map_only(
            Tensor, lambda x: x.detach().clone().requires_grad_(x.requires_grad), call_arguments(inputs)
        )
        return loss(model(*args, **kwargs))

    def gradients_now(seed: int | None = None) -> dict[str, Tensor | None]:
        with undisturbed(unwrap(model)):
            if seed is not None:
                torch.manual_seed(seed)
            value = run()
            found = gradients(value, targets, torch.ones_like(value), retain_graph=False)
            # Copies, since a CUDA graph uses their memory again.
            return {name: None if g is None else g.clone() for name, g in found.items()}

    if not _dynamo_is_loaded():
        return ()
    with undisturbed(unwrap(model)):
        if not _runs_compiled_code(model, run()):
            return ()
    with _changed_at_random(parameters):
        found = gradients_now()
        with eagerly():
            expected = gradients_now()
        others = _differing(found, expected)
        if others and _differing(gradients_now(seed=0), gradients_now(seed=1)):
            raise ValueError(
                "the compiled code has other gradients than the model without torch.compile, and it draws "
                "random numbers (dropout) in a way of its own, so that nothing can be concluded: audit "
                "model.eval(), or compile with torch._inductor.config.fallback_random = True"
            )
    return others


def eagerly() -> AbstractContextManager[Any]:
    """A context within which nothing runs as compiled code."""
    return torch.compiler.set_stance("force_eager") if _dynamo_is_loaded() else nullcontext()


@contextmanager
def _changed_at_random(parameters: Mapping[str, Tensor]) -> Iterator[None]:
    generator = torch.Generator().manual_seed(0)
    before = {name: p.detach().clone() for name, p in parameters.items()}
    try:
        for parameter in parameters.values():
            factor = 1 + 0.3 * torch.randn(parameter.shape, generator=generator, device="cpu")
            parameter.data.mul_(factor.to(parameter.device))
        yield
    finally:
        for name, parameter in parameters.items():
            parameter.data.copy_(before[name])


def _differing(these: Mapping[str, Tensor | None], those: Mapping[str, Tensor | None]) -> tuple[str, ...]:
    sizes = [float(torch.linalg.vector_norm(_dense(g))) for g in those.values() if g is not None]
    largest = max(sizes, default=0.0)
    return tuple(name for name, g in these.items() if not _equal(g, those[name], largest))


def _equal(a: Tensor | None, b: Tensor | None, largest: float) -> bool:
    if a is None or b is None:
        other = b if a is None else a
        return other is None or not other.any()
    a, b = _dense(a), _dense(b)
    # Where a gradient is zero but for rounding (the bias of a key), it is as large as rounding elsewhere.
    bound = _TOLERANCE * (float(torch.linalg.vector_norm(b)) + _ROUNDING * largest)
    return float(torch.linalg.vector_norm(a - b)) <= bound


def _dense(gradient: Tensor) -> Tensor:
    return gradient.to_dense().to(torch.promote_types(gradient.dtype, torch.float32))


def _runs_compiled_code(model: nn.Module, value: object) -> bool:
    """Return whether a module is compiled, or a function on the way to a loss is."""
    compiled_module = any(
        isinstance(module, torch._dynamo.OptimizedModule) or module._compiled_call_impl is not None
        for module in model.modules()
    )
    return isinstance(value, Tensor) and (
        compiled_module or any("CompiledFunction" in node.name() for node in _nodes(value))
    )


def _dynamo_is_loaded() -> bool:
    return "torch._dynamo" in sys.modules  # its import takes a second


def _nodes(value: Tensor) -> Iterator[Node]:
    waiting, seen = [value.grad_fn], set[Node | None]([None])
    while waiting:
        node = waiting.pop()
        if node not in seen:
            seen.add(node)
            assert node is not None  # for the type checker: None is seen from the start
            yield node
            waiting += [following for following, _ in node.next_functions]
