"""What a change of learning rule owes its user."""

import copy
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import prune

from alignonce import (
    Backpropagation,
    RandomFeedback,
    SoftAlignment,
    alignment,
    exact_gradients,
    feedback_weights,
    set_learning_rule,
)
from alignonce.layers import FeedbackLayer, FeedbackLinear

SOFT = SoftAlignment(cosine=0.5, seed=3)


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 6), nn.ReLU(), nn.Linear(6, 3))


def gradients(model: nn.Module, x: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(model(x).square().sum(), list(model.parameters())))


CONVOLUTIONS = [
    (nn.Conv1d(4, 6, 3, stride=2, padding=1, groups=2), (2, 4, 9)),
    (nn.Conv2d(4, 6, 3, padding="same", dilation=2), (2, 4, 9, 9)),
    (nn.Conv3d(2, 3, 2), (2, 2, 4, 4, 4)),
    (nn.ConvTranspose1d(4, 6, 3, stride=2, output_padding=1), (2, 4, 5)),
    (nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, groups=2), (2, 4, 5, 5)),
    (nn.ConvTranspose3d(2, 3, 2, bias=False), (2, 2, 3, 3, 3)),
]


@pytest.mark.parametrize(("layer", "shape"), [*CONVOLUTIONS, (nn.Linear(4, 3), (2, 4))])
def test_forward_values_and_exact_gradients_survive_every_layer_kind(
    layer: nn.Module, shape: tuple[int, ...]
) -> None:
    plain, model = copy.deepcopy(layer), copy.deepcopy(layer)
    set_learning_rule(model, SOFT)
    x = torch.randn(shape)
    assert torch.equal(model(x), plain(x))
    with exact_gradients(model):
        for ours, theirs in zip(gradients(model, x), gradients(plain, x), strict=True):
            assert torch.equal(ours, theirs)


def test_transposed_convolution_keeps_output_size() -> None:
    layer = nn.ConvTranspose2d(3, 4, 3, stride=2)
    x = torch.randn(2, 3, 5, 5)
    expected = layer(x, output_size=[12, 12])
    set_learning_rule(layer, SOFT)
    assert torch.equal(layer(x, output_size=[12, 12]), expected)


def test_bilinear_converts() -> None:
    layer = nn.Bilinear(3, 4, 5)
    a, b = torch.randn(2, 3), torch.randn(2, 4)
    expected = layer(a, b)
    set_learning_rule(layer, SOFT)
    assert torch.equal(layer(a, b), expected)


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
def test_padding_mode_is_kept(mode: str) -> None:
    layer = nn.Conv2d(3, 4, 3, padding=1, padding_mode=mode)
    x = torch.randn(2, 3, 6, 6)
    expected = layer(x)
    set_learning_rule(layer, SOFT)
    assert layer.padding_mode == mode
    assert torch.equal(layer(x), expected)


def test_pretrained_weights_are_kept_and_feedback_norms_match_them() -> None:
    model = mlp()
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(17)
    before = copy.deepcopy(model.state_dict())
    for rule in (SOFT, RandomFeedback()):
        set_learning_rule(model, rule)
        for name, value in before.items():
            assert torch.equal(model.state_dict()[name], value)
        for _, weight, feedback in feedback_weights(model):
            assert feedback.norm().item() == pytest.approx(weight.norm().item(), rel=1e-6)


def test_tied_forward_weights_stay_tied_and_share_one_feedback_weight() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    model[2].weight = model[0].weight
    summary = set_learning_rule(model, SOFT)
    assert model[2].weight is model[0].weight
    assert model[2].feedback is model[0].feedback
    assert [row.extra_bytes for row in summary.rows] == [64, 0]
    assert len(list(feedback_weights(model))) == 1
    model.double()
    assert model[2].feedback is model[0].feedback
    assert model[0].feedback.dtype == torch.float64
    twin = copy.deepcopy(model)
    assert twin[2].feedback is twin[0].feedback is not model[0].feedback


def test_head_tied_to_an_embedding_stays_tied() -> None:
    model = nn.ModuleDict({"emb": nn.Embedding(10, 4), "head": nn.Linear(4, 10, bias=False)})
    model["head"].weight = model["emb"].weight
    summary = set_learning_rule(model, SOFT)
    assert model["head"].weight is model["emb"].weight
    assert len(list(model.parameters())) == 1
    assert [(e.name, e.kind) for e in summary.exact] == [("emb", "Embedding")]


def test_module_used_in_two_places_stays_one_module() -> None:
    shared = nn.Linear(4, 4)
    model = nn.Sequential(shared, nn.ReLU(), shared)
    set_learning_rule(model, SOFT)
    assert model[0] is model[2] is shared
    assert len(list(model.parameters())) == 2


def test_root_that_is_itself_a_linear_converts_in_place() -> None:
    model = nn.Linear(4, 3)
    summary = set_learning_rule(model, SOFT)
    assert isinstance(model, FeedbackLinear)
    assert [row.name for row in summary.rows] == ["weight"]


class Renamed(nn.Linear):
    """Only adds a method."""

    def width(self) -> int:
        return self.out_features


class Doubled(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return 2 * super().forward(input)


class OtherConv(nn.Conv2d):
    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.relu(super()._conv_forward(input, weight, bias))


def test_subclass_that_keeps_its_forward_converts_and_stays_its_own_class() -> None:
    model = nn.Sequential(Renamed(4, 3))
    set_learning_rule(model, SOFT)
    assert isinstance(model[0], Renamed)
    assert isinstance(model[0], FeedbackLayer)
    assert model[0].width() == 3
    assert isinstance(copy.deepcopy(model)[0], Renamed)
    set_learning_rule(model, Backpropagation())
    assert type(model[0]) is Renamed


@pytest.mark.parametrize("layer", [Doubled(4, 4), OtherConv(1, 1, 3)])
def test_subclass_with_its_own_forward_is_never_silently_replaced(layer: nn.Module) -> None:
    cls = type(layer)
    model = nn.ModuleDict({"custom": layer, "plain": nn.Linear(4, 4)})
    with pytest.raises(ValueError, match=rf"custom \({cls.__name__}\): .*forward of its own"):
        set_learning_rule(model, SOFT)
    assert type(model["plain"]) is nn.Linear  # nothing changed
    summary = set_learning_rule(model, SOFT, unconvertible="exact")
    assert type(model["custom"]) is cls
    assert isinstance(model["plain"], FeedbackLinear)
    assert [e.name for e in summary.exact] == ["custom"]


def test_hooks_flags_and_frozen_parameters_survive() -> None:
    model = mlp().to(torch.float64).eval()
    model[0].weight.requires_grad_(False)
    model[2].note = "mine"
    calls: list[str] = []
    model[0].register_forward_hook(lambda *_: calls.append("forward"))
    model[2].register_full_backward_hook(lambda *_: calls.append("backward"))
    names = [name for name, _ in model.named_parameters()]
    set_learning_rule(model, SOFT)
    assert not model[0].training
    assert not model[0].weight.requires_grad
    assert model[2].weight.requires_grad
    assert model[2].note == "mine"
    assert [name for name, _ in model.named_parameters()] == names
    assert {b.dtype for b in model.buffers()} == {torch.float64}
    model(torch.randn(2, 5, dtype=torch.float64)).sum().backward()
    assert calls == ["forward", "backward"]
    set_learning_rule(model, Backpropagation())
    model(torch.randn(2, 5, dtype=torch.float64)).sum().backward()
    assert calls == ["forward", "backward"] * 2


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_dtype_and_device_of_feedback_follow_the_weight(dtype: torch.dtype) -> None:
    model = mlp().to(dtype)
    set_learning_rule(model, SOFT)
    assert all(b.dtype == dtype for _, _, b in feedback_weights(model))
    model.float()
    assert all(b.dtype == torch.float32 for _, _, b in feedback_weights(model))


@pytest.mark.parametrize(
    ("wrap", "reason"),
    [
        (nn.utils.parametrizations.weight_norm, "parametrised"),
        (nn.utils.parametrizations.spectral_norm, "parametrised"),
        (nn.utils.spectral_norm, "recomputed by a hook"),
        (lambda layer: prune.identity(layer, "weight"), "recomputed by a hook"),
    ],
)
def test_parametrised_layers_are_refused_by_name(wrap: object, reason: str) -> None:
    model = nn.ModuleDict({"normed": wrap(nn.Linear(4, 4)), "plain": nn.Linear(4, 4)})  # type: ignore[operator]
    with pytest.raises(ValueError, match=f"normed .*{reason}"):
        set_learning_rule(model, SOFT)
    set_learning_rule(model, SOFT, unconvertible="exact")
    assert list(alignment(model)) == ["plain"]


def test_lazy_layers_are_refused_by_name_until_their_first_forward() -> None:
    model = nn.Sequential(nn.LazyLinear(4), nn.LazyConv2d(3, 2))
    with pytest.raises(ValueError, match=r"0 \(LazyLinear\): not initialised yet: run one forward pass"):
        set_learning_rule(model, SOFT)
    model[0](torch.randn(2, 3))
    model[1](torch.randn(2, 3, 5, 5))
    set_learning_rule(model, SOFT)
    assert list(alignment(model)) == ["0", "1"]


def test_no_parameter_appears_twice() -> None:
    model = nn.Sequential(mlp(), nn.MultiheadAttention(4, 2))
    before = [id(p) for p in model.parameters()]
    set_learning_rule(model, SOFT)
    after = [id(p) for p in model.parameters()]
    assert after == before
    assert len(set(after)) == len(after)


def test_the_users_arguments_are_not_mutated() -> None:
    where = ["0", "2"]
    cosines = {"0": 0.25, "*": 0.75}
    rule = SoftAlignment(cosine=cosines)
    model = mlp()
    set_learning_rule(model, rule, where=where)
    assert where == ["0", "2"]
    assert cosines == {"0": 0.25, "*": 0.75}
    cosines["0"] = 1.0
    set_learning_rule(model, rule, where="0")
    assert alignment(model)["0"] == pytest.approx(0.25)


def test_plain_state_dict_loads_and_the_user_is_told_that_feedback_stays() -> None:
    model, other = mlp(), mlp()
    set_learning_rule(model, SOFT)
    feedback = [b.clone() for _, _, b in feedback_weights(model)]
    with pytest.warns(UserWarning, match="feedback weights keep their values"):
        model.load_state_dict(other.state_dict())
    assert torch.equal(model[0].weight, other[0].weight)
    for (_, _, now), before in zip(feedback_weights(model), feedback, strict=True):
        assert torch.equal(now, before)


def test_missing_forward_weight_is_still_an_error() -> None:
    model = mlp()
    set_learning_rule(model, SOFT)
    state = mlp().state_dict()
    del state["2.weight"]
    with pytest.warns(UserWarning, match="feedback"), pytest.raises(RuntimeError, match=r"2\.weight"):
        model.load_state_dict(state)


@pytest.mark.parametrize("assign", [False, True])
def test_state_dict_with_feedback_weights_restores_them_exactly(assign: bool) -> None:
    model, other = mlp(), mlp()
    set_learning_rule(model, SOFT)
    set_learning_rule(other, RandomFeedback(seed=9))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        other.load_state_dict(copy.deepcopy(model.state_dict()), assign=assign)
    for (_, w1, b1), (_, w2, b2) in zip(feedback_weights(model), feedback_weights(other), strict=True):
        assert torch.equal(w1, w2)
        assert torch.equal(b1, b2)


def test_going_back_to_backpropagation_gives_plain_classes_and_state_dict() -> None:
    model = nn.Sequential(mlp(), nn.Conv2d(3, 4, 3), nn.MultiheadAttention(4, 2), nn.Bilinear(2, 3, 4))
    classes = [type(m) for m in model.modules()]
    keys = list(model.state_dict())
    attributes = [set(vars(m)) for m in model.modules()]
    set_learning_rule(model, SOFT)
    assert [type(m) for m in model.modules()] != classes
    set_learning_rule(model, Backpropagation())
    assert [type(m) for m in model.modules()] == classes
    assert list(model.state_dict()) == keys
    assert [set(vars(m)) for m in model.modules()] == attributes
    set_learning_rule(model, Backpropagation())


def test_same_call_twice_gives_the_same_model() -> None:
    model = mlp()
    first = str(set_learning_rule(model, SOFT))
    before = [b.clone() for _, _, b in feedback_weights(model)]
    assert str(set_learning_rule(model, SOFT)) == first
    assert all(torch.equal(b, a) for (_, _, b), a in zip(feedback_weights(model), before, strict=True))


def test_rule_can_be_switched_in_mid_training() -> None:
    model = mlp()
    optimizer = torch.optim.Adam(model.parameters())
    x = torch.randn(8, 5)
    for rule in (RandomFeedback(), SoftAlignment(1.0), Backpropagation(), SOFT):
        set_learning_rule(model, rule)
        optimizer.zero_grad()
        model(x).square().sum().backward()
        optimizer.step()
    assert all(c < 0.51 for c in alignment(model).values())


def test_soft_alignment_of_cosine_one_is_backpropagation_at_the_first_step() -> None:
    model = mlp()
    plain = copy.deepcopy(model)
    set_learning_rule(model, SoftAlignment(1.0))
    x = torch.randn(8, 5)
    for ours, theirs in zip(gradients(model, x), gradients(plain, x), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_where_chooses_by_name_glob_container_and_function() -> None:
    model = nn.ModuleDict({"a": mlp(), "b": mlp(), "conv": nn.Conv2d(1, 2, 1)})
    for where, expected in [
        ("a", ["a.0", "a.2", "a.4"]),
        ("*.0", ["a.0", "b.0"]),
        (["conv", "b.4"], ["b.4", "conv"]),
        (lambda name, module: isinstance(module, nn.Conv2d), ["conv"]),
    ]:
        set_learning_rule(model, Backpropagation())
        summary = set_learning_rule(model, SOFT, where=where)
        assert list(alignment(model)) == [row.name for row in summary.rows] == expected
    assert {e.reason for e in summary.exact} == {"not selected"}


def test_layers_can_have_different_rules_and_where_does_not_change_a_seeds_weights() -> None:
    model, whole = mlp(), None
    whole = copy.deepcopy(model)
    set_learning_rule(whole, SOFT)
    set_learning_rule(model, SOFT, where="0")
    set_learning_rule(model, RandomFeedback(), where="4")
    assert torch.equal(model[0].feedback, whole[0].feedback)
    assert model[0].learning_rule == SOFT
    assert model[4].learning_rule == RandomFeedback()
    assert type(model[2]) is nn.Linear
    set_learning_rule(model, Backpropagation(), where="0")
    assert list(alignment(model)) == ["4"]


def test_attention_and_its_output_projection_are_chosen_together() -> None:
    model = nn.ModuleDict({"attn": nn.MultiheadAttention(4, 2), "head": nn.Linear(4, 2)})
    set_learning_rule(model, SOFT, where=lambda name, _: name == "attn")
    assert list(alignment(model)) == ["attn.in_proj_weight", "attn.out_proj"]
    set_learning_rule(model, Backpropagation())
    with pytest.raises(ValueError, match="nothing to convert"):
        set_learning_rule(model, SOFT, where=["attn.out_proj"])


def test_compiled_model_is_converted_inside() -> None:
    model = mlp()
    set_learning_rule(torch.compile(model), SOFT)
    plain = copy.deepcopy(model)
    assert list(alignment(model)) == ["0", "2", "4"]
    assert torch.equal(plain[0].feedback, model[0].feedback)


def test_weight_decay_and_optimisers_never_touch_feedback_weights() -> None:
    model = mlp()
    set_learning_rule(model, SOFT)
    before = [b.clone() for _, _, b in feedback_weights(model)]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.5)
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.randn(4, 5)).sum().backward()
        optimizer.step()
    assert all(torch.equal(b, a) for (_, _, b), a in zip(feedback_weights(model), before, strict=True))


def test_exact_gradients_nests_and_ends_after_an_error() -> None:
    model = mlp()
    set_learning_rule(model, RandomFeedback())
    with exact_gradients(model):
        with exact_gradients(model):
            pass
        assert all(layer.exact for layer in model if isinstance(layer, FeedbackLayer))
    with pytest.raises(RuntimeError, match="stop"), exact_gradients(model):
        raise RuntimeError("stop")
    assert not any(layer.exact for layer in model if isinstance(layer, FeedbackLayer))


def test_summary_prints_layers_and_what_was_left_exact() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8, 2))
    summary = set_learning_rule(model, SOFT)
    text = str(summary)
    assert "8x3x3x3" in text
    assert "dense float32" in text
    assert "0.5000" in text
    assert "BatchNorm2d  norm layer" in text
    assert summary.extra_bytes == 4 * (8 * 27 + 16)
    assert "plain layers" in str(set_learning_rule(model, Backpropagation()))


@pytest.mark.parametrize(
    ("model", "match"),
    [
        (nn.Sequential(nn.ReLU()), "nothing to convert"),
        (nn.Sequential(nn.Linear(3, 3), nn.RNNBase("GRU", 3, 3)), r"1 \(RNNBase\): a recurrent layer"),
        (nn.Linear(3, 3, device="meta"), "meta device"),
        (nn.Linear(3, 3, dtype=torch.complex64), "complex64"),
    ],
)
def test_models_that_cannot_be_converted_get_one_clear_error(model: nn.Module, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        set_learning_rule(model, SOFT)


def test_bad_arguments_get_one_clear_error() -> None:
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module, got int"):
        set_learning_rule(3, SOFT)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="an instance, with parentheses"):
        set_learning_rule(mlp(), RandomFeedback)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="unconvertible must be 'raise' or 'exact'"):
        set_learning_rule(mlp(), SOFT, unconvertible="skip")
    with pytest.raises(ValueError, match="'nowhere' fits no module"):
        set_learning_rule(mlp(), SOFT, where="nowhere")


@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf")])
def test_weights_without_a_direction_are_refused_by_name_and_nothing_changes(value: float) -> None:
    model = mlp()
    nn.init.constant_(model[2].weight, value)
    with pytest.raises(ValueError, match="the forward weight '2'"):
        set_learning_rule(model, SOFT)
    assert type(model[0]) is nn.Linear
