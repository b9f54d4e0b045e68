"""Nothing unusual: the rows that all others are read against."""

import torch

from situations.by_hand import flat_gradients
from situations.situation import ALL_FORMATS, LAYERS, Case, compiled_anew, crossed, right

TOPIC = "Plain use"

# Fixed and evolving rules whose gradients are those of one B for each W.
RULES = ("RandomFeedback", "SoftAlignment", "SignSymmetry batch", "KolenPollack", "WeightMirror")


@right("you call `loss.backward()`", crossed(rules=RULES), "gradients are those of B put in by hand", "0.1.0")
def backward(case: Case) -> None:
    model, x = case.model(), case.inputs()
    ours = flat_gradients(model, model(x).sin().sum())
    torch.testing.assert_close(ours, case.expected(model, x))


@right(
    "B is stored in another format",
    crossed(LAYERS, formats=[f for f in ALL_FORMATS if f != "Dense"]),
    "gradients are those of the matrix that the format stands for, but for 8-bit rounding of errors",
    "0.1.0",
)
def formats(case: Case) -> None:
    model, x = case.model(), case.inputs()
    ours = flat_gradients(model, model(x).sin().sum())
    expected = case.expected(model, x)
    error = torch.linalg.vector_norm(ours - expected) / torch.linalg.vector_norm(expected)
    assert error < 0.02, f"relative error {error:.3f}"


@right(
    "you compile the model, and run it with gradients and without",
    [
        *crossed(("Linear",), formats=ALL_FORMATS),
        *crossed(("Bilinear", "Conv2d"), formats=("Dense", "LowRank")),
    ],
    "as the model that is not compiled",
)
def compiled(case: Case) -> None:
    model, x = case.model(), case.inputs()
    twin = compiled_anew(model)
    value, ours = model(x), flat_gradients(model, twin(x).sin().sum())
    torch.testing.assert_close(ours, flat_gradients(model, model(x).sin().sum()))
    with torch.no_grad():
        torch.testing.assert_close(twin(x), value)
    torch.testing.assert_close(twin(x), value)
