"""Tools that take a model apart or look into it: tracers, exporters, quantisers, savers."""

import copy
import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from alignonce import Backpropagation, exact_gradients, set_learning_rule
from situations.by_hand import flat_gradients
from situations.situation import LAYERS, Case, crossed, refused, right

TOPIC = "Other tools"

_PLAIN = ("Linear", "Conv2d", "ConvTranspose")


def _assert_like_the_rule(case: Case, other: nn.Module, model: nn.Module) -> None:
    """That another form of the model, of the same parameters, has the rule's gradients."""
    x = case.inputs()
    twins = flat_gradients(model, other(x).sin().sum())
    torch.testing.assert_close(twins, case.expected(model, x))


def _quietly() -> warnings.catch_warnings:
    """torch.jit and torch.ao.quantization are deprecated, and say so at each call."""
    return warnings.catch_warnings(action="ignore")


@contextmanager
def _warned_of(message: str) -> Iterator[None]:
    with warnings.catch_warnings(record=True, action="always") as caught:
        yield
    assert any(message in str(warning.message) for warning in caught)


@right(
    "you trace the model by `torch.fx`",
    crossed([layer for layer in LAYERS if layer not in ("MultiheadAttention", "LSTM", "GRU", "GRUCell")]),
    "a layer with a rule is one operation, as the plain layer is",
)
def symbolic_trace(case: Case) -> None:
    model = case.model()
    _assert_like_the_rule(case, torch.fx.symbolic_trace(model), model)


@right("you trace the model by `torch.jit.trace`", crossed(), "the traced model learns by the rule")
def jit_trace(case: Case) -> None:
    model = case.model()
    with _quietly():
        traced = torch.jit.trace(model, case.inputs())
    _assert_like_the_rule(case, traced, model)


@right(
    "you want to save a model that you trace by `torch.jit.trace`",
    crossed(_PLAIN),
    "trace it within `exact_gradients(model)`; without, a warning says so",
)
def jit_save(case: Case) -> None:
    model, x = case.model(), case.inputs()
    with _warned_of("trace it within exact_gradients(model)"):
        torch.jit.trace(model, x, check_trace=False)
    file = io.BytesIO()
    with _quietly(), exact_gradients(model):
        torch.jit.save(torch.jit.trace(model, x), file)
        file.seek(0)
        loaded = torch.jit.load(file)
    torch.testing.assert_close(loaded(x), model(x))


@right(
    "you export the model by `torch.export`",
    crossed(_PLAIN),
    "the program has the values, for inference; a warning says that its gradients are not the rule's",
)
def export(case: Case) -> None:
    model, x = case.model(), case.inputs()
    with _warned_of("the exported program is for inference, its gradients are not those of the rule"):
        exported = torch.export.export(model, (x,)).module()
    torch.testing.assert_close(exported(x), model(x))


@refused(
    "you compile the model by `torch.jit.script`",
    crossed(),
    message=r"torch\.jit\.script cannot compile .* set_learning_rule\(model, Backpropagation\(\)\) first",
    error=RuntimeError,
    remedy="go back with `set_learning_rule(model, Backpropagation())` first",
)
def jit_script(case: Case) -> None:
    with _quietly():
        torch.jit.script(case.model())


@right(
    "you call `torch.ao.quantization.quantize_dynamic` or `prepare_qat` after the rule is set",
    crossed(_PLAIN),
    "they pass over layers with a rule, and a warning says so",
)
def quantise_after(case: Case) -> None:
    model = case.model()
    with _warned_of("passes over layers with a learning rule"):
        quantised = torch.ao.quantization.quantize_dynamic(model, {nn.Linear})
    _assert_like_the_rule(case, quantised, quantised)
    with _warned_of("passes over layers with a learning rule"):
        model.qconfig = torch.ao.quantization.get_default_qat_qconfig("fbgemm")
        prepared = torch.ao.quantization.prepare_qat(model.train())
    _assert_like_the_rule(case, prepared.eval(), prepared)


@refused(
    "you set a rule on a model that `quantize_dynamic` has quantised",
    crossed(["Linear"]),
    message=r"\(Linear\): quantised: .* Set the rule first",
    remedy="set the rule first, and quantise after training",
)
def quantise_before(case: Case) -> None:
    with _quietly():
        quantised = torch.ao.quantization.quantize_dynamic(case.plain(torch.float32), {nn.Linear})
    set_learning_rule(quantised, case.learning_rule)


@refused(
    "you set a rule on a model that `prepare_qat` has prepared",
    crossed(["Linear", "Conv2d"]),
    message="prepared for quantisation-aware training",
    remedy="set the rule on a model in floating point",
)
def fake_quantise_before(case: Case) -> None:
    model = case.plain(torch.float32).train()
    with _quietly():
        model.qconfig = torch.ao.quantization.get_default_qat_qconfig("fbgemm")
        prepared = torch.ao.quantization.prepare_qat(model)
    set_learning_rule(prepared, case.learning_rule)


@refused(
    "you set a rule on a model whose weights are held as integers",
    crossed(["Linear"]),
    message=r"its weight is quantised \(held as dtype torch\.int8\): dequantise it",
    remedy="dequantise, or set the rule first and quantise after training",
)
def integer_weights(case: Case) -> None:
    model = case.plain()
    for layer in model.modules():
        if isinstance(layer, nn.Linear):
            layer.weight = nn.Parameter(layer.weight.detach().to(torch.int8), requires_grad=False)
    set_learning_rule(model, case.learning_rule)


@right(
    "you go back to backpropagation, quantise, and have a quantised plain model",
    crossed(["Linear"]),
    "as the model without a rule",
)
def quantise_plain_again(case: Case) -> None:
    plain, model = case.plain(torch.float32), case.model(torch.float32)
    set_learning_rule(model, Backpropagation())
    with _quietly():
        ours, theirs = (torch.ao.quantization.quantize_dynamic(m, {nn.Linear}) for m in (model, plain))
    x = case.inputs(torch.float32)
    assert torch.equal(ours(x), theirs(x))
    assert [type(m) for m in ours.modules()] == [type(m) for m in theirs.modules()]


class _Adapted(nn.Module):
    """As LoRA: a layer, and beside it a product of two whose second one starts at zero."""

    def __init__(self) -> None:
        super().__init__()
        self.base, self.lora_A, self.lora_B = nn.Linear(4, 4), nn.Linear(4, 2), nn.Linear(2, 4)
        nn.init.zeros_(self.lora_B.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.lora_B(self.lora_A(x))


@refused(
    "you set a rule on a model with LoRA adapters, whose second layers start at zero",
    [Case()],
    message=r"0\.lora_B \(Linear\): its weight is all zero(.|\n)*1\.lora_B(.|\n)*where='!name'",
    remedy='say `where="!*lora_B"`, or initialise them otherwise',
)
def adapters(case: Case) -> None:
    set_learning_rule(nn.Sequential(_Adapted(), _Adapted()), case.learning_rule)


@right('you exclude the adapters that start at zero by `where="!*lora_B"`', [Case()], "the rest is converted")
def adapters_excluded(case: Case) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(_Adapted(), nn.Tanh(), _Adapted()).double()
    set_learning_rule(model, case.learning_rule, where="!*lora_B")
    x = torch.randn(2, 4, dtype=torch.float64)
    torch.testing.assert_close(flat_gradients(model, model(x).sin().sum()), case.expected(model, x))


class _Rows(nn.Module):
    """A model of one argument, of which any leading dimensions are a batch."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.sin(self.first(x)))


@right("an input is a nested tensor", [Case()], "as its parts one by one (linear layers)")
def nested_input(case: Case) -> None:
    torch.manual_seed(0)
    model = _Rows().double()
    set_learning_rule(model, case.learning_rule)
    parts = [torch.randn(n, 4, dtype=torch.float64) for n in (2, 3)]
    expected = case.expected(model, torch.cat(parts))
    for layout in (torch.jagged, torch.strided):
        with _quietly():
            output = model(torch.nested.nested_tensor(parts, layout=layout))
        loss = torch.stack([part.sin().sum() for part in output.unbind()]).sum()
        torch.testing.assert_close(flat_gradients(model, loss), expected)


@refused(
    "`inputs=` holds labels too",
    crossed(),
    message=r"inputs= are the arguments of model\(\*inputs\).* such as labels",
    error=TypeError,
    remedy="give what the model is called with, nothing more",
)
def labels_in_inputs(case: Case) -> None:
    set_learning_rule(case.plain(), case.learning_rule, inputs=(case.inputs(), torch.zeros(2), 0, 0))


@right(
    "you copy the model deeply, and the copy too",
    crossed(),
    "copies learn by the rule, each with feedback weights of its own",
)
def deep_copy(case: Case) -> None:
    model = copy.deepcopy(copy.deepcopy(case.model()))
    _assert_like_the_rule(case, model, model)
