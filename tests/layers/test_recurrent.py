"""Recurrent layers with feedback weights: PyTorch's values, and errors that go through feedback in time."""

import copy
import pickle
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils import prune
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from alignonce import (
    Backpropagation,
    KolenPollack,
    LearningRule,
    PeriodicAlignment,
    RandomFeedback,
    SignSymmetry,
    SoftAlignment,
    WeightMirror,
    audit_weight_transport,
    evolve,
    exact_gradients,
    feedback_weights,
    set_learning_rule,
)
from alignonce.layers import FeedbackLayer, feedback_name

# PyTorch's own, from the plain layer
pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")

SOFT = SoftAlignment(cosine=0.5, seed=3)
IN, HIDDEN, PROJ = 3, 5, 2

Array = NDArray[np.float64]
Make = Callable[..., nn.Module]

LAYERS: dict[str, Make] = {
    "tanh": lambda **kw: nn.RNN(IN, HIDDEN, **kw),
    "relu": lambda **kw: nn.RNN(IN, HIDDEN, nonlinearity="relu", **kw),
    "lstm": lambda **kw: nn.LSTM(IN, HIDDEN, **kw),
    "lstm with projection": lambda **kw: nn.LSTM(IN, HIDDEN, proj_size=PROJ, **kw),
    "gru": lambda **kw: nn.GRU(IN, HIDDEN, **kw),
}
CELLS: dict[str, Make] = {
    "tanh": lambda **kw: nn.RNNCell(IN, HIDDEN, **kw),
    "relu": lambda **kw: nn.RNNCell(IN, HIDDEN, nonlinearity="relu", **kw),
    "lstm": lambda **kw: nn.LSTMCell(IN, HIDDEN, **kw),
    "gru": lambda **kw: nn.GRUCell(IN, HIDDEN, **kw),
}
FORMS = ["time first", "batch first", "unbatched", "packed", "packed, unsorted"]


@pytest.fixture(autouse=True)
def _seed() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def flat(result: Any) -> list[Tensor]:
    """Output and states as one list of tensors."""
    if isinstance(result, PackedSequence):
        return [result.data]
    return [result] if isinstance(result, Tensor) else [t for part in result for t in flat(part)]


def gradients(result: Any, targets: Iterable[Tensor]) -> list[Tensor]:
    """Of a sum of all outputs and states with fixed random factors."""
    generator = torch.Generator().manual_seed(1)
    tensors = flat(result)
    factors = [torch.randn(t.shape, generator=generator, dtype=torch.float64).to(t.dtype) for t in tensors]
    value = sum((t * f).sum() for t, f in zip(tensors, factors, strict=True))
    return list(torch.autograd.grad(value, list(targets)))


def assert_all_close(ours: Iterable[Tensor], theirs: Iterable[Tensor], **tolerances: float) -> None:
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, **tolerances)


def converted(layer: nn.Module, rule: LearningRule = SOFT) -> Any:
    layer = copy.deepcopy(layer)
    set_learning_rule(layer, rule)
    return layer


@dataclass(frozen=True)
class Call:
    """A drawn layer, and an input and initial state for it."""

    plain: nn.RNNBase
    input: Tensor
    states: tuple[Tensor, ...]
    """None given, or one or two of (layers * directions, batch, size)."""
    lengths: list[int] | None

    def run(self, layer: nn.Module) -> Any:
        x: Any = self.input
        if self.lengths is not None:
            ordered = self.lengths == sorted(self.lengths, reverse=True)
            x = pack_padded_sequence(x, self.lengths, self.plain.batch_first, enforce_sorted=ordered)
        with torch.random.fork_rng():
            torch.manual_seed(5)  # the same dropout for every layer
            if not self.states:
                return layer(x)
            return layer(x, self.states if isinstance(self.plain, nn.LSTM) else self.states[0])

    @property
    def targets(self) -> list[Tensor]:
        return [self.input, *self.states]


@st.composite
def calls(draw: Any, kind: str, form: str, dropout: bool = True) -> Call:
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    layers, both = draw(st.integers(1, 3)), draw(st.booleans())
    batch_first = form == "batch first" or (form != "time first" and draw(st.booleans()))
    plain = LAYERS[kind](
        num_layers=layers, bidirectional=both, batch_first=batch_first, bias=draw(st.booleans()),
        dropout=draw(st.sampled_from([0.0, 0.5])) if dropout and layers > 1 else 0.0, dtype=torch.float64,
    )  # fmt: skip
    with torch.no_grad():
        for p in plain.parameters():
            p.copy_(0.5 * torch.randn(p.shape, generator=generator, dtype=torch.float64))
    time, batch = draw(st.integers(1, 5)), draw(st.integers(1, 4))

    def randn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()

    lengths = None
    if form.startswith("packed"):
        lengths = draw(st.lists(st.integers(1, time), min_size=batch, max_size=batch))
        lengths = lengths if form.endswith("unsorted") else sorted(lengths, reverse=True)
        time = max(lengths)
    states: tuple[Tensor, ...] = ()
    if draw(st.booleans()):
        sizes = {"lstm": (HIDDEN, HIDDEN), "lstm with projection": (PROJ, HIDDEN)}.get(kind, (HIDDEN,))
        lead = (layers * (2 if both else 1), *(() if form == "unbatched" else (batch,)))
        states = tuple(randn(*lead, size) for size in sizes)
    shape = (time,) if form == "unbatched" else (batch, time) if batch_first else (time, batch)
    return Call(plain, randn(*shape, IN), states, lengths)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", LAYERS)
@given(data=st.data())
def test_values_and_with_feedback_equal_to_the_weight_all_gradients_are_the_plain_layers(
    kind: str, form: str, data: Any
) -> None:
    call = data.draw(calls(kind, form))
    layer = converted(call.plain, SoftAlignment(1.0))
    ours, theirs = call.run(layer), call.run(call.plain)
    assert type(ours[0]) is type(theirs[0])
    assert_all_close(flat(ours), flat(theirs))
    assert_all_close(
        gradients(ours, [*call.targets, *layer.parameters()]),
        gradients(theirs, [*call.targets, *call.plain.parameters()]),
    )
    with exact_gradients(layer):
        assert_all_close(
            gradients(call.run(layer), [*call.targets, *layer.parameters()]),
            gradients(theirs_again := call.run(call.plain), [*call.targets, *call.plain.parameters()]),
            rtol=0, atol=0,
        )  # fmt: skip
    if call.lengths is not None:  # what belongs to a packed sequence comes back with it
        padded, lengths = pad_packed_sequence(ours[0], call.plain.batch_first)
        assert lengths.tolist() == call.lengths
        torch.testing.assert_close(padded, pad_packed_sequence(theirs_again[0], call.plain.batch_first)[0])


@pytest.mark.parametrize("rule", [SOFT, RandomFeedback()], ids=str)
@pytest.mark.parametrize("kind", LAYERS)
def test_forward_values_do_not_depend_on_the_feedback(kind: str, rule: LearningRule) -> None:
    plain = LAYERS[kind](num_layers=2, bidirectional=True)
    x = torch.randn(4, 3, IN)
    assert_all_close(flat(converted(plain, rule)(x)), flat(plain(x)))


@pytest.mark.parametrize("kind", CELLS)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("given_state", [True, False])
@pytest.mark.parametrize("batch", [(), (1,), (4,)])
def test_cells_have_the_plain_cells_values_and_with_feedback_equal_to_the_weight_its_gradients(
    kind: str, bias: bool, given_state: bool, batch: tuple[int, ...]
) -> None:
    plain = CELLS[kind](bias=bias, dtype=torch.float64)
    cell = converted(plain, SoftAlignment(1.0))
    x = torch.randn(*batch, IN, dtype=torch.float64, requires_grad=True)
    h = torch.randn(*batch, HIDDEN, dtype=torch.float64, requires_grad=True)
    state, states = (h, [h]) if kind != "lstm" else ((h, c := h.detach().flip(-1).requires_grad_()), [h, c])
    results = [f(x, state) if given_state else f(x) for f in (cell, plain)]
    assert_all_close(flat(results[0]), flat(results[1]))
    inputs = [x, *states] if given_state else [x]
    assert_all_close(
        gradients(results[0], [*inputs, *cell.parameters()]),
        gradients(results[1], [*inputs, *plain.parameters()]),
    )


# --- backpropagation through time with B in W's place, written out in NumPy ---


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


@dataclass
class Reference:
    """A layer of one direction over (T, N, features) from (N, size) states: values, and all gradients.

    ``grad_output`` is the gradient of the outputs of all steps, ``grad_final`` that of the last states.
    """

    weights: dict[str, Array]
    feedback: dict[str, Array]

    def gates(self, x: Array, h: Array) -> tuple[Array, Array]:
        w = self.weights
        return x @ w["weight_ih"].T + w["bias_ih"], h @ w["weight_hh"].T + w["bias_hh"]

    def accumulate(self, grads: dict[str, Array], kind: str, error: Array, source: Array) -> Array:
        """Add to the gradients of a weight and its bias; return the error of what the weight maps."""
        grads[f"weight_{kind}"] += error.T @ source
        if f"bias_{kind}" in grads:
            grads[f"bias_{kind}"] += error.sum(0)
        return error @ self.feedback[f"weight_{kind}"]

    def tanh(self, x: Array, h0: Array, grad_output: Array, grad_final: Array) -> list[Any]:
        hs = [h0]
        for x_t in x:
            hs.append(np.tanh(sum(self.gates(x_t, hs[-1]))))
        grads = {k: np.zeros_like(v) for k, v in self.weights.items()}
        dx, dh = np.zeros_like(x), grad_final.copy()
        for t in reversed(range(len(x))):
            dh = dh + grad_output[t]
            error = dh * (1 - hs[t + 1] ** 2)
            dx[t] = self.accumulate(grads, "ih", error, x[t])
            dh = self.accumulate(grads, "hh", error, hs[t])
        return [np.stack(hs[1:]), dx, dh, grads]

    def gru(self, x: Array, h0: Array, grad_output: Array, grad_final: Array) -> list[Any]:
        hs, seen = [h0], []
        for x_t in x:
            a, b = (np.split(g, 3, axis=1) for g in self.gates(x_t, hs[-1]))
            r, z = sigmoid(a[0] + b[0]), sigmoid(a[1] + b[1])
            n = np.tanh(a[2] + r * b[2])
            hs.append((1 - z) * n + z * hs[-1])
            seen.append((r, z, n, b[2]))
        grads = {k: np.zeros_like(v) for k, v in self.weights.items()}
        dx, dh = np.zeros_like(x), grad_final.copy()
        for t in reversed(range(len(x))):
            dh = dh + grad_output[t]
            r, z, n, hidden = seen[t]
            dn = dh * (1 - z) * (1 - n**2)
            dz = dh * (hs[t] - n) * z * (1 - z)
            dr = dn * hidden * r * (1 - r)
            dx[t] = self.accumulate(grads, "ih", np.hstack([dr, dz, dn]), x[t])
            dh = dh * z + self.accumulate(grads, "hh", np.hstack([dr, dz, dn * r]), hs[t])
        return [np.stack(hs[1:]), dx, dh, grads]

    def lstm(
        self, x: Array, h0: Array, c0: Array, grad_output: Array, grad_h: Array, grad_c: Array
    ) -> list[Any]:
        projected = "weight_hr" in self.weights
        hs, cs, seen = [h0], [c0], []
        for x_t in x:
            i, f, g, o = np.split(sum(self.gates(x_t, hs[-1])), 4, axis=1)
            i, f, g, o = sigmoid(i), sigmoid(f), np.tanh(g), sigmoid(o)
            cs.append(f * cs[-1] + i * g)
            full = o * np.tanh(cs[-1])
            hs.append(full @ self.weights["weight_hr"].T if projected else full)
            seen.append((i, f, g, o, full))
        grads = {k: np.zeros_like(v) for k, v in self.weights.items()}
        dx, dh, dc = np.zeros_like(x), grad_h.copy(), grad_c.copy()
        for t in reversed(range(len(x))):
            dh = dh + grad_output[t]
            i, f, g, o, full = seen[t]
            if projected:
                dh = self.accumulate(grads, "hr", dh, full)
            tanh_c = np.tanh(cs[t + 1])
            dc = dc + dh * o * (1 - tanh_c**2)
            di, df = dc * g * i * (1 - i), dc * cs[t] * f * (1 - f)
            dg, do = dc * i * (1 - g**2), dh * tanh_c * o * (1 - o)
            error = np.hstack([di, df, dg, do])
            dx[t] = self.accumulate(grads, "ih", error, x[t])
            dh, dc = self.accumulate(grads, "hh", error, hs[t]), dc * f
        return [np.stack(hs[1:]), dx, dh, dc, grads]


@pytest.mark.parametrize("rule", [SOFT, RandomFeedback(seed=2), SoftAlignment(-0.3)], ids=str)
@pytest.mark.parametrize("kind", ["tanh", "lstm", "lstm with projection", "gru"])
def test_errors_go_back_in_time_through_feedback_as_written_out_in_numpy(
    kind: str, rule: LearningRule
) -> None:
    rng = np.random.default_rng(0)
    layer = converted(LAYERS[kind](dtype=torch.float64), rule)
    weights = {n.removesuffix("_l0"): p.detach().numpy() for n, p in layer.named_parameters()}
    feedback = {
        n: layer.get_buffer(feedback_name(f"{n}_l0")).numpy() for n in weights if n.startswith("weight")
    }
    reference = Reference(weights, feedback)
    size = PROJ if kind == "lstm with projection" else HIDDEN
    sizes = [size, HIDDEN] if kind.startswith("lstm") else [size]
    x, grad_output = rng.normal(size=(6, 4, IN)), rng.normal(size=(6, 4, size))
    first, grad_final = ([rng.normal(size=(4, s)) for s in sizes] for _ in range(2))
    run = getattr(reference, kind.split()[0])
    output, dx, *d_first, grads = run(x, *first, grad_output, *grad_final)

    x_, *first_ = (torch.from_numpy(a).requires_grad_() for a in (x, *first))
    states = tuple(s.unsqueeze(0) for s in first_)
    ours, final = layer(x_, states if isinstance(layer, nn.LSTM) else states[0])
    np.testing.assert_allclose(ours.detach(), output, rtol=1e-9, atol=1e-12)
    torch.autograd.backward(
        [ours, *flat(final)],
        [torch.from_numpy(grad_output), *(torch.from_numpy(g)[None] for g in grad_final)],
    )
    np.testing.assert_allclose(x_.grad, dx, rtol=1e-9, atol=1e-12)
    for ours, expected in zip(first_, d_first, strict=True):
        np.testing.assert_allclose(ours.grad, expected, rtol=1e-9, atol=1e-12)
    for name, expected in grads.items():
        actual = layer.get_parameter(f"{name}_l0").grad
        np.testing.assert_allclose(actual, expected, rtol=1e-9, atol=1e-12, err_msg=name)


def part_of(layer: Any, kind: str, index: int, suffix: str) -> Any:
    """One layer and direction of a converted layer, as a converted layer of its own with the same W and B."""
    width = layer.get_parameter(f"weight_ih_{suffix}").shape[1]
    make: Make = {"tanh": nn.RNN, "lstm": nn.LSTM, "lstm with projection": nn.LSTM, "gru": nn.GRU}[kind]
    proj = {"proj_size": PROJ} if kind.endswith("projection") else {}
    part = make(width, HIDDEN, bias=layer.bias, dtype=torch.float64, **proj)
    set_learning_rule(part, RandomFeedback())
    with torch.no_grad():
        for name, tensor in part.state_dict().items():
            tensor.copy_(layer.state_dict()[name.replace("l0", suffix)])
    return part


@pytest.mark.parametrize("kind", ["tanh", "lstm", "lstm with projection", "gru"])
@given(data=st.data())
def test_layers_directions_and_lengths_are_what_single_layers_on_single_sequences_give_together(
    kind: str, data: Any
) -> None:
    """With B unlike W; the single layer itself is held against NumPy above."""
    call = data.draw(calls(kind, "packed, unsorted", dropout=False))
    layer = converted(call.plain, RandomFeedback(seed=1))
    ours = call.run(layer)
    output, _ = pad_packed_sequence(ours[0], layer.batch_first)
    states = [ours[1]] if isinstance(ours[1], Tensor) else list(ours[1])

    suffixes = [
        f"l{n}{end}"
        for n in range(layer.num_layers)
        for end in (("", "_reverse") if layer.bidirectional else ("",))
    ]
    parts = {s: part_of(layer, kind, n, s) for n, s in enumerate(suffixes)}
    outputs, finals = [], []
    for row, length in enumerate(call.lengths or []):
        x = (call.input[row] if layer.batch_first else call.input[:, row])[:length]
        final = []
        for n in range(layer.num_layers):
            sides = []
            for suffix in (s for s in suffixes if s.split("_")[0] == f"l{n}"):
                first = tuple(s[len(final), row][None] for s in call.states)
                hx = () if not first else (first if isinstance(layer, nn.LSTM) else first[0],)
                backwards = suffix.endswith("_reverse")
                y, last = parts[suffix](x.flip(0) if backwards else x, *hx)
                sides.append(y.flip(0) if backwards else y)
                final.append(flat(last))
            x = torch.cat(sides, -1)
        padding = x.new_zeros(output.shape[1 if layer.batch_first else 0] - length, x.shape[1])
        outputs.append(torch.cat([x, padding]))
        finals.append([torch.cat(s) for s in zip(*final, strict=True)])
    expected = [torch.stack(outputs, 0 if layer.batch_first else 1)]
    expected += [torch.stack(s, 1) for s in zip(*finals, strict=True)]
    assert_all_close([output, *states], expected)
    targets = [p for s in suffixes for _, p in parts[s].named_parameters()]
    assert_all_close(
        gradients([output, *states], [*call.targets, *layer.parameters()]),
        gradients(expected, [*call.targets, *targets]),
    )


@pytest.mark.parametrize("kind", CELLS)
def test_a_cell_in_a_loop_learns_as_the_layer_of_its_kind(kind: str) -> None:
    layer = converted(LAYERS[kind](dtype=torch.float64), RandomFeedback(seed=4))
    cell = converted(CELLS[kind](dtype=torch.float64), RandomFeedback())
    with torch.no_grad():
        for name, tensor in cell.state_dict().items():
            tensor.copy_(layer.state_dict()[f"{name}_l0"])
    x = torch.randn(5, 2, IN, dtype=torch.float64, requires_grad=True)
    state, outputs = None, []
    for x_t in x:
        state = cell(x_t, state)
        outputs.append(flat(state)[0])
    whole = layer(x)[0]
    torch.testing.assert_close(torch.stack(outputs), whole)
    assert_all_close(
        gradients(torch.stack(outputs), [x, *cell.parameters()]), gradients(whole, [x, *layer.parameters()])
    )


# --- no weight transport ---


class Looped(nn.Module):
    """A cell over time, then a readout."""

    def __init__(self, cell: nn.Module) -> None:
        super().__init__()
        self.cell, self.readout = cell, nn.Linear(HIDDEN, 2)

    def forward(self, x: Tensor) -> Tensor:
        state = None
        for x_t in x:
            state = self.cell(x_t, state)
        return self.readout(flat(state)[0])


class Classifier(nn.Module):
    """The classes of sequences of tokens."""

    def __init__(self, layer: nn.Module, width: int) -> None:
        super().__init__()
        self.embed, self.layer, self.head = nn.Embedding(7, IN), layer, nn.Linear(width, 2)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.layer(self.embed(tokens))[0][-1])


@pytest.mark.parametrize("rule", [SOFT, RandomFeedback()], ids=str)
@pytest.mark.parametrize("kind", LAYERS)
def test_layers_are_free_of_weight_transport_and_plain_ones_are_not(kind: str, rule: LearningRule) -> None:
    model = LAYERS[kind](num_layers=2, bidirectional=True)
    inputs = torch.randn(4, 3, IN)
    plain = audit_weight_transport(model, inputs, lambda result: result[0].square().sum())
    assert {row.parameter for row in plain.culprits} >= {"weight_ih_l1", "weight_hh_l0"}
    set_learning_rule(model, rule)
    report = audit_weight_transport(model, inputs, lambda result: result[0].square().sum())
    assert report.free_of_transport, str(report)


@pytest.mark.parametrize("kind", CELLS)
def test_cells_are_free_of_weight_transport(kind: str) -> None:
    model = converted(Looped(CELLS[kind]()))
    report = audit_weight_transport(model, torch.randn(4, 3, IN), lambda y: y.square().sum())
    assert report.free_of_transport, str(report)


@pytest.mark.parametrize("kind", LAYERS)
def test_a_classifier_of_sequences_is_free_of_weight_transport(kind: str) -> None:
    width = 2 * (PROJ if kind.endswith("projection") else HIDDEN)
    model = Classifier(LAYERS[kind](num_layers=2, bidirectional=True, dropout=0.2), width)
    set_learning_rule(model, RandomFeedback())
    report = audit_weight_transport(model, torch.randint(7, (5, 3)), lambda y: y.square().sum())
    assert report.free_of_transport, str(report)


def test_packed_sequences_are_free_of_weight_transport() -> None:
    class Packing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.GRU(IN, HIDDEN, 2, bidirectional=True)

        def forward(self, x: Tensor) -> Tensor:
            packed = pack_padded_sequence(x, [2, 4, 1], enforce_sorted=False)
            return self.layer(packed)[0].data

    report = audit_weight_transport(converted(Packing()), torch.randn(4, 3, IN), lambda y: y.square().sum())
    assert report.free_of_transport, str(report)


# --- rules that evolve ---


def train(model: nn.Module, steps: int, learn: Callable[[int], None]) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    generator = torch.Generator().manual_seed(0)
    for number in range(1, steps + 1):
        x = torch.randn(6, 4, IN, generator=generator, dtype=torch.float64)
        optimizer.zero_grad()
        model(x)[0].sub(x.sum(-1, keepdim=True)).square().mean().backward()
        optimizer.step()
        learn(number)


@pytest.mark.parametrize("kind", LAYERS)
def test_kolen_pollack_from_a_copy_of_the_weights_is_backpropagation(kind: str) -> None:
    plain = LAYERS[kind](num_layers=2, bidirectional=True, dtype=torch.float64)
    model = converted(plain, KolenPollack(decay=0, start=SoftAlignment(1.0)))
    train(model, 10, lambda number: evolve(model, number))
    train(plain, 10, lambda number: None)
    assert_all_close(model.parameters(), plain.parameters())


@pytest.mark.parametrize(
    "rule",
    [PeriodicAlignment(every=2), SignSymmetry("batch"), KolenPollack(), WeightMirror(every=2)],
    ids=str,
)
def test_every_rule_that_evolves_changes_every_feedback_weight_of_an_lstm(rule: LearningRule) -> None:
    model = nn.LSTM(IN, HIDDEN, 2, proj_size=PROJ, bidirectional=True, dtype=torch.float64)
    set_learning_rule(model, rule)
    before = {name: feedback.clone() for name, _, feedback in feedback_weights(model)}
    assert len(before) == 12
    train(model, 4, lambda number: evolve(model, number))
    for name, _, feedback in feedback_weights(model):
        assert torch.isfinite(feedback).all()
        assert not torch.equal(feedback, before[name])


# --- what a change of rule owes its user ---


def test_each_weight_has_a_feedback_weight_under_its_own_name() -> None:
    layer = nn.LSTM(IN, HIDDEN, proj_size=PROJ, bidirectional=True)
    names = [n for n, _ in layer.named_parameters()]
    summary = set_learning_rule(layer, SOFT)
    weights = ["weight_ih_l0", "weight_hh_l0", "weight_hr_l0"]
    weights += [f"{w}_reverse" for w in weights]
    assert [row.name for row in summary.rows] == weights
    assert [n for n, _ in layer.named_buffers()] == [w.replace("weight", "feedback") for w in weights]
    assert [n for n, _ in layer.named_parameters()] == names
    cell = nn.Sequential(nn.GRUCell(IN, HIDDEN))
    assert [row.name for row in set_learning_rule(cell, SOFT).rows] == ["0.weight_ih", "0.weight_hh"]


ROUND_TRIPS: dict[str, Callable[[Any], Any]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda layer: pickle.loads(pickle.dumps(layer)),
}


@pytest.mark.parametrize("trip", ROUND_TRIPS)
@pytest.mark.parametrize("kind", LAYERS)
def test_copies_are_independent_and_go_back_to_the_fused_kernel(kind: str, trip: str) -> None:
    plain = LAYERS[kind](num_layers=2)
    layer = converted(plain)
    twin = ROUND_TRIPS[trip](layer)
    x = torch.randn(4, 3, IN)
    assert_all_close(
        gradients(twin(x), twin.parameters()), gradients(layer(x), layer.parameters()), rtol=0, atol=0
    )
    with torch.no_grad():
        for tensor in layer.state_dict().values():
            tensor.zero_()
    assert_all_close(flat(twin(x)), flat(plain(x)))
    set_learning_rule(twin, Backpropagation())
    assert type(twin) is type(plain)
    assert_all_close(flat(twin(x)), flat(plain(x)), rtol=0, atol=0)


@pytest.mark.parametrize("assign", [False, True])
def test_state_dict_restores_weights_and_feedback(assign: bool) -> None:
    layer, other = (nn.LSTM(IN, HIDDEN, 2, bidirectional=True) for _ in range(2))
    set_learning_rule(layer, SOFT)
    set_learning_rule(other, RandomFeedback(seed=9))
    other.load_state_dict(copy.deepcopy(layer.state_dict()), assign=assign)
    x = torch.randn(4, 3, IN)
    assert_all_close(
        gradients(other(x), other.parameters()), gradients(layer(x), layer.parameters()), rtol=0, atol=0
    )
    set_learning_rule(other, Backpropagation())
    set_learning_rule(layer, Backpropagation())
    assert_all_close(flat(other(x)), flat(layer(x)), rtol=0, atol=0)
    other.load_state_dict(layer.state_dict())


@pytest.mark.parametrize("kind", LAYERS)
def test_going_back_gives_the_plain_layer_with_its_fused_kernel_in_any_dtype(kind: str) -> None:
    plain = LAYERS[kind](num_layers=2, bidirectional=True)
    layer = copy.deepcopy(plain)
    before = set(vars(layer))
    x = torch.randn(4, 3, IN)
    for dtype in (torch.float32, torch.float64):
        set_learning_rule(layer, SOFT)
        layer.to(dtype)
        plain.to(dtype)
        assert all(b.dtype == dtype for _, _, b in feedback_weights(layer))
        assert_all_close(flat(layer(x.to(dtype))), flat(plain(x.to(dtype))))
        set_learning_rule(layer, Backpropagation())
        assert type(layer) is type(plain)
        assert set(vars(layer)) == before
        assert list(layer.state_dict()) == list(plain.state_dict())
        flat_weights = [layer.get_parameter(name) for name in layer._flat_weights_names]
        assert all(a is b for a, b in zip(layer._flat_weights, flat_weights, strict=True))
        assert_all_close(
            gradients(layer(x.to(dtype)), layer.parameters()),
            gradients(plain(x.to(dtype)), plain.parameters()),
            rtol=0, atol=0,
        )  # fmt: skip


@pytest.mark.parametrize("kind", CELLS)
def test_cells_can_be_copied_pickled_and_given_back(kind: str) -> None:
    plain = CELLS[kind]()
    cell = pickle.loads(pickle.dumps(copy.deepcopy(converted(plain))))
    x = torch.randn(4, IN)
    assert_all_close(flat(cell(x)), flat(plain(x)))
    set_learning_rule(cell.double(), Backpropagation())
    assert type(cell) is type(plain)
    assert_all_close(flat(cell(x.double())), flat(plain.double()(x.double())), rtol=0, atol=0)


def test_other_parameters_can_be_put_in_for_one_call() -> None:
    layer = converted(nn.LSTM(IN, HIDDEN))
    x = torch.randn(4, 3, IN)
    other = {name: 2 * p.detach() for name, p in layer.named_parameters()}
    ours = torch.func.functional_call(layer, other, (x,))
    plain = nn.LSTM(IN, HIDDEN)
    plain.load_state_dict(other)
    assert_all_close(flat(ours), flat(plain(x)))


class Named(nn.LSTM):
    """Only adds a method."""


class Residual(nn.GRU):
    def forward(self, input: Any, hx: Any = None) -> Any:
        output, state = super().forward(input, hx)
        return output + 1, state


class NewKind(nn.RNNBase):
    def __init__(self) -> None:
        super().__init__("GRU", IN, HIDDEN)


def test_subclasses_convert_only_if_they_compute_as_their_base() -> None:
    layer = converted(nn.Sequential(Named(IN, HIDDEN)))[0]
    assert isinstance(layer, FeedbackLayer)
    assert isinstance(layer, Named)
    assert isinstance(copy.deepcopy(layer), Named)
    for other, reason in ((Residual(IN, HIDDEN), "forward of its own"), (NewKind(), "of another kind")):
        with pytest.raises(ValueError, match=reason):
            set_learning_rule(nn.Sequential(nn.Linear(2, 2), other), SOFT)


def test_weights_recomputed_by_a_hook_are_refused() -> None:
    layer = nn.utils.parametrizations.weight_norm(nn.LSTM(IN, HIDDEN), "weight_hh_l0")
    with pytest.raises(ValueError, match="parametrised"):
        set_learning_rule(layer, SOFT)
    pruned = prune.identity(nn.GRUCell(IN, HIDDEN), "weight_hh")
    with pytest.raises(ValueError, match="recomputed by a hook"):
        set_learning_rule(pruned, SOFT)


def bad_calls() -> list[tuple[str, Make, tuple[Any, ...]]]:
    def r(*shape: int) -> Tensor:
        return torch.randn(shape)

    layers: list[tuple[str, tuple[Any, ...], tuple[Any, ...]]] = [
        # a name, and arguments for one state and for two
        ("input of 4 dimensions", (r(1, 2, 3, IN),), (r(1, 2, 3, IN),)),
        ("wrong features", (r(4, 2, IN + 1),), (r(4, 2, IN + 1),)),
        ("wrong dtype", (r(4, 2, IN).double(),), (r(4, 2, IN).double(),)),
        ("no time step", (r(0, 2, IN),), (r(0, 2, IN),)),
        ("state without batch", (r(4, 2, IN), r(1, HIDDEN)), (r(4, 2, IN), (r(1, HIDDEN), r(1, HIDDEN)))),
        ("state with batch", (r(4, IN), r(1, 1, HIDDEN)), (r(4, IN), (r(1, 1, HIDDEN), r(1, 1, HIDDEN)))),
        ("wrong batch", (r(4, 2, IN), r(1, 3, HIDDEN)), (r(4, 2, IN), (r(1, 2, HIDDEN), r(1, 3, HIDDEN)))),
        ("wrong width", (r(4, 2, IN), r(1, 2, 4)), (r(4, 2, IN), (r(1, 2, 4), r(1, 2, HIDDEN)))),
    ]
    cells: list[tuple[str, tuple[Any, ...], tuple[Any, ...]]] = [
        ("input of 3 dimensions", (r(1, 2, IN),), (r(1, 2, IN),)),
        ("wrong features", (r(2, IN + 1),), (r(2, IN + 1),)),
        ("state of 3 dimensions", (r(2, IN), r(1, 2, HIDDEN)), (r(2, IN), (r(2, HIDDEN), r(1, 2, HIDDEN)))),
        ("wrong batch", (r(2, IN), r(3, HIDDEN)), (r(2, IN), (r(2, HIDDEN), r(3, HIDDEN)))),
        ("state without batch", (r(2, IN), r(HIDDEN)), (r(2, IN), (r(HIDDEN), r(HIDDEN)))),
        ("wrong width", (r(IN), r(4)), (r(IN), (r(4), r(4)))),
    ]
    return [
        (f"{kind} {where}: {name}", make, two if kind.startswith("lstm") else one)
        for kinds, where, cases in ((LAYERS, "layer", layers), (CELLS, "cell", cells))
        for kind, make in kinds.items()
        for name, one, two in cases
    ]


@pytest.mark.parametrize(("make", "args"), [pytest.param(m, a, id=n) for n, m, a in bad_calls()])
def test_wrong_arguments_get_the_plain_layers_own_error(make: Make, args: tuple[Any, ...]) -> None:
    plain = make()
    with pytest.raises((ValueError, RuntimeError)) as theirs:
        plain(*args)
    with pytest.raises(theirs.type) as ours:
        converted(plain)(*args)
    assert str(ours.value) == str(theirs.value)


def test_an_empty_batch_gives_an_empty_result() -> None:
    plain = nn.LSTM(IN, HIDDEN)
    x = torch.randn(4, 0, IN)
    assert [t.shape for t in flat(converted(plain)(x))] == [t.shape for t in flat(plain(x))]


# --- in use ---


@pytest.mark.parametrize("kind", ["tanh", "lstm", "gru"])
def test_state_carried_over_chunks_and_detached_is_truncated_backpropagation_through_time(kind: str) -> None:
    plain = LAYERS[kind](dtype=torch.float64)
    layer = converted(plain, SoftAlignment(1.0))
    x = torch.randn(9, 2, IN, dtype=torch.float64)
    for model in (plain, layer):
        state: Any = None
        outputs = []
        for chunk in x.split(3):
            output, state = model(chunk, state)
            output.square().sum().backward()
            state = tuple(s.detach() for s in state) if kind == "lstm" else state.detach()
            outputs.append(output.detach())
        torch.testing.assert_close(torch.cat(outputs), plain(x)[0])
    assert_all_close([p.grad for p in layer.parameters()], [p.grad for p in plain.parameters()])


@pytest.mark.parametrize("kind", LAYERS)
def test_autocast_computes_in_bfloat16_with_float32_gradients(kind: str) -> None:
    plain = LAYERS[kind](num_layers=2)
    layer = converted(plain, SoftAlignment(1.0))
    x = torch.randn(5, 3, IN, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        result = layer(x)
    assert {t.dtype for t in flat(result)} == {torch.bfloat16}
    expected = plain(x)
    assert_all_close([t.float() for t in flat(result)], flat(expected), rtol=0.05, atol=0.02)
    ours = gradients([t.float() for t in flat(result)], [x, *layer.parameters()])
    assert all(g.dtype == torch.float32 for g in ours)
    for a, b in zip(ours, gradients(expected, [x, *plain.parameters()]), strict=True):
        assert (a - b).norm() < 0.05 * b.norm()


@pytest.mark.parametrize("kind", CELLS)
def test_cells_work_under_autocast(kind: str) -> None:
    plain = CELLS[kind]()
    cell = converted(plain)
    x = torch.randn(3, IN)
    with torch.autocast("cpu", torch.bfloat16):
        state = cell(x, cell(x))
    expected = plain(x, plain(x))
    assert_all_close([t.float() for t in flat(state)], flat(expected), rtol=0.05, atol=0.02)
    gradients(state, cell.parameters())


@pytest.mark.parametrize("kind", ["tanh", "lstm with projection", "gru"])
def test_a_layer_compiles_to_one_graph(kind: str) -> None:
    model = converted(LAYERS[kind](bidirectional=True, batch_first=True))
    x = torch.randn(3, 3, IN)
    torch._dynamo.reset()
    with torch._dynamo.config.patch(allow_rnn=True):  # PyTorch breaks the graph at nn.LSTM otherwise
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        ours = compiled(x)
    assert_all_close(flat(ours), flat(model(x)))
    assert_all_close(gradients(ours, model.parameters()), gradients(model(x), model.parameters()))


def test_a_cell_compiles_to_one_graph() -> None:
    model = converted(Looped(nn.LSTMCell(IN, HIDDEN)))
    x = torch.randn(4, 3, IN)
    torch._dynamo.reset()
    ours = torch.compile(model, fullgraph=True, backend="aot_eager")(x)
    assert_all_close(gradients(ours, model.parameters()), gradients(model(x), model.parameters()))


def test_frozen_weights_and_inputs_without_gradient_cost_nothing_and_break_nothing() -> None:
    layer = converted(nn.GRU(IN, HIDDEN))
    layer.weight_hh_l0.requires_grad_(False)
    layer(torch.randn(4, 2, IN))[0].square().sum().backward()
    assert layer.weight_hh_l0.grad is None
    assert layer.weight_ih_l0.grad.abs().sum() > 0


def test_an_lstm_learns_to_remember_the_first_step() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.ModuleDict({"lstm": nn.LSTM(1, 16), "head": nn.Linear(16, 1)})
        set_learning_rule(model, SOFT)
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
        for _ in range(150):
            x = torch.randn(8, 64, 1)
            loss = (model["head"](model["lstm"](x)[0][-1]) - x[0]).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    assert loss.item() < 0.3  # the variance of the target is 1
