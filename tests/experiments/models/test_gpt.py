import math

import numpy as np
import pytest
import torch

from alignonce import audit_weight_transport, feedback_weights
from alignonce.experiments.config.run import RunConfig
from alignonce.experiments.models import GPT, build_language_model

TOKENS = torch.randint(0, 256, (3, 12), generator=torch.Generator().manual_seed(1))


def build(**changes):
    small = {"task": "lm", "depth": 2, "width": 16, "heads": 2, "context": 12}
    return build_language_model(RunConfig(**small | changes), 256)


def test_later_tokens_have_no_effect_on_earlier_logits():
    model, changed = build(), TOKENS.clone()
    changed[:, 7:] = 0
    before, after = model(TOKENS), model(changed)
    torch.testing.assert_close(before[:, :7], after[:, :7])
    assert not torch.allclose(before[:, 7:], after[:, 7:])


def test_attention_is_the_formula():
    attention = build().blocks[0].attention
    x = torch.randn(1, 5, 16, generator=torch.Generator().manual_seed(2))
    q, k, v, o = (
        getattr(attention, name).weight.detach().double().numpy()
        for name in ("query", "key", "value", "output")
    )
    rows = x[0].double().numpy()
    heads = []
    for head in (slice(0, 8), slice(8, 16)):
        scores = (rows @ q[head].T) @ (rows @ k[head].T).T / math.sqrt(8)
        scores[np.triu_indices(5, 1)] = -np.inf
        weights = np.exp(scores - scores.max(1, keepdims=True))
        heads.append(weights / weights.sum(1, keepdims=True) @ (rows @ v[head].T))
    expected = torch.from_numpy(np.concatenate(heads, 1) @ o.T)
    torch.testing.assert_close(attention(x)[0].double(), expected, rtol=1e-4, atol=1e-5)


def test_forward_weights_begin_alike_under_every_rule():
    reference = build(rule="bp").state_dict()
    for rule in ("fa", "soft:0.5", "mirror", "dfa"):
        state = build(rule=rule).state_dict()
        assert all(torch.equal(state[name], value) for name, value in reference.items())


def test_all_weights_but_the_embeddings_get_feedback():
    names = [name for name, _, _ in feedback_weights(build(rule="soft:1"))]
    assert len(names) == 2 * 6 + 1


def test_only_the_chosen_layers_get_feedback_and_it_is_the_same_as_in_the_whole_network():
    whole = {name: feedback for name, _, feedback in feedback_weights(build(rule="fa"))}
    chosen = {name: b for name, _, b in feedback_weights(build(rule="fa", where=["*.attention.*", "head"]))}
    projections = ("query", "key", "value", "output")
    names = {f"blocks.{block}.attention.{name}" for block in range(2) for name in projections}
    assert chosen.keys() == names | {"head"}
    assert all(torch.equal(whole[name], feedback) for name, feedback in chosen.items())


def test_a_choice_that_fits_no_layer_is_refused():
    with pytest.raises(ValueError, match=r"where: '\*\.atention' matches no module"):
        build(where=["*.atention"])


@pytest.mark.parametrize("rule", ["fa", "soft:0.5", "sign", "kp", "mirror", "soft-kp:0.9", "soft-mirror:1"])
def test_attention_transports_no_weight(rule):
    model = build(rule=rule, norms="fixed")
    report = audit_weight_transport(model, TOKENS, lambda logits: logits.square().mean())
    assert report.free_of_transport


def test_heads_are_those_of_the_configuration():
    model = build(heads=4)
    assert isinstance(model, GPT)
    assert model.blocks[0].attention.heads == 4
    assert RunConfig(task="lm", width=96).heads == 3


def test_weights_begin_with_deviations_by_fan_in():
    model = build(width=64, heads=2)
    for name, fan_in in (("expand", 64), ("contract", 256)):
        weight = getattr(model.blocks[0], name).weight.detach().double()
        assert float(weight.std()) == pytest.approx(fan_in**-0.5, rel=0.03)
    assert float(model.tokens.weight.detach().double().std()) == pytest.approx(0.02, rel=0.03)


def test_small_weights_begin_with_one_deviation_whatever_the_fan_in():
    model = build(width=64, heads=2, init="small")
    for name in ("expand", "contract"):
        weight = getattr(model.blocks[0], name).weight.detach().double()
        assert float(weight.std()) == pytest.approx(0.02, rel=0.03)
