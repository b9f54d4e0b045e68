"""Layers that carry the error back through a feedback weight.

Each is a subclass of the PyTorch layer that it stands for, with the same parameters and forward values. A
plain layer becomes one of these, and back, by a change of its class in place: hooks, flags, parameters and
every reference to the layer stay as they are.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from alignonce.formats.compressed import CompressedFeedback, HeldFeedback, allow_missing
from alignonce.layers.contexts import contexts_of
from alignonce.layers.kinds import empty_layer
from alignonce.layers.modes import MODE_ATTRIBUTES, Switch
from alignonce.rules.guard import unwatch, watch, watched

if TYPE_CHECKING:
    from alignonce.rules.base import LearningRule

__all__ = ["FeedbackLayer", "feedback_name", "random_like"]


class FeedbackLayer(Switch, nn.Module):
    """A layer with a feedback weight (a buffer) for each of its forward weights.

    The forward weight ``weight`` has the feedback weight ``feedback``; in general the word "weight" in a
    parameter's name becomes "feedback", or "_feedback" is added. A compressed one is a module of that name,
    with several buffers. Made by :func:`alignonce.set_learning_rule`, not by hand.
    """

    plain_class: ClassVar[type[nn.Module]]
    """The PyTorch layer that this class stands for."""
    weight_names: ClassVar[tuple[str, ...]] = ("weight",)
    """Parameters that may be forward weights; those that are None in a layer do not count."""
    overridable: ClassVar[tuple[str, ...]] = ("forward",)
    """Methods that decide the forward value: a subclass with its own ones is another layer."""
    is_norm: ClassVar[bool] = False
    """Whether it is a norm layer: converted on request only, its scale being no forward weight."""
    has_equivalents: ClassVar[bool] = False
    """Whether other classes can be registered to compute the same."""
    equivalent_to: ClassVar[type[nn.Module] | None] = None
    """The class whose equivalent this one was registered to be, as conversion checks."""

    learning_rule: "LearningRule"

    @classmethod
    def weight_names_of(cls, layer: nn.Module) -> tuple[str, ...]:
        """Parameters of a layer of this kind, plain or with feedback, that may be forward weights."""
        return cls.weight_names

    @classmethod
    def present_names(cls, layer: nn.Module) -> list[str]:
        """Those of :meth:`weight_names_of` that a layer has."""
        return [name for name in cls.weight_names_of(layer) if layer._parameters.get(name) is not None]

    @classmethod
    def sample_arguments(cls, layer: nn.Module) -> Iterator[tuple[Any, ...]]:
        """Arguments to check an equivalent with, of which the first counts that the layer takes."""
        raise NotImplementedError

    @classmethod
    def multiplication_of(cls, layer: nn.Module, feedback: CompressedFeedback) -> str:
        """How a layer of this kind will multiply by a compressed feedback weight, for a table."""
        return feedback.format.multiplication(feedback.tensors[0].device)

    @property
    def qconfig(self) -> Any:
        """What ``torch.ao.quantization`` sets on each module that it may replace."""
        if "qconfig" not in vars(self):
            raise AttributeError("qconfig")
        return vars(self)["qconfig"]

    @qconfig.setter
    def qconfig(self, value: Any) -> None:
        vars(self)["qconfig"] = value
        warnings.warn(
            "torch.ao.quantization goes by exact classes and passes over layers with a learning rule. To "
            "have them quantised, call set_learning_rule(model, Backpropagation()) first.",
            stacklevel=2,
        )

    @qconfig.deleter
    def qconfig(self) -> None:
        del vars(self)["qconfig"]

    def start_feedback(self, rule: "LearningRule", feedback: Mapping[str, HeldFeedback]) -> None:
        """Hold new feedback weights, by the names of their forward weights."""
        self.learning_rule = rule
        self.exact = False
        for context in contexts_of(id(self)):
            context.take_in(self)
        # To torch.fx PyTorch's layers are one operation; in others it looks for operations, of which those
        # with feedback weights are none. Only the instance says so, since pickle goes by the class.
        vars(self)["__module__"] = "torch.nn"
        for name, value in feedback.items():
            attribute = feedback_name(name)
            if hasattr(self, attribute):
                delattr(self, attribute)
            if isinstance(value, Tensor):
                self.register_buffer(attribute, value)
            else:
                self.add_module(attribute, value)
        self.begin_evolution()

    def held_names(self) -> list[str]:
        """Names of the forward weights that have a feedback weight here, whatever became of them since."""
        # PyTorch's pruning and parametrisations leave an attribute where there was a parameter.
        return [
            name
            for name in self.weight_names_of(self)
            if feedback_name(name) in self._buffers or feedback_name(name) in self._modules
        ]

    def feedback_of(self, weight_name: str) -> Tensor:
        """The feedback weight of the forward weight of this name; decompressed, if it is compressed."""
        feedback = getattr(self, feedback_name(weight_name))
        return feedback.to_dense() if isinstance(feedback, CompressedFeedback) else feedback

    def end_feedback(self) -> None:
        """Become the plain layer again, parametrised or not."""
        for name in self.held_names():
            delattr(self, feedback_name(name))
        for weight in self.parameters(recurse=False):
            unwatch(weight)
        del self.learning_rule
        for name in MODE_ATTRIBUTES:
            vars(self).pop(name, None)
        vars(self).pop("__module__", None)
        cls = type(self)
        plain: type[nn.Module] = cls.plain_class
        if is_parametrized(self):
            # torch.nn.utils.parametrize has put a class of its own on top: put it on the plain class.
            members = {k: v for k, v in vars(cls).items() if k not in ("__dict__", "__weakref__", "__doc__")}
            plain = type(f"Parametrized{plain.__name__}", (plain,), members)
        self.__class__ = plain  # type: ignore[assignment]

    def begin_evolution(self) -> None:
        """Keep what a rule needs whose feedback weights change, and expect ``evolve``."""
        for name in self.present_names(self):
            weight = getattr(self, name)
            unwatch(weight)
            if self.learning_rule.evolves:
                # Not saved with the model: the weight itself is all there is to know between two steps.
                watch(weight, self.learning_rule.remembers_weight)

    def extra_repr(self) -> str:
        """The plain layer's settings and the rule."""
        return f"{super().extra_repr()}, rule={self.learning_rule}".removeprefix(", ")

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "FeedbackLayer":
        # nn.Module replaces a buffer on each move, so that layers which share one feedback weight would
        # each get their own. Parameters are moved in place to stay shared; do the same.
        names = [feedback_name(name) for name in self.present_names(self)]
        before = {name: self._buffers[name] for name in names if name in self._buffers}
        weights = [self._parameters[name] for name in self.present_names(self)]
        if torch.__future__.get_swap_module_params_on_conversion():
            for weight in weights:
                unwatch(cast(Tensor, weight))  # no tensor can be swapped that has a weak reference
        super()._apply(fn, recurse)
        for name, old in before.items():
            new = self._buffers[name]
            if old is not None and new is not None and torch._has_compatible_shallow_copy_type(old, new):
                old.data = new
                self._buffers[name] = old
        if self.learning_rule.evolves and any(
            watched(getattr(self, name)) is None for name in self.present_names(self)
        ):
            self.begin_evolution()  # swapped, or new parameters, which PyTorch can be asked for
        return self

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        for name in map(feedback_name, self.present_names(self)):
            # Layers of other libraries (PyTorch Geometric) name what they save, buffers not among it.
            if (buffer := self._buffers.get(name)) is not None and prefix + name not in destination:
                destination[prefix + name] = buffer

    def _load_from_state_dict(
        self, state_dict: Any, prefix: str, local_metadata: Any, strict: bool,
        missing_keys: list[str], unexpected_keys: list[str], error_msgs: list[str],
    ) -> None:  # fmt: skip
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )
        self.begin_evolution()
        for name in self.present_names(self):
            feedback, has_weight = getattr(self, feedback_name(name)), prefix + name in state_dict
            if isinstance(feedback, CompressedFeedback):
                feedback.keep_if_missing = has_weight  # it loads its tensors after this
            elif has_weight:
                allow_missing([prefix + feedback_name(name)], missing_keys)

    def _slow_forward(self, *args: Any, **kwargs: Any) -> Any:
        # nn.Module calls it in place of forward within torch.jit.trace.
        if not self.exact:
            warnings.warn(
                "torch.jit.trace of layers with a learning rule: the traced model learns by the rule, and "
                "cannot be saved. To save one, trace it within exact_gradients(model).",
                stacklevel=2,
            )
        return super()._slow_forward(*args, **kwargs)

    @property
    def _tied_weights_keys(self) -> dict[str, str]:
        """For ``save_pretrained`` of transformers: buffers that may share memory; one of them is saved."""
        return {feedback_name(name): name for name in self.present_names(self)}

    def __prepare_scriptable__(self) -> nn.Module:
        raise RuntimeError(
            "torch.jit.script cannot compile layers with a learning rule: call "
            "set_learning_rule(model, Backpropagation()) first"
        )

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.begin_evolution()

    def __reduce__(self) -> tuple[Any, ...]:
        # Classes made for users' subclasses have no importable name: pickle and copy by the plain class.
        return empty_layer, (type(self).plain_class,), self.__getstate__()


def random_like(layer: nn.Module, shape: tuple[int, ...]) -> Tensor:
    """A random tensor of a layer's dtype and device."""
    generator = torch.Generator("cpu").manual_seed(0)
    return torch.randn(shape, generator=generator, device="cpu").to(next(layer.parameters()))


def feedback_name(weight_name: str) -> str:
    """Name of the feedback weight of a forward weight: ``in_proj_weight`` has ``in_proj_feedback``."""
    name = weight_name.replace("weight", "feedback")
    return name if name != weight_name else f"{name}_feedback"
