"""What stands in the way of a conversion, or seems to."""

import copy

import torch
from torch import Tensor, nn

from alignonce import feedback_weights, set_learning_rule
from situations.by_hand import flat_gradients
from situations.situation import ALL_FORMATS, Case, crossed, refused, right

TOPIC = "Setting a rule"

RULES = ("RandomFeedback", "SoftAlignment", "SignSymmetry batch", "KolenPollack", "WeightMirror")
REASON = r"cannot be converted:(.|\n)*its \w+ is all zero"


def _matches_by_hand(case: Case, model: nn.Module) -> None:
    x = case.inputs()
    torch.testing.assert_close(flat_gradients(model, model(x).sin().sum()), case.expected(model, x))


def _with_zeros(case: Case) -> nn.Module:
    """The model with all weights of the kind's layer zero, and those around it as they were."""
    model = case.plain()
    names = [name for name, _, _ in feedback_weights(case.model())]
    for name, parameter in model.named_parameters():
        if name.removesuffix(".weight") == names[len(names) // 2]:
            nn.init.zeros_(parameter)
    return model


@right(
    "`torch.set_default_device(...)` or `with torch.device(...)` names another device than the model's",
    crossed(rules=RULES),
    "B is the same",
)
def another_default_device(case: Case) -> None:
    model, twin, batch = case.model(), case.plain(), case.inputs()
    with torch.device("meta"):
        set_learning_rule(twin, case.learning_rule, inputs=batch)
    for (_, _, ours), (_, _, theirs) in zip(feedback_weights(twin), feedback_weights(model), strict=True):
        assert torch.equal(ours, theirs)
    _matches_by_hand(case, twin)


@right(
    "the default device is another, and B is compressed",
    crossed(["Linear", "Conv2d"], formats=[f for f in ALL_FORMATS if f != "Dense"]),
    "B is the same",
)
def another_default_device_and_formats(case: Case) -> None:
    model, twin = case.model(), case.plain()
    with torch.device("meta"):
        set_learning_rule(twin, case.learning_rule, format=case.feedback_format)
    for (_, _, ours), (_, _, theirs) in zip(feedback_weights(twin), feedback_weights(model), strict=True):
        assert torch.equal(ours, theirs)


@right("the rule is set inside `torch.inference_mode()`", crossed(), "as outside of it")
def inference_mode(case: Case) -> None:
    model = case.plain()
    with torch.inference_mode():
        set_learning_rule(model, case.learning_rule)
    _matches_by_hand(case, model)


@refused(
    "the model was made inside `torch.inference_mode()`",
    crossed(),
    message=r"made inside torch\.inference_mode\(\), so that it cannot learn: make the model outside",
    remedy="make it outside",
)
def made_in_inference_mode(case: Case) -> None:
    with torch.inference_mode():
        model = case.plain()
    set_learning_rule(model, case.learning_rule)


@refused(
    "weights are all zero (a head, an adapter)",
    crossed(rules=RULES),
    message=REASON,
    remedy='initialise them otherwise, exclude their layers with `where="!name"`, or leave them exact',
)
def zero_weights(case: Case) -> None:
    set_learning_rule(_with_zeros(case), case.learning_rule)


@right(
    'weights are all zero and you say `unconvertible="exact"`',
    crossed(rules=RULES),
    "their layers keep exact gradients, and the summary names them",
)
def zero_weights_left_exact(case: Case) -> None:
    model = _with_zeros(case)
    plain = copy.deepcopy(model)
    summary = set_learning_rule(model, case.learning_rule, unconvertible="exact")
    assert any("is all zero" in module.reason for module in summary.exact)
    left = {module.name for module in summary.exact if module.refused}
    assert all(type(model.get_submodule(name)) is type(plain.get_submodule(name)) for name in left)
    if case.layer == "Linear":
        _matches_by_hand(case, model)


@refused(
    "weights hold NaN or infinite values",
    crossed(),
    message="weights hold NaN or infinite values: .*The model has diverged or was not loaded",
    remedy='begin from finite weights (an error with `unconvertible="exact"` too)',
)
def not_finite(case: Case) -> None:
    model = case.plain()
    nn.init.constant_(
        next(p for n, p in model.named_parameters() if "weight" in n and p.dim() > 1), torch.nan
    )
    set_learning_rule(model, case.learning_rule, unconvertible="exact")


@refused(
    "`where=` is a number",
    crossed(),
    message=r"where must be a name or glob of modules, a list of such, or a function of .* got 3",
    error=TypeError,
    remedy="a name, a glob, a list of them, or a function",
)
def where_is_a_number(case: Case) -> None:
    set_learning_rule(case.plain(), case.learning_rule, where=3)  # type: ignore[arg-type]


class _Kernel(nn.Module):
    """Hands the weight of a layer to a function, as kernels of state-space models do."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.sin(x @ self.layer.weight))


@refused(
    "a model reads the weight of a layer that it does not call, and you give `inputs=`",
    [Case()],
    message=r"layer \(Linear\): its weight is read by another module, past its own forward",
    remedy="exclude it, or leave it exact, as mixers of transformers' state-space models are",
)
def bypassed(case: Case) -> None:
    set_learning_rule(_Kernel(), case.learning_rule, inputs=torch.randn(2, 4))


@refused(
    "a layer has attributes by names that layers with a learning rule need",
    crossed(),
    message="it has an attribute 'exact' of its own, a name that layers with a learning rule need",
    remedy="rename it, exclude the layer, or leave it exact",
)
def names_clash(case: Case) -> None:
    model = case.plain()
    for layer in model.modules():
        layer.exact = True  # type: ignore[assignment]
    set_learning_rule(model, case.learning_rule)


@right(
    "tied layers share one B, whatever you do with the model (copy, move, cast)",
    [Case("Linear", rule) for rule in RULES],
    "they share one B after it",
)
def tied(case: Case) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4)).double()
    model[2].weight = model[0].weight
    set_learning_rule(model, case.learning_rule)
    for twin in (copy.deepcopy(model), model.float().double()):
        assert twin[2].feedback is twin[0].feedback
        x = torch.randn(2, 4, dtype=torch.float64)
        ours = flat_gradients(twin, twin(x).sin().sum())
        torch.testing.assert_close(ours, _tied_by_hand(twin, x))


def _tied_by_hand(model: nn.Module, x: Tensor) -> Tensor:
    first, last = model[0], model[2]  # type: ignore[index]
    hidden = torch.tanh(x @ first.weight.t() + first.bias)
    g = torch.cos(hidden @ last.weight.t() + last.bias)
    back = (g @ last.feedback) * (1 - hidden.square())
    parts = g.t() @ hidden + back.t() @ x, back.sum(0), g.sum(0)  # the order of the parameters
    return torch.cat([part.flatten() for part in parts])
