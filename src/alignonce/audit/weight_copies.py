"""Which tensors of forward and backward passes are copies of forward weights, and what reads them."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from alignonce.layers.kinds import layer_kind

__all__ = ["WeightCopies"]

_NOTHING: frozenset[str] = frozenset()


class WeightCopies(TorchDispatchMode):
    """Follows copies of weights through a forward pass, and poisons or watches them in backward passes.

    A copy is a tensor that is computed from parameters and constants, but from no data. What a layer of a
    known kind (:func:`alignonce.layers.layer_kind`) is given as its input is data, be it a parameter or a
    constant: so the output of a layer for a learnt query or a table of positions is a signal and no copy of
    the layer's weight. (Not so for a layer in a parametrisation, which is given a weight.) A bare parameter
    that is multiplied with a signal elsewhere is a weight.

    In a backward pass, an operation counts as a part of a forward pass that is run again (by a checkpoint, an
    adjoint solver, a reversible network), which may read weights, if gradients are on and it is within a
    module's forward, or reads nothing that was computed from the error. Copies that it makes are copies
    like others.

    Args:
        parameters: all parameters, by name.
        data: what the model is given; other things than tensors are passed over.
    """

    def __init__(self, parameters: Mapping[str, Tensor], data: Sequence[Any]) -> None:
        super().__init__()
        self.parameters = parameters
        # All by the address of a tensor's memory. What is kept alive keeps its memory, so that an address
        # stands for one tensor.
        self._sources: dict[int, frozenset[str]] = {}
        self._held: dict[int, list[Tensor]] = {}
        self._data: dict[int, Tensor] = {_memory(t): t for t in data if isinstance(t, Tensor)}
        self._errors: dict[int, Tensor] = {}
        self._read: dict[int, frozenset[str]] = {}
        self._backward = self._watching = False
        self._poisoned_names: Collection[str] = ()
        self._finite = False
        self._clean_values: dict[int, list[Tensor]] = {}
        self._depth, self._outermost_has_gradients = 0, False
        for name, parameter in parameters.items():
            self._remember(parameter.detach(), frozenset([name]))
        self._weights = frozenset(self._held)

    @property
    def apart(self) -> bool:
        """Whether each parameter has memory of its own, so that what reads it can be found."""
        return all(len(self._held[memory]) == 1 for memory in self._weights)

    @contextmanager
    def hooked(self, model: nn.Module) -> Iterator[None]:
        """Within the context, notice where modules run, and what layers are given."""

        def enter(*_: Any) -> None:
            if not self._depth:
                self._outermost_has_gradients = torch.is_grad_enabled()
            self._depth += 1

        def leave(*_: Any) -> None:
            self._depth -= 1

        def take_as_data(_: nn.Module, args: Any, kwargs: Any) -> Any:
            done: dict[int, Tensor] = {}  # one tensor given twice (query and key) stays one
            return tree_map_only(
                Tensor, lambda x: done.setdefault(id(x), self._as_data(x)), (args, kwargs)
            )  # fmt: skip

        of_weights = {
            m for p in model.modules() if isinstance(p, ParametrizationList) for m in p.modules()
        }  # fmt: skip
        layers = [
            m for m in model.modules() if m not in of_weights and layer_kind(type(m), norms=True) is not None
        ]
        handles = [
            *(module.register_forward_pre_hook(enter, prepend=True) for module in model.modules()),
            *(module.register_forward_hook(leave, always_call=True) for module in model.modules()),
            *(layer.register_forward_pre_hook(take_as_data, with_kwargs=True) for layer in layers),
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    @contextmanager
    def poisoning(self, error: Tensor, names: Collection[str], finite: bool = False) -> Iterator[None]:
        """Within the context, run a backward pass that starts at ``error`` and finds NaN in copies of these.

        That is done behind the back of autograd's version counter; booleans are flipped. With ``finite``,
        other numbers stand in place of NaN, for code that checks its numbers.
        """
        with self._backward_pass(error):
            self._poisoned_names, self._finite = names, finite
            try:
                for memory in [m for m, sources in self._sources.items() if not sources.isdisjoint(names)]:
                    self._poison(memory)
                with self:
                    yield
            finally:
                for memory in list(self._clean_values):
                    self._clean(memory)
                self._poisoned_names, self._finite = (), False

    @contextmanager
    def watching(self, error: Tensor) -> Iterator[Callable[[Tensor], frozenset[str]]]:
        """Within the context, run a backward pass that starts at ``error``.

        Yields:
            A function from a gradient to the names of the parameters that have been read on its way.
        """
        with self._backward_pass(error):
            self._watching = True
            try:
                with self:
                    yield lambda gradient: self._read.get(_memory(gradient), _NOTHING)
            finally:
                self._watching = False

    @contextmanager
    def _backward_pass(self, error: Tensor) -> Iterator[None]:
        before = dict(self._sources), dict(self._held), dict(self._data)
        self._errors, self._read = {_memory(error): error}, {}
        self._backward, self._depth = True, 0
        try:
            yield
        finally:
            self._backward = False
            self._sources, self._held, self._data = before
            self._errors, self._read = {}, {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        read = {_memory(t): t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        if self._backward and not self._runs_forward(read):
            return self._run_backward(func, args, kwargs, read)
        with self._clean_for_now(read):
            outputs = func(*args, **kwargs)
        from_data = any(memory in self._data or memory in self._errors for memory in read)
        sources = _NOTHING.union(*(self._sources.get(memory, _NOTHING) for memory in read))
        for output in _tensors(outputs):
            memory = _memory(output)
            if from_data:
                # A copy that data is added to in place stays one as well: a part of it may be as it was.
                if memory not in self._weights:
                    self._data[memory] = output.detach()
            elif sources and memory not in self._sources:
                self._remember(output.detach(), sources)
                if not sources.isdisjoint(self._poisoned_names):
                    self._poison(memory)
        return outputs

    def _runs_forward(self, read: Mapping[int, Tensor]) -> bool:
        if self._depth:
            # Within a module and not by the mode of now, which an autograd function's forward turns off.
            return self._outermost_has_gradients
        return torch.is_grad_enabled() and not any(memory in self._errors for memory in read)

    def _run_backward(self, func: Any, args: Any, kwargs: Any, read: Mapping[int, Tensor]) -> Any:
        outputs = func(*args, **kwargs)
        fresh = {m: o for o in _tensors(outputs) if (m := _memory(o)) not in self._sources}
        copies = {memory: self._sources[memory] for memory in read if memory in self._sources}
        if self._watching:
            reads = _NOTHING.union(*(self._read.get(memory, _NOTHING) for memory in read))
            for memory in fresh:
                self._read[memory] = self._read.get(memory, _NOTHING) | reads
            self._find_reads(func, args, kwargs, outputs, copies)
        from_error = bool(copies) or any(memory in self._errors for memory in read)
        for memory, output in fresh.items():
            if from_error and memory not in self._data:
                self._errors[memory] = output.detach()
            elif any(m in self._data for m in read):
                self._data.setdefault(memory, output.detach())
        return outputs

    def _find_reads(
        self, func: Any, args: Any, kwargs: Any, outputs: Any, copies: Mapping[int, frozenset[str]]
    ) -> None:
        """Run an operation again for each copy that it is given, poisoned, and see which outputs change.

        Not all do: a fused operation that returns the gradient of a weight does not read the weight for it.
        """
        for copy, sources in copies.items():
            again = outputs
            if not _mutates(func):
                self._poison(copy)
                try:
                    again = func(*args, **kwargs)
                except RuntimeError:  # some operations of linear algebra refuse NaN: they have read it
                    again = outputs
                finally:
                    self._clean(copy)
            for before, after in zip(_tensors(outputs), _tensors(again), strict=True):
                memory = _memory(before)
                if memory in self._sources or "empty" in func.__name__:
                    continue  # a view of the copy; memory without values yet
                if before is after or not torch.equal(before, after):
                    self._read[memory] = self._read.get(memory, _NOTHING) | sources

    def _as_data(self, tensor: Tensor) -> Tensor:
        if _memory(tensor) in self._data or _memory(tensor) in self._errors:
            return tensor
        copy = tensor.clone()  # as it may be a weight, or a constant, elsewhere
        self._forget(_memory(copy))
        self._data[_memory(copy)] = copy.detach()
        return copy

    def _remember(self, tensor: Tensor, sources: frozenset[str]) -> None:
        memory = _memory(tensor)
        self._sources[memory] = self._sources.get(memory, _NOTHING) | sources
        self._held[memory] = [*self._held.get(memory, []), tensor]

    def _forget(self, memory: int) -> None:
        if memory in self._clean_values:
            self._clean(memory)
        self._sources.pop(memory, None)
        self._held.pop(memory, None)

    def _poison(self, memory: int) -> None:
        hidden = [tensor.data for tensor in self._held[memory]]
        self._clean_values[memory] = [tensor.clone() for tensor in hidden]
        for tensor in hidden:
            if tensor.dtype == torch.bool:
                tensor.logical_not_()
            elif tensor.is_floating_point() or tensor.is_complex():
                tensor.neg_().sub_(0.75) if self._finite else tensor.fill_(torch.nan)

    def _clean(self, memory: int) -> None:
        for tensor, values in zip(self._held[memory], self._clean_values.pop(memory), strict=True):
            tensor.data.copy_(values)

    @contextmanager
    def _clean_for_now(self, memories: Collection[int]) -> Iterator[None]:
        poisoned = [memory for memory in memories if memory in self._clean_values]
        with ExitStack() as stack:
            for memory in poisoned:
                self._clean(memory)
                stack.callback(self._poison, memory)
            yield


def _tensors(outputs: Any) -> list[Tensor]:
    return [output for output in tree_leaves(outputs) if isinstance(output, Tensor)]


def _memory(tensor: Tensor) -> int:
    # A sparse tensor has no memory of its own to go by.
    return tensor.untyped_storage()._cdata if tensor.layout == torch.strided else id(tensor)


def _mutates(func: Any) -> bool:
    return bool(func._schema.is_mutable)
