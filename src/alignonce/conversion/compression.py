"""How the feedback weights of a conversion are stored: the format of each, and what it is fitted to."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from fnmatch import fnmatchcase

from torch import Tensor, nn

from alignonce.conversion.auto_format import Choice, choose_formats
from alignonce.conversion.error_samples import ErrorSample, sample_errors
from alignonce.formats import Dense, FeedbackFormat
from alignonce.formats.compressed import CompressedFeedback, HeldFeedback, as_matrix
from alignonce.layers.kinds import forward_weight_names
from alignonce.model_access import Inputs, call_arguments, exact_gradients
from alignonce.rules.base import LearningRule
from alignonce.summary import FeedbackRow, cosine_similarity

__all__ = ["AskedFormat", "Compression", "check_format"]

AskedFormat = FeedbackFormat | Mapping[str, FeedbackFormat] | str
"""What ``set_learning_rule(format=...)`` takes."""

_DENSE = Dense()


class Compression:
    """Compresses the feedback weights of one conversion.

    Args:
        model: the model.
        layers: its layers that are to carry errors through feedback weights, by name.
        names: of all forward weights of the model, by identity.
        format: what was asked for, checked by :func:`check_format`.
        inputs: a batch, if there is one.

    Raises:
        ValueError: if a name or pattern in ``format`` matches no forward weight of the model.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Mapping[str, nn.Module],
        names: Mapping[int, str],
        format: AskedFormat,
        inputs: Inputs | None,
    ) -> None:
        self._format = format
        self._measured: dict[str, Choice] = {}
        self._errors: dict[str, ErrorSample] = {}
        if isinstance(format, Mapping):
            _check_patterns(format, names.values())
        if inputs is None:
            return
        if format == "auto":
            self._measured = choose_formats(model, layers, *call_arguments(inputs))
        to_fit = {
            name: layer
            for name, layer in layers.items()
            if any(
                self._format_of(name, names[id(weight)], weight).fits_errors
                for weight in map(layer.get_parameter, forward_weight_names(layer))
            )
        }
        if to_fit:
            with exact_gradients(model):
                self._errors = sample_errors(model, to_fit, *call_arguments(inputs))

    def compress(self, layer: str, name: str, feedback: Tensor) -> HeldFeedback:
        """A feedback weight in its format, given the names of its layer and of its forward weight."""
        format = self._format_of(layer, name, feedback)
        if format == _DENSE:
            return feedback
        errors = self._errors.get(layer)
        return CompressedFeedback(format, feedback, errors.fitting if errors else None)

    def describe(self, layer: str, row: FeedbackRow, weight: Tensor, feedback: HeldFeedback) -> FeedbackRow:
        """The row of the summary, with what was measured and how well errors are carried."""
        if layer in self._measured:
            share = self._measured[layer].share
            row = replace(row, format=f"{row.format} (auto: {share:.2f} of dense's time)")
        if row.stored_as.fits_errors and layer in self._errors:
            cosine = _carried_alike(self._errors[layer].checking, weight, feedback)
            row = replace(row, format=f"{row.format}, fitted (cosine of errors: {cosine:.2f})")
        return row

    def _format_of(self, layer: str, name: str, weight: Tensor) -> FeedbackFormat:
        if layer in self._measured:
            asked = self._measured[layer].format
        elif isinstance(self._format, Mapping):
            asked = next((one for pattern, one in self._format.items() if fnmatchcase(name, pattern)), _DENSE)
        else:
            assert isinstance(self._format, FeedbackFormat)  # for the type checker: "auto" has measured
            asked = self._format
        return asked.for_shape(as_matrix(tuple(weight.shape)))


def check_format(rule: LearningRule, format: object, inputs: Inputs | None) -> None:
    """Refuse what is no format, and what a rule cannot have.

    Args:
        rule: the learning rule.
        format: what was asked for.
        inputs: a batch, if there is one.

    Raises:
        TypeError: if it is no format.
        ValueError: if the rule cannot have it, or ``"auto"`` has no ``inputs``.
    """
    for one in format.values() if isinstance(format, Mapping) else [format]:
        if not isinstance(one, FeedbackFormat) and format != "auto":
            hint = " (an instance, with parentheses)" if isinstance(one, type) else ""
            raise TypeError(
                f"format must be a FeedbackFormat{hint}, a mapping from names to such, or 'auto', got {one!r}"
            )
    if format == _DENSE:
        return
    if format == "auto" and inputs is None:
        raise ValueError("format='auto' needs inputs=, a batch of training's size, to measure with")
    if not (rule.has_layer_feedback or rule.has_direct_feedback):
        raise ValueError(f"format={format}: backpropagation has no feedback weights to compress")
    if rule.evolves or not rule.has_layer_feedback:
        why = "changes its own" if rule.evolves else "has others"
        raise ValueError(
            f"format={format} is for rules with one fixed feedback weight for each layer (RandomFeedback, "
            f"SoftAlignment, SignSymmetry(once=True)); {rule} {why}: leave format= out"
        )


def _check_patterns(formats: Mapping[str, FeedbackFormat], names: Iterable[str]) -> None:
    known = list(names)
    for pattern in formats:
        if not any(fnmatchcase(name, pattern) for name in known):
            raise ValueError(f"format: {pattern!r} matches no forward weight; there are {', '.join(known)}")


def _carried_alike(errors: Tensor, weight: Tensor, feedback: HeldFeedback) -> float:
    """Cosine between what W and B make of a sample of errors, all as one vector."""
    b = feedback if isinstance(feedback, Tensor) else feedback.to_dense()
    exact, carried = (errors @ matrix.detach().flatten(1).to(errors.dtype) for matrix in (weight, b))
    return cosine_similarity(exact, carried)
