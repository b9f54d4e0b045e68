"""A compressed feedback weight: a format with its tensors."""

import copy
import math
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from alignonce.formats.base import FeedbackFormat, Stored

__all__ = ["Compressed", "CompressedFeedback", "Feedback", "HeldFeedback", "as_matrix", "allow_missing"]


class Compressed(NamedTuple):
    """A feedback weight B as an operation takes it, in place of a tensor."""

    format: FeedbackFormat
    tensors: Stored
    shape: tuple[int, ...]
    """B's shape."""

    def to_dense(self) -> Tensor:
        """B as one tensor."""
        return self.format.dense(self.tensors, as_matrix(self.shape)).reshape(self.shape)


class CompressedFeedback(nn.Module):
    """What stands in a layer for the buffer of a feedback weight: the buffers of a compressed one.

    A module and not loose buffers, so that PyTorch's own ways of moving, saving, copying and sharing hold.

    Packed numbers are codes, of which no average makes sense. Model averaging takes one all the same, of the
    equal codes of a model and of its copy, and its rounding turns some into their neighbours. So a copy knows
    what it was copied from, and gives such codes their values back.

    Args:
        format: a format fitted to B's shape.
        feedback: B, in any floating-point dtype.
        errors: (N, out), a sample of the errors that B is to carry, if there is one.
    """

    _original: Stored | None = None
    """Of a copy: the tensors that it was made of."""
    _versions: dict[str, int]
    """Of a copy: the versions of its tensors that were held against these."""

    def __init__(self, format: FeedbackFormat, feedback: Tensor, errors: Tensor | None = None) -> None:
        super().__init__()
        matrix = feedback.detach().flatten(1)
        wide = matrix.to(torch.promote_types(feedback.dtype, torch.float32))
        stored = format.compress(wide) if errors is None else format.compress_for(errors.to(wide), wide)
        self._hold(format, stored, tuple(feedback.shape), feedback.dtype)

    @classmethod
    def of(
        cls, format: FeedbackFormat, stored: Sequence[Tensor], shape: tuple[int, ...], dtype: torch.dtype
    ) -> "CompressedFeedback":
        """Hold what was stored of a B of this shape, for a forward weight of this dtype."""
        held = cls.__new__(cls)
        nn.Module.__init__(held)
        held._hold(format, stored, shape, dtype)
        return held

    def _hold(
        self, format: FeedbackFormat, stored: Sequence[Tensor], shape: tuple[int, ...], dtype: torch.dtype
    ) -> None:
        self.format, self.shape = format, shape
        self.keep_if_missing = False
        """Whether a state_dict may lack the tensors, which then stay; set by the layer in loading."""
        for name, tensor in zip(format.names, stored, strict=True):
            keep = format.keeps_dtype or not tensor.is_floating_point()
            self.register_buffer(name, tensor if keep else tensor.to(dtype))

    @property
    def tensors(self) -> Stored:
        """The stored tensors."""
        if self._original is not None and not torch.compiler.is_compiling():
            self._undo_truncation()
        return tuple(getattr(self, name) for name in self.format.names)

    @property
    def bytes(self) -> int:
        """Their size."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.tensors)

    @property
    def dtype(self) -> torch.dtype:
        """That of B as :meth:`to_dense` gives it."""
        return self.to_dense().dtype

    def to_dense(self) -> Tensor:
        """B as one tensor."""
        return Compressed(self.format, self.tensors, self.shape).to_dense()

    def t(self) -> Compressed | Tensor:
        """The transpose of a matrix B."""
        factors = self.format.factors(self.tensors)
        if factors is None:
            return self.to_dense().t()
        left, right = factors
        return Compressed(self.format, (right.t(), left.t()), self.shape[::-1])

    def chunk(self, chunks: int) -> tuple[Compressed | Tensor, ...]:
        """Split a matrix B by its rows, into parts of one size."""
        factors = self.format.factors(self.tensors)
        if factors is None:
            return self.to_dense().chunk(chunks)
        left, right = factors
        shape = (self.shape[0] // chunks, *self.shape[1:])
        return tuple(Compressed(self.format, (part, right), shape) for part in left.chunk(chunks))

    def extra_repr(self) -> str:
        """The format."""
        return repr(self.format)

    def __deepcopy__(self, memo: dict[int, Any]) -> "CompressedFeedback":
        tensors = self.tensors
        twin = type(self).__new__(type(self))
        memo[id(self)] = twin
        twin.__dict__ = copy.deepcopy(self.__getstate__(), memo)
        twin._original, twin._versions = tensors, {}
        return twin

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in ("_original", "_versions")}

    def _undo_truncation(self) -> None:
        """Give codes their values back that differ from the original's by no more than averaging does."""
        if self._original is None or torch._C._are_functorch_transforms_active():  # no values to compare
            return
        for name, original in zip(self.format.names, self._original, strict=True):
            tensor = self.get_buffer(name)
            if tensor.is_floating_point() or tensor.is_meta or tensor._version == self._versions.get(name):
                continue
            original = original.to(tensor.device)
            if tensor.shape == original.shape and not torch.equal(tensor, original):
                difference = tensor.to(torch.int16) - original.to(torch.int16)  # of two bytes
                tensor.copy_(torch.where(difference.abs().max() <= 1, original, tensor))
            self._versions[name] = tensor._version

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        if self._original is not None:
            self._undo_truncation()
        super()._save_to_state_dict(destination, prefix, keep_vars)

    def _apply(self, fn: Any, recurse: bool = True) -> "CompressedFeedback":
        if self._original is not None:
            self._undo_truncation()
            self._versions.clear()
        before = dict(self._buffers)
        super()._apply(fn, recurse)
        if self.format.keeps_dtype:
            for name, old in before.items():
                new = self._buffers[name]
                if old is not None and new is not None and new.dtype != old.dtype:
                    self._buffers[name] = old.to(new.device)  # a change of dtype is not for these
        return self

    def _load_from_state_dict(
        self, state_dict: Any, prefix: str, local_metadata: Any, strict: bool,
        missing_keys: list[str], unexpected_keys: list[str], error_msgs: list[str],
    ) -> None:  # fmt: skip
        for name in self.format.names:
            given, own = state_dict.get(prefix + name), self.get_buffer(name)
            if isinstance(given, Tensor) and given.is_floating_point() and not own.is_floating_point():
                # An average of packed numbers, which copying would truncate.
                state_dict[prefix + name] = given.round().to(own.dtype)
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )
        if self._original is not None:
            self._original, self._versions = (
                tuple(t.clone() for t in self._buffers.values() if t is not None),
                {},
            )
        if self.keep_if_missing:
            allow_missing([prefix + name for name in self.format.names], missing_keys)


HeldFeedback = Tensor | CompressedFeedback
"""A feedback weight as a layer holds it."""

Feedback = HeldFeedback | Compressed
"""A feedback weight as an operation takes it."""


def allow_missing(keys: list[str], missing_keys: list[str]) -> None:
    """Allow a state_dict not to hold feedback weights; warn if it does not."""
    missing = [key for key in keys if key in missing_keys]
    for key in missing:
        missing_keys.remove(key)
    if missing:
        warnings.warn(
            "the state_dict holds forward weights without feedback weights: the model's feedback "
            "weights keep their values and are aligned with the weights from before. To align "
            "them with the loaded ones, call set_learning_rule again.",
            stacklevel=3,
        )


def as_matrix(shape: tuple[int, ...]) -> tuple[int, int]:
    """The shape (out, in) of a weight as formats see it."""
    return shape[0], math.prod(shape[1:])
