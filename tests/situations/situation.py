"""What a situation is: something that a user does to a model, and what must come of it.

A situation is a row of the table in docs/situations.md ("what happens if ..."), which table.py writes. Each
is crossed with kinds of layers, rules and formats. Its outcome is *right* (the gradients are those of the
rule, held against B put in by hand in float64) or *refused* (an error whose words are checked).
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from alignonce import Dense, FeedbackFormat, LearningRule, set_learning_rule
from helpers.matrix import FORMATS, KINDS, RULES, Kind
from situations.by_hand import by_hand, flat_gradients

__all__ = ["ALL_FORMATS", "LAYERS", "Case", "Situation", "compiled_anew", "crossed", "refused", "right"]

LAYERS = ("Linear", "Bilinear", "Conv2d", "ConvTranspose", "MultiheadAttention", "LSTM", "GRU", "GRUCell")
"""Kinds of tests/helpers/matrix.py that differ in how they use B."""

ALL_FORMATS: dict[str, FeedbackFormat] = {"Dense": Dense(), **FORMATS}


@dataclass(frozen=True)
class Case:
    """A kind of layer between others (tests/helpers/matrix.py), a rule and a format."""

    layer: str = "Linear"
    rule: str = "SoftAlignment"
    format: str = "Dense"

    def __str__(self) -> str:
        return f"{self.layer}-{self.rule}-{self.format}"

    @property
    def kind(self) -> Kind:
        return KINDS[self.layer]

    @property
    def learning_rule(self) -> LearningRule:
        return RULES[self.rule]

    @property
    def feedback_format(self) -> FeedbackFormat:
        return ALL_FORMATS[self.format]

    def plain(self, dtype: torch.dtype = torch.float64) -> nn.Module:
        """The model before it has a rule, in evaluation mode."""
        return self.kind.plain().to(dtype).eval()

    def model(self, dtype: torch.dtype = torch.float64) -> nn.Module:
        """The model under the rule, in evaluation mode."""
        model = self.plain(dtype)
        inputs = self.inputs(dtype) if self.rule == "DirectFeedback" else None
        set_learning_rule(model, self.learning_rule, format=self.feedback_format, inputs=inputs)
        return model

    def inputs(self, dtype: torch.dtype = torch.float64) -> Tensor:
        """A batch."""
        x = self.kind.inputs()
        return x if self.kind.tokens else x.to(dtype)

    def expected(self, model: nn.Module, x: Tensor) -> Tensor:
        """The gradients of the parameters, as one vector, with B put in by hand."""
        twin = by_hand(model)
        return flat_gradients(twin, twin(x.double() if x.is_floating_point() else x).sin().sum())


@dataclass(frozen=True)
class Situation:
    """Something that a user does, and what comes of it."""

    what: str
    """The row's beginning, continuing "What happens if ..."."""
    do: Callable[[Case], None]
    """Does it; where the outcome is to be right, raises AssertionError if it is not."""
    outcome: Literal["right", "refused"]
    cases: Sequence[Case]
    remedy: str = ""
    """For the table: how it comes to be right, or what the message says to do instead."""
    message: str = ""
    """A regular expression that the error's message must match."""
    error: type[Exception] | tuple[type[Exception], ...] = ()
    since: str = "0.2.0"

    def check(self, case: Case) -> None:
        """Run one cell."""
        if self.outcome == "right":
            self.do(case)
            return
        try:
            self.do(case)
        except self.error as error:
            if not re.search(self.message, str(error)):
                raise AssertionError(f"refused in other words: {error}") from error
            return
        raise AssertionError(f"not refused: {self.what}")


def right(
    what: str, cases: Sequence[Case], remedy: str = "", since: str = "0.2.0"
) -> Callable[..., Situation]:
    """Decorate a function that does something and checks that its outcome is right."""
    return lambda do: Situation(what, do, "right", cases, remedy, since=since)


def refused(
    what: str,
    cases: Sequence[Case],
    *,
    message: str,
    error: type[Exception] | tuple[type[Exception], ...] = ValueError,
    remedy: str = "",
    since: str = "0.2.0",
) -> Callable[..., Situation]:
    """Decorate a function that does something that must be refused."""
    return lambda do: Situation(what, do, "refused", cases, remedy, message, error, since)


def crossed(
    layers: Sequence[str] = LAYERS,
    rules: Sequence[str] = ("SoftAlignment",),
    formats: Sequence[str] = ("Dense",),
) -> list[Case]:
    """All cases of these layers, rules and formats."""
    return [Case(layer, rule, format) for layer in layers for rule in rules for format in formats]


def compiled_anew(function: Callable[..., Any]) -> Any:
    """Compile a module or a function, with nothing of earlier cells in the compiler's memory."""
    torch.compiler.reset()
    return torch.compile(function, backend="aot_eager")
