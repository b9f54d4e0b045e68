"""Recurrent layers that carry the error back, through time and between layers, through feedback weights.

An LSTM runs by PyTorch's own kernels, which are given B in the backward pass (fused_lstm.py).
Where these do not fit, and for the other recurrent layers, the layer is taken apart: one product for the
inputs of all time steps, then one for the hidden state at each step. Between these products nothing has a
weight, and the gradients through it are exact.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from alignonce.layers import functional, fused_lstm
from alignonce.layers.base import FeedbackLayer
from alignonce.layers.kinds import register_kind
from alignonce.layers.modes import runs_exactly

__all__ = [
    "FeedbackGRU",
    "FeedbackGRUCell",
    "FeedbackLSTM",
    "FeedbackLSTMCell",
    "FeedbackRNN",
    "FeedbackRNNCell",
]

State = tuple[Tensor, ...]
"""What goes from one time step to the next, the hidden state first; an LSTM has its cell state too."""


def _tanh_step(from_input: Tensor, from_hidden: Tensor, state: State) -> State:
    return (torch.tanh(from_input + from_hidden),)


def _relu_step(from_input: Tensor, from_hidden: Tensor, state: State) -> State:
    return (torch.relu(from_input + from_hidden),)


def _lstm_step(from_input: Tensor, from_hidden: Tensor, state: State) -> State:
    i, f, g, o = (from_input + from_hidden).chunk(4, -1)
    cell = torch.sigmoid(f) * state[1] + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(cell), cell


def _gru_step(from_input: Tensor, from_hidden: Tensor, state: State) -> State:
    r_input, z_input, n_input = from_input.chunk(3, -1)
    r_hidden, z_hidden, n_hidden = from_hidden.chunk(3, -1)
    reset = torch.sigmoid(r_input + r_hidden)
    new = torch.tanh(n_input + reset * n_hidden)  # reset acts after the hidden bias, as in PyTorch
    return (torch.lerp(new, state[0], torch.sigmoid(z_input + z_hidden)),)


_STEPS: dict[str, Callable[[Tensor, Tensor, State], State]] = {
    "RNN_TANH": _tanh_step,
    "RNN_RELU": _relu_step,
    "LSTM": _lstm_step,
    "GRU": _gru_step,
}


class _Recurrent(FeedbackLayer):
    """What layers and cells share."""

    mode: str
    """The key of the time step, PyTorch's name for it."""

    def _linear(self, name: str, x: Tensor) -> Tensor:
        """Map x by the weight, feedback weight and bias (if any) of this name, such as ``hh_l0``."""
        return functional.linear(
            x,
            getattr(self, f"weight_{name}"),
            getattr(self, f"feedback_{name}"),
            getattr(self, f"bias_{name}", None),
        )

    def _as_state(self, hx: Any) -> State:
        return tuple(hx) if self.mode == "LSTM" else (hx,)

    def _as_given(self, state: State) -> Any:
        return state if self.mode == "LSTM" else state[0]

    def _refuse(self, input: Any, hx: Any) -> None:
        super().forward(input, hx)  # says in its own words what is wrong
        raise ValueError("an input or initial state of this shape is not supported")


class _FeedbackRNNBase(_Recurrent, nn.RNNBase):
    """A recurrent layer.

    Under autocast states have autocast's dtype. To be inside ``torch.compile`` without a graph break, it
    needs ``torch._dynamo.config.allow_rnn``, as the plain layer does.
    """

    @classmethod
    def weight_names_of(cls, layer: nn.Module) -> tuple[str, ...]:
        names = cast(nn.RNNBase, layer)._flat_weights_names
        return tuple(name for name in names if name.startswith("weight"))

    def forward(self, input: Any, hx: Any = None) -> Any:
        """Run as the plain layer's forward, whose arguments and shapes these are."""
        if runs_exactly(self):
            return super().forward(input, hx)
        if isinstance(input, PackedSequence):
            data, sizes, order, inverse = input
            state = self._zeros(data, int(sizes[0])) if hx is None else self.permute_hidden(hx, order)
            self.check_forward_args(data, state, sizes)
            output, final = self._layers(data, self._as_state(state), sizes)
            packed = PackedSequence(output, sizes, order, inverse)
            return packed, self.permute_hidden(self._as_given(final), inverse)

        batched, batch_dim = input.dim() == 3, 0 if self.batch_first else 1
        given = () if hx is None else self._as_state(hx)
        if input.dim() not in (2, 3) or any(s.dim() != input.dim() for s in given):
            self._refuse(input, hx)
        if not batched:
            input, given = input.unsqueeze(batch_dim), tuple(s.unsqueeze(1) for s in given)
        state = self._as_given(given) if given else self._zeros(input, input.shape[batch_dim])
        self.check_forward_args(input, state, None)
        if input.shape[1 - batch_dim] == 0:
            self._refuse(input, hx)
        steps = input.transpose(0, 1) if self.batch_first else input
        output, final = self._layers(steps, self._as_state(state), None)
        output = output.transpose(0, 1) if self.batch_first else output
        if not batched:
            output, final = output.squeeze(batch_dim), tuple(s.squeeze(1) for s in final)
        return output, self._as_given(final)

    def _zeros(self, input: Tensor, batch: int) -> Any:
        shape = self.num_layers * (2 if self.bidirectional else 1), batch
        h = input.new_zeros(*shape, self.proj_size or self.hidden_size)
        return (h, input.new_zeros(*shape, self.hidden_size)) if self.mode == "LSTM" else h

    def _layers(self, x: Tensor, state: State, sizes: Tensor | None) -> tuple[Tensor, State]:
        """All layers and directions, one after the other.

        Args:
            x: (T, N, features), or (sum of lengths, features) with the ``sizes`` of a packed sequence.
            state: of each (layers * directions, N, H), H being its own size.
            sizes: (T,), how many sequences are at least so long, or None if all are.

        Returns:
            The last layer's output, of x's form, and the states after the last step of each sequence.
        """
        finals: list[State] = []
        for layer in range(self.num_layers):
            if layer and self.dropout:
                x = F.dropout(x, self.dropout, self.training)
            outputs = []
            for name in (f"l{layer}", f"l{layer}_reverse") if self.bidirectional else (f"l{layer}",):
                first = tuple(s[len(finals)] for s in state)
                output, final = self._through_time(x, first, sizes, name)
                outputs.append(output)
                finals.append(final)
            x = torch.cat(outputs, -1) if self.bidirectional else outputs[0]
        return x, tuple(torch.stack(s) for s in zip(*finals, strict=True))

    def _through_time(self, x: Tensor, state: State, sizes: Tensor | None, name: str) -> tuple[Tensor, State]:
        """One layer in one direction; shapes as above, but for the first dimension of states."""
        reverse = name.endswith("_reverse")
        if self.mode == "LSTM" and not self.proj_size and sizes is None:
            parts: list[list[Any]] = [
                [getattr(self, f"{sort}_{part}_{name}", None) for part in ("ih", "hh")]
                for sort in ("weight", "bias", "feedback")
            ]
            weights, biases, feedbacks = parts
            if fused_lstm.fits((x, *state, *weights, *biases)):

                def step_by_step(x: Any, state: Any, weights: Any, biases: Any) -> fused_lstm.Result:
                    maps = [
                        partial(functional.linear, weight=w, feedback=f, bias=b)
                        for w, f, b in zip(weights, feedbacks, biases, strict=True)
                    ]
                    output, (hidden, cell) = _unroll("LSTM", x, state, None, reverse, *maps)
                    return output, hidden, cell

                output, hidden, cell = fused_lstm.run(
                    x, state, weights, biases, feedbacks, reverse, step_by_step
                )
                return output, (hidden, cell)
        project = partial(self._linear, f"hr_{name}") if self.proj_size else None
        from_input, from_hidden = partial(self._linear, f"ih_{name}"), partial(self._linear, f"hh_{name}")
        return _unroll(self.mode, x, state, sizes, reverse, from_input, from_hidden, project)


def _unroll(
    mode: str,
    x: Tensor,
    state: State,
    sizes: Tensor | None,
    reverse: bool,
    from_input: Callable[[Tensor], Tensor],
    from_hidden: Callable[[Tensor], Tensor],
    project: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Tensor, State]:
    """Step by step through time, given the maps of input and state to gates, and that of a projection."""
    gates = from_input(x)
    steps = gates.unbind() if sizes is None else gates.split(sizes.tolist())
    state = tuple(s.to(gates.dtype) for s in state)
    outputs = []
    for step in reversed(steps) if reverse else steps:
        # The sequences are ordered by length: those behind the first n have ended, or, in reverse, not
        # begun. Their states stay.
        n = len(step)
        others = () if n == len(state[0]) else tuple(s[n:] for s in state)
        if others:
            state = tuple(s[:n] for s in state)
        state = _STEPS[mode](step, from_hidden(state[0]), state)
        if project is not None:
            state = (project(state[0]), *state[1:])
        outputs.append(state[0])
        if others:
            state = tuple(torch.cat(pair) for pair in zip(state, others, strict=True))
    if reverse:
        outputs.reverse()
    return torch.stack(outputs) if sizes is None else torch.cat(outputs), state


class _FeedbackCell(_Recurrent, nn.RNNCellBase):
    """One time step of one layer; the error goes back from the states to the states before."""

    weight_names = ("weight_ih", "weight_hh")

    def forward(self, input: Tensor, hx: Any = None) -> Any:
        """Run as the plain cell's forward, whose arguments and shapes these are."""
        if runs_exactly(self):
            return super().forward(input, hx)
        if hx is None:
            state: State = (input.new_zeros(*input.shape[:-1], self.hidden_size),) * 2
        else:
            state = self._as_state(hx)
        wanted = (*input.shape[:-1], self.hidden_size)
        if (
            input.dim() not in (1, 2)
            or input.shape[-1] != self.input_size
            or any(s.shape != wanted for s in state)
        ):
            self._refuse(input, hx)
        gates = self._linear("ih", input)
        state = tuple(s.to(gates.dtype) for s in state)
        return self._as_given(_STEPS[self.mode](gates, self._linear("hh", state[0]), state))


@register_kind
class FeedbackRNN(_FeedbackRNNBase, nn.RNN):
    """``nn.RNN`` with feedback weights."""

    plain_class = nn.RNN


@register_kind
class FeedbackLSTM(_FeedbackRNNBase, nn.LSTM):
    """``nn.LSTM`` with feedback weights, for its projections too."""

    plain_class = nn.LSTM


@register_kind
class FeedbackGRU(_FeedbackRNNBase, nn.GRU):
    """``nn.GRU`` with feedback weights."""

    plain_class = nn.GRU


@register_kind
class FeedbackRNNCell(_FeedbackCell, nn.RNNCell):
    """``nn.RNNCell`` with feedback weights."""

    plain_class = nn.RNNCell

    @property
    def mode(self) -> str:  # type: ignore[override]
        """The time step with this cell's nonlinearity."""
        return f"RNN_{self.nonlinearity.upper()}"


@register_kind
class FeedbackLSTMCell(_FeedbackCell, nn.LSTMCell):
    """``nn.LSTMCell`` with feedback weights."""

    plain_class = nn.LSTMCell
    mode = "LSTM"


@register_kind
class FeedbackGRUCell(_FeedbackCell, nn.GRUCell):
    """``nn.GRUCell`` with feedback weights."""

    plain_class = nn.GRUCell
    mode = "GRU"
