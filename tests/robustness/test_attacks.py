"""Attacks: closed-form answers on a linear model, verification, routes, and what they leave untouched."""

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from alignonce import RandomFeedback, exact_gradients, set_learning_rule
from alignonce.robustness import ATTACKS, NORMS, ROUTES, attack, perturbation_norms
from helpers.robust_models import Linear2, busy_model, held_out, random_states, state_of, trained

GRADIENT_ATTACKS = ("fgsm", "pgd", "apgd", "autoattack")
FEEDBACK = RandomFeedback(seed=1)


def linear_case() -> tuple[Linear2, Tensor, Tensor, dict[str, float]]:
    """One image inside the box, its class, and the radius in each norm at which it meets the other class."""
    weight = torch.randn(1, 6, 6, generator=torch.Generator().manual_seed(4))
    image = torch.full((1, 1, 6, 6), 0.5)
    model = Linear2(weight, bias=1.5 - 0.5 * float(weight.sum()))  # f(image) = 1.5
    return model, image, torch.tensor([1]), {
        "linf": 1.5 / float(weight.abs().sum()), "l2": 1.5 / float(weight.norm())
    }  # fmt: skip


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", GRADIENT_ATTACKS)
def test_a_linear_model_falls_at_its_known_distance_and_not_before(name: str, norm: str) -> None:
    model, image, label, distance = linear_case()
    assert distance[norm] < 0.5  # the box of pixels does not bind
    assert attack(model, image, label, name, eps=distance[norm] * 0.999, norm=norm).robust_accuracy == 1
    # 20 steps of PGD in L2 turn a random start to within 9 degrees of the way out: 1.4 % are lost.
    margin = 1.02 if (name, norm) == ("pgd", "l2") else 1.001
    result = attack(model, image, label, name, eps=distance[norm] * margin, norm=norm)
    assert result.robust_accuracy == 0
    assert float(perturbation_norms(result.adversarial, image, norm)) >= distance[norm] * (1 - 1e-5)


@pytest.mark.parametrize("norm", NORMS)
def test_square_needs_no_gradient_and_stays_above_the_known_distance(norm: str) -> None:
    model, image, label, distance = linear_case()
    assert attack(model, image, label, "square", eps=distance[norm] * 0.999, norm=norm).robust_accuracy == 1
    result = attack(model, image, label, "square", eps=distance[norm] * 2, norm=norm)
    assert result.robust_accuracy == 0


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", ATTACKS)
def test_results_are_in_the_ball_and_in_the_box_and_verified(name: str, norm: str, route: str) -> None:
    model, (images, labels) = trained(FEEDBACK), held_out(60)
    eps = 0.15 if norm == "linf" else 1.0
    result = attack(model, images, labels, name, eps=eps, norm=norm, route=route, queries=100, steps=10)
    assert 0 <= result.adversarial.min() <= result.adversarial.max() <= 1
    distances = perturbation_norms(result.adversarial, images, norm)
    assert float(distances.max()) <= eps * (1 + 1e-6)
    with torch.no_grad():
        right, stands = model(images).argmax(1) == labels, model(result.adversarial).argmax(1) == labels
    assert torch.equal(result.clean_correct, right)
    assert torch.equal(result.robust, right & stands)
    assert torch.equal(distances > 0, right & ~stands)  # images that were not fooled come back clean
    assert result.robust_accuracy == pytest.approx(float((right & stands).double().mean()))
    if route == "exact" or name in ("square", "autoattack"):
        assert result.robust_accuracy < result.clean_accuracy


@pytest.mark.parametrize("name", GRADIENT_ATTACKS)
def test_the_exact_route_finds_what_it_finds_in_a_backpropagation_twin(name: str) -> None:
    twin, (images, labels) = copy.deepcopy(trained(FEEDBACK)), held_out(60)
    plain = nn.Sequential(
        *(nn.Linear(m.in_features, m.out_features) if isinstance(m, nn.Linear) else m for m in twin)
    )
    plain.load_state_dict({k: v for k, v in twin.state_dict().items() if "feedback" not in k})
    ours = attack(twin, images, labels, name, eps=0.1, route="exact", steps=10, queries=50)
    theirs = attack(plain, images, labels, name, eps=0.1, route="feedback", steps=10, queries=50)
    torch.testing.assert_close(ours.adversarial, theirs.adversarial, rtol=0, atol=1e-6)


def test_the_feedback_route_finds_less_than_the_exact_one() -> None:
    (images, labels), model = held_out(200), trained(FEEDBACK)
    left = {r: attack(model, images, labels, "pgd", eps=0.1, route=r).robust_accuracy for r in ROUTES}
    assert left["feedback"] > left["exact"] + 0.2


def test_restarts_and_the_ensemble_find_no_less() -> None:
    model, (images, labels) = trained(), held_out(100)
    options = {"eps": 0.9, "norm": "l2", "steps": 3}
    once = attack(model, images, labels, "pgd", **options)
    often = attack(model, images, labels, "pgd", restarts=4, **options)
    assert not bool((often.robust & ~once.robust).any())
    assert often.robust_accuracy < once.robust_accuracy
    apgd = attack(model, images, labels, "apgd", **options)
    ensemble = attack(model, images, labels, "autoattack", queries=300, **options)
    assert not bool((ensemble.robust & ~apgd.robust).any())


def test_transfer_is_crafted_on_the_source_and_verified_on_the_model() -> None:
    model, source, (images, labels) = trained(FEEDBACK), trained(), held_out(100)
    result = attack(model, images, labels, "pgd", eps=0.12, source=source)
    direct = attack(model, images, labels, "pgd", eps=0.12)
    assert direct.robust_accuracy < result.robust_accuracy < result.clean_accuracy
    fooled = result.clean_correct & ~result.robust
    with torch.no_grad():
        assert not bool((model(result.adversarial[fooled]).argmax(1) == labels[fooled]).any())
    with pytest.raises(ValueError, match="source must have the model's 10 classes"):
        attack(model, images, labels, "fgsm", eps=0.1, source=Linear2(torch.ones(1, 8, 8), 0.0))


@pytest.mark.parametrize("name", ATTACKS)
def test_a_seed_decides_the_result(name: str) -> None:
    model, (images, labels) = trained(), held_out(30)
    torch.manual_seed(1)
    first = attack(model, images, labels, name, eps=0.1, seed=3, steps=5, queries=50)
    torch.manual_seed(2)
    again = attack(model, images, labels, name, eps=0.1, seed=3, steps=5, queries=50)
    assert torch.equal(first.adversarial, again.adversarial)
    if name != "fgsm":
        other = attack(model, images, labels, name, eps=0.1, seed=4, steps=5, queries=50)
        assert not torch.equal(first.adversarial, other.adversarial)


@pytest.mark.parametrize("grad_enabled", [True, False])
@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("name", ATTACKS)
def test_nothing_is_left_changed_or_printed(
    name: str, route: str, grad_enabled: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    model, images, labels = busy_model(), torch.rand(6, 1, 8, 8), torch.arange(6) % 4
    before = state_of(model), random_states(), images.clone(), labels.clone()
    with torch.set_grad_enabled(grad_enabled):
        attack(model, images, labels, name, eps=0.1, norm="l2", route=route, steps=2, queries=5)
    assert (state_of(model), random_states()) == before[:2]
    assert torch.equal(images, before[2])
    assert torch.equal(labels, before[3])
    assert capfd.readouterr() == ("", "")


def test_the_model_comes_back_as_it_was_after_an_error() -> None:
    class Breaks(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            if x.requires_grad:
                raise RuntimeError("broken")
            return x

    model = nn.Sequential(busy_model(), Breaks())
    images, before = torch.rand(6, 1, 8, 8), (state_of(model), random_states())
    with torch.no_grad(), exact_gradients(model):
        model.eval()
        labels = model(images).argmax(1)
    model[0].train()
    model[0][1].eval()
    model.training = True
    model[1].training = True
    before = state_of(model), random_states()
    with pytest.raises(RuntimeError, match="broken"):
        attack(model, images, labels, "pgd", eps=0.1)
    assert (state_of(model), random_states()) == before


def test_a_sequential_with_a_forward_of_its_own_is_called_whole() -> None:
    class Flipped(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return -super().forward(x)

    model, image, label, distance = linear_case()
    flipped = Flipped(model.flat, model.line)
    assert attack(flipped, image, 1 - label, "pgd", eps=distance["linf"] * 1.01).robust_accuracy == 0
    assert attack(flipped, image, label, "pgd", eps=0.01).clean_accuracy == 0


def test_double_precision_models_and_other_image_sizes_are_attacked() -> None:
    for shape in ((1, 4, 4), (3, 11, 11), (3, 8, 20)):
        model = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), 3)).double()
        set_learning_rule(model, FEEDBACK)
        images = torch.rand(5, *shape, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            labels = model(images.double()).argmax(1)
        for norm, name in ((n, a) for n in NORMS for a in ("pgd", "square")):
            result = attack(model, images, labels, name, eps=10.0, norm=norm, steps=5, queries=50)
            assert result.adversarial.dtype == torch.float32
            assert result.robust_accuracy < 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "deepfool"}, "unknown attack 'deepfool'; there are fgsm, pgd, apgd, square, autoattack"),
        ({"norm": "l1"}, "unknown norm 'l1'; there are linf, l2"),
        ({"route": "both"}, "unknown route 'both'; there are exact, feedback"),
        ({"eps": 0}, "eps must be above 0 and finite, got 0"),
        ({"eps": -0.1}, "eps must be above 0"),
        ({"eps": math.inf}, "eps must be above 0 and finite"),
        ({"steps": 0}, "must be 1 or more, got 0, 1 and 1000"),
        ({"restarts": 0}, "must be 1 or more"),
        ({"images": torch.zeros(2, 1, 8, 8) - 1}, r"raw pixels in \[0, 1\]"),
        ({"images": torch.zeros(0, 1, 8, 8)}, "at least one image"),
        ({"labels": torch.tensor([0, 10])}, r"labels must be in 0\.\.9"),
        ({"labels": torch.tensor([0])}, r"labels must have shape \(2,\)"),
    ],
)
def test_bad_input_is_refused(changes: dict[str, object], message: str) -> None:
    arguments = {"images": torch.zeros(2, 1, 8, 8), "labels": torch.tensor([0, 1]), "name": "pgd", "eps": 0.1}
    with pytest.raises(ValueError, match=message):
        attack(trained(), **{**arguments, **changes})  # type: ignore[arg-type]
