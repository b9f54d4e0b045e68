"""Feedback weights in a file of their own."""

import json
import os
import stat
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from alignonce import (
    DirectFeedback,
    KolenPollack,
    LearningRule,
    LowRank,
    PeriodicAlignment,
    RandomFeedback,
    SoftAlignment,
    evolve,
    feedback_weights,
    load_feedback,
    plain_state_dict,
    save_feedback,
    set_learning_rule,
)


def make(*widths: int, norm: bool = False) -> nn.Sequential:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for a, b in pairwise(widths):
        layers += [nn.Linear(a, b), nn.LayerNorm(b) if norm else nn.Tanh()]
    return nn.Sequential(*layers[:-1])


def feedback_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: b.clone() for name, _, b in feedback_weights(model)}


def test_the_file_is_tensors_and_text_that_can_be_read_without_this_package(tmp_path: Path) -> None:
    model = make(4, 6, 6, 2)
    set_learning_rule(model, KolenPollack(start=SoftAlignment({"*": 0.5}, seed=3)))
    save_feedback(model, tmp_path / "feedback.pt")
    content = torch.load(tmp_path / "feedback.pt", weights_only=True)
    assert content["tensors"].keys() == {"0.feedback", "2.feedback", "4.feedback"}
    layer = json.loads(content["feedback"])["layers"]["2"]
    assert layer == {
        "kind": "Linear",
        "rule": {
            "class": "KolenPollack",
            "settings": {
                "decay": 1e-3,
                "steps": None,
                "start": {
                    "class": "SoftAlignment",
                    "settings": {"cosine": {"mapping": {"*": 0.5}}, "seed": 3},
                },
            },
        },
        "weights": {"weight": {"shape": [6, 6], "format": None, "tensors": ["2.feedback"]}},
    }


def test_different_rules_and_formats_by_layer_and_norms_are_restored(tmp_path: Path) -> None:
    model = make(4, 6, 6, 2, norm=True)
    set_learning_rule(model, SoftAlignment(0.5), where=["0", "1"], norms="fixed")
    set_learning_rule(model, RandomFeedback(3), where="2", format=LowRank(rank=1, dtype=torch.bfloat16))
    other = make(4, 6, 6, 2, norm=True)
    set_learning_rule(other, PeriodicAlignment())  # is replaced, also where the file has nothing
    save_feedback(model, tmp_path / "feedback.pt")
    load_feedback(other, tmp_path / "feedback.pt")
    assert repr(other) == repr(model)
    assert type(other[4]) is nn.Linear
    state = model.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in other.state_dict().items())


def test_tied_weights_share_their_feedback_weight_again(tmp_path: Path) -> None:
    def tied() -> nn.Sequential:
        model = make(4, 4, 4, 2)
        model[2].weight = model[0].weight
        return model

    model, other, untied = tied(), tied(), make(4, 4, 4, 2)
    set_learning_rule(model, KolenPollack())
    save_feedback(model, tmp_path / "feedback.pt")
    load_feedback(other, tmp_path / "feedback.pt")
    assert other[0].feedback is other[2].feedback
    load_feedback(untied, tmp_path / "feedback.pt")
    assert untied[0].feedback is not untied[2].feedback
    assert torch.equal(untied[2].feedback, other[0].feedback)


def test_an_evolving_rule_goes_on_from_the_loaded_weights(tmp_path: Path) -> None:
    def step(model: nn.Module, number: int) -> None:
        x = torch.randn(3, 4, generator=torch.Generator().manual_seed(number))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        model(x).square().sum().backward()
        optimizer.step()
        evolve(model, number)
        model.zero_grad()

    model, other = make(4, 6, 2), make(4, 6, 2)
    set_learning_rule(model, KolenPollack())
    step(model, 1)
    other.load_state_dict(plain_state_dict(model))
    save_feedback(model, tmp_path / "feedback.pt")
    load_feedback(other, tmp_path / "feedback.pt")
    step(model, 2)
    step(other, 2)
    expected = feedback_of(model)
    assert all(torch.equal(b, expected[name]) for name, b in feedback_of(other).items())


def test_wrapped_models_have_the_names_of_plain_ones(tmp_path: Path) -> None:
    model, other = make(4, 6, 2), make(4, 6, 2)
    set_learning_rule(model, SoftAlignment(0.5))
    compiled = torch.compile(model, backend="eager")
    assert plain_state_dict(compiled).keys() == other.state_dict().keys()
    save_feedback(compiled, tmp_path / "feedback.pt")
    load_feedback(other, tmp_path / "feedback.pt")
    assert torch.equal(other[0].feedback, model[0].feedback)


def test_layers_of_a_users_own_subclass_are_of_the_plain_class(tmp_path: Path) -> None:
    class Own(nn.Linear):
        pass

    model = nn.Sequential(Own(4, 6), nn.Tanh(), nn.Linear(6, 2))
    other = make(4, 6, 2)
    set_learning_rule(model, SoftAlignment(0.5))
    save_feedback(model, tmp_path / "feedback.pt")
    load_feedback(other, tmp_path / "feedback.pt")
    assert torch.equal(other[0].feedback, model[0].feedback)
    load_feedback(nn.Sequential(Own(4, 6), nn.Tanh(), Own(6, 2)), tmp_path / "feedback.pt")


def test_dtype_and_device_are_those_of_the_model(tmp_path: Path) -> None:
    model, other = make(4, 6, 2), make(4, 6, 2).bfloat16()
    set_learning_rule(model, SoftAlignment(0.5))
    save_feedback(model, tmp_path / "feedback.pt")
    load_feedback(other, tmp_path / "feedback.pt")
    assert torch.equal(other[0].feedback, model[0].feedback.bfloat16())


def test_all_that_does_not_fit_is_named_in_one_error_and_nothing_changes(tmp_path: Path) -> None:
    model = make(4, 6, 6, 6, 2)
    set_learning_rule(model, SoftAlignment(0.5))
    save_feedback(model, tmp_path / "feedback.pt")
    other = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 7), nn.Tanh(), nn.Conv1d(6, 6, 1))
    set_learning_rule(other, RandomFeedback())
    before = repr(other)
    with pytest.raises(ValueError, match="do not fit the model") as error:
        load_feedback(other, tmp_path / "feedback.pt")
    assert str(error.value).splitlines()[1:] == [
        "  2: weight of shape (6, 6) in the file, (7, 6) in the model",
        "  4: Linear in the file, Conv1d in the model",
        "  6 (Linear): the model has no such layer",
    ]
    assert repr(other) == before


def test_a_layer_that_cannot_be_converted_is_refused_and_nothing_changes(tmp_path: Path) -> None:
    model, other = make(4, 6, 2), make(4, 6, 2)
    set_learning_rule(model, SoftAlignment(0.5))
    save_feedback(model, tmp_path / "feedback.pt")
    torch.nn.utils.parametrizations.weight_norm(other[2])
    with pytest.raises(ValueError, match="2"):
        load_feedback(other, tmp_path / "feedback.pt")
    assert type(other[0]) is nn.Linear


def test_direct_feedback_needs_a_batch_and_gets_its_own_matrices(tmp_path: Path) -> None:
    x = torch.randn(3, 4)
    model, other = make(4, 6, 2), make(4, 6, 2)
    set_learning_rule(model, DirectFeedback(seed=4), inputs=x)
    model[2].direct_feedback.mul_(2)  # so that another draw is no substitute
    save_feedback(model, tmp_path / "feedback.pt")
    with pytest.raises(ValueError, match="needs inputs="):
        load_feedback(other, tmp_path / "feedback.pt")
    load_feedback(other, tmp_path / "feedback.pt", x)
    assert torch.equal(other[2].direct_feedback, model[2].direct_feedback)
    assert plain_state_dict(model).keys() == make(4, 6, 2).state_dict().keys()


def test_settings_that_are_no_plain_values_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    model = make(4, 6, 2)
    set_learning_rule(model, SoftAlignment(lambda name, depth: 0.5))
    with pytest.raises(ValueError, match="a mapping from names to numbers instead of a function"):
        save_feedback(model, tmp_path / "feedback.pt")
    assert not list(tmp_path.iterdir())


def test_a_rule_of_a_users_own_is_restored_if_it_is_imported(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Doubled(LearningRule):
        factor: float = 2.0

        def _feedback(self, w: Tensor, name: str, depth: int) -> Tensor:
            return self.factor * w

    model, other = make(4, 6, 2), make(4, 6, 2)
    set_learning_rule(model, Doubled(3.0))
    save_feedback(model, tmp_path / "feedback.pt")
    load_feedback(other, tmp_path / "feedback.pt")
    assert other[0].learning_rule == Doubled(3.0)
    content = torch.load(tmp_path / "feedback.pt", weights_only=True)
    content["feedback"] = content["feedback"].replace("Doubled", "Tripled")
    torch.save(content, tmp_path / "feedback.pt")
    with pytest.raises(ValueError, match="Tripled, which is no learning rule or format that is known"):
        load_feedback(other, tmp_path / "feedback.pt")


def test_a_model_without_a_rule_and_a_file_of_another_kind_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="set a learning rule first"):
        save_feedback(make(4, 2), tmp_path / "feedback.pt")
    torch.save(make(4, 2).state_dict(), tmp_path / "weights.pt")
    with pytest.raises(ValueError, match="was not written by save_feedback"):
        load_feedback(make(4, 2), tmp_path / "weights.pt")


def test_a_file_takes_the_place_of_an_older_one_with_usual_permissions(tmp_path: Path) -> None:
    model = make(4, 6, 2)
    set_learning_rule(model, SoftAlignment(0.5))
    path = tmp_path / "feedback.pt"
    path.write_text("older")
    usual = stat.S_IMODE(path.stat().st_mode)
    save_feedback(model, os.fspath(path))
    assert [p.name for p in tmp_path.iterdir()] == ["feedback.pt"]
    assert stat.S_IMODE(path.stat().st_mode) == usual


def test_a_transformers_model_goes_through_save_pretrained_and_back(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=20, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2
    )
    torch.manual_seed(0)
    model = transformers.BertForMaskedLM(config).eval()
    set_learning_rule(model, SoftAlignment(0.5), norms="fixed")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1
    model.save_pretrained(tmp_path, state_dict=plain_state_dict(model))
    save_feedback(model, tmp_path / "feedback.pt")
    other = transformers.BertForMaskedLM.from_pretrained(tmp_path).eval()
    load_feedback(other, tmp_path / "feedback.pt")
    tokens = torch.tensor([[1, 2, 3]])
    for m in (model, other):
        m(input_ids=tokens).logits.square().sum().backward()
    assert all(
        torch.equal(p.grad, q.grad) for p, q in zip(model.parameters(), other.parameters(), strict=True)
    )
