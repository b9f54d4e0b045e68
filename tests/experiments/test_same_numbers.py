"""What small runs give is what it was when these numbers were recorded: tidying the code changes no number.

They were recorded with torch 2.13 on one thread of a CPU with AVX512. A CPU whose sums have other last bits
(an older one, or another maker's) may differ by some units in the last place, which training makes more of:
with AVX2 it is up to 2e-6. Whether a CPU computes alike is found out from plain products and convolutions.

Where numbers are meant to change, `python -m experiments.test_same_numbers` in tests/ prints new ones.
"""

import hashlib
import sys
from pprint import pprint
from statistics import fmean

import pytest
import torch
from torch.nn import functional as F

from alignonce.experiments.compare import compare
from alignonce.experiments.config.run import CompareConfig, RunConfig
from alignonce.experiments.data.corpora import Corpus
from alignonce.experiments.data.tokens import ByteTokens
from alignonce.experiments.tasks.language import LanguageModelling
from alignonce.experiments.training.loop import train
from alignonce.experiments.training.together import train_together
from helpers.small_runs import made_data, small_config

SOME_IMAGES = 300
TEXT = b"".join(b"the %d cats and the %d dogs\n" % (i % 7, i % 5) for i in range(300))
MEASURED = ("step_loss", "train_loss", "test_loss", "test_accuracy", "test_bits_per_byte")


def cpu_arithmetic():
    """What tells CPUs apart that round differently."""
    numbers = torch.linspace(-2, 3, 16 * 3 * 12 * 12).sin().view(16, 3, 12, 12)
    kernels = torch.linspace(-1, 1, 8 * 27).cos().view(8, 3, 3, 3)
    flat, rows = numbers.flatten(1), torch.linspace(0, 9, 10 * 432).cos().view(10, 432)
    results = (flat @ rows.T, F.conv2d(numbers, kernels), (flat @ rows.T).log_softmax(1), flat.exp().sum(1))
    return hashlib.sha256(b"".join(result.numpy().tobytes() for result in results)).hexdigest()[:16]


def last_values(metrics):
    values, layers = {name: metrics.last(name) for name in MEASURED}, metrics.layers("cosine")
    values |= {"mean cosine": fmean(metrics.last("cosine", layer) for layer in layers) if layers else None}
    return {name: value for name, value in values.items() if value is not None}


def compared(out):
    shared = small_config(epochs=1).model_dump(exclude={"rule", "seed"})
    comparison = compare(
        CompareConfig(**shared, rules=("bp", "soft:0.5", "kp", "dfa")), made_data(SOME_IMAGES), out
    )
    return {record.config.rule: last_values(record.metrics) for record in comparison.runs}


def with_every_setting(model, width):
    config = small_config(
        model=model, depth=1, width=width, epochs=1, rule="soft:0.5", optimizer="sgd", learning_rate=0.02,
        augment="shift", schedule="cosine", warmup=0.2, clip=1.0, accumulate=2,
    )  # fmt: skip
    return last_values(train(config, made_data(SOME_IMAGES)).metrics)


def stacked():
    configs = [small_config(rule=rule, epochs=3, learning_rate=1e-2) for rule in ("fa", "soft:0.5")]
    results = train_together(configs, made_data(SOME_IMAGES))
    return {config.rule: last_values(result.metrics) for config, result in zip(configs, results, strict=True)}


def language():
    config = RunConfig(
        task="lm", data="made", depth=1, width=32, context=16, limit=100, epochs=1, learning_rate=1e-2,
        device="cpu", rule="soft-kp:0.9",
    )  # fmt: skip
    corpus = Corpus("made", "made up", TEXT, TEXT[40:1500])
    return last_values(train(config, LanguageModelling.of(corpus, ByteTokens(), 16, 100)).metrics)


RECORDED = {
    "compared bp": {
        "step_loss": 1.0278018712997437,
        "train_loss": 1.7081902623176575,
        "test_loss": 1.323993174235026,
        "test_accuracy": 0.35,
    },
    "compared soft:0.5": {
        "step_loss": 1.5151373147964478,
        "train_loss": 2.0041969776153565,
        "test_loss": 1.9769793192545573,
        "test_accuracy": 0.21666666666666667,
        "mean cosine": 0.4999831862151028,
    },
    "compared kp:0.001": {
        "step_loss": 1.6622754335403442,
        "train_loss": 2.0908367037773132,
        "test_loss": 2.1639312744140624,
        "test_accuracy": 0.15,
        "mean cosine": 0.02752845658480019,
    },
    "compared dfa": {
        "step_loss": 1.656237006187439,
        "train_loss": 2.1818002104759215,
        "test_loss": 2.434428405761719,
        "test_accuracy": 0.13333333333333333,
    },
    "every setting lstm": {
        "step_loss": 1.3950450420379639,
        "train_loss": 1.4343306183815003,
        "test_loss": 1.3742968241373699,
        "test_accuracy": 0.5,
        "mean cosine": 0.4997386081529655,
    },
    "every setting resnet": {
        "step_loss": 1.0718467235565186,
        "train_loss": 1.7331615686416626,
        "test_loss": 1.6051745096842447,
        "test_accuracy": 0.25,
        "mean cosine": 0.4998044177749919,
    },
    "every setting vit": {
        "step_loss": 1.3050868511199951,
        "train_loss": 1.5498029351234437,
        "test_loss": 1.9918877919514975,
        "test_accuracy": 0.43333333333333335,
        "mean cosine": 0.49894576282928144,
    },
    "stacked fa": {
        "step_loss": 0.013688519597053528,
        "train_loss": 0.06432868610136211,
        "test_loss": 0.003957816399633884,
        "test_accuracy": 1.0,
        "mean cosine": 0.0781750445779484,
    },
    "stacked soft:0.5": {
        "step_loss": 0.002489684848114848,
        "train_loss": 0.012708014133386314,
        "test_loss": 0.0037844276521354914,
        "test_accuracy": 1.0,
        "mean cosine": 0.4921800467924395,
    },
    "language": {
        "step_loss": 1.6323789358139038,
        "train_loss": 3.111650127630967,
        "test_loss": 1.613539811019059,
        "test_bits_per_byte": 2.3278458836341116,
        "mean cosine": 0.9104380831174649,
    },
    "cpu arithmetic": "f8f6ec3f5bb514a9",
}


def assert_recorded(name, values):
    recorded = RECORDED[name]
    assert values.keys() == recorded.keys()
    if cpu_arithmetic() == RECORDED["cpu arithmetic"]:
        assert values == recorded
    else:
        assert values == pytest.approx(recorded, rel=1e-5)


def test_a_comparison_gives_the_recorded_numbers(tmp_path):
    for rule, values in compared(tmp_path).items():
        assert_recorded(f"compared {rule}", values)


@pytest.mark.parametrize(("model", "width"), [("lstm", 8), ("resnet", 8), ("vit", 64)])
def test_a_run_with_every_setting_gives_the_recorded_numbers(model, width):
    assert_recorded(f"every setting {model}", with_every_setting(model, width))


def test_stacked_runs_give_the_recorded_numbers():
    for rule, values in stacked().items():
        assert_recorded(f"stacked {rule}", values)


def test_a_language_model_gives_the_recorded_numbers():
    assert_recorded("language", language())


if __name__ == "__main__":
    import tempfile
    from pathlib import Path

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        now = {f"compared {rule}": values for rule, values in compared(Path(folder)).items()}
    for model, width in (("lstm", 8), ("resnet", 8), ("vit", 64)):
        now[f"every setting {model}"] = with_every_setting(model, width)
    now |= {f"stacked {rule}": values for rule, values in stacked().items()}
    now |= {"language": language(), "cpu arithmetic": cpu_arithmetic()}
    pprint(now, stream=sys.stdout, width=110, sort_dicts=False)
