import math
from collections import Counter

import pytest
import torch

from alignonce.experiments.config.run import RunConfig
from alignonce.experiments.data.corpora import Corpus
from alignonce.experiments.data.tokens import ByteTokens, learn_tokens
from alignonce.experiments.runs.folder import RunFolder
from alignonce.experiments.tasks.language import LanguageModelling
from alignonce.experiments.training.loop import train

TRAIN = b"".join(b"the %d cats and the %d dogs\n" % (i % 7, i % 5) for i in range(300))
TEST = TRAIN[40:1500]
CORPUS = Corpus("made", "made up", TRAIN, TEST)


def config(**changes):
    small = {
        "task": "lm", "data": "made", "depth": 1, "width": 32, "context": 16, "limit": 200, "epochs": 2,
        "learning_rate": 1e-2, "device": "cpu",
    }  # fmt: skip
    return RunConfig(**small | changes)


def made_task(limit=200, context=16):
    return LanguageModelling.of(CORPUS, ByteTokens(), context, limit)


def bits_of_single_bytes(text):
    counts = Counter(text)
    return -sum(n / len(text) * math.log2(n / len(text)) for n in counts.values())


def test_batch_is_text_and_its_continuation():
    tokens, following = made_task(limit=None).batch(torch.tensor([0, 3]))
    assert bytes(tokens[1].tolist()) == TRAIN[48:64]
    assert bytes(following[1].tolist()) == TRAIN[49:65]
    assert tokens.dtype == torch.int64


def test_fewer_windows_lie_over_the_whole_text():
    task = made_task(limit=4)
    begun = [bytes(window.tolist()) for window in task.train_windows]
    available = (len(TRAIN) - 1) // 16
    assert begun == [TRAIN[i * available // 4 * 16 :][:17] for i in range(4)]
    assert task.train_size == 4
    assert len(task.test_windows) == 4


def test_knowing_nothing_costs_eight_bits_a_byte():
    task = made_task()
    model = task.build_model(config())
    torch.nn.init.zeros_(model.head.weight)
    measured = task.evaluate(model)
    assert measured["test_bits_per_byte"] == pytest.approx(8)
    assert measured["test_loss"] == pytest.approx(math.log(256))


def test_bits_per_byte_do_not_depend_on_the_vocabulary():
    pytest.importorskip("tokenizers")
    task = LanguageModelling.of(CORPUS, learn_tokens(TRAIN, 300), 16, 50)
    model = task.build_model(config())
    torch.nn.init.zeros_(model.head.weight)
    size, windows = len(task.byte_lengths), task.test_windows[:, 1:]
    length = sum(len(task.tokens.decode(window.tolist())) for window in windows)
    expected = windows.numel() * math.log2(size) / length
    assert task.evaluate(model)["test_bits_per_byte"] == pytest.approx(expected)


@pytest.mark.parametrize("rule", ["bp", "soft:1", "mirror"])
def test_more_than_the_frequency_of_bytes_is_learnt(rule):
    result = train(config(rule=rule), made_task())
    assert result.metrics.last("test_bits_per_byte") < bits_of_single_bytes(TEST) - 0.5


@pytest.mark.parametrize(("rule", "format"), [("dfa", "dense"), ("soft:0.5", "low-rank:1/4")])
def test_saved_network_comes_back(tmp_path, rule, format):
    pytest.importorskip("tokenizers")
    task = LanguageModelling.of(CORPUS, learn_tokens(TRAIN, 300), 16, 20)
    run, folder = config(rule=rule, format=format, vocabulary=300, epochs=1), RunFolder(tmp_path / "run")
    result = train(run, task)
    record = folder.save(run, task, result)
    assert folder.load() == record
    assert record.summary.test_bits_per_byte == result.metrics.last("test_bits_per_byte")
    assert record.summary.test_accuracy is None
    again = folder.load_model()
    tokens, _ = task.batch(torch.arange(2))
    assert torch.equal(again(tokens), result.model(tokens))
    assert (folder.path / "tokenizer.json").exists()


def test_text_shorter_than_the_context_is_refused():
    with pytest.raises(ValueError, match="more than context=2000 tokens, got 1460"):
        made_task(context=2000)
