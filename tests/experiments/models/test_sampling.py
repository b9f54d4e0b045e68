import pytest
import torch

from alignonce.experiments.models import GPT
from alignonce.experiments.models.sampling import sample

PROMPT = [1, 2, 3]


@pytest.fixture
def model():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return GPT(vocabulary=10, context=4, depth=1, width=8, heads=2)


def test_cold_sampling_takes_the_likeliest_token_each_time(model):
    written = sample(model, PROMPT, 6, temperature=0)
    tokens = list(PROMPT)
    for token in written:
        assert token == int(model(torch.tensor([tokens[-4:]]))[0, -1].argmax())
        tokens.append(token)


def test_seed_decides_the_draws_and_nothing_else_does(model):
    state = torch.get_rng_state()
    first = sample(model, PROMPT, 20, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(3)
    assert sample(model, PROMPT, 20, seed=1) == first
    assert sample(model, PROMPT, 20, seed=2) != first
    assert model.training


def test_what_lies_beyond_the_context_has_no_effect(model):
    long = [9, 8, 7, *PROMPT, 5]
    assert sample(model, long, 5, temperature=0) == sample(model, [*PROMPT, 5], 5, temperature=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prompt": []}, "prompt must hold"),
        ({"length": 0}, "length must be at least 1, got 0"),
        ({"temperature": -1.0}, "temperature must be 0 or more, got -1"),
    ],
)
def test_senseless_arguments_are_refused(model, arguments, message):
    with pytest.raises(ValueError, match=message):
        sample(model, **{"prompt": PROMPT, "length": 1} | arguments)
