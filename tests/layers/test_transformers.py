"""Models of the ``transformers`` package, built tiny from their configs: one call converts them."""

import copy
import pickle
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alignonce import (
    Backpropagation,
    Dense,
    DirectFeedback,
    FeedbackFormat,
    Int8,
    KolenPollack,
    LearningRule,
    LowRank,
    RandomFeedback,
    SoftAlignment,
    audit_weight_transport,
    exact_gradients,
    feedback_weights,
    set_learning_rule,
)
from alignonce.layers import FeedbackLayer, layer_kind
from helpers.matrix import RULES

transformers = pytest.importorskip("transformers")
safetensors = pytest.importorskip("safetensors.torch")

from transformers.models.convnext.modeling_convnext import ConvNextLayerNorm  # noqa: E402
from transformers.models.falcon.modeling_falcon import FalconLinear  # noqa: E402
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm  # noqa: E402
from transformers.models.gpt_oss.modeling_gpt_oss import GptOssExperts  # noqa: E402
from transformers.models.llama.modeling_llama import LlamaRMSNorm  # noqa: E402
from transformers.models.llama4.modeling_llama4 import Llama4Router, Llama4TextExperts  # noqa: E402
from transformers.models.mamba2.modeling_mamba2 import MambaRMSNormGated  # noqa: E402
from transformers.models.mixtral.modeling_mixtral import MixtralExperts  # noqa: E402
from transformers.models.t5.modeling_t5 import T5LayerNorm  # noqa: E402
from transformers.models.voxtral_realtime.modeling_voxtral_realtime import (  # noqa: E402
    VoxtralRealtimeCausalConv1d,
)
from transformers.pytorch_utils import Conv1D  # noqa: E402

SOFT = SoftAlignment(cosine=0.5, seed=2)

WORDS = 32
SIZES = {
    "vocab_size": WORDS, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
    "num_attention_heads": 4, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
GROUPED = {**SIZES, "num_key_value_heads": 2}


def resnet() -> nn.Module:
    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=2
    )
    return transformers.ResNetForImageClassification(config)


def vit() -> nn.Module:
    config = transformers.ViTConfig(
        hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4, image_size=16,
        patch_size=4, num_labels=2,
    )  # fmt: skip
    return transformers.ViTForImageClassification(config)


def bert() -> nn.Module:
    return transformers.BertForMaskedLM(transformers.BertConfig(**SIZES, max_position_embeddings=16))


def gpt2() -> nn.Module:
    config = transformers.GPT2Config(
        vocab_size=WORDS, n_positions=16, n_embd=16, n_layer=2, n_head=4, bos_token_id=1, eos_token_id=2
    )
    return transformers.GPT2LMHeadModel(config)


def llama(**settings: Any) -> nn.Module:
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**GROUPED, **settings))


def tied_llama() -> nn.Module:
    return llama(tie_word_embeddings=True)


def gemma() -> nn.Module:
    return transformers.GemmaForCausalLM(transformers.GemmaConfig(**GROUPED, head_dim=4))


def t5() -> nn.Module:
    config = transformers.T5Config(
        vocab_size=WORDS, d_model=16, d_kv=4, d_ff=24, num_layers=2, num_heads=4, decoder_start_token_id=0,
        pad_token_id=0, eos_token_id=1, feed_forward_proj="gated-gelu", dropout_rate=0.0,
    )  # fmt: skip
    return transformers.T5ForConditionalGeneration(config)


def mixtral() -> nn.Module:
    config = transformers.MixtralConfig(**GROUPED, num_local_experts=4, num_experts_per_tok=2)
    return transformers.MixtralForCausalLM(config)


def mamba() -> nn.Module:
    config = transformers.MambaConfig(
        vocab_size=WORDS, hidden_size=16, state_size=4, num_hidden_layers=2, pad_token_id=0, bos_token_id=1,
        eos_token_id=2,
    )  # fmt: skip
    return transformers.MambaForCausalLM(config)


CONVERTED = [resnet, vit, bert, gpt2, llama, tied_llama, gemma, t5]


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    model = make()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model.train()


def batch(model: nn.Module) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    if model.main_input_name == "pixel_values":
        return {"pixel_values": torch.randn(2, 3, 16, 16, generator=generator)}
    words = torch.randint(3, WORDS, (2, 8), generator=generator)
    if isinstance(model, transformers.T5ForConditionalGeneration):
        return {"input_ids": words, "decoder_input_ids": words}
    return {"input_ids": words}


def loss(output: Any) -> Tensor:
    """Two classes for two images, or the words 3, 4, 5, ... whatever the input."""
    logits = output.logits.flatten(0, -2)
    return F.cross_entropy(logits.float(), torch.arange(len(logits)) % (2 if len(logits) == 2 else WORDS))


def norms_in(model: nn.Module) -> int:
    return sum("Norm" in type(m).__name__ and "weight" in m._parameters for m in model.modules())


@pytest.mark.parametrize("make", CONVERTED)
def test_one_call_converts_the_model_and_the_audit_finds_no_transport(make) -> None:
    model = seeded(make)
    summary = set_learning_rule(model, SOFT, norms="fixed")
    assert all(e.reason.startswith(("embedding", "has parameters of its own")) for e in summary.exact)
    assert sum("Norm" in row.kind for row in summary.rows) == norms_in(model) > 0
    report = audit_weight_transport(model, batch(model), loss)
    assert report.free_of_transport, str(report)


@pytest.mark.parametrize("make", CONVERTED)
def test_with_exact_norms_only_norms_transport_and_all_are_named(make) -> None:
    model = seeded(make)
    summary = set_learning_rule(model, SOFT)
    named = [e.name for e in summary.exact if e.reason.startswith("norm layer")]
    assert len(named) == norms_in(model)
    report = audit_weight_transport(model, batch(model), loss)
    assert {row.module for row in report.culprits} == set(named)


@pytest.mark.parametrize("norms", ["exact", "fixed"])
@pytest.mark.parametrize("make", CONVERTED)
def test_value_is_kept_and_exact_gradients_are_exact(make, norms: str) -> None:
    plain = seeded(make)
    model = copy.deepcopy(plain)
    set_learning_rule(model, RandomFeedback(), norms=norms)
    x = batch(model)
    assert torch.equal(model(**x).logits, plain(**x).logits)
    with exact_gradients(model):
        ours = torch.autograd.grad(loss(model(**x)), list(model.parameters()), allow_unused=True)
    theirs = torch.autograd.grad(loss(plain(**x)), list(plain.parameters()), allow_unused=True)
    for a, b in zip(ours, theirs, strict=True):
        assert (a is None) == (b is None)
        assert a is None or torch.equal(a, b)


@pytest.mark.parametrize("make", CONVERTED)
def test_it_learns(make) -> None:
    model = seeded(make)
    set_learning_rule(model, SOFT, norms="fixed")
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    x = batch(model)
    losses = []
    for _ in range(40):
        value = loss(model(**x))
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        losses.append(value.item())
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("make", CONVERTED)
def test_going_back_gives_the_plain_model(make) -> None:
    model = seeded(make)
    classes, keys = [type(m) for m in model.modules()], list(model.state_dict())
    set_learning_rule(model, SOFT, norms="fixed")
    set_learning_rule(model, Backpropagation())
    assert [type(m) for m in model.modules()] == classes
    assert list(model.state_dict()) == keys


@pytest.mark.parametrize("make", [gpt2, tied_llama])
def test_tied_embeddings_stay_tied(make) -> None:
    model = seeded(make)
    count = len(list(model.parameters()))
    set_learning_rule(model, SOFT, norms="fixed")
    assert model.lm_head.weight is model.get_input_embeddings().weight
    assert len(list(model.parameters())) == count
    loss(model(**batch(model))).backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    assert model.lm_head.weight is model.get_input_embeddings().weight
    assert "lm_head" in [name for name, _, _ in feedback_weights(model)]


def test_conv1d_carries_the_error_back_through_its_feedback_weight() -> None:
    layer = Conv1D(5, 3).double()
    nn.init.normal_(layer.bias)
    set_learning_rule(layer, RandomFeedback())
    x = torch.randn(2, 4, 3, dtype=torch.float64, requires_grad=True)
    g = torch.randn(2, 4, 5, dtype=torch.float64)
    y = layer(x)
    y.backward(g)
    w, b, rows, errors = (t.detach().numpy() for t in (layer.weight, layer.feedback, x, g))
    assert layer.feedback.shape == (3, 5)
    np.testing.assert_allclose(y.detach().numpy(), rows @ w + layer.bias.detach().numpy(), atol=1e-12)
    np.testing.assert_allclose(x.grad.numpy(), errors @ b.T, atol=1e-12)
    np.testing.assert_allclose(layer.weight.grad.numpy(), np.einsum("nti,nto->io", rows, errors), atol=1e-12)
    np.testing.assert_allclose(layer.bias.grad.numpy(), errors.sum((0, 1)), atol=1e-12)


def silu(z: np.ndarray) -> np.ndarray:
    return z / (1 + np.exp(-z))


# layer, what is added to its weight, the axis that it normalises over
OWN_NORMS = [
    pytest.param(lambda: LlamaRMSNorm(6, eps=1e-3), 0.0, -1, id="LlamaRMSNorm"),
    pytest.param(lambda: T5LayerNorm(6, eps=1e-3), 0.0, -1, id="T5LayerNorm"),
    pytest.param(lambda: GemmaRMSNorm(6, eps=1e-3), 1.0, -1, id="GemmaRMSNorm"),
    pytest.param(lambda: MambaRMSNormGated(6, group_size=6, eps=1e-3), 0.0, -1, id="MambaRMSNormGated"),
    pytest.param(
        lambda: ConvNextLayerNorm(6, eps=1e-3, data_format="channels_first"), 0.0, 1, id="ConvNextLayerNorm"
    ),
]


@pytest.mark.parametrize(("make", "offset", "axis"), OWN_NORMS)
def test_norms_of_the_package_carry_the_error_back_through_their_fixed_scale(make, offset, axis) -> None:
    layer = make()
    nn.init.normal_(layer.weight)
    set_learning_rule(layer, SOFT, norms="fixed")
    nn.init.normal_(layer.weight)
    shape = (2, 4, 6) if axis == -1 else (2, 6, 3, 4)
    x, g = torch.randn(2, *shape)
    x.requires_grad_()
    gate = [torch.randn(shape)] if isinstance(layer, MambaRMSNormGated) else []
    y = layer(x, *gate)
    y.backward(g)

    factor = silu(gate[0].double().numpy()) if gate else np.ones(shape)
    seen = x.detach().double().numpy() * factor
    channels = [1] * len(shape)
    channels[axis] = 6
    gamma, gamma_b = (
        t.detach().double().numpy().reshape(channels) + offset for t in (layer.weight, layer.feedback)
    )
    centred = isinstance(layer, nn.LayerNorm)
    mean = seen.mean(axis, keepdims=True) if centred else 0
    sigma = np.sqrt(((seen - mean) ** 2).mean(axis, keepdims=True) + 1e-3)
    normal = (seen - mean) / sigma
    h = g.double().numpy() * gamma_b
    dx = h - normal * (h * normal).mean(axis, keepdims=True) - (h.mean(axis, keepdims=True) if centred else 0)
    others = tuple(a for a in range(len(shape)) if a != axis % len(shape))
    np.testing.assert_allclose(y.detach().numpy(), normal * gamma, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(x.grad.numpy(), dx / sigma * factor, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        layer.weight.grad.numpy(), (g.double().numpy() * normal).sum(others), rtol=1e-4, atol=1e-5
    )


def test_mixture_of_experts_converts_its_experts_and_names_its_router() -> None:
    model = seeded(mixtral)
    summary = set_learning_rule(model, SOFT, norms="fixed")
    left = {e.name for e in summary.exact if e.reason.startswith("has parameters of its own")}
    assert left == {f"model.layers.{i}.mlp.gate" for i in (0, 1)}
    assert summary.converted_share > 0.95
    report = audit_weight_transport(model, batch(model), loss)
    assert {row.module for row in report.culprits} == left


def experts_config(**settings: Any) -> Any:
    return transformers.MixtralConfig(
        **GROUPED, num_local_experts=4, num_experts_per_tok=2, experts_implementation="eager", **settings
    )


@pytest.mark.parametrize("lies", ["(out, in)", "(in, out), with bias"])
@pytest.mark.parametrize("rule", [SOFT, KolenPollack()], ids=str)
def test_experts_carry_the_error_back_through_their_feedback_weights(lies: str, rule: LearningRule) -> None:
    torch.manual_seed(0)
    if lies == "(out, in)":
        layer: Any = MixtralExperts(experts_config())
    else:
        sizes = {"vocab_size": WORDS, "hidden_size": 16, "intermediate_size": 12, "num_local_experts": 4}
        layer = GptOssExperts(transformers.GptOssConfig(**sizes, experts_implementation="eager"))
    layer.double()
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.5)
    states = torch.randn(5, 16, dtype=torch.float64, requires_grad=True)
    shares = torch.rand(5, 2, dtype=torch.float64, requires_grad=True)
    chosen = torch.tensor([[0, 2], [2, 3], [0, 3], [3, 2], [2, 0]])  # the second expert is never asked
    plain = layer(states, chosen, shares)
    set_learning_rule(layer, rule)
    output = layer(states, chosen, shares)
    torch.testing.assert_close(output, plain)
    targets = [states, shares, *layer.parameters()]
    ours = torch.autograd.grad(output.sin().sum(), targets)

    def linear(x: Tensor, name: str, expert: int) -> Tensor:
        weight, b = getattr(layer, name)[expert], getattr(layer, f"{name}_feedback")[expert]
        if layer.is_transposed:
            weight, b = weight.t(), b.t()
        # B carries the error: the value is that of W, and the gradient of x that of B
        carried = x @ b.t()
        value = F.linear(x.detach(), weight) + carried - carried.detach()
        return value + getattr(layer, f"{name}_bias")[expert] if layer.has_bias else value

    rows = []
    for token in range(5):
        parts = [
            shares[token, k]
            * linear(layer._apply_gate(linear(states[token], "gate_up_proj", e)), "down_proj", e)
            for k, e in enumerate(chosen[token].tolist())
        ]
        rows.append(sum(parts))
    theirs = torch.autograd.grad(torch.stack(rows).sin().sum(), targets)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


def test_sorted_experts_carry_the_error_back_through_their_feedback_weights() -> None:
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "intermediate_size": 6, "num_local_experts": 3}
    layer = Llama4TextExperts(transformers.Llama4TextConfig(**sizes)).double()
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.5)
    x = torch.randn(6, 8, dtype=torch.float64, requires_grad=True)
    plain = layer(x)
    set_learning_rule(layer, SOFT)
    torch.testing.assert_close(layer(x), plain)
    ours = torch.autograd.grad(layer(x).sin().sum(), [x, *layer.parameters()])

    def product(x: Tensor, name: str) -> Tensor:
        carried = torch.bmm(x, getattr(layer, f"{name}_feedback"))
        return torch.bmm(x.detach(), getattr(layer, name)) + carried - carried.detach()

    gate, up = product(x.view(3, 2, 8), "gate_up_proj").chunk(2, -1)
    output = product(up * layer.act_fn(gate), "down_proj").view(6, 8)
    theirs = torch.autograd.grad(output.sin().sum(), [x, *layer.parameters()])
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


def test_experts_can_be_compressed_and_saved_and_go_back() -> None:
    model = seeded(mixtral)
    keys = list(model.state_dict())
    summary = set_learning_rule(model, SOFT, format=Int8())
    assert sum("experts" in row.name for row in summary.rows) == 4
    loss(model(**batch(model))).backward()
    twin = pickle.loads(pickle.dumps(model))
    assert torch.equal(twin(**batch(model)).logits, model(**batch(model)).logits)
    set_learning_rule(model, Backpropagation())
    assert list(model.state_dict()) == keys


def test_equivalents_of_plain_layers_are_known() -> None:
    router_config = transformers.Llama4TextConfig(hidden_size=8, num_local_experts=4)
    model = nn.ModuleDict({
        "falcon": FalconLinear(8, 8),
        "causal": VoxtralRealtimeCausalConv1d(4, 4, cache_key="causal", kernel_size=3),
        "router": Llama4Router(router_config),
    })  # fmt: skip
    plain = copy.deepcopy(model)
    summary = set_learning_rule(model, SOFT)
    assert [row.kind for row in summary.rows] == [
        "FalconLinear",
        "VoxtralRealtimeCausalConv1d",
        "Llama4Router",
    ]
    assert summary.converted_share == 1
    inputs = {"falcon": torch.randn(2, 8), "causal": torch.randn(2, 4, 9), "router": torch.randn(5, 8)}
    for name, x in inputs.items():
        x.requires_grad_()
        ours, theirs = (y[1] if isinstance(y, tuple) else y for y in (model[name](x), plain[name](x)))
        torch.testing.assert_close(ours, theirs)
        (through_b,) = torch.autograd.grad(ours.sum(), x)
        with torch.no_grad():
            plain[name].weight.copy_(model[name].feedback)
        theirs = plain[name](x)
        (through_copy,) = torch.autograd.grad((theirs[1] if isinstance(theirs, tuple) else theirs).sum(), x)
        torch.testing.assert_close(through_b, through_copy)


@pytest.mark.parametrize("with_inputs", [False, True])
def test_state_space_model_names_what_its_kernels_read_and_so_does_the_audit(with_inputs: bool) -> None:
    model = seeded(mamba)
    inputs = batch(model) if with_inputs else None
    summary = set_learning_rule(model, SOFT, norms="fixed", inputs=inputs)
    mixers = [f"backbone.layers.{i}.mixer" for i in (0, 1)]
    assert [e.name for e in summary.exact if e.kind == "MambaMixer"] == mixers
    read = {
        e.name for e in summary.exact if e.reason == "its weight is read by MambaMixer, past its own forward"
    }
    assert read == {f"{mixer}.{layer}" for mixer in mixers for layer in ("conv1d", "dt_proj")}
    assert summary.idle == ()
    report = audit_weight_transport(model, batch(model), loss)
    assert {row.module for row in report.culprits} == read | set(mixers)


def test_gradient_checkpointing_gives_the_same_gradients() -> None:
    model = seeded(llama)
    set_learning_rule(model, SOFT, norms="fixed")
    x, parameters = batch(model), list(model.parameters())
    expected = torch.autograd.grad(loss(model(**x)), parameters)
    new_name, old_name = "activation_checkpointing_enable", "gradient_checkpointing_enable"
    getattr(model, new_name if hasattr(model, new_name) else old_name)({"use_reentrant": False})
    calls: list[str] = []
    model.model.layers[0].mlp.up_proj.register_forward_hook(lambda *_: calls.append("forward"))
    for ours, theirs in zip(torch.autograd.grad(loss(model(**x)), parameters), expected, strict=True):
        torch.testing.assert_close(ours, theirs)
    assert len(calls) == 2  # once more, in the backward pass


def swinv2() -> nn.Module:
    config = transformers.Swinv2Config(
        image_size=16, patch_size=2, embed_dim=8, depths=[2, 1], num_heads=[2, 2], window_size=4
    )
    return transformers.Swinv2ForImageClassification(config)


def wav2vec2() -> nn.Module:
    config = transformers.Wav2Vec2Config(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, conv_dim=(8, 8),
        conv_stride=(4, 2), conv_kernel=(8, 4), num_conv_pos_embeddings=4, num_feat_extract_layers=2,
        num_conv_pos_embedding_groups=2, vocab_size=WORDS, layerdrop=0.0, mask_time_prob=0.5,
        mask_time_length=2, mask_feature_prob=0.3, mask_feature_length=2,
    )  # fmt: skip
    return transformers.Wav2Vec2ForCTC(config)


@pytest.mark.parametrize("make", [swinv2, wav2vec2])
def test_outputs_that_a_model_changes_in_place_keep_their_gradients(make) -> None:
    """SwinV2 scales its attention in place, Wav2Vec2 masks what its projection returns (SpecAugment)."""
    model = seeded(make)
    x = batch(model) if make is swinv2 else torch.randn(2, 400)

    def gradients(model: nn.Module) -> tuple[Tensor, ...]:
        torch.manual_seed(0)
        np.random.seed(0)  # noqa: NPY002  (what SpecAugment masks)
        value = loss(model(**x) if make is swinv2 else model(x))
        return torch.autograd.grad(value, list(model.parameters()), allow_unused=True)

    expected = gradients(model)
    set_learning_rule(model, SoftAlignment(cosine=1), norms="fixed", unconvertible="exact")
    for ours, theirs in zip(gradients(model), expected, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("make", [gpt2, llama, mixtral])
def test_checkpointed_layers_follow_the_mode_of_the_forward_pass(make, reentrant: bool) -> None:
    model = seeded(make)
    set_learning_rule(model, SOFT, norms="fixed")
    x, parameters = batch(model), list(model.parameters())
    under_rule = torch.autograd.grad(loss(model(**x)), parameters)
    with exact_gradients(model):
        exact = torch.autograd.grad(loss(model(**x)), parameters)
    new_name, old_name = "activation_checkpointing_enable", "gradient_checkpointing_enable"
    getattr(model, new_name if hasattr(model, new_name) else old_name)({"use_reentrant": reentrant})
    with exact_gradients(model):
        value = loss(model(**x))
    value.backward()
    for p, e in zip(parameters, exact, strict=True):
        torch.testing.assert_close(p.grad, e)
    model.zero_grad()
    value = loss(model(**x))
    with exact_gradients(model):
        value.backward()
    for p, e in zip(parameters, under_rule, strict=True):
        torch.testing.assert_close(p.grad, e)


@pytest.mark.parametrize("make", [gpt2, llama])
def test_bfloat16_model_keeps_its_values_and_is_free_of_transport(make) -> None:
    plain = seeded(make).to(torch.bfloat16)
    model = copy.deepcopy(plain)
    set_learning_rule(model, SOFT, norms="fixed")
    assert {b.dtype for _, _, b in feedback_weights(model)} == {torch.bfloat16}
    x = batch(model)
    assert torch.equal(model(**x).logits, plain(**x).logits)
    assert audit_weight_transport(model, x, loss).free_of_transport


@pytest.mark.parametrize("make", [gpt2, llama])
def test_generated_words_are_the_plain_models(make) -> None:
    plain = seeded(make).eval()
    model = copy.deepcopy(plain)
    set_learning_rule(model, SOFT, norms="fixed")
    settings = {"max_new_tokens": 5, "do_sample": False, "attention_mask": torch.ones(2, 8, dtype=torch.long)}
    assert torch.equal(model.generate(**batch(model), **settings), plain.generate(**batch(plain), **settings))


def test_a_trained_model_is_saved_and_loaded_as_the_package_does(tmp_path) -> None:
    model = seeded(gpt2)
    set_learning_rule(model, SOFT, norms="fixed")
    set_learning_rule(model, Backpropagation())
    model.save_pretrained(tmp_path)
    loaded = transformers.GPT2LMHeadModel.from_pretrained(tmp_path)
    assert torch.equal(loaded(**batch(model)).logits, model.eval()(**batch(model)).logits)


def test_a_pickled_model_is_read_by_a_new_process(tmp_path) -> None:
    model = nn.Sequential(Conv1D(4, 4), LlamaRMSNorm(4))
    set_learning_rule(model, SOFT, norms="fixed")
    (tmp_path / "model").write_bytes(pickle.dumps(model))
    script = (
        "import pickle, sys\n"
        f"model = pickle.load(open({str(tmp_path / 'model')!r}, 'rb'))\n"
        "print([type(m).__name__ for m in model])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['FeedbackConv1D', 'FeedbackLlamaRMSNorm']"


def test_the_core_does_not_import_the_package() -> None:
    script = (
        "import sys, torch, alignonce\n"
        "alignonce.set_learning_rule(torch.nn.Linear(2, 2), alignonce.SoftAlignment(), norms='fixed')\n"
        "assert not [name for name in sys.modules if name.partition('.')[0] == 'transformers']\n"
        "assert 'alignonce.layers.libraries' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_a_norm_that_scales_before_it_normalises_is_not_taken_for_a_plain_one() -> None:
    members = {"__module__": "transformers.models.some.modeling_some"}
    assert layer_kind(type("SomeRMSNorm", (nn.Module,), dict(members)), norms=True) is not None
    assert layer_kind(type("SomeInputScaledRMSNorm", (nn.Module,), dict(members)), norms=True) is None


class Quiet(LlamaRMSNorm):
    """Only has another name."""


class Halved(LlamaRMSNorm):
    def forward(self, hidden_states: Tensor) -> Tensor:
        return super().forward(hidden_states) / 2


def test_users_subclasses_follow_the_same_rules() -> None:
    model = nn.Sequential(nn.Linear(4, 4), Quiet(4))
    set_learning_rule(model, SOFT, norms="fixed")
    assert isinstance(model[1], Quiet)
    assert isinstance(model[1], FeedbackLayer)
    with pytest.raises(ValueError, match=r"1 \(Halved\): a subclass of LlamaRMSNorm"):
        set_learning_rule(nn.Sequential(nn.Linear(4, 4), Halved(4)), SOFT, norms="fixed")


@pytest.mark.parametrize("rule", [rule for rule in RULES.values() if not rule.transports], ids=str)
def test_a_vit_is_free_of_transport_under_every_rule_that_copies_nothing(rule: LearningRule) -> None:
    model = seeded(vit)
    inputs = batch(model) if isinstance(rule, DirectFeedback) else None
    set_learning_rule(model, rule, norms="fixed", inputs=inputs)
    assert audit_weight_transport(model, batch(model), loss).free_of_transport


class TwoTied(transformers.PreTrainedModel):
    config_class = transformers.PretrainedConfig
    _tied_weights_keys = {"second.weight": "first.weight"}  # noqa: RUF012

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)
        self.post_init()

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x).sin())


@pytest.mark.parametrize("format", [Dense(), Int8(), LowRank(0.5)], ids=str)
def test_a_model_with_tied_layers_is_saved_with_one_feedback_weight(tmp_path, format: FeedbackFormat) -> None:
    model = TwoTied(transformers.PretrainedConfig(tie_word_embeddings=True))
    model.second.weight = model.first.weight
    set_learning_rule(model, SOFT, format=format)
    model.save_pretrained(tmp_path)
    saved = safetensors.load_file(tmp_path / "model.safetensors")
    state = model.state_dict()
    assert len([key for key in saved if "feedback" in key]) == len([k for k in state if "feedback" in k]) / 2
    assert all(torch.equal(value, state[key]) for key, value in saved.items())
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), model.double()):
        assert twin.second.feedback is twin.first.feedback
