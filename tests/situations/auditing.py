"""The audit of models as users have them: checkpointed, compiled, wrapped."""

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from alignonce import TransportReport, audit_weight_transport, set_learning_rule
from situations.situation import LAYERS, Case, compiled_anew, crossed, right

TOPIC = "The audit"

FIXED = ("RandomFeedback", "SoftAlignment", "KolenPollack", "WeightMirror")


class Checkpointed(nn.Module):
    """A model that is computed again in its backward pass."""

    def __init__(self, model: nn.Module, reentrant: bool) -> None:
        super().__init__()
        self.model, self.reentrant = model, reentrant

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(self.model, x, use_reentrant=self.reentrant)


def audited(model: nn.Module, x: Tensor) -> TransportReport:
    return audit_weight_transport(model, x, lambda output: output.sin().sum())


@right(
    "you audit a model (`audit_weight_transport`)",
    crossed(LAYERS, rules=FIXED),
    "it is free of weight transport",
    "0.1.0",
)
def plain(case: Case) -> None:
    assert audited(case.model(), case.inputs()).free_of_transport


@right(
    "you audit a model under backpropagation, or one with a layer left plain",
    crossed(LAYERS),
    "the layers are named that read weights",
    "0.1.0",
)
def with_a_plain_layer(case: Case) -> None:
    model, x = case.plain(), case.inputs()
    layers = {row.module for row in audited(model, x).culprits}
    assert layers
    set_learning_rule(model, case.learning_rule, where=lambda name, _: not name.startswith("0"))
    assert {row.module for row in audited(model, x).culprits} == {"0"} & layers


@right(
    "you audit a model with gradient checkpointing, of either kind",
    crossed(LAYERS, rules=FIXED),
    "it is free of weight transport: weights are read forwards again, not backwards",
)
def with_checkpoints(case: Case) -> None:
    for reentrant in (False, True):
        first = nn.Linear(case.inputs().shape[-1], case.inputs().shape[-1]).double()
        set_learning_rule(first, case.learning_rule)
        model = nn.Sequential(first, Checkpointed(case.model(), reentrant))
        assert audited(model, case.inputs()).free_of_transport


@right(
    "you audit a model with gradient checkpointing and a plain layer in it",
    crossed(LAYERS),
    "the layer is named",
)
def with_checkpoints_and_a_plain_layer(case: Case) -> None:
    for reentrant in (False, True):
        x = case.inputs()
        model = nn.Sequential(
            nn.Linear(x.shape[-1], x.shape[-1]).double(), Checkpointed(case.plain(), reentrant)
        )
        plain = {row.module for row in audited(model, x).culprits}
        set_learning_rule(model, case.learning_rule, where=lambda name, _: "model.0" not in name)
        assert {row.module for row in audited(model, x).culprits} == {"1.model.0"} & plain


@right(
    "you audit a compiled model (`torch.compile`)",
    crossed(("Linear", "Conv2d", "MultiheadAttention"), rules=FIXED),
    "what is compiled runs, and must compute the gradients of its model",
)
def compiled(case: Case) -> None:
    model, x = case.model(), case.inputs()
    assert audited(compiled_anew(model), x).free_of_transport
    plain = case.plain()
    report = audited(compiled_anew(plain), x)
    assert report.culprits == audited(plain, x).culprits != ()


@right(
    "you audit a model that was compiled, and run, before direct feedback was set",
    crossed(("Linear", "Conv2d"), rules=("DirectFeedback",)),
    "the report says that the compiled code computes other gradients, if it does",
)
def compiled_before(case: Case) -> None:
    model, x = case.plain(), case.inputs()
    compiled = compiled_anew(model)
    compiled(x).sin().sum().backward()
    set_learning_rule(model, case.learning_rule, inputs=x)
    given = torch.autograd.grad(compiled(x).sin().sum(), list(model.parameters()))
    own = torch.autograd.grad(model(x).sin().sum(), list(model.parameters()))
    differs = not all(torch.allclose(a, b) for a, b in zip(given, own, strict=True))
    report = audited(compiled, x)
    assert bool(report.compiled_otherwise) == differs
    assert report.free_of_transport != differs
