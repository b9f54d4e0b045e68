"""In-place operations on a layer's output: what a plain layer permits is permitted, with equal gradients."""

import copy
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from alignonce import Backpropagation, SoftAlignment, set_learning_rule
from situations.situation import ALL_FORMATS, Case, crossed, right

TOPIC = "In-place operations"

Change = Callable[[Tensor], object]

_CHANGES: dict[str, Change] = {
    "ReLU": nn.ReLU(inplace=True),
    "add": lambda y: y.add_(1),
    "multiply": lambda y: y.mul_(y.detach() + 2),
    "item": lambda y: y.select(-1, 0).fill_(0),
    "mask": lambda y: y.masked_fill_(y > 0, 0.5),
    "view": lambda y: y.view(-1).mul_(2) if y.is_contiguous() else y,
}


class _First(nn.Module):
    """A layer's first output, for layers that return more."""

    def __init__(self, layer: nn.Module, inputs: int = 1) -> None:
        super().__init__()
        self.layer, self.inputs = layer, inputs

    def forward(self, x: Tensor) -> Tensor:
        output = self.layer(*[x] * self.inputs)
        return output[0] if isinstance(output, tuple) else output


def _layers(kind: str) -> Iterator[tuple[nn.Module, tuple[int, ...]]]:
    """Layers of a kind, with the shapes of inputs that differ in how an output comes about."""
    for bias in (True, False):
        if kind == "Linear":
            for shape in [(4,), (3, 4), (2, 3, 4), (2, 2, 3, 4)]:
                yield nn.Linear(4, 4, bias), shape
        elif kind == "Bilinear":
            for shape in [(4,), (3, 4), (2, 3, 4)]:
                yield _First(nn.Bilinear(4, 4, 3, bias), 2), shape
        elif kind == "Conv2d":
            for dims, conv in enumerate((nn.Conv1d, nn.Conv2d, nn.Conv3d), start=1):
                for batch in ((), (3,)):
                    yield conv(2, 4, 2, bias=bias), (*batch, 2, *[3] * dims)
                    yield (
                        conv(2, 4, 2, padding="same", padding_mode="circular", bias=bias),
                        (*batch, 2, *[3] * dims),
                    )
        elif kind == "ConvTranspose":
            for dims, conv in enumerate(
                (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d), start=1
            ):
                for batch in ((), (3,)):
                    yield conv(2, 4, 2, stride=2, bias=bias), (*batch, 2, *[3] * dims)
        elif kind == "MultiheadAttention":
            for batch_first in (True, False):
                yield _First(nn.MultiheadAttention(4, 2, bias=bias, batch_first=batch_first), 3), (2, 3, 4)
            yield _First(nn.MultiheadAttention(4, 2, bias=bias), 3), (3, 4)
        elif kind in ("LSTM", "GRU"):
            for layer in (nn.LSTM, nn.GRU, nn.RNN) if kind == "LSTM" else (nn.GRU,):
                for settings in ({}, {"batch_first": True}, {"bidirectional": True, "num_layers": 2}):
                    yield _First(layer(4, 4, bias=bias, **settings)), (2, 3, 4)
                    yield _First(layer(4, 4, bias=bias, **settings)), (3, 4)
        else:
            for cell in (nn.GRUCell, nn.LSTMCell, nn.RNNCell):
                for shape in [(3, 4), (4,)]:
                    yield _First(cell(4, 4, bias)), shape


@right(
    "an operation changes a layer's output in place (`nn.ReLU(inplace=True)`, `x += ...`)",
    crossed(formats=[f for f in ALL_FORMATS if "bfloat16" not in f]),
    "what a plain layer permits is permitted, and its gradients are those of the rule",
)
def output_changed(case: Case) -> None:
    for layer, shape in _layers(case.layer):
        layer.double()
        x = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        # B equal to W, where the format can hold that: then the plain layer is the reference for dx as well.
        exact = case.format == "Dense"
        set_learning_rule(
            layer, SoftAlignment(1) if exact else case.learning_rule, format=case.feedback_format
        )
        for name, change in _CHANGES.items():
            plain = copy.deepcopy(layer)
            set_learning_rule(plain, Backpropagation())
            try:
                expected = _gradients(plain, x, change)
            except RuntimeError:
                continue  # the plain layer does not permit it
            ours = _gradients(layer, x, change)
            if not exact:  # the same without changing anything in place
                expected = _gradients(layer, x, change, of_copy=True)
            for a, e in zip(ours, expected, strict=True):
                torch.testing.assert_close(a, e, msg=lambda m, n=name, s=shape: f"{n}, {s}: {m}")


def _gradients(layer: nn.Module, x: Tensor, change: Change, of_copy: bool = False) -> list[Tensor]:
    x = x.clone().requires_grad_()
    y = layer(x)
    y = y.clone() if of_copy else y
    change(y)
    return list(
        torch.autograd.grad(
            y.cos().sum(), [*layer.parameters(), x], materialize_grads=True, allow_unused=True
        )
    )
