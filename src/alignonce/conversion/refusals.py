"""Why a layer cannot be converted."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrize import is_parametrized
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from alignonce.layers.base import FeedbackLayer, feedback_name
from alignonce.layers.kinds import computes_like, layer_kind
from alignonce.layers.modes import MODE_ATTRIBUTES
from alignonce.rules.base import LearningRule

__all__ = [
    "is_finite",
    "is_norm",
    "kind_for",
    "plain_name",
    "refusal",
    "refusal_of_values",
    "weights_in",
]

_RECURRENT = (nn.RNNBase, nn.RNNCellBase)
_NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
_QUANTISED = ("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized")
_FAKE_QUANTISED = ("torch.ao.nn.qat", "torch.ao.nn.intrinsic.qat")


def is_norm(module: nn.Module) -> bool:
    """Return whether a module is a norm layer, with feedback or not."""
    kind = layer_kind(type(module), norms=True)
    return isinstance(module, _NORMS) or (kind is not None and kind.is_norm)


def weights_in(layer: nn.Module) -> list[str]:
    """Names of the parameters that get feedback values in a conversion, a norm's scale included."""
    kind = layer_kind(type(layer), norms=True)
    return [] if kind is None else kind.present_names(layer)


def plain_name(module: nn.Module) -> str:
    """The name of a module's class while it has no feedback."""
    return (module.plain_class if isinstance(module, FeedbackLayer) else type(module)).__name__


def kind_for(module: nn.Module, norms: str) -> type[FeedbackLayer] | None:
    """The feedback layer that a module is to become; a norm layer only where its scale is to be fixed."""
    kind = layer_kind(type(module), norms=norms == "fixed")
    return None if kind is not None and kind.is_norm and not kind.present_names(module) else kind


def refusal(module: nn.Module, norms: str) -> str | None:
    """Why a layer that has forward weights cannot be converted; None if it can or is no such layer."""
    kind = kind_for(module, norms)
    origin = type(module).__module__
    if isinstance(module, torch.jit.ScriptModule) and list(module.parameters(recurse=False)):
        return "compiled by torch.jit: set the rule on the model that it was made of"
    if origin.startswith(_QUANTISED) and not type(module).__name__.endswith("PackedParams"):
        return "quantised: no gradient goes back through it. Set the rule first, and quantise after training"
    if origin.startswith(_FAKE_QUANTISED):
        return (
            "prepared for quantisation-aware training, which reads the weight in its own way: set the rule "
            "on a model that is not prepared, and quantise after training"
        )
    other_norm = norms == "fixed" and isinstance(module, _NORMS) and list(module.parameters(recurse=False))
    if kind is None and not other_norm:
        return "a recurrent layer of another kind" if isinstance(module, _RECURRENT) else None
    if any(map(is_lazy, module.parameters(recurse=False))):
        return "not initialised yet: run one forward pass first"
    if kind is None:
        return "a norm layer of another kind, whose scale cannot be fixed"
    if is_parametrized(module):
        return "parametrised: call torch.nn.utils.parametrize.remove_parametrizations on it first"
    candidates = kind.weight_names_of(module)
    if any(name in vars(module) or f"{name}_g" in module._parameters for name in candidates):
        return "its weight is recomputed by a hook (weight_norm, spectral_norm, pruning): remove that first"
    for name in weights_in(module):
        reason = _refusal_of_tensor(getattr(module, name))
        if reason is not None:
            return reason
    if isinstance(module, FeedbackLayer):
        return None
    if not computes_like(type(module), kind):
        return f"a subclass of {kind.plain_class.__name__} with a forward of its own"
    if "forward" in vars(module):
        return "its forward is replaced on the module itself (by a hook of accelerate, a fused kernel, ...)"
    if not weights_in(module):
        return "its weight is not one of its parameters"
    for name in (*map(feedback_name, weights_in(module)), "learning_rule", *MODE_ATTRIBUTES):
        if hasattr(module, name):
            return f"it has an attribute {name!r} of its own, a name that layers with a learning rule need"
    return None


def _refusal_of_tensor(weight: Tensor) -> str | None:
    if hasattr(weight, "full_tensor"):
        return "already spread over processes: set the learning rule before alignonce.distributed.shard"
    wrapped: bool = is_traceable_wrapper_subclass(weight)  # as torchao's
    if wrapped or not (weight.is_floating_point() or weight.is_complex()):
        held = type(weight).__name__ if wrapped else f"dtype {weight.dtype}"
        return (
            f"its weight is quantised (held as {held}): dequantise it, or set the rule first and quantise "
            "after training"
        )
    if weight.is_complex():
        return f"weights of dtype {weight.dtype} are not supported"
    if weight.is_meta:
        return "on the meta device, without values: materialise it first"
    if weight.is_inference():
        return "made inside torch.inference_mode(), so that it cannot learn: make the model outside of it"
    return None


def refusal_of_values(
    rule: LearningRule,
    kind: type[FeedbackLayer],
    weights: Sequence[tuple[str, Tensor | None]],
    names: Mapping[int, str],
    depths: Mapping[int, int],
) -> str | None:
    """Why the rule has no feedback weight for the values of a layer's weights."""
    if kind.is_norm:
        return None  # any scale can be fixed
    for name, weight in weights:
        assert weight is not None  # for the type checker: present_names leaves these out
        reason = rule.refusal(_readable(weight), names[id(weight)], depths[id(weight)])
        if reason is not None:
            return f"its {name} {reason}"
    return None


def _readable(weight: Tensor) -> Tensor:
    """Values of a weight in a dtype that all operations know."""
    return weight.detach().float() if weight.dtype.itemsize == 1 else weight.detach()


def is_finite(weight: Tensor) -> bool:
    """Return whether all values are finite."""
    # The extremes, since on large weights isfinite(w) takes several times as long.
    return not weight.numel() or bool(torch.stack(_readable(weight).aminmax()).isfinite().all())
