"""Derivatives of gradients: those of dW(x, g), db(g) and dx(g, B), in which x and g vary and B does not."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from situations.by_hand import by_hand
from situations.situation import ALL_FORMATS, Case, crossed, right

TOPIC = "Second derivatives"

_CASES = [
    *crossed(formats=list(ALL_FORMATS)),
    *crossed(
        ("Linear", "Conv2d", "Bilinear"), rules=("RandomFeedback", "SignSymmetry batch", "KolenPollack")
    ),
]

Quantity = Callable[[nn.Module, Tensor], Sequence[Tensor]]
"""What is computed of a model and a batch through gradients of gradients."""


def _agree(case: Case, quantity: Quantity, rounding: float = 0.05) -> None:
    model, x = case.model(), case.inputs().requires_grad_()
    # PyTorch's fused kernels of attention have no second derivatives, in plain layers either.
    with sdpa_kernel(SDPBackend.MATH):
        ours, expected = (_flat(quantity(m, x)) for m in (model, by_hand(model)))
    error = torch.linalg.vector_norm(ours - expected) / torch.linalg.vector_norm(expected)
    limit = {"Dense": 1e-9}.get(case.format, 1e-5)  # float32 in what a format holds
    if "bfloat16" in case.format or case.format in ("Int8", "Int4", "Sign"):
        limit = rounding  # of errors to 8 or 16 bits
    assert error < limit, f"relative error {error:.2g}"


@right("you take Hessian-vector products of the loss", _CASES, "the derivative of the rule's gradients")
def products_with_a_vector(case: Case) -> None:
    def product(model: nn.Module, x: Tensor) -> Sequence[Tensor]:
        parameters = list(model.parameters())
        gradients = _gradients(_loss(model, x), [*parameters, x])
        return _gradients(sum((g.cos()).sum() for g in gradients), [*parameters, x])

    _agree(case, product)


@right(
    "you train with a penalty on the gradient of the input",
    _CASES,
    "dx is that of the rule: [it differs from that of `exact_gradients`](measuring.md)",
)
def gradient_penalty(case: Case) -> None:
    def penalty(model: nn.Module, x: Tensor) -> Sequence[Tensor]:
        (dx,) = _gradients(_loss(model, x), [x])
        return _gradients(_loss(model, x) + 10 * dx.square().sum(), list(model.parameters()))

    _agree(case, penalty)


@right("you learn through a step of an inner loop (MAML)", _CASES, "the derivative of the rule's step")
def inner_step(case: Case) -> None:
    def outer(model: nn.Module, x: Tensor) -> Sequence[Tensor]:
        parameters = dict(model.named_parameters())
        gradients = _gradients(_loss(model, x), list(parameters.values()))
        stepped = {n: p - 0.1 * g for (n, p), g in zip(parameters.items(), gradients, strict=True)}
        return _gradients(
            functional_call(model, stepped, (x.flip(0),)).sin().sum(), list(parameters.values())
        )

    _agree(case, outer)


@right(
    "you take gradients of gradients of gradients", crossed(formats=("Dense", "LowRank", "Int8", "Sparse"))
)
def third(case: Case) -> None:
    def thrice(model: nn.Module, x: Tensor) -> Sequence[Tensor]:
        wanted = [*model.parameters(), x]
        first = _gradients(_loss(model, x), wanted)
        second = _gradients(sum(g.sin().sum() for g in first), wanted)
        return _gradients(sum(g.sin().sum() for g in second), wanted)

    _agree(case, thrice, rounding=0.1)


def _loss(model: nn.Module, x: Tensor) -> Tensor:
    return model(x).sin().sum()


def _gradients(loss: Tensor, wanted: list[Tensor]) -> list[Tensor]:
    found = torch.autograd.grad(loss, wanted, create_graph=True, allow_unused=True)
    return [torch.zeros_like(w) if g is None else g for g, w in zip(found, wanted, strict=True)]


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([t.detach().flatten() for t in tensors])
