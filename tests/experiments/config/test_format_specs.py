import pytest
import torch
from pydantic import ValidationError

from alignonce.experiments.config.format_specs import KNOWN_FORMATS, canonical_format, parse_format
from alignonce.experiments.config.run import CompareConfig, RunConfig
from alignonce.experiments.models import build_run_model
from alignonce.formats import FP8, Dense, Int4, Int8, LowRank, SemiStructured, Sign, Sparse
from alignonce.layers import FeedbackLayer


@pytest.mark.parametrize(
    ("spec", "format"),
    [
        ("dense", Dense()),
        ("bf16", Dense(torch.bfloat16)),
        ("low-rank", LowRank(fraction=1 / 8)),
        ("low-rank:1/4", LowRank(fraction=1 / 4)),
        ("low-rank:32", LowRank(rank=32)),
        ("int8", Int8()),
        ("int4", Int4()),
        ("sign", Sign()),
        ("fp8", FP8()),
        ("sparse:0.1", Sparse(0.1)),
        ("semi-structured", SemiStructured()),
    ],
)
def test_format_specs_name_the_formats(spec, format):
    assert parse_format(spec) == format
    assert parse_format(canonical_format(spec)) == format
    assert RunConfig(format=spec).format == canonical_format(spec)


@pytest.mark.parametrize(
    ("spec", "canonical"),
    [
        ("low-rank", "low-rank:1/8"),
        ("low-rank:0.125", "low-rank:1/8"),
        (" int8 ", "int8"),
        ("sparse", "sparse:1/2"),
    ],
)
def test_one_format_has_one_spelling(spec, canonical):
    assert canonical_format(spec) == canonical


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("int7", "unknown feedback format 'int7'; known are dense"),
        ("int8:2", "takes no value"),
        ("low-rank:x", "must be a number, got 'low-rank:x'"),
        ("low-rank:1/0", "must be a number"),
        ("low-rank:3/2", "part of low-rank:PART: fraction must be between 0 and 1"),
        ("low-rank:-1", "rank must be a positive integer"),
        ("sparse:2", "fraction must be between 0 and 1"),
    ],
)
def test_bad_formats_are_refused(spec, message):
    with pytest.raises(ValidationError, match=message):
        RunConfig(format=spec)


@pytest.mark.parametrize("rule", ["bp", "kp", "dfa", "usf"])
def test_format_needs_a_rule_with_fixed_feedback(rule):
    with pytest.raises(ValidationError, match=f"format sign is for rules .* got rule {rule}"):
        RunConfig(rule=rule, format="sign")
    runs = CompareConfig(rules=(rule, "fa"), format="sign").runs()
    assert [run.format for run in runs] == ["dense", "sign"]


def test_scale_of_feedback_does_not_go_with_a_format():
    with pytest.raises(ValidationError, match="feedback_scale must be 1 with format int8"):
        RunConfig(format="int8", feedback_scale=2)


@pytest.mark.parametrize("name", KNOWN_FORMATS)
def test_network_of_a_run_has_its_format(name):
    model = build_run_model(RunConfig(depth=2, width=64, format=name), (1, 8, 8), 4, [0.5], [0.2])
    layer = model.net.hidden2
    assert isinstance(layer, FeedbackLayer)
    expected = parse_format(name).for_shape((64, 64))
    assert expected == (layer.feedback.format if name != "dense" else Dense())
