"""The audit finds every backward read of a forward weight, and nothing else."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alignonce import RandomFeedback, SoftAlignment, audit_weight_transport, set_learning_rule

RULES = [RandomFeedback(), SoftAlignment(0.5), SoftAlignment(1.0)]


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))


def cnn(norm: bool = False) -> nn.Sequential:
    layers = [nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4) if norm else nn.Identity(), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(4, 4, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(16, 4))


def batch(model: nn.Module) -> Tensor:
    return torch.randn(3, 6) if isinstance(model[0], nn.Linear) else torch.randn(3, 2, 6, 6)


def loss(output: Tensor) -> Tensor:
    return F.cross_entropy(output, torch.tensor([0, 1, 2]))


class Culprit(nn.Module):
    """A linear layer written by hand, so that it transports its weight."""

    def __init__(self, width: int, how: str = "plain") -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(width, width))
        self.how = how

    def forward(self, x: Tensor) -> Tensor:
        weight = {
            "plain": lambda w: w,
            "copy": lambda w: w.clone(),
            "cast": lambda w: w.double().float(),
            "normalised": lambda w: w / w.norm(dim=1, keepdim=True) + torch.eye(w.shape[0]),
            "sign": torch.sign,
            "mask": lambda w: torch.where(w.detach() > 0, torch.ones(()), -torch.ones(())),
        }[self.how](self.weight)
        return x @ weight


@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize("make", [mlp, cnn])
def test_mlp_and_cnn_are_free_of_transport_under_fixed_feedback(make, rule) -> None:
    model = make()
    set_learning_rule(model, rule)
    report = audit_weight_transport(model, batch(model), loss)
    assert report.free_of_transport
    assert str(report).endswith("free of weight transport")
    assert len(report.rows) == len(list(model.parameters()))


@pytest.mark.parametrize("make", [mlp, cnn])
def test_backpropagation_transports_every_weight(make) -> None:
    model = make()
    report = audit_weight_transport(model, batch(model), loss)
    assert [row.parameter for row in report.culprits] == ["weight"] * 3
    assert not report.free_of_transport


def test_norm_layers_are_named() -> None:
    model = cnn(norm=True)
    set_learning_rule(model, SoftAlignment(0.5))
    report = audit_weight_transport(model, batch(model), loss)
    assert [(row.module, row.kind, row.parameter) for row in report.culprits] == [
        ("1", "BatchNorm2d", "weight")
    ]
    assert "weight transport through 1 of 8 parameters" in str(report)


@pytest.mark.parametrize("how", ["plain", "copy", "cast", "normalised", "sign", "mask"])
def test_planted_culprit_is_named_whatever_copy_of_its_weight_it_reads(how: str) -> None:
    model = mlp()
    model.insert(2, Culprit(8, how))
    set_learning_rule(model, SoftAlignment(0.5))
    report = audit_weight_transport(model, batch(model), loss)
    assert [(row.module, row.kind) for row in report.culprits] == [("2", "Culprit")]


def test_copies_that_autocast_makes_are_poisoned_too() -> None:
    model = mlp()
    with torch.autocast("cpu", torch.bfloat16):
        report = audit_weight_transport(model, batch(model), loss)
        assert [row.module for row in report.culprits] == ["0", "2", "4"]
        set_learning_rule(model, SoftAlignment(0.5))
        assert audit_weight_transport(model, batch(model), loss).free_of_transport


def test_a_culprit_behind_dead_units_is_still_found() -> None:
    model = nn.Sequential(nn.Linear(6, 8), Culprit(8), nn.Linear(8, 4))
    set_learning_rule(model, SoftAlignment(0.5))
    with torch.no_grad():
        model[2].feedback.zero_()  # no error reaches the culprit
    assert [r.module for r in audit_weight_transport(model, batch(model), loss).culprits] == ["1"]


def test_first_layer_is_audited_through_the_gradient_of_the_input() -> None:
    model = mlp()
    set_learning_rule(model, SoftAlignment(0.5), where=["2", "4"])
    culprits = audit_weight_transport(model, batch(model), loss).culprits
    assert [(row.module, row.changed) for row in culprits] == [("0", ("input 0",))]


def test_weight_decay_in_the_loss_is_local_and_no_transport() -> None:
    model = mlp()
    set_learning_rule(model, SoftAlignment(0.5))
    report = audit_weight_transport(
        model, batch(model), lambda out: loss(out) + model[2].weight.square().sum()
    )
    assert report.free_of_transport
    assert [row.module for row in report.rows if row.local] == ["2"]


def test_shared_module_and_integer_inputs_are_audited() -> None:
    shared = nn.Linear(8, 8)
    model = nn.Sequential(nn.Embedding(10, 8), shared, nn.ReLU(), shared, nn.Linear(8, 4))
    set_learning_rule(model, SoftAlignment(0.5))
    report = audit_weight_transport(model, torch.tensor([1, 2, 3]), loss)
    assert report.free_of_transport
    assert [row.module for row in report.rows] == ["0", "1", "1", "4", "4"]


def test_inputs_may_be_a_sequence_or_a_mapping() -> None:
    model = nn.Bilinear(3, 4, 4)
    a, b = torch.randn(3, 3), torch.randn(3, 4)
    assert not audit_weight_transport(model, (a, b), loss).free_of_transport
    set_learning_rule(model, RandomFeedback())
    assert audit_weight_transport(model, {"input1": a, "input2": b}, loss).free_of_transport
    assert not a.requires_grad


def test_model_gradients_buffers_and_random_state_are_left_as_they_were() -> None:
    model = nn.Sequential(cnn(norm=True), nn.Dropout(0.5))
    set_learning_rule(model, SoftAlignment(0.5))
    state = {k: v.clone() for k, v in model.state_dict().items()}
    x = batch(model[0])
    random = torch.get_rng_state()
    audit_weight_transport(model, x, loss)
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize(
    ("model", "bad_loss", "match"),
    [
        (nn.ReLU(), loss, "no parameters"),
        (mlp(), lambda out: out, r"scalar tensor, got a tensor of shape \(3, 4\)"),
        (mlp(), lambda out: 3.0, "scalar tensor, got float"),
        (mlp(), lambda out: out.sum() / 0, "must be finite"),
        (mlp(), lambda out: torch.zeros((), requires_grad=True), "does not depend on"),
    ],
)
def test_bad_input_gets_one_clear_error(model: nn.Module, bad_loss, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        audit_weight_transport(model, torch.randn(3, 6), bad_loss)
