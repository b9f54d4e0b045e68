"""Averages of a model over its training."""

import copy
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_avg_fn, get_ema_multi_avg_fn

from alignonce import feedback_weights
from situations.by_hand import by_hand, flat_gradients
from situations.situation import ALL_FORMATS, Case, crossed, right

TOPIC = "Averaging copies"

UPDATES = 20
CASES = crossed(("Linear", "Conv2d", "MultiheadAttention", "GRUCell"), formats=list(ALL_FORMATS))


def _train(model: nn.Module) -> Iterator[None]:
    generator = torch.Generator().manual_seed(0)
    for _ in range(UPDATES):
        with torch.no_grad():
            for p in model.parameters():
                p.add_(torch.randn(p.shape, generator=generator), alpha=0.01)
        yield


def _assert_unharmed(case: Case, copied: nn.Module, model: nn.Module) -> None:
    for (_, _, b), (_, _, ours) in zip(feedback_weights(model), feedback_weights(copied), strict=True):
        error = torch.linalg.vector_norm(ours.double() - b.double()) / torch.linalg.vector_norm(b.double())
        # The average itself is rounded to 16 bits, if B is held so.
        assert error < (0.01 if "bfloat16" in case.format else 1e-5), f"B differs by {error:.2g}"
    # It can be used: its gradients are those of its B, but for 8-bit rounding of errors.
    x = case.inputs(torch.float32)
    ours = flat_gradients(copied, copied(x).sin().sum())
    twin = by_hand(copied)
    theirs = flat_gradients(twin, twin(x.double() if x.is_floating_point() else x).sin().sum())
    assert torch.linalg.vector_norm(ours - theirs) / torch.linalg.vector_norm(theirs) < 0.02
    copied.load_state_dict(copied.state_dict())


def _averaged(case: Case, **options: Callable[..., object]) -> None:
    model = case.model(torch.float32)
    average = AveragedModel(model, use_buffers=True, **options)
    for _ in _train(model):
        average.update_parameters(model)
    saved = {key: value.clone() for key, value in average.module.state_dict().items()}
    _assert_unharmed(case, average.module, model)
    fresh = case.model(torch.float32)
    fresh.load_state_dict(saved)
    _assert_unharmed(case, fresh, model)


@right(
    "you average all buffers too: `AveragedModel(model, use_buffers=True)`", CASES, "B comes through unharmed"
)
def stochastic_weight_averaging(case: Case) -> None:
    _averaged(case)


@right(
    "you take an exponential moving average of all buffers too: `get_ema_multi_avg_fn()`, `get_ema_avg_fn()`",
    CASES,
    "B comes through unharmed, but for rounding",
)
def moving_average(case: Case) -> None:
    _averaged(case, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    _averaged(case, avg_fn=get_ema_avg_fn(0.9))


@right(
    "you average what `state_dict()` holds into a copy of the model, in place",
    CASES,
    "B comes through unharmed, but for rounding",
)
def in_place(case: Case) -> None:
    model = case.model(torch.float32)
    average = copy.deepcopy(model)
    for _ in _train(model):
        with torch.no_grad():
            for ours, theirs in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
                ours.copy_(0.9 * ours + 0.1 * theirs)
    _assert_unharmed(case, average, model)


@right(
    "you average what `state_dict()` holds, and load the average",
    CASES,
    "B comes through unharmed, but for rounding",
)
def loaded(case: Case) -> None:
    model = case.model(torch.float32)
    average: dict[str, Tensor] = {key: value.clone() for key, value in model.state_dict().items()}
    for _ in _train(model):
        for key, value in model.state_dict().items():
            average[key] = 0.9 * average[key] + 0.1 * value
    for assign in (False, True):
        copied = case.model(torch.float32)
        copied.load_state_dict(average, assign=assign)
        _assert_unharmed(case, copied, model)


@right(
    "you go on averaging after a checkpoint of the average was loaded",
    CASES,
    "B comes through unharmed, but for rounding",
)
def resumed(case: Case) -> None:
    model = case.model(torch.float32)
    average = AveragedModel(model, use_buffers=True, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    for _ in _train(model):
        average.update_parameters(model)
        average.load_state_dict({key: value.clone() for key, value in average.state_dict().items()})
    _assert_unharmed(case, average.module, model)
