"""The proof that a backward pass reads no forward weight.

A model runs forward once. Then each forward weight, and each tensor that was computed from forward weights
alone (a cast under autocast, a transpose, a normalised copy), is overwritten with NaN behind autograd's
back, and the backward pass runs. A gradient that changes has read the weight.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils._pytree import tree_leaves, tree_map_only

from alignonce.audit.compiled_gradients import compiled_otherwise, eagerly, gradients
from alignonce.audit.weight_copies import WeightCopies
from alignonce.distributed import unsharded
from alignonce.layers.base import FeedbackLayer
from alignonce.model_access import Inputs, call_arguments, unwrap
from alignonce.summary import table
from alignonce.undisturbed import allowing_requires_grad, undisturbed

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
    """The outcome of ``audit_weight_transport``; prints as a table.

    Example:
        >>> model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
        >>> report = audit_weight_transport(model, torch.randn(32, 8), torch.Tensor.sum)
        >>> [row.module for row in report.culprits]  # under backpropagation
        ['0', '2']
    """

    rows: tuple[AuditRow, ...]
    """One for each parameter, in the model's order."""
    copied_by_rules: tuple[str, ...] = ()
    """What learning rules copy from forward weights between backward passes, as they state themselves."""

    compiled_otherwise: tuple[str, ...] = ()
    """Parameters for which compiled code computes other gradients than the model itself."""

    @property
    def culprits(self) -> tuple[AuditRow, ...]:
        """The parameters that are read backwards."""
        return tuple(row for row in self.rows if row.transports)

    @property
    def free_of_transport(self) -> bool:
        """Whether no gradient depends on another layer's forward weight, and no rule copies one.

        Compiled code must compute the model's own gradients, too.
        """
        return not (self.culprits or self.copied_by_rules or self.compiled_otherwise)

    def __str__(self) -> str:
        rows = [(r.module or "(the model itself)", r.kind, r.parameter, r.verdict) for r in self.rows]
        ends = [f"weight transport by the learning rule: {copied}" for copied in self.copied_by_rules]
        if self.compiled_otherwise:
            ends.append(
                f"the compiled code computes other gradients than the model for "
                f"{len(self.compiled_otherwise)} parameters ({', '.join(self.compiled_otherwise[:3])}, ...): "
                "it was compiled before the model was changed; call torch.compiler.reset()"
            )
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

    A forward weight is a parameter by which an error is multiplied on its way to a layer's input, and so is
    what is computed from parameters alone. What a layer is given as its input is a signal, be it a learnt
    query; a bare parameter that is multiplied with a signal is a weight. Forward passes that run again in the
    backward pass (checkpoints, adjoint solvers) may read weights; what they keep for gradients may not.

    The model is run as it is given: compiled, or in any wrapper. Of compiled code it is found out whether it
    computes the gradients that its model computes without; the rows are of the latter.

    The model is left as it was: parameters, their gradients, buffers, and the global random state. One that
    is spread over processes (:mod:`alignonce.distributed`) is gathered for the audit: all processes must
    call it with the same inputs.

    Args:
        model: any module, with or without a learning rule.
        inputs: a batch: one tensor, or a sequence of positional or a mapping of keyword arguments.
            Gradients of floating-point inputs are compared too, so that the first layer is audited.
        loss: maps the model's output to a scalar; targets are best closed over. It is called several times.

    Returns:
        A report of a row for each parameter; ``report.free_of_transport`` is the verdict.

    Raises:
        ValueError: if the model has no parameters, the loss is no scalar or not finite, or no gradient
            reaches the parameters; if compiled code draws random numbers in a way of its own, so that it
            cannot be held against the model; if a checkpoint with ``use_reentrant=True`` would run hooks on
            accumulated gradients.

    Example:
        >>> model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
        >>> _ = set_learning_rule(model, RandomFeedback())
        >>> x, y = torch.randn(32, 8), torch.randint(4, (32,))
        >>> report = audit_weight_transport(model, x, lambda out: nn.functional.cross_entropy(out, y))
        >>> report.free_of_transport
        True
    """
    inside = unwrap(model)
    with unsharded(inside), _without_averaging(model), torch.enable_grad():
        rows, others = _audit(model, inputs, loss)
        return TransportReport(rows, _copied_by_rules(inside), others)


def _audit(
    model: nn.Module, inputs: Inputs, loss: Callable[[Any], Tensor]
) -> tuple[tuple[AuditRow, ...], tuple[str, ...]]:
    """The rows, and the parameters for which compiled code computes other gradients than the model."""
    inside = unwrap(model)
    parameters = dict(inside.named_parameters())
    if not parameters:
        raise ValueError("the model has no parameters to audit")
    others = compiled_otherwise(model, inputs, loss, parameters)
    torch.clear_autocast_cache()  # of copies that were made unseen
    args, kwargs, float_inputs = _prepare(inputs)
    copies = WeightCopies(parameters, tree_leaves((args, kwargs)))
    # Operation by operation, which compiled code does not show; what it computes is compared.
    with eagerly(), undisturbed(inside), copies.hooked(model):
        with copies, allowing_requires_grad():
            value = loss(model(*args, **kwargs))
        _check_loss(value)
        targets = {k: p for k, p in parameters.items() if p.requires_grad} | float_inputs
        backward = _BackwardPasses(value, targets, copies)
        changed = backward.changes()
    return tuple(_rows(inside, parameters, changed)), others


def _rows(
    model: nn.Module, parameters: Mapping[str, Tensor], changed: Mapping[str, set[str]]
) -> Iterator[AuditRow]:
    for module_name, module in model.named_modules():
        for name, _ in module.named_parameters(recurse=False):
            full = f"{module_name}.{name}".removeprefix(".")
            if full not in parameters:
                continue  # shared with an earlier module, where it has its row
            of_others = changed[full] - {full}
            yield AuditRow(
                module_name, type(module).__name__, name, tuple(sorted(of_others)), full in changed[full]
            )


def _copied_by_rules(model: nn.Module) -> tuple[str, ...]:
    rules = [m.learning_rule for m in model.modules() if isinstance(m, FeedbackLayer)]
    return tuple(dict.fromkeys(f"{rule} copies {rule.transports}" for rule in rules if rule.transports))


def _prepare(inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any], dict[str, Tensor]]:
    """Fresh inputs, with gradients where they are floating-point: the caller's stay as they are."""
    floats: dict[str, Tensor] = {}

    def fresh(tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point():
            return tensor
        copy = tensor.detach().clone().requires_grad_()
        floats[f"input {len(floats)}"] = copy
        return copy

    args, kwargs = tree_map_only(Tensor, fresh, call_arguments(inputs))
    return args, kwargs, floats


def _check_loss(value: object) -> None:
    if not isinstance(value, Tensor) or value.numel() != 1:
        shape = (
            f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        )
        raise ValueError(f"loss must return a scalar tensor, got {shape}")
    if not torch.isfinite(value).all():
        raise ValueError(f"loss must be finite to be audited, got {value.item()}")


class _BackwardPasses:
    """Backward passes from one loss, and which of its gradients depend on which weights."""

    def __init__(self, value: Tensor, targets: Mapping[str, Tensor], copies: WeightCopies) -> None:
        self._value, self._targets, self._copies = value, targets, copies
        self._error = torch.ones_like(value)
        self.clean = gradients(value, targets, self._error)
        if all(g is None for g in self.clean.values()):
            raise ValueError("loss does not depend on any parameter or input: no gradient to audit")
        with copies.watching(self._error) as read_for:
            again = gradients(value, targets, self._error)
            self._read = {name: read_for(g) for name, g in again.items() if g is not None}
        # How much a gradient differs between two equal passes: more than 0 only for unordered sums.
        self._noise = {
            name: _distance(g, other)
            for name, g in self.clean.items()
            if g is not None and (other := again[name]) is not None and g.numel()
        }

    def changes(self) -> dict[str, set[str]]:
        """For each parameter, the gradients that change when it and its copies are poisoned."""
        names = list(self._copies.parameters)
        changes: dict[str, set[str]] = {name: set() for name in names}
        everything = self._changed(names)
        if everything == {name for name, read in self._read.items() if read} and self._copies.apart:
            for target, read in self._read.items():
                for name in read:
                    changes[name].add(target)
        elif everything:
            # Something reads weights where PyTorch does not show it: by experiment then, in halves.
            self._search(names, everything, changes)
        return changes

    def _search(self, names: list[str], changed: set[str], found: dict[str, set[str]]) -> None:
        if len(names) == 1:
            found[names[0]] = changed
            return
        for part in (names[: len(names) // 2], names[len(names) // 2 :]):
            changed_by_part = self._changed(part)
            if changed_by_part:
                self._search(part, changed_by_part, found)

    def _poisoned_gradients(self, names: list[str], finite: bool = False) -> dict[str, Tensor | None]:
        with self._copies.poisoning(self._error, names, finite):
            return gradients(self._value, self._targets, self._error)

    def _changed(self, names: list[str]) -> set[str]:
        try:
            poisoned = self._poisoned_gradients(names)
        except Exception:
            # Where something checks its numbers, as an adaptive solver does.
            poisoned = self._poisoned_gradients(names, finite=True)
        return {
            name
            for name, noise in self._noise.items()
            if (before := self.clean[name]) is not None
            and (after := poisoned[name]) is not None
            and not _distance(before, after) <= 10 * noise  # NaN fails this too
        }


def _distance(a: Tensor, b: Tensor) -> float:
    return float((a.to_dense() - b.to_dense()).abs().max())


@contextmanager
def _without_averaging(model: nn.Module) -> Iterator[None]:
    """Let DistributedDataParallel expect no backward pass: the audit's passes are each process's own."""
    with ExitStack() as stack:
        for module in model.modules():
            if isinstance(module, DistributedDataParallel):
                stack.enter_context(module.no_sync())
        yield
