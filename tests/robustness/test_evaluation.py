"""The evaluation from all sides, and the masking check in made cases and on trained models."""

import copy

import pytest
import torch
from torch import Tensor, nn

from alignonce import DirectFeedback, RandomFeedback, set_learning_rule
from alignonce.robustness import RobustAccuracy, adversarial_evaluation, masking_findings
from helpers.robust_models import busy_model, held_out, random_states, state_of, trained


def findings(
    *rows: tuple[str, float, str, float], unbounded: float = 0.0, zero: float = 0.0
) -> tuple[str, ...]:
    made = [RobustAccuracy(attack, "linf", eps, route, value) for attack, eps, route, value in rows]
    return masking_findings(made, unbounded_accuracy=unbounded, zero_gradient_share=zero)


def test_masking_check_is_silent_when_all_is_well() -> None:
    assert not findings(
        ("fgsm", 0.1, "exact", 0.5), ("fgsm", 0.1, "feedback", 0.52), ("pgd", 0.1, "exact", 0.4),
        ("pgd", 0.2, "exact", 0.1), ("pgd", 0.1, "transfer", 0.6), ("square", 0.1, "black box", 0.45),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("rows", "options", "words"),
    [
        (
            [("pgd", 0.1, "exact", 0.18), ("pgd", 0.1, "feedback", 0.82)],
            {},
            "0.82 by the feedback route and 0.18",
        ),
        (
            [("pgd", 0.1, "exact", 0.5), ("square", 0.1, "black box", 0.3)],
            {},
            "without gradients, leaves 0.30",
        ),
        (
            [("pgd", 0.1, "exact", 0.5), ("pgd", 0.1, "transfer", 0.3)],
            {},
            "crafted on another model, leaves 0.30",
        ),
        ([("fgsm", 0.1, "exact", 0.3), ("pgd", 0.1, "exact", 0.5)], {}, "more than a single step of FGSM"),
        ([("pgd", 0.1, "exact", 0.3), ("pgd", 0.2, "exact", 0.5)], {}, "a larger ball holds the smaller one"),
        ([("pgd", 0.1, "exact", 0.3)], {"unbounded": 0.2}, "0.20 even when every image is allowed"),
        ([("pgd", 0.1, "exact", 0.3)], {"zero": 0.125}, "12.5% of the images have an exact gradient of zero"),
    ],
)
def test_masking_check_names_each_sign(
    rows: list[tuple[str, float, str, float]], options: dict[str, float], words: str
) -> None:
    (only,) = findings(*rows, **options)
    assert words in only


def test_backpropagation_looks_the_same_by_both_routes_and_unmasked() -> None:
    images, labels = held_out(100)
    report = adversarial_evaluation(
        trained(), images, labels, eps=(0.05, 0.1), attacks=("fgsm", "pgd", "apgd"), queries=300
    )
    assert report.findings == ()
    assert not report.masked
    assert report.unbounded_accuracy == 0
    assert report.zero_gradient_share == 0
    for eps in (0.05, 0.1):
        for name in ("fgsm", "pgd", "apgd"):
            assert report.accuracy(name, eps, "exact") == report.accuracy(name, eps, "feedback")
    assert (
        report.accuracy("pgd", 0.1, "exact") < report.accuracy("pgd", 0.05, "exact") < report.clean_accuracy
    )
    with pytest.raises(KeyError, match=r"no pgd at eps 0\.3"):
        report.accuracy("pgd", 0.3, "exact")


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_random_feedback_looks_robust_by_its_feedback_route_and_the_report_says_so(norm: str) -> None:
    images, labels = held_out(100)
    eps = 0.1 if norm == "linf" else 0.8
    model = trained(RandomFeedback(seed=1))
    report = adversarial_evaluation(model, images, labels, eps=eps, norm=norm, source=trained(), queries=300)
    assert report.accuracy("pgd", eps, "feedback") > report.accuracy("pgd", eps, "exact") + 0.2
    assert report.accuracy("pgd", eps, "transfer") < report.clean_accuracy
    assert report.accuracy("square", eps, "black box") < report.accuracy("pgd", eps, "feedback")
    assert report.masked
    assert len(report.findings) == 1
    lines = str(report).splitlines()
    assert lines[0].split() == ["attack", "norm", "eps", "exact", "feedback", "transfer", "black", "box"]
    assert lines[-1].startswith("masking: ")
    assert "the feedback weights blind the attacker" in lines[-1]


def test_direct_feedback_blinds_its_attacker_too() -> None:
    images, labels = held_out(60)
    model = copy.deepcopy(trained())
    set_learning_rule(model, DirectFeedback(), inputs=images)
    report = adversarial_evaluation(model, images, labels, eps=0.1, queries=50)
    twin = adversarial_evaluation(trained(), images, labels, eps=0.1, queries=50)
    for name in ("fgsm", "pgd"):
        assert report.accuracy(name, 0.1, "exact") == twin.accuracy(name, 0.1, "exact")
        assert report.accuracy(name, 0.1, "feedback") > report.accuracy(name, 0.1, "exact") + 0.1
    assert "blind the attacker" in report.findings[0]


class Staircase(nn.Module):
    """Rounds pixels to 16 levels: the gradient is zero wherever it is defined."""

    def forward(self, images: Tensor) -> Tensor:
        return (images * 15).round() / 15


def test_a_model_that_shatters_its_gradients_is_found_out() -> None:
    images, labels = held_out(60)
    model = nn.Sequential(Staircase(), trained())
    report = adversarial_evaluation(model, images, labels, eps=0.1, source=trained(), queries=300)
    assert report.zero_gradient_share == 1
    text = " ".join(report.findings)
    for words in ("without gradients", "crafted on another model", "gradient of zero"):
        assert words in text


def test_nothing_is_left_changed_or_printed(capfd: pytest.CaptureFixture[str]) -> None:
    model, source = busy_model(), busy_model()
    images, labels = torch.rand(6, 1, 8, 8), torch.arange(6) % 4
    before = state_of(model), state_of(source), random_states()
    adversarial_evaluation(model, images, labels, eps=0.1, source=source, steps=2, queries=5)
    assert (state_of(model), state_of(source), random_states()) == before
    assert capfd.readouterr() == ("", "")


def test_bad_input_is_refused() -> None:
    images, labels = held_out(2)
    with pytest.raises(ValueError, match="unknown gradient attack 'square'; there are fgsm, pgd, apgd"):
        adversarial_evaluation(trained(), images, labels, eps=0.1, attacks=("square",))
    with pytest.raises(ValueError, match="at least one eps and one attack"):
        adversarial_evaluation(trained(), images, labels, eps=())
    with pytest.raises(ValueError, match="eps must be above 0"):
        adversarial_evaluation(trained(), images, labels, eps=(0.1, -0.1))
