"""A tracker in a training loop."""

import pytest
import torch

from alignonce import SoftAlignment
from alignonce.diagnostics import (
    Row,
    Tracker,
    alignment,
    compare_gradients,
    subspace_alignment,
    weight_alignment,
)
from helpers.known_models import cross_entropy, labelled, mlp, twin


def test_collects_tidy_rows_at_every_kth_step_of_a_training_loop() -> None:
    model, (x, y) = twin(mlp(), SoftAlignment(0.5)), labelled(16, 5)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    tracker = Tracker({"cosine": alignment, "first": lambda m: float(m[0].weight[0, 0].detach())}, steps=2)
    for step in range(5):
        tracker(step, model)
        optimizer.zero_grad()
        cross_entropy(model(x), y).backward()
        optimizer.step()
    assert [(r.step, r.measure, r.layer) for r in tracker.rows] == [
        row
        for step in (0, 2, 4)
        for row in [(step, "cosine", "0"), (step, "cosine", "2"), (step, "first", "")]
    ]
    cosines = [r.value for r in tracker.rows if r.measure == "cosine" and r.layer == "2"]
    assert cosines[0] == pytest.approx(0.5)
    assert cosines[-1] != cosines[0]


def test_steps_can_be_named() -> None:
    tracker = Tracker({"one": lambda model: 1}, steps=[0, 3])
    for step in range(5):
        tracker(step, mlp())
    assert tracker.rows == [Row(0, "one", "", 1.0), Row(3, "one", "", 1.0)]


def test_results_of_diagnostics_become_one_row_for_each_number() -> None:
    model, batch = twin(mlp(), SoftAlignment(0.5)), labelled(4, 5)
    tracker = Tracker(
        {
            "weights": weight_alignment,
            "gradient": lambda m: compare_gradients(m, batch, cross_entropy),
            "subspace": lambda m: subspace_alignment(m, k=2),
            "nothing": lambda m: None,
        }
    )
    tracker(7, model)
    values = {(r.measure, r.layer): r.value for r in tracker.rows}
    assert values["weights.cosine", "0"] == pytest.approx(0.5)
    assert values["gradient.weight.angle_deg", "2"] == 0
    assert ("gradient.total.cosine", "") in values
    assert ("subspace.left.1", "0") in values
    assert {r.step for r in tracker.rows} == {7}


def test_what_is_no_number_is_refused_by_name() -> None:
    with pytest.raises(TypeError, match="measure 'weights' returned Parameter"):
        Tracker({"weights": lambda m: m[0].weight})(0, mlp())


def test_settings_that_measure_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="no measures"):
        Tracker({})
    with pytest.raises(ValueError, match="steps must be positive"):
        Tracker({"cosine": alignment}, steps=0)
