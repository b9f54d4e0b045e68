"""What a change of learning rule owes its user."""

import copy
import warnings
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import prune

from alignonce import (
    FP8,
    Backpropagation,
    DirectFeedback,
    FeedbackFormat,
    Int4,
    Int8,
    KolenPollack,
    LearningRule,
    LowRank,
    PeriodicAlignment,
    RandomFeedback,
    SemiStructured,
    Sign,
    SignSymmetry,
    SoftAlignment,
    Sparse,
    WeightMirror,
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
        (nn.Sequential(nn.Embedding(3, 3)), r"nothing to convert(.|\n)*0 \(Embedding\): embedding"),
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
    with pytest.raises(ValueError, match="'nowhere' matches no module"):
        set_learning_rule(mlp(), SOFT, where="nowhere")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("unconvertible", ["raise", "exact"])
def test_weights_that_are_not_finite_are_all_named_and_nothing_changes(
    value: float, unconvertible: str
) -> None:
    model = nn.Sequential(mlp(), nn.LSTM(3, 3))
    nn.init.constant_(model[0][2].weight, value)
    nn.init.constant_(model[1].weight_hh_l0, value)
    with pytest.raises(ValueError, match=r"NaN or infinite values: 0\.2, 1\.weight_hh_l0\. The model"):
        set_learning_rule(model, SOFT, unconvertible=unconvertible)
    assert type(model[0][0]) is nn.Linear
    set_learning_rule(model, SOFT, where=["!0.2", "!1"])
    assert list(alignment(model)) == ["0.0", "0.4"]


ZERO_LAYERS = {
    "linear": lambda: nn.Linear(3, 3),
    "conv": lambda: nn.Conv2d(2, 2, 3),
    "transposed": lambda: nn.ConvTranspose1d(2, 2, 3),
    "bilinear": lambda: nn.Bilinear(2, 2, 2),
    "attention": lambda: nn.MultiheadAttention(4, 2),
    "lstm": lambda: nn.LSTM(2, 2),
    "cell": lambda: nn.GRUCell(2, 2),
}


@pytest.mark.parametrize("rule", [SOFT, RandomFeedback(), SignSymmetry(), KolenPollack(), WeightMirror()])
def test_weights_of_zero_are_all_named_and_can_be_left_exact(rule: LearningRule) -> None:
    model = nn.ModuleDict({name: make() for name, make in ZERO_LAYERS.items()} | {"body": nn.Linear(3, 3)})
    for name, parameter in model.named_parameters():
        if not name.startswith("body"):
            nn.init.zeros_(parameter)
    with pytest.raises(ValueError, match="cannot be converted") as error:
        set_learning_rule(model, rule)
    for name in ZERO_LAYERS:
        assert f"  {name} (" in str(error.value)
    assert "its weight is all zero" in str(error.value)
    assert "its in_proj_weight is all zero" in str(error.value)
    assert type(model["body"]) is nn.Linear
    summary = set_learning_rule(model, rule, unconvertible="exact")
    assert [row.name for row in summary.rows] == ["body"]
    assert {e.name for e in summary.exact} == {*ZERO_LAYERS, "attention.out_proj"}
    assert type(model["attention"]) is nn.MultiheadAttention


def test_a_weight_of_one_element_is_refused_where_its_cosine_cannot_be_had() -> None:
    model = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 3), nn.Conv1d(1, 1, 1))
    for rule in (SOFT, PeriodicAlignment(cosine=0.5), KolenPollack(start=SOFT)):
        with pytest.raises(ValueError, match=r"0 \(Linear\): its weight has one element(.|\n)*2 \(Conv1d\)"):
            set_learning_rule(model, rule)
    set_learning_rule(model, SOFT, unconvertible="exact")
    assert list(alignment(model)) == ["1"]
    set_learning_rule(model, SoftAlignment(1.0))
    assert list(alignment(model)) == ["0", "1", "2"]


def test_a_weight_without_elements_is_refused_by_name() -> None:
    model = mlp()
    model[2].weight = nn.Parameter(torch.empty(0, 7))
    with pytest.raises(ValueError, match=r"2 \(Linear\): its weight has no elements"):
        set_learning_rule(model, RandomFeedback())


def test_a_converted_layer_that_is_refused_later_becomes_plain() -> None:
    model = mlp()
    set_learning_rule(model, SOFT)
    nn.init.zeros_(model[2].weight)
    with pytest.raises(ValueError, match=r"2 \(Linear\): its weight is all zero"):
        set_learning_rule(model, RandomFeedback())
    assert model[2].learning_rule == SOFT
    set_learning_rule(model, RandomFeedback(), unconvertible="exact")
    assert type(model[2]) is nn.Linear
    assert "2.feedback" not in model.state_dict()


def test_output_projection_of_zero_leaves_the_attention_converted() -> None:
    model = nn.MultiheadAttention(4, 2)
    nn.init.zeros_(model.out_proj.weight)
    summary = set_learning_rule(model, SOFT, unconvertible="exact")
    assert [row.name for row in summary.rows] == ["in_proj_weight"]
    assert [e.name for e in summary.exact] == ["out_proj"]


def test_a_refused_rule_leaves_direct_feedback_in_place() -> None:
    model = mlp()
    set_learning_rule(model, DirectFeedback(), inputs=torch.randn(4, 5))
    before = list(model.state_dict())
    nn.init.zeros_(model[2].weight)
    with pytest.raises(ValueError, match="all zero"):
        set_learning_rule(model, SOFT)
    assert list(model.state_dict()) == before


def test_where_can_say_all_but() -> None:
    model = nn.ModuleDict({"a": mlp(), "b": mlp(), "head": nn.Linear(3, 2)})
    for where, expected in [
        ("!head", ["a.0", "a.2", "a.4", "b.0", "b.2", "b.4"]),
        (["*", "!head", "!b"], ["a.0", "a.2", "a.4"]),
        (["!*.0", "a"], ["a.2", "a.4"]),
    ]:
        set_learning_rule(model, Backpropagation())
        set_learning_rule(model, SOFT, where=where)
        assert list(alignment(model)) == expected
    with pytest.raises(ValueError, match="'nowhere' matches no module"):
        set_learning_rule(model, SOFT, where="!nowhere")


@pytest.mark.parametrize("where", [3, [nn.Linear], [0, 1]])
def test_where_of_another_type_says_what_it_takes(where: object) -> None:
    with pytest.raises(TypeError, match="where must be a name or glob of modules, a list of such"):
        set_learning_rule(mlp(), SOFT, where=where)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "rule",
    [SOFT, RandomFeedback(), SignSymmetry("batch"), PeriodicAlignment(), KolenPollack(), WeightMirror()],
)
def test_another_default_device_changes_nothing(rule: LearningRule) -> None:
    model = mlp()
    twin = copy.deepcopy(model)
    set_learning_rule(model, rule)
    with torch.device("meta"):
        set_learning_rule(twin, rule, inputs=torch.ones(4, 5, device="cpu"))
    for (_, _, ours), (_, _, theirs) in zip(feedback_weights(twin), feedback_weights(model), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("format", [LowRank(0.5), LowRank(0.5, dtype=torch.bfloat16), Int8(), Int4(), Sign(),
                                    Sparse(), SemiStructured(), FP8()], ids=str)  # fmt: skip
def test_another_default_device_changes_no_format(format: FeedbackFormat) -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Conv2d(4, 4, 3))
    twin = copy.deepcopy(model)
    set_learning_rule(model, SOFT, format=format)
    with torch.device("meta"):
        set_learning_rule(twin, SOFT, format=format)
    for (_, _, ours), (_, _, theirs) in zip(feedback_weights(twin), feedback_weights(model), strict=True):
        assert torch.equal(ours, theirs)


def test_conversion_within_inference_mode_gives_a_model_that_learns() -> None:
    model = mlp()
    twin = copy.deepcopy(model)
    set_learning_rule(twin, SOFT, norms="fixed")
    with torch.inference_mode():
        set_learning_rule(model, SOFT, norms="fixed")
        born = nn.Linear(3, 3)
    x = torch.randn(4, 5)
    for ours, theirs in zip(gradients(model, x), gradients(twin, x), strict=True):
        assert torch.equal(ours, theirs)
    with pytest.raises(ValueError, match=r"made inside torch\.inference_mode"):
        set_learning_rule(born, SOFT)


def test_summary_says_what_share_of_the_weights_is_converted() -> None:
    model = nn.ModuleDict({
        "emb": nn.Embedding(10, 4),
        "body": nn.Linear(4, 4),
        "norm": nn.LayerNorm(4),
        "own": Own(),
        "head": nn.Linear(4, 10, bias=False),
    })  # fmt: skip
    summary = set_learning_rule(model, SOFT, where="!head")
    assert (summary.converted_weights, summary.all_weights) == (16, 16 + 4 + 6 + 40)
    assert "converted: 24.2% of 66 weights" in str(summary)
    assert set_learning_rule(model, SOFT, norms="fixed").converted_weights == 16 + 4 + 40
    model["head"].weight = model["emb"].weight  # an embedding that is a head too counts once
    assert set_learning_rule(model, SOFT).all_weights == 66
    assert set_learning_rule(model, Backpropagation()).converted_share == 0


class Own(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(2, 3))
        self.bias = nn.Parameter(torch.randn(3))


class Reader(nn.Module):
    """Calls one layer, reads the weight of another, and leaves a third alone."""

    def __init__(self, make: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.called, self.read, self.idle = make(), make(), make()
        self.table = nn.Embedding(6, 4)
        self.tied = nn.Linear(4, 6, bias=False)
        self.tied.weight = self.table.weight

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.table(torch.zeros(1, dtype=torch.long)).sum()
        first = next(p for n, p in self.read.named_parameters() if "weight" in n)
        return self.called.forward(x) * first.sum()  # past the hooks, but not past the layer's own code


READ_LAYERS = [
    (lambda: nn.Linear(4, 4), (2, 4)),
    (lambda: nn.Conv2d(2, 2, 3), (2, 2, 4, 4)),
    (lambda: nn.ConvTranspose1d(2, 2, 3), (2, 2, 4)),
    (lambda: nn.RNNCell(4, 4), (2, 4)),
]


@pytest.mark.parametrize(("make", "shape"), READ_LAYERS)
@pytest.mark.parametrize("frozen", [False, True])
def test_inputs_show_which_layers_a_model_reads_without_calling_them(
    make: Callable[[], nn.Module], shape: tuple[int, ...], frozen: bool
) -> None:
    model = Reader(make).requires_grad_(not frozen)
    before = [(set(vars(m)), type(m)) for m in model.modules()]
    x = torch.randn(shape)
    with pytest.raises(ValueError, match=r"read \(\w+\): its weight is read by another module, past its own"):
        set_learning_rule(model, SOFT, inputs=x)
    assert [(set(vars(m)), type(m)) for m in model.modules()] == before
    assert all(p.requires_grad is not frozen and p.grad is None for p in model.parameters())
    summary = set_learning_rule(model, SOFT, inputs=x, unconvertible="exact")
    assert {row.name.partition(".")[0] for row in summary.rows} == {"called", "idle", "tied"}
    assert summary.idle == ("idle", "tied")
    assert (
        "did not run on inputs, so that their feedback weights are used only if they do: idle, tied"
        in str(summary)
    )


def test_a_run_calls_the_output_projection_of_attention() -> None:
    model = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    for _ in range(2):  # plain, then with a rule
        assert set_learning_rule(model, SOFT, inputs=torch.randn(2, 3, 8)).idle == ()
