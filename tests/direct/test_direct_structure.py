"""Direct feedback against the rule written out with plain autograd, in models of many shapes.

By hand, the error of an input h is a term of the loss: <h, B·e>, with e held fixed. Layers take inputs that
were detached. What B does to e is an einsum of its own in each test.
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from alignonce import DirectFeedback, audit_weight_transport, exact_gradients, set_learning_rule
from alignonce.rules.base import generator_for


class ByHand:
    """Cuts inputs and gives them what they are to receive."""

    def __init__(self) -> None:
        self.terms: list[tuple[Tensor, Callable[[list[Tensor]], Tensor]]] = []

    def cut(self, h: Tensor, error: Callable[[list[Tensor]], Tensor]) -> Tensor:
        self.terms.append((h, error))
        return h.detach()

    def gradients(self, model: nn.Module, value: Tensor, *outputs: Tensor) -> list[Tensor]:
        e = list(torch.autograd.grad(value, outputs, retain_graph=True))
        total = value + sum((h * error(e)).sum() for h, error in self.terms)
        return gradients(model, total)


def gradients(model: nn.Module, value: Tensor) -> list[Tensor]:
    parameters = list(model.parameters())
    found = torch.autograd.grad(value, parameters, allow_unused=True, retain_graph=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]


def equal(ours: list[Tensor], expected: list[Tensor]) -> None:
    assert len(ours) == len(expected)
    for a, b in zip(ours, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def loss(*outputs: Tensor) -> Tensor:
    return sum(((i + 1) * output.sin()).sum() for i, output in enumerate(outputs))


class TwoHeads(nn.Module):
    """A trunk of two layers, a head of one and a head of two."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 5), nn.Linear(5, 6)
        self.one = nn.Linear(6, 3)
        self.two = nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 2))
        self.double()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.b(self.a(x).tanh()).tanh()
        return self.one(h), self.two(h)


def two_heads_by_hand(model: TwoHeads, x: Tensor, weights: tuple[float, float] = (1, 2)) -> list[Tensor]:
    """Output 0 is that of the layer that runs last, in head two; output 1 is head one."""
    buffers, hand = dict(model.named_buffers()), ByHand()
    with exact_gradients(model):
        h = model.a(x).tanh()
        h = hand.cut(
            h, lambda e: e[1] @ buffers["b.direct_feedback"] + e[0] @ buffers["b.direct_feedback_of_output_1"]
        )
        h = model.b(h).tanh()
        one = model.one(hand.cut(h, lambda e: e[0] @ buffers["one.direct_feedback_of_output_1"]))
        t = model.two[0](hand.cut(h, lambda e: e[1] @ buffers["two.0.direct_feedback"])).tanh()
        two = model.two[2](hand.cut(t, lambda e: e[1] @ buffers["two.2.direct_feedback"]))
        return hand.gradients(model, weights[0] * one.sin().sum() + weights[1] * two.sin().sum(), one, two)


def two_heads(x: Tensor) -> TwoHeads:
    model = TwoHeads()
    set_learning_rule(model, DirectFeedback(), inputs=x)
    return model


def test_the_trunk_learns_from_both_heads_and_each_head_from_its_own_error() -> None:
    model = two_heads(x := drawn(6, 4))
    equal(gradients(model, loss(*model(x))), two_heads_by_hand(model, x))
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    equal(gradients(model, loss(*compiled(x))), two_heads_by_hand(model, x))


def test_a_head_that_is_not_in_the_loss_adds_nothing() -> None:
    model = two_heads(x := drawn(6, 4))
    equal(gradients(model, model(x)[0].sin().sum()), two_heads_by_hand(model, x, (1, 0)))
    parts = model.one(model.b(model.a(x).tanh()).tanh())
    equal(gradients(model, parts.sin().sum()), two_heads_by_hand(model, x, (1, 0)))


def test_one_output_keeps_its_buffers_and_their_values() -> None:
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
    set_learning_rule(model, DirectFeedback(seed=3), inputs=drawn(6, 4).float())
    assert [name for name, _ in model.named_buffers()] == ["0.direct_feedback", "2.direct_feedback"]
    noise = torch.randn(3, 5, dtype=torch.float64, generator=generator_for("3/2/0")) / 5**0.5
    assert torch.equal(model[2].direct_feedback, noise.float())


class Auxiliary(nn.Module):
    """With a second head in training only, as in Inception."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 5), nn.Linear(5, 3)
        self.aux = nn.Linear(5, 2)
        self.double()

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        h = self.a(x).tanh()
        aux = self.aux(h) if self.training else None
        y = self.b(h)
        return y if aux is None else (y, aux)


@pytest.mark.parametrize("training", [True, False])
def test_an_auxiliary_head_in_training(training: bool) -> None:
    model, x = Auxiliary().eval(), drawn(6, 4)
    set_learning_rule(model, DirectFeedback(), inputs=x)
    model.train(training)
    ours = gradients(model, loss(*model(x)) if training else loss(model(x)))

    hand = ByHand()
    with exact_gradients(model):
        h = model.a(x).tanh()
        y = model.b(hand.cut(h, lambda e: e[0] @ model.b.direct_feedback))
        aux = model.aux(hand.cut(h, lambda e: e[1] @ model.aux.direct_feedback_of_output_1))
        outputs = (y, aux) if training else (y,)
        if not training:
            hand.terms.pop()
        expected = hand.gradients(model, loss(*outputs), *outputs)
    equal(ours, expected)


@pytest.mark.parametrize("times", [3, 5])
def test_a_sequence_that_comes_first_is_no_batch(times: int) -> None:
    """(T, N, C) to (N, K), also with T = N at run time."""

    class Mean(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.head = nn.Linear(4, 5), nn.Linear(5, 6), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.b(self.a(x).tanh()).tanh().mean(0))

    model, x = Mean().double(), drawn(3, times, 4)  # T is 3
    set_learning_rule(model, DirectFeedback(), inputs=drawn(3, 4, 4))
    ours = gradients(model, loss(model(x)))

    hand, (b, head) = ByHand(), (model.b.direct_feedback.view(3, 3, 5), model.head.direct_feedback)
    with exact_gradients(model):
        h = hand.cut(model.a(x).tanh(), lambda e: torch.einsum("nk,ktc->tnc", e[0], b))
        y = model.head(hand.cut(model.b(h).tanh().mean(0), lambda e: e[0] @ head))
        equal(ours, hand.gradients(model, loss(y), y))


def test_a_convolution_as_output_acts_on_each_pixel() -> None:
    """Also where the output has as many channels as the tapped input."""
    model = nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1), nn.Tanh(), nn.Conv2d(3, 4, 3, padding=1), nn.Tanh(), nn.Conv2d(4, 3, 1)
    ).double()
    x = drawn(3, 2, 4, 4)
    set_learning_rule(model, DirectFeedback(), inputs=x)
    b, c = model[2].direct_feedback, model[4].direct_feedback
    assert (b.shape, c.shape) == ((3, 3), (3, 4))
    for size in (4, 6):  # of another size than at conversion
        x, hand = drawn(2, 2, size, 5), ByHand()
        ours = gradients(model, loss(model(x)))
        with exact_gradients(model):
            h = hand.cut(model[0](x).tanh(), lambda e: torch.einsum("nkhw,kc->nchw", e[0], b))
            h = hand.cut(model[2](h).tanh(), lambda e: torch.einsum("nkhw,kc->nchw", e[0], c))
            y = model[4](h)
            equal(ours, hand.gradients(model, loss(y), y))


def test_a_classifier_of_images_has_the_whole_b() -> None:
    model = nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.Tanh(), nn.Conv2d(3, 4, 2), nn.Tanh(), nn.Flatten(), nn.Linear(16, 3)
    ).double()
    x, hand = drawn(3, 2, 5, 5), ByHand()
    set_learning_rule(model, DirectFeedback(), inputs=x)
    ours = gradients(model, loss(model(x)))
    b, c = model[2].direct_feedback.view(3, 3, 3, 3), model[5].direct_feedback
    with exact_gradients(model):
        h = hand.cut(model[0](x).tanh(), lambda e: torch.einsum("nk,kchw->nchw", e[0], b))
        y = model[5](hand.cut(model[2](h).tanh().flatten(1), lambda e: e[0] @ c))
        equal(ours, hand.gradients(model, loss(y), y))


def test_tokens_are_apart() -> None:
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    set_learning_rule(model, DirectFeedback(), inputs=drawn(3, 2, 4))
    x, hand, b = drawn(2, 7, 4), ByHand(), model[2].direct_feedback
    ours = gradients(model, loss(model(x)))
    with exact_gradients(model):
        y = model[2](hand.cut(model[0](x).tanh(), lambda e: torch.einsum("ntk,kc->ntc", e[0], b)))
        equal(ours, hand.gradients(model, loss(y), y))


@pytest.mark.parametrize("call", ["call", "forward"])
@pytest.mark.parametrize("shape", [(4,), (2, 5, 5)])
def test_one_example_without_a_batch_dimension_is_a_batch_of_one(shape: tuple[int, ...], call: str) -> None:
    layers = [nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3)]
    if len(shape) == 3:
        layers = [
            nn.Conv2d(2, 3, 3),
            nn.Tanh(),
            nn.Conv2d(3, 4, 2),
            nn.Tanh(),
            nn.Flatten(-3),
            nn.Linear(16, 3),
        ]
    model, x = nn.Sequential(*layers).double(), drawn(*shape)
    set_learning_rule(model, DirectFeedback(), inputs=torch.stack([x, x]))
    one = gradients(model, loss(model(x) if call == "call" else model.forward(x)))
    equal(one, gradients(model, loss(model(x.unsqueeze(0)))))


def test_a_parameter_that_enters_a_layer_receives_the_sum_over_examples() -> None:
    class Query(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.query, self.a, self.head = nn.Parameter(drawn(2, 4)), nn.Linear(4, 5), nn.Linear(10, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head((x.unsqueeze(1) + self.a(self.query).tanh()).flatten(1))

    model, x, hand = Query().double(), drawn(6, 5), ByHand()
    set_learning_rule(model, DirectFeedback(), inputs=x)
    ours = gradients(model, loss(model(x)))
    a, head = model.a.direct_feedback.view(3, 2, 4), model.head.direct_feedback
    with exact_gradients(model):
        q = hand.cut(model.query, lambda e: torch.einsum("nk,kqc->qc", e[0], a))
        y = model.head(
            hand.cut(
                (x.unsqueeze(1) + model.a(q).tanh()).flatten(1),
                lambda e: torch.einsum("nk,kc->nc", e[0], head),
            )
        )
        equal(ours, hand.gradients(model, loss(y), y))


def test_an_output_layer_that_runs_at_each_step_sends_each_error_to_all_before_it() -> None:
    class Steps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.head = nn.RNNCell(3, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            h, outputs = x.new_zeros(len(x), 4), []
            for step in x.unbind(1):
                h = self.cell(step, h)
                outputs.append(self.head(h))
            return torch.stack(outputs, 1)

    model, x, hand = Steps().double(), drawn(5, 3, 3), ByHand()
    set_learning_rule(model, DirectFeedback(), inputs=x)
    ours = gradients(model, loss(model(x)))
    state, head = model.cell.direct_feedback_1, model.head.direct_feedback
    h, outputs, cell = x.new_zeros(5, 4), [], by_hand_cell(model.cell)
    for t, step in enumerate(x.unbind(1)):
        if t:
            h = hand.cut(h, lambda e, t=t: sum(e[t:]) @ state)
        h = cell(step, h)
        with exact_gradients(model):
            outputs.append(model.head(hand.cut(h, lambda e, t=t: e[t] @ head)))
    equal(ours, hand.gradients(model, loss(torch.stack(outputs, 1)), *outputs))


def by_hand_cell(cell: nn.RNNCell) -> Callable[[Tensor, Tensor], Tensor]:
    def run(x: Tensor, h: Tensor) -> Tensor:
        return (x @ cell.weight_ih.t() + cell.bias_ih + h @ cell.weight_hh.t() + cell.bias_hh).tanh()

    return run


class Coder(nn.Module):
    """Returns what it made and the hidden numbers that it made it of, as an autoencoder."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.mean, self.b = nn.Linear(4, 5), nn.Linear(5, 2), nn.Linear(2, 4)
        self.double()

    def encode(self, x: Tensor) -> Tensor:
        return self.mean(self.a(x).tanh())

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean = self.encode(x)
        return self.b(mean.tanh()), mean


@pytest.mark.parametrize("outputs", ["returned", "b"])
@pytest.mark.parametrize("by_parts", [False, True])
def test_returned_hidden_states_are_outputs_unless_others_are_named(outputs: str, by_parts: bool) -> None:
    model, x, hand = Coder(), drawn(6, 4), ByHand()
    set_learning_rule(model, DirectFeedback(outputs=outputs), inputs=x)
    if by_parts:
        mean = model.encode(x)
        ours = gradients(model, loss(model.b(mean.tanh()), mean))
    else:
        ours = gradients(model, loss(*model(x)))

    named = dict(model.named_buffers())
    assert ("mean.direct_feedback_of_output_1" in named) == (outputs == "returned")
    with exact_gradients(model):
        h = model.a(x).tanh()
        mean = model.mean(h.detach())
        y = model.b(hand.cut(mean.tanh(), lambda e: e[0] @ named["b.direct_feedback"]))
        value = loss(y, mean)
        (e,) = torch.autograd.grad(value, [y], retain_graph=True)
        arriving = (mean.tanh() * (e @ named["b.direct_feedback"])).sum() + value
        (e_mean,) = torch.autograd.grad(arriving, [mean], retain_graph=True)
        received = e @ named["mean.direct_feedback"]
        if outputs == "returned":
            received = received + e_mean @ named["mean.direct_feedback_of_output_1"]
        equal(ours, gradients(model, arriving + (h * received).sum()))


def test_layers_that_training_drops_are_looked_for_in_evaluation() -> None:
    class Dropping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            h = self.a(x).tanh()
            return self.head(h if self.training else h + self.b(h).tanh())

    model, x = Dropping().double(), drawn(6, 4)
    summary = set_learning_rule(model, DirectFeedback(), inputs=x)
    assert {row.name for row in summary.rows} == {"a", "b", "head"}
    assert audit_weight_transport(model.eval(), x, loss).free_of_transport
    assert all(g.any() for g in gradients(model, loss(model(x))))


def test_batch_norm_in_training_refuses_a_batch_of_one_and_gets_two() -> None:
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3))
    set_learning_rule(model, DirectFeedback(), inputs=drawn(1, 4).float())
    assert model[3].direct_feedback.shape == (3, 5)


def test_the_summary_lists_what_stays_exact_and_how_many_outputs_send_errors() -> None:
    model = nn.Sequential(nn.Linear(4, 5), nn.LayerNorm(5), nn.Linear(5, 3))
    assert [
        item.name for item in set_learning_rule(model, DirectFeedback(), inputs=drawn(2, 4).float()).exact
    ] == ["1"]
    assert set_learning_rule(TwoHeads(), DirectFeedback(), inputs=drawn(2, 4)).rows[0].format == (
        "direct float64, 2 outputs"
    )


def test_an_output_layer_that_runs_more_often_than_at_conversion_gets_a_clear_error() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.head, self.times = nn.Linear(4, 4), nn.Linear(4, 3), 1

        def forward(self, x: Tensor) -> Tensor:
            return sum(self.head(self.a(x)) for _ in range(self.times))

    model, x = Twice().double(), drawn(6, 4)
    set_learning_rule(model, DirectFeedback(), inputs=x)
    model.times = 2
    with pytest.raises(RuntimeError, match=r"output layer 'head' ran twice .* inputs= that run the model"):
        model(x)


@pytest.mark.parametrize("call", ["call", "forward"])
def test_a_model_that_runs_on_its_own_output_learns_in_each_pass_from_what_arrives_at_its_output(
    call: str,
) -> None:
    model, x = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 4)).double(), drawn(6, 4)
    set_learning_rule(model, DirectFeedback(), inputs=x)
    run = model if call == "call" else model.forward
    ours = gradients(model, loss(run(run(x))))
    with exact_gradients(model):
        h = model[0](x).tanh()
        y = model[2](h.detach())
        h2 = model[0](y.detach()).tanh()
        z = model[2](h2.detach())
        value = loss(z)
        (e,) = torch.autograd.grad(value, [z], retain_graph=True)
        e1 = e @ model[0].direct_feedback
        total = value + (h2 * (e @ model[2].direct_feedback)).sum() + (y * e1).sum()
        equal(ours, gradients(model, total + (h * (e1 @ model[2].direct_feedback)).sum()))
