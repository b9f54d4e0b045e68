"""What belongs to a checkpoint beside the forward weights: feedback weights, in a file of their own.

A model that is saved and loaded by others (``from_pretrained``, a plain ``load_state_dict``) loses its
feedback weights, and the learning rule, set anew, would begin from the trained weights: another experiment.
"""

import json
import os
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from alignonce import direct
from alignonce.conversion.convert import set_learning_rule
from alignonce.formats.base import gathered
from alignonce.layers.base import FeedbackLayer, feedback_name
from alignonce.layers.descriptions import describe_layer, held_by, misfits_of
from alignonce.model_access import Inputs, unwrap
from alignonce.rules.base import Backpropagation, LearningRule
from alignonce.rules.descriptions import described, rebuilt

__all__ = ["load_feedback", "plain_state_dict", "save_feedback"]

_VERSION = 1
_DIRECT = "direct_feedback"


def plain_state_dict(model: nn.Module) -> dict[str, Any]:
    """The ``state_dict`` that a model would have without its learning rule.

    Args:
        model: any module, wrapped or not, with or without a learning rule. It stays as it is.

    Returns:
        Names and values of a plain model's ``state_dict``, sharing its memory.

    Example:
        >>> model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
        >>> _ = set_learning_rule(model, RandomFeedback())
        >>> list(plain_state_dict(model))
        ['0.weight', '0.bias', '2.weight', '2.bias']
    """
    model = unwrap(model)
    state = model.state_dict()
    metadata = getattr(state, "_metadata", {})
    for name, module in model.named_modules():
        for attribute in _attributes_of_the_rule(module):
            added = f"{name}.{attribute}".removeprefix(".")
            metadata.pop(added, None)
            for key in [k for k in state if k == added or k.startswith(f"{added}.")]:
                del state[key]
    return state


def save_feedback(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Write a model's feedback weights to a file, with the rule and the format of each layer.

    The file holds tensors and text (JSON) only: ``torch.load(path, weights_only=True)`` reads it without
    this package. It takes the place of an older one at once and whole. What else belongs to a checkpoint: the
    forward weights (:func:`plain_state_dict`), the optimiser's state and the number of steps.

    Args:
        model: a model with a learning rule. If its weights are spread over processes, all must call.
        path: where to write.

    Raises:
        ValueError: if the model has no feedback weights, or a rule has settings that are no plain values (a
            function as ``cosine``).

    Example:
        >>> model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
        >>> _ = set_learning_rule(model, RandomFeedback())
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_feedback(model, f"{folder}/feedback.pt")
    """
    model = unwrap(model)
    tensors: dict[str, Tensor] = {}
    layers = {
        name: describe_layer(name, layer, tensors)
        for name, layer in model.named_modules()
        if isinstance(layer, FeedbackLayer)
    }
    matrices = {name: buffer for name, buffer in model.named_buffers() if _is_direct(name)}
    tensors |= matrices
    if not tensors:
        raise ValueError("the model has no feedback weights to save: set a learning rule first")
    rules = [described(state.rule) for state in direct.states_of(model)]
    description = {
        "version": _VERSION,
        "layers": layers,
        "direct": {"rule": rules[0], "tensors": list(matrices)} if rules else None,
    }
    # Copies, since a part of a larger tensor would be written with all of it.
    values = {name: gathered(t.detach()).cpu().clone() for name, t in tensors.items()}
    _write({"feedback": json.dumps(description), "tensors": values}, Path(path))


def load_feedback(model: nn.Module, path: str | os.PathLike[str], inputs: Inputs | None = None) -> None:
    """Give a model the learning rule and exactly the feedback weights that :func:`save_feedback` wrote.

    Nothing is aligned with the forward weights that the model has now. A rule that the model has already is
    replaced. Nothing changes if the file does not fit.

    Args:
        model: a model with the layers of the one that was saved, plain or not, of any dtype, on any device.
        path: the file.
        inputs: a batch, as :func:`set_learning_rule` takes it; needed for direct feedback only.

    Raises:
        ValueError: if the file holds no feedback weights, layers or shapes do not fit (all are named), a
            layer cannot be converted, a rule or format is of a class that is not imported, or direct feedback
            lacks ``inputs``.

    Example:
        >>> model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
        >>> _ = set_learning_rule(model, RandomFeedback(seed=3))
        >>> import copy, tempfile
        >>> plain = copy.deepcopy(model)
        >>> _ = set_learning_rule(plain, Backpropagation())
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_feedback(model, f"{folder}/feedback.pt")
        ...     _ = load_feedback(plain, f"{folder}/feedback.pt")
        >>> torch.equal(plain[0].feedback, model[0].feedback)
        True
    """
    model = unwrap(model)
    description, tensors = _read(Path(path))
    layers: dict[str, Any] = description["layers"]
    modules = dict(model.named_modules())
    misfits = [text for name, layer in layers.items() for text in misfits_of(name, layer, modules.get(name))]
    if misfits:
        raise ValueError(
            "the feedback weights do not fit the model:\n" + "\n".join(f"  {m}" for m in misfits)
        )
    rules = {name: rebuilt(layer["rule"]) for name, layer in layers.items()}
    held = dict(held_by(layers, modules, tensors))
    if description["direct"] is not None and inputs is None:
        raise ValueError("the file holds direct feedback, which needs inputs=, a batch as in training")

    if description["direct"] is None:
        _convert(model, layers)
        direct.uninstall(model)
    else:
        _load_direct(model, description["direct"], tensors, inputs)
        try:
            _convert(model, layers)
        except ValueError:
            set_learning_rule(model, Backpropagation())
            raise
    for name, rule in rules.items():
        layer = modules[name]
        assert isinstance(layer, FeedbackLayer)  # for the type checker: it has just been converted
        layer.start_feedback(rule, held[name])


def _convert(model: nn.Module, layers: Collection[str]) -> None:
    """Make exactly these layers such with feedback weights, which come after."""
    if layers:
        set_learning_rule(model, _Placeholder(), where=lambda name, _: name in layers, norms="fixed")
    others = {n for n, m in model.named_modules() if isinstance(m, FeedbackLayer) and n not in layers}
    if others:
        set_learning_rule(model, Backpropagation(), where=lambda name, _: name in others)


class _Placeholder(LearningRule):
    def feedback_for(self, weight: Tensor, name: str, depth: int) -> Tensor:
        return torch.zeros_like(weight, requires_grad=False)

    def _feedback(self, w: Tensor, name: str, depth: int) -> Tensor:
        return w


def _load_direct(
    model: nn.Module, saved_direct: Mapping[str, Any], tensors: Mapping[str, Tensor], inputs: Inputs | None
) -> None:
    set_learning_rule(model, rebuilt(saved_direct["rule"]), inputs=inputs)
    found = {name: buffer for name, buffer in model.named_buffers() if _is_direct(name)}
    saved = {name: tensors[name] for name in saved_direct["tensors"]}
    misfits = [
        f"{name}: {_shape(saved.get(name))} in the file, {_shape(found.get(name))} in the model"
        for name in dict.fromkeys((*saved, *found))
        if _shape(saved.get(name)) != _shape(found.get(name))
    ]
    if misfits:
        set_learning_rule(model, Backpropagation())
        raise ValueError(
            "the direct feedback does not fit the model, which is plain now:\n"
            + "\n".join(f"  {m}" for m in misfits)
        )
    for name, buffer in found.items():
        buffer.copy_(saved[name])


def _shape(tensor: Tensor | None) -> str:
    return "none" if tensor is None else str(tuple(tensor.shape))


def _attributes_of_the_rule(module: nn.Module) -> list[str]:
    """Buffers, and modules with buffers, that a learning rule has added to a module."""
    added = [name for name in module._buffers if name.startswith(_DIRECT)]
    if isinstance(module, FeedbackLayer):
        for weight_name in module.present_names(module):
            added.append(feedback_name(weight_name))
    return added


def _is_direct(name: str) -> bool:
    return name.rpartition(".")[2].startswith(_DIRECT)


def _write(content: dict[str, Any], path: Path) -> None:
    file, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(file, "wb") as stream:
            torch.save(content, stream)
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    content = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(content, dict) or "feedback" not in content:
        raise ValueError(f"{path} holds no feedback weights: it was not written by save_feedback")
    description = json.loads(content["feedback"])
    if description["version"] > _VERSION:
        raise ValueError(f"{path} was written by a later version of alignonce")
    return description, content["tensors"]
