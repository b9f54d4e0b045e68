"""Derivatives of gradients: those of dW(x, g), db(g) and dx(g, B), in which x and g vary and B does not.

And forward mode, whose derivatives are those of the forward pass.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import functional_call, grad, jacfwd, jvp
from torch.nn.attention import SDPBackend, sdpa_kernel

from alignonce import exact_gradients, set_learning_rule
from situations.by_hand import by_hand
from situations.situation import ALL_FORMATS, LAYERS, Case, crossed, right

TOPIC = "Second derivatives and forward mode"

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


@right(
    "you call `torch.func.jvp`, `jacfwd` or `torch.autograd.forward_ad`",
    crossed(formats=("Dense", "LowRank", "Int8", "Sparse")),
    "derivatives of the forward pass, in which B has no part",
)
def forward_mode(case: Case) -> None:
    model, x = case.model().train(), case.inputs()
    direction = torch.randn(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(1))
    with sdpa_kernel(SDPBackend.MATH):
        ours = jvp(model, (x,), (direction,))
        with forward_ad.dual_level():
            by_level = forward_ad.unpack_dual(model(forward_ad.make_dual(x, direction)))
        with exact_gradients(model):
            expected = jvp(model, (x,), (direction,))
        columns = jacfwd(model)(x).flatten(2).flatten(0, 1) @ direction.flatten()
    for a in (ours, by_level):
        torch.testing.assert_close(tuple(a), expected)
    torch.testing.assert_close(columns, expected[1].flatten())


@right(
    "you mix forward and reverse mode (`jvp` of `grad`, `grad` of `jvp`)",
    crossed(
        [layer for layer in LAYERS if layer != "MultiheadAttention"],
        formats=("Dense", "LowRank", "Int8", "Sparse"),
    ),
    "the derivative of the rule's gradients, in either order",
)
def mixed_modes(case: Case) -> None:
    model, x = case.model(), case.inputs()
    twin = by_hand(model)
    direction = {n: torch.randn_like(p).detach() for n, p in model.named_parameters()}
    start = {n: p.detach() for n, p in model.named_parameters()}

    def loss(parameters: dict[str, Tensor]) -> Tensor:
        return functional_call(model, parameters, (x,)).sin().sum()

    def by_hand_at(step: float) -> Tensor:
        at = {n: (p + step * direction[n]).requires_grad_() for n, p in start.items()}
        value = functional_call(twin, at, (x,)).sin().sum()
        return _flat(torch.autograd.grad(value, list(at.values()), allow_unused=True, materialize_grads=True))

    expected = (by_hand_at(1e-5) - by_hand_at(-1e-5)) / 2e-5
    forward_over_reverse = jvp(grad(loss), (start,), (direction,))[1]
    reverse_over_forward = grad(lambda p: jvp(loss, (p,), (direction,))[1])(start)
    for ours in (forward_over_reverse, reverse_over_forward):
        torch.testing.assert_close(_flat(list(ours.values())), expected, rtol=1e-5, atol=1e-6)


@right(
    'you differentiate gradients through norm layers with `norms="fixed"`',
    crossed(("Linear",)),
    "the fixed scale stays fixed, also for the second derivative",
)
def fixed_norms(case: Case) -> None:
    rms = nn.RMSNorm(4)
    for norm in (
        nn.BatchNorm1d(4, track_running_stats=False),
        nn.LayerNorm(4),
        nn.GroupNorm(2, 4),
        nn.InstanceNorm1d(4, affine=True),
        rms,
    ):
        norm.double()
        set_learning_rule(nn.Sequential(norm), case.learning_rule, norms="fixed")
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(5, 4, 4, dtype=torch.float64, generator=generator)
        start = {"x": x, **{n: p.detach() + 0.5 for n, p in norm.named_parameters()}}  # γ away from γ_B
        direction = {n: torch.randn(p.shape, generator=generator).double() for n, p in start.items()}

        def loss(at: dict[str, Tensor], norm: nn.Module = norm) -> Tensor:
            parameters = {n: p for n, p in at.items() if n != "x"}
            return functional_call(norm, parameters, (at["x"],)).sin().sum()

        def gradients(step: float, loss=loss, start=start, direction=direction) -> tuple[list, list]:
            at = [(p + step * direction[n]).requires_grad_() for n, p in start.items()]
            return at, _gradients(loss(dict(zip(start, at, strict=True))), at)

        def change() -> Tensor:
            return (_flat(gradients(1e-5)[1]) - _flat(gradients(-1e-5)[1])) / 2e-5

        mixed = [jvp(grad(loss), (start,), (direction,))[1]]
        if isinstance(norm, nn.GroupNorm | nn.RMSNorm):  # of other plain norms, torch 2.13 has this wrong
            mixed.append(grad(lambda p, f=loss, d=direction: jvp(f, (p,), (d,))[1])(start))
        for ours in mixed:
            torch.testing.assert_close(_flat(list(ours.values())), change(), rtol=1e-5, atol=1e-6)
        # Errors that go back twice reach x through γ_B: only the parameters' are those of finite differences.
        direction["x"] = torch.zeros_like(x)
        at, found = gradients(0)
        twice = _gradients(sum(g.cos().sum() for g in found), at)
        ours = _flat(twice) @ _flat(list(direction.values()))
        torch.testing.assert_close(ours, -_flat(found).sin() @ change(), rtol=1e-5, atol=1e-6)


def _loss(model: nn.Module, x: Tensor) -> Tensor:
    return model(x).sin().sum()


def _gradients(loss: Tensor, wanted: list[Tensor]) -> list[Tensor]:
    found = torch.autograd.grad(loss, wanted, create_graph=True, allow_unused=True)
    return [torch.zeros_like(w) if g is None else g for g, w in zip(found, wanted, strict=True)]


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([t.detach().flatten() for t in tensors])
