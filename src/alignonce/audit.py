"""The proof that a backward pass reads no forward weight.

A model runs forward once. Then each forward weight, and each tensor that was computed from forward weights
alone (a cast under autocast, a transpose, a normalised copy), is overwritten with NaN behind autograd's
back, and the backward pass runs. A gradient that changes has read the weight.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from alignonce.distributed import unsharded
from alignonce.layers import FeedbackLayer
from alignonce.model_access import Inputs, call_arguments, unwrap
from alignonce.summary import table

__all__ = ["AuditRow", "TransportReport", "audit_weight_transport"]


@dataclass(frozen=True)
class AuditRow:
    """What the backward pass does with one parameter."""

    module: str
    kind: str
    parameter: str
    changed: tuple[str, ...]
    """Other parameters and inputs whose gradients change when this one is poisoned."""
    local: bool
    """Whether its own gradient changes: it reads itself, as weight decay in the loss does."""

    @property
    def transports(self) -> bool:
        """Whether errors reach other layers through this parameter."""
        return bool(self.changed)

    @property
    def verdict(self) -> str:
        """The finding in words."""
        if self.transports:
            return f"read backwards ({len(self.changed)} gradients depend on it)"
        return "read by its own gradient only" if self.local else "not read"


@dataclass(frozen=True)
class TransportReport:
    """The outcome of ``audit_weight_transport``; prints as a table."""

    rows: tuple[AuditRow, ...]
    """One for each parameter, in the model's order."""
    copied_by_rules: tuple[str, ...] = ()
    """What learning rules copy from forward weights between backward passes, as they state themselves."""

    @property
    def culprits(self) -> tuple[AuditRow, ...]:
        """The parameters that are read backwards."""
        return tuple(row for row in self.rows if row.transports)

    @property
    def free_of_transport(self) -> bool:
        """Whether no gradient depends on another layer's forward weight, and no rule copies one."""
        return not self.culprits and not self.copied_by_rules

    def __str__(self) -> str:
        rows = [(r.module or "(the model itself)", r.kind, r.parameter, r.verdict) for r in self.rows]
        ends = [f"weight transport by the learning rule: {copied}" for copied in self.copied_by_rules]
        if self.culprits:
            ends.append(f"weight transport through {len(self.culprits)} of {len(self.rows)} parameters")
        end = "\n".join(ends) or "free of weight transport"
        return f"{table(('module', 'kind', 'parameter', 'backward pass'), rows)}\n\n{end}"


def audit_weight_transport(
    model: nn.Module,
    inputs: Inputs,
    loss: Callable[[Any], Tensor],
) -> TransportReport:
    """Find out which parameters the backward pass reads to carry errors to other layers.

    The model is left as it was: parameters, their gradients, buffers, and the global random state. One that
    is spread over processes (:mod:`alignonce.distributed`) is gathered for the audit: all processes must
    call it with the same inputs.

    Args:
        model: any module, with or without a learning rule.
        inputs: a batch: one tensor, or a sequence of positional or a mapping of keyword arguments.
            Gradients of floating-point inputs are compared too, so that the first layer is audited.
        loss: maps the model's output to a scalar; targets are best closed over.

    Returns:
        A report of a row for each parameter; ``report.free_of_transport`` is the verdict.

    Raises:
        ValueError: if the model has no parameters, the loss is no scalar or not finite, or no gradient
            reaches the parameters.
    """
    model = unwrap(model)
    with unsharded(model), _restored(model), torch.enable_grad():
        return TransportReport(tuple(_audit(model, inputs, loss)), _copied_by_rules(model))


def _audit(model: nn.Module, inputs: Inputs, loss: Callable[[Any], Tensor]) -> Iterator[AuditRow]:
    parameters = dict(model.named_parameters())
    if not parameters:
        raise ValueError("the model has no parameters to audit")
    args, kwargs, float_inputs = _prepare(inputs)
    tracer = _WeightCopies(parameters, tree_leaves((args, kwargs)))
    with tracer:
        value = loss(model(*args, **kwargs))
    _check_loss(value)
    targets = {k: p for k, p in parameters.items() if p.requires_grad} | float_inputs
    clean = _gradients(value, targets)
    if all(g is None for g in clean.values()):
        raise ValueError("loss does not depend on any parameter or input: no gradient to audit")
    tolerance = _noise_floor(clean, _gradients(value, targets))
    everything = _changed(value, targets, clean, tolerance, tracer.copies(list(parameters)))
    for module_name, module in model.named_modules():
        for name, _ in module.named_parameters(recurse=False):
            full = f"{module_name}.{name}".removeprefix(".")
            if full not in parameters:
                continue  # shared with an earlier module, where it has its row
            # The one pass with everything poisoned settles the common case; only where something
            # changed is each parameter poisoned on its own.
            changed = (
                _changed(value, targets, clean, tolerance, tracer.copies([full])) if everything else set()
            )
            others = tuple(sorted(changed - {full}))
            yield AuditRow(module_name, type(module).__name__, name, others, full in changed)


def _copied_by_rules(model: nn.Module) -> tuple[str, ...]:
    rules = [m.learning_rule for m in model.modules() if isinstance(m, FeedbackLayer)]
    return tuple(dict.fromkeys(f"{rule} copies {rule.transports}" for rule in rules if rule.transports))


class _WeightCopies(TorchDispatchMode):
    """Remembers every tensor that is computed from parameters and constants, but from no data."""

    def __init__(self, parameters: Mapping[str, Tensor], data: Sequence[Any]) -> None:
        super().__init__()
        self._sources: dict[int, frozenset[str]] = {}
        self._data: set[int] = {_memory(t) for t in data if isinstance(t, Tensor)}
        self._tensors: list[tuple[frozenset[str], Tensor]] = []
        # Tensors that are kept alive keep their memory, so that an address stands for one tensor.
        self._alive: list[Tensor] = []
        for name, parameter in parameters.items():
            self._remember(parameter.detach(), frozenset([name]))

    def copies(self, names: Sequence[str]) -> list[Tensor]:
        """The parameters of these names and all tensors computed from any of them."""
        wanted = set(names)
        return [tensor for sources, tensor in self._tensors if sources & wanted]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        outputs = func(*args, **(kwargs or {}))
        read = [_memory(t) for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        from_data = any(m in self._data for m in read)
        sources: frozenset[str] = frozenset().union(*(self._sources.get(m, frozenset()) for m in read))
        for output in tree_leaves(outputs):
            if not isinstance(output, Tensor):
                continue
            if from_data:
                self._alive.append(output.detach())
                self._data.add(_memory(output))
            elif sources and _memory(output) not in self._sources:
                self._remember(output.detach(), sources)
        return outputs

    def _remember(self, tensor: Tensor, sources: frozenset[str]) -> None:
        self._alive.append(tensor)
        self._sources[_memory(tensor)] = sources
        if tensor.is_floating_point() or tensor.dtype == torch.bool:
            self._tensors.append((sources, tensor))


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _prepare(inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any], dict[str, Tensor]]:
    """Fresh inputs, with gradients where they are floating-point: the caller's stay as they are."""
    floats: dict[str, Tensor] = {}

    def fresh(tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point():
            return tensor
        copy = tensor.detach().clone().requires_grad_()
        floats[f"input {len(floats)}"] = copy
        return copy

    args, kwargs = call_arguments(tree_map_only(Tensor, fresh, inputs))
    return args, kwargs, floats


def _check_loss(value: object) -> None:
    if not isinstance(value, Tensor) or value.numel() != 1:
        shape = (
            f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        )
        raise ValueError(f"loss must return a scalar tensor, got {shape}")
    if not torch.isfinite(value).all():
        raise ValueError(f"loss must be finite to be audited, got {value.item()}")


def _gradients(value: Tensor, targets: Mapping[str, Tensor]) -> dict[str, Tensor | None]:
    grads = torch.autograd.grad(value, list(targets.values()), retain_graph=True, allow_unused=True)
    return dict(zip(targets, grads, strict=True))


def _noise_floor(a: Mapping[str, Tensor | None], b: Mapping[str, Tensor | None]) -> dict[str, float]:
    """How much each gradient differs between two equal passes: more than 0 only for unordered sums."""
    return {
        k: float((x - y).abs().max())
        for k, x in a.items()
        if x is not None and (y := b[k]) is not None and x.numel()
    }


def _changed(
    value: Tensor,
    targets: Mapping[str, Tensor],
    clean: Mapping[str, Tensor | None],
    tolerance: Mapping[str, float],
    copies: list[Tensor],
) -> set[str]:
    with _poisoned(copies):
        poisoned = _gradients(value, targets)
    return {
        name
        for name, before in clean.items()
        if before is not None
        and (after := poisoned[name]) is not None
        and before.numel()
        and not float((after - before).abs().max()) <= 10 * tolerance[name]  # NaN fails this too
    }


@contextmanager
def _poisoned(tensors: list[Tensor]) -> Iterator[None]:
    """Overwrite tensors with NaN (flip booleans), in a way that autograd's version counter does not see."""
    hidden = [tensor.data for tensor in tensors]
    saved = [tensor.clone() for tensor in hidden]
    try:
        for tensor in hidden:
            if tensor.dtype == torch.bool:
                tensor.logical_not_()
            else:
                tensor.fill_(torch.nan)
        yield
    finally:
        for tensor, values in zip(reversed(hidden), reversed(saved), strict=True):
            tensor.copy_(values)


@contextmanager
def _restored(model: nn.Module) -> Iterator[None]:
    """Put back buffers (BatchNorm's statistics) and the global random state."""
    buffers = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    with torch.random.fork_rng():
        try:
            yield
        finally:
            with torch.no_grad():
                for buffer, values in buffers:
                    buffer.copy_(values)
