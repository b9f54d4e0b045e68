"""Checkpoints that others write and read."""

import copy
import tempfile
from pathlib import Path

import torch
from torch import Tensor, nn

from alignonce import (
    Backpropagation,
    load_feedback,
    plain_state_dict,
    save_feedback,
    set_learning_rule,
)
from helpers.matrix import RULES
from situations.by_hand import flat_gradients
from situations.situation import ALL_FORMATS, LAYERS, Case, crossed, refused, right

TOPIC = "Checkpoints elsewhere"


def trained(model: nn.Module) -> nn.Module:
    """The model with other forward weights than those that its feedback weights began from."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, dtype=parameter.dtype, generator=generator)
    return model


def gradients(case: Case, model: nn.Module) -> Tensor:
    return flat_gradients(model, model(case.inputs()).sin().sum())


@right(
    "you load the weights as a plain model's, and then the feedback weights (`load_feedback`)",
    crossed(LAYERS, rules=tuple(RULES)) + crossed(LAYERS, formats=[f for f in ALL_FORMATS if f != "Dense"]),
    "the model goes on as the one that was saved, to the bit",
)
def saved_and_loaded(case: Case) -> None:
    model = trained(case.model())
    other = case.plain()
    other.load_state_dict(plain_state_dict(model))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "feedback.pt"
        save_feedback(model, path)
        load_feedback(other, path, case.inputs() if case.rule == "DirectFeedback" else None)
    assert torch.equal(gradients(case, other), gradients(case, model))
    if case.rule != "DirectFeedback":
        assert repr(other) == repr(model)
    assert other.state_dict().keys() == model.state_dict().keys()


@right(
    "you take `plain_state_dict(model)`",
    crossed(LAYERS, rules=tuple(RULES)) + crossed(LAYERS, formats=[f for f in ALL_FORMATS if f != "Dense"]),
    "it is the state_dict of the model under `Backpropagation()`",
)
def plain(case: Case) -> None:
    model = case.model()
    before = copy.deepcopy(model.state_dict())
    state = plain_state_dict(model)
    assert model.state_dict().keys() == before.keys()
    set_learning_rule(model, Backpropagation())
    expected = model.state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[key], expected[key]) for key in state)
    assert state._metadata.keys() == expected._metadata.keys()


@refused(
    "the file of `save_feedback` is of another model",
    crossed(rules=("SoftAlignment", "KolenPollack")),
    message="the feedback weights do not fit the model:\n",
    remedy="each layer that does not fit is named, and nothing changes",
)
def of_another_model(case: Case) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "feedback.pt"
        save_feedback(case.model(), path)
        other = nn.Sequential(nn.Linear(5, 5))
        try:
            load_feedback(other, path)
        finally:
            assert type(other[0]) is nn.Linear


@right(
    "a rule or a format is in what Lightning's `save_hyperparameters()` or `torch.save` wrote",
    crossed(["Linear"], rules=tuple(RULES)) + crossed(["Linear"], formats=tuple(ALL_FORMATS)),
    "`torch.load(weights_only=True)` reads it",
)
def hyperparameters(case: Case) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "checkpoint.ckpt"
        torch.save({"hyper_parameters": {"rule": case.learning_rule, "format": case.feedback_format}}, path)
        read = torch.load(path, weights_only=True)["hyper_parameters"]
    assert read == {"rule": case.learning_rule, "format": case.feedback_format}
