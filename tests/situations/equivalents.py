"""Layers of other classes than PyTorch's own."""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alignonce import (
    SoftAlignment,
    audit_weight_transport,
    exact_gradients,
    register_equivalent,
    set_learning_rule,
)
from situations.by_hand import flat_gradients
from situations.situation import Case, Situation, refused, right

TOPIC = "Layers of other classes"


class MatmulLinear(nn.Linear):
    """As transformers' FalconLinear."""

    def forward(self, input: Tensor) -> Tensor:
        return input @ self.weight.T + self.bias


class OwnLinear(nn.Module):
    """As PyTorch Geometric's Linear: no subclass, and its buffers are not saved."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight, self.bias = (
            nn.Parameter(torch.randn(outputs, inputs)),
            nn.Parameter(torch.randn(outputs)),
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)

    def _save_to_state_dict(self, destination, prefix, keep_vars) -> None:  # type: ignore[no-untyped-def]
        destination[f"{prefix}weight"], destination[f"{prefix}bias"] = (
            self.weight.detach(),
            self.bias.detach(),
        )


class OwnConv(nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:
        return F.conv2d(input, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class OverTime(nn.Conv2d):
    """As spikingjelly's layers: (T, N, C, H, W), by the base's forward."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.flatten(0, 1)).unflatten(0, input.shape[:2])


class ChannelNorm(nn.LayerNorm):
    """As timm's LayerNorm2d."""

    def forward(self, input: Tensor) -> Tensor:
        x = F.layer_norm(input.movedim(1, -1), self.normalized_shape, self.weight, self.bias, self.eps)
        return x.movedim(-1, 1)


class OwnRMSNorm(nn.Module):
    """As timm's RmsNorm."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(size) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * self.weight


class DoubledLinear(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return 2 * super().forward(input)


class NormWithActivation(nn.GroupNorm):
    """As timm's GroupNormAct."""

    def forward(self, input: Tensor) -> Tensor:
        return torch.relu(super().forward(input))


register_equivalent(MatmulLinear, nn.Linear)
register_equivalent(OwnLinear, nn.Linear)
register_equivalent(OwnConv, nn.Conv2d)
register_equivalent(OverTime, nn.Conv2d, calls_base=True)
register_equivalent(ChannelNorm, nn.LayerNorm)
register_equivalent(OwnRMSNorm, nn.RMSNorm)
register_equivalent(DoubledLinear, nn.Linear)
register_equivalent(NormWithActivation, nn.GroupNorm)


def _assert_stands_for(model: nn.Module, plain: nn.Module, x: Tensor, rule: SoftAlignment) -> None:
    """That a model of other classes has the gradients of a plain one with the same B."""
    start = copy.deepcopy(model)
    summary = set_learning_rule(model, rule, norms="fixed")
    assert summary.converted_share == 1
    torch.testing.assert_close(model(x), start(x))
    assert audit_weight_transport(model, x, lambda y: y.sin().sum()).free_of_transport
    plain.load_state_dict(start.state_dict())
    set_learning_rule(plain, rule, norms="fixed")
    plain.load_state_dict(model.state_dict())  # B too
    torch.testing.assert_close(
        flat_gradients(model, model(x).sin().sum()), flat_gradients(plain, plain(x).sin().sum())
    )
    with exact_gradients(model):
        ours = flat_gradients(model, model(x).sin().sum())
    torch.testing.assert_close(ours, flat_gradients(start, start(x).sin().sum()))


@right(
    "a linear layer has a forward of its own, and you call `register_equivalent(its_class, nn.Linear)`",
    [Case()],
    "gradients are those of the plain layer with the same B",
)
def linear(case: Case) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(MatmulLinear(4, 5), nn.Tanh(), OwnLinear(5, 3)).double()
    plain = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    _assert_stands_for(model, plain, torch.randn(2, 4, dtype=torch.float64), SoftAlignment())


@right(
    "a convolution has a forward of its own, and you call `register_equivalent(its_class, nn.Conv2d)`",
    [Case("Conv2d")],
    "gradients are those of the plain layer with the same B",
)
def convolution(case: Case) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(OwnConv(2, 4, 3, dilation=2), nn.Tanh(), OwnConv(4, 2, 2, groups=2)).double()
    plain = nn.Sequential(nn.Conv2d(2, 4, 3, dilation=2), nn.Tanh(), nn.Conv2d(4, 2, 2, groups=2)).double()
    _assert_stands_for(model, plain, torch.randn(2, 2, 8, 8, dtype=torch.float64), SoftAlignment())


@right(
    "a layer's own forward calls its base's, and you call `register_equivalent(..., calls_base=True)`",
    [Case("Conv2d")],
    "its forward runs around that of the layer with B",
)
def around_the_base(case: Case) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(OverTime(2, 4, 3)).double()
    plain = nn.Sequential(nn.Flatten(0, 1), nn.Conv2d(2, 4, 3), nn.Unflatten(0, (3, 2))).double()
    x = torch.randn(3, 2, 2, 5, 5, dtype=torch.float64)
    set_learning_rule(model, SoftAlignment())
    plain[1].load_state_dict({"weight": model[0].weight, "bias": model[0].bias})
    set_learning_rule(plain, SoftAlignment())
    plain[1].feedback.copy_(model[0].feedback)
    ours, theirs = (
        torch.cat([t.flatten() for t in torch.autograd.grad(m(y).sin().sum(), [y, *m.parameters()])])
        for m, y in ((model, x.clone().requires_grad_()), (plain, x.clone().requires_grad_()))
    )
    torch.testing.assert_close(ours, theirs)


@right(
    'a norm layer has a class of its own, you call `register_equivalent`, and set `norms="fixed"`',
    [Case()],
    "the error goes back through the fixed scale",
)
def norm(case: Case) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 4, 3), ChannelNorm(4), nn.Flatten(2), nn.Linear(9, 6), OwnRMSNorm(6))
    model.double()
    x = torch.randn(2, 2, 5, 5, dtype=torch.float64)
    start = copy.deepcopy(model)
    assert set_learning_rule(model, SoftAlignment(1.0), norms="fixed").converted_share == 1
    torch.testing.assert_close(
        flat_gradients(model, model(x).sin().sum()), flat_gradients(start, start(x).sin().sum())
    )
    assert audit_weight_transport(model, x, lambda y: y.sin().sum()).free_of_transport


def _not_equivalent(layer: str, make: nn.Module, message: str) -> Situation:
    @refused(
        f"you register a {layer} that computes something else",
        [Case()],
        message=message,
        remedy="leave it exact, or write a kind of layer",
    )
    def register(case: Case) -> None:
        set_learning_rule(
            nn.Sequential(nn.Linear(4, 4), copy.deepcopy(make)), case.learning_rule, norms="fixed"
        )

    return register


other_linear = _not_equivalent(
    "linear layer",
    DoubledLinear(4, 4),
    r"1 \(DoubledLinear\): its class was registered as equivalent to Linear, but it computes something else",
)
other_norm = _not_equivalent(
    "norm layer",
    NormWithActivation(2, 4),
    r"1 \(NormWithActivation\): its class was registered as equivalent to GroupNorm, but it is not affine",
)
