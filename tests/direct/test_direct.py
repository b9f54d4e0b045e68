"""Direct feedback alignment: the output's error, through random matrices, to each layer."""

import copy
import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alignonce import (
    Backpropagation,
    DirectFeedback,
    SoftAlignment,
    audit_weight_transport,
    exact_gradients,
    set_learning_rule,
)

LABELS = torch.tensor([0, 1, 2, 0, 1])


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 7), nn.Tanh(), nn.Linear(7, 3)).double()


def loss(output: Tensor) -> Tensor:
    return F.cross_entropy(output.flatten(0, -2), LABELS[: output.flatten(0, -2).shape[0]])


def gradients(model: nn.Module, x: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss(model(x)), list(model.parameters())))


class Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x)


def test_gradients_are_those_of_the_published_rule() -> None:
    """Against Nøkland's equations 5 and 6, written out in NumPy: δₖ = (Bₖ e) ⊙ f'(aₖ), dWₖ = δₖ hₖ₋₁ᵀ."""
    model = mlp()
    x = torch.randn(5, 6, dtype=torch.float64)
    set_learning_rule(model, DirectFeedback(seed=2), inputs=x)
    ours = [g.numpy() for g in gradients(model, x)]

    w1, c1, w2, c2, w3, c3 = (p.detach().numpy() for p in model.parameters())
    b1, b2 = model[2].direct_feedback.numpy(), model[4].direct_feedback.numpy()
    h0 = x.numpy()
    h1 = np.tanh(h0 @ w1.T + c1)
    h2 = np.tanh(h1 @ w2.T + c2)
    logits = h2 @ w3.T + c3
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    e = (p - np.eye(3)[LABELS]) / 5
    d1, d2 = (e @ b1) * (1 - h1**2), (e @ b2) * (1 - h2**2)
    expected = [d1.T @ h0, d1.sum(0), d2.T @ h1, d2.sum(0), e.T @ h2, e.sum(0)]
    for a, b in zip(ours, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10)


def test_the_output_layer_learns_as_in_backpropagation_whatever_the_loss() -> None:
    model = mlp()
    plain = copy.deepcopy(model)
    x = torch.randn(5, 6, dtype=torch.float64)
    set_learning_rule(model, DirectFeedback(), inputs=x)
    for criterion in (loss, lambda out: out.square().mean(), lambda out: out.sigmoid().sum()):
        ours, theirs = (
            torch.autograd.grad(criterion(m(x)), [m[4].weight, m[4].bias]) for m in (model, plain)
        )
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b)


def models() -> dict[str, tuple[nn.Module, Tensor]]:
    encoder = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0)
    cnn = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, stride=2), nn.Flatten(), nn.Linear(16, 3)
    )
    return {
        "mlp": (mlp(), torch.randn(5, 6, dtype=torch.float64)),
        "cnn": (cnn, torch.randn(5, 2, 6, 6)),
        "residual": (
            nn.Sequential(nn.Linear(6, 8), Residual(8), Residual(8), nn.Linear(8, 3)),
            torch.randn(5, 6),
        ),
        "transformer": (nn.Sequential(encoder, nn.Linear(8, 3)), torch.randn(1, 5, 8)),
    }


@pytest.mark.parametrize("name", models())
def test_every_weight_learns_and_none_is_read_backwards(name: str) -> None:
    model, x = models()[name]
    set_learning_rule(model, DirectFeedback(), inputs=x)
    for mode in (True, False):
        model.train(mode)
        assert all(g.any() for g in gradients(model, x))
    report = audit_weight_transport(model, x, loss)
    assert {row.kind for row in report.culprits} <= {"LayerNorm"}


@pytest.mark.parametrize("name", models())
def test_no_product_with_a_transposed_weight_is_computed(name: str) -> None:
    """No layer's input asks for a gradient, so that none is computed and thrown away."""
    model, x = models()[name]
    set_learning_rule(model, DirectFeedback(), inputs=x)
    asked: list[bool] = []
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d) and "NonDyn" not in type(module).__name__:
            module.register_forward_hook(lambda m, args, out: asked.append(args[0].requires_grad))
    model(x)
    assert asked
    assert not any(asked)


def test_block_taps_cut_between_blocks_and_leave_their_inside_alone() -> None:
    model = nn.Sequential(nn.Linear(6, 8), Residual(8), Residual(8), nn.Linear(8, 3)).double()
    x = torch.randn(5, 6, dtype=torch.float64)
    summary = set_learning_rule(model, DirectFeedback(taps=["1", "2"]), inputs=x)
    assert [row.name for row in summary.rows] == ["1", "2", "3"]
    ours = dict(zip(dict(model.named_parameters()), gradients(model, x), strict=True))
    # By hand: the error of block 1's output is B₂ e, and within the block it is backpropagated.
    with exact_gradients(model):
        h1 = model[0](x)
        h2 = model[1](h1)
        logits = model[3](model[2](h2))
        (e,) = torch.autograd.grad(loss(logits), [logits], retain_graph=True)
        expected = torch.autograd.grad(
            h2, list(model[1].parameters()), e @ model[2].direct_feedback, retain_graph=True
        )
        first = torch.autograd.grad(h1, list(model[0].parameters()), e @ model[1].direct_feedback)
    for (name, _), value in zip(model[1].named_parameters(), expected, strict=True):
        torch.testing.assert_close(ours[f"1.{name}"], value)
    torch.testing.assert_close(ours["0.weight"], first[0])


def test_blocks_may_have_another_rule_inside_and_then_pass_the_audit() -> None:
    model = nn.Sequential(nn.Linear(6, 8), Residual(8), Residual(8), nn.Linear(8, 3))
    x = torch.randn(5, 6)
    set_learning_rule(model, SoftAlignment(0.5))
    set_learning_rule(model, DirectFeedback(taps="[12]"), inputs=x)
    assert audit_weight_transport(model, x, loss).free_of_transport


def test_changing_batch_sizes_and_two_calls_before_one_backward() -> None:
    model = mlp()
    a, b = torch.randn(5, 6, dtype=torch.float64), torch.randn(3, 6, dtype=torch.float64)
    set_learning_rule(model, DirectFeedback(), inputs=a)
    separate = [p + q for p, q in zip(gradients(model, a), gradients(model, b), strict=True)]
    first, second = model(a), model(b)
    together = torch.autograd.grad(loss(first) + loss(second), list(model.parameters()))
    for p, q in zip(separate, together, strict=True):
        torch.testing.assert_close(p, q)


def test_shared_layer_learns_from_each_of_its_uses() -> None:
    shared = nn.Linear(6, 6)
    model = nn.Sequential(shared, nn.Tanh(), shared, nn.Tanh(), nn.Linear(6, 3))
    x = torch.randn(5, 6)
    set_learning_rule(model, DirectFeedback(), inputs=x)
    assert gradients(model, x)[0].any()
    assert audit_weight_transport(model, x, loss).free_of_transport


def test_exact_gradients_and_the_way_back_are_backpropagation() -> None:
    model = mlp()
    plain = copy.deepcopy(model)
    x = torch.randn(5, 6, dtype=torch.float64)
    set_learning_rule(model, DirectFeedback(), inputs=x)
    assert torch.equal(model(x), plain(x))
    with exact_gradients(model):
        for a, b in zip(gradients(model, x), gradients(plain, x), strict=True):
            assert torch.equal(a, b)
    for rule in (Backpropagation(), SoftAlignment(1.0)):
        set_learning_rule(model, DirectFeedback(), inputs=x)
        set_learning_rule(model, rule)
        assert not any("direct" in name for name, _ in model.named_buffers())
        for a, b in zip(gradients(model, x), gradients(plain, x), strict=True):
            torch.testing.assert_close(a, b)


def test_copies_state_dicts_and_compiled_models_learn_alike() -> None:
    model = mlp()
    x = torch.randn(5, 6, dtype=torch.float64)
    set_learning_rule(model, DirectFeedback(seed=1), inputs=x)
    expected = gradients(model, x)
    other = mlp()
    set_learning_rule(other, DirectFeedback(seed=2), inputs=x)
    other.load_state_dict(model.state_dict())
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), other, compiled):
        for a, b in zip(gradients(twin, x), expected, strict=True):
            torch.testing.assert_close(a, b)


def test_checkpointed_blocks_learn_as_without_checkpoints() -> None:
    class Checkpointed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = mlp()
            self.on = True

        def forward(self, x: Tensor) -> Tensor:
            x = self.net[1](self.net[0](x))
            middle = self.net[2:4]
            x = torch.utils.checkpoint.checkpoint(middle, x, use_reentrant=False) if self.on else middle(x)
            return self.net[4](x)

    model = Checkpointed()
    x = torch.randn(5, 6, dtype=torch.float64)
    set_learning_rule(model, DirectFeedback(), inputs=x)
    with_checkpoints = gradients(model, x)
    model.on = False
    for a, b in zip(with_checkpoints, gradients(model, x), strict=True):
        torch.testing.assert_close(a, b)


def test_installing_leaves_statistics_modes_and_random_state_alone() -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3))
    model[1].eval()
    before = copy.deepcopy(model.state_dict())
    x = torch.randn(5, 6)
    random = torch.get_rng_state()
    set_learning_rule(model, DirectFeedback(), inputs={"input": x})
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(model.state_dict()[k], v) for k, v in before.items())
    assert model.training
    assert not model[1].training


@pytest.mark.parametrize(
    ("rule", "options", "match"),
    [
        (DirectFeedback(), {}, "needs inputs=, a batch"),
        (DirectFeedback(taps="blocks.*"), {"inputs": torch.randn(5, 6)}, "'blocks\\.\\*' matches no module"),
        (DirectFeedback(), {"inputs": torch.randn(5, 6), "where": "0"}, "where= does not go with"),
    ],
)
def test_bad_input_gets_one_clear_error(rule: DirectFeedback, options: dict, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        set_learning_rule(mlp().float(), rule, **options)


def test_inputs_of_another_size_get_a_clear_error() -> None:
    model = nn.Sequential(
        nn.Conv1d(2, 3, 3), nn.ReLU(), nn.Conv1d(3, 3, 3), nn.AdaptiveAvgPool1d(1), nn.Flatten()
    )
    model.append(nn.Linear(3, 3))
    set_learning_rule(model, DirectFeedback(), inputs=torch.randn(5, 2, 9))
    with pytest.raises(ValueError, match=r"input of '2' has shape .* other sizes than the batch"):
        model(torch.randn(5, 2, 11))


def test_a_layer_that_runs_after_the_output_gets_a_clear_error() -> None:
    class Shuffled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)
            self.swap = False

        def forward(self, x: Tensor) -> Tensor:
            return self.a(self.b(x)) if self.swap else self.b(self.a(x))

    model = Shuffled()
    set_learning_rule(model, DirectFeedback(), inputs=torch.randn(5, 3))
    model.swap = True
    with pytest.raises(RuntimeError, match="'a' ran after the output layer"):
        model(torch.randn(5, 3))
