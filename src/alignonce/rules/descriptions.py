"""Learning rules and formats as plain data, for files that outlast this code."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from numbers import Real
from typing import Any, cast

import torch

from alignonce.formats import FeedbackFormat
from alignonce.rules import LearningRule

__all__ = ["described", "rebuilt"]


def described(value: Any) -> Any:
    """A rule, a format or one of their settings in terms of JSON.

    Raises:
        ValueError: if it is none of these, or a setting is no plain value.
    """
    if isinstance(value, LearningRule | FeedbackFormat) and hasattr(value, "__dataclass_fields__"):
        settings = {
            f.name: described(getattr(value, f.name)) for f in dataclasses.fields(cast(Any, value)) if f.init
        }
        return {"class": type(value).__name__, "settings": settings}
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, Real):
        return float(value)
    if isinstance(value, torch.dtype):
        return {"dtype": str(value).removeprefix("torch.")}
    if isinstance(value, Mapping):
        return {"mapping": {key: described(v) for key, v in value.items()}}
    if isinstance(value, Sequence):
        return [described(v) for v in value]
    raise ValueError(
        f"{value!r} cannot be written to a file: a rule must be a dataclass whose settings are plain values "
        "(cosine=: a mapping from names to numbers instead of a function)"
    )


def rebuilt(value: Any) -> Any:
    """What :func:`described` has described.

    Raises:
        ValueError: if it is of a class that is not imported.
    """
    if isinstance(value, list):
        return tuple(rebuilt(v) for v in value)
    if not isinstance(value, dict):
        return value
    if "dtype" in value:
        return getattr(torch, value["dtype"])
    if "mapping" in value:
        return {key: rebuilt(v) for key, v in value["mapping"].items()}
    known = {cls.__name__: cls for base in (LearningRule, FeedbackFormat) for cls in _subclasses(base)}
    if value["class"] not in known:
        raise ValueError(
            f"the file holds feedback weights of {value['class']}, which is no learning rule or format that "
            "is known: import the module that defines it first"
        )
    return known[value["class"]](**{key: rebuilt(v) for key, v in value["settings"].items()})


def _subclasses(cls: type[Any]) -> Iterator[type[Any]]:
    for subclass in cls.__subclasses__():
        yield subclass
        yield from _subclasses(subclass)


# Rules and formats in what others save (Lightning's save_hyperparameters, torch.save) can be loaded again by
# torch.load(weights_only=True): they hold plain values only.
torch.serialization.add_safe_globals([*_subclasses(LearningRule), *_subclasses(FeedbackFormat)])
