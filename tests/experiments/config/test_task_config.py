"""What a configuration takes from its task."""

import pytest

from alignonce.experiments.config.run import CompareConfig, RunConfig


def test_defaults_are_those_of_the_task_and_its_network():
    text = RunConfig(task="lm")
    assert (text.model, text.data, text.depth, text.width, text.init) == (
        "gpt", "python-stdlib", 4, 128, "lecun"
    )  # fmt: skip
    assert RunConfig(task="tabular").data == "diabetes"
    assert RunConfig().data == "fashion-mnist"


def test_given_values_win_over_the_defaults_of_the_task():
    config = RunConfig(task="lm", data="my/texts", epochs=3, depth=2)
    assert (config.data, config.epochs, config.depth) == ("my/texts", 3, 2)


def test_saved_configuration_says_all():
    config = RunConfig(task="lm", width=64)
    assert RunConfig.model_validate_json(config.model_dump_json()) == config


def test_runs_of_a_comparison_keep_the_task():
    assert {run.model for run in CompareConfig(task="lm", rules=("bp", "fa")).runs()} == {"gpt"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": "gpt"}, "model must be mlp, .*, lstm with task images, got gpt"),
        ({"task": "lm", "model": "mlp"}, "model must be gpt with task lm, got mlp"),
        ({"task": "tabular", "model": "vit"}, "model must be mlp with task tabular, got vit"),
        ({"context": 64}, "context is for gpt only"),
        ({"task": "lm", "vocabulary": 100}, "vocabulary"),
    ],
)
def test_what_does_not_go_together_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        RunConfig(**settings)
