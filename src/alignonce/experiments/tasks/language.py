"""Language modelling: predicting the next token of a text."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alignonce.experiments.config.run import RunConfig, TrainingConfig
from alignonce.experiments.data.corpora import Corpus, load_corpus
from alignonce.experiments.data.data_facts import DataFacts
from alignonce.experiments.data.source import DataSource
from alignonce.experiments.data.tokens import BYTES, TOKENIZER_FILE, Tokens, learn_tokens
from alignonce.experiments.models.building import build_language_model
from alignonce.experiments.tasks.evaluation import over_batches
from alignonce.experiments.tasks.scores import BITS_PER_BYTE, Score
from alignonce.experiments.tasks.task import Forward

TEST_WINDOWS = 256
_TEST_BATCH = 32
# No token of a byte-pair vocabulary is so long in the mean, so that so many bytes are enough text.
_BYTES_PER_TOKEN = 8


@dataclass(frozen=True, eq=False)
class LanguageModelling:
    """Learning to continue text; see `Task` for what the methods are.

    An example is a window of `context` tokens and their successors. Windows are cut from the text side by
    side; where fewer are used than there are, they lie at equal distances over the whole text.
    """

    name: str
    source: str
    tokens: Tokens
    byte_lengths: Tensor
    train_windows: Tensor
    test_windows: Tensor

    files: ClassVar[tuple[str, ...]] = (TOKENIZER_FILE,)
    scores: ClassVar[tuple[Score, ...]] = (BITS_PER_BYTE,)

    @classmethod
    def load(cls, config: TrainingConfig, source: DataSource) -> LanguageModelling:
        """Read the text, no more of it than is needed, and learn its vocabulary."""
        needed = None
        if config.limit is not None:
            bytes_per_token = 1 if config.vocabulary == BYTES else _BYTES_PER_TOKEN
            needed = config.limit * config.context * bytes_per_token
        corpus = load_corpus(config.data, source, max_bytes=needed)
        tokens = learn_tokens(corpus.train, config.vocabulary)
        return cls.of(corpus, tokens, config.context, config.limit)

    @classmethod
    def of(cls, corpus: Corpus, tokens: Tokens, context: int, limit: int | None) -> LanguageModelling:
        """Make windows of a corpus.

        Args:
            corpus: the text.
            tokens: the vocabulary.
            context: tokens that the network sees at once.
            limit: use only so many training windows, and at most so many for testing; None uses all, and 256.

        Returns:
            The task.

        Raises:
            ValueError: the corpus is too short for one window.
        """
        parts = {part: tokens.encode(getattr(corpus, part)) for part in ("train", "test")}
        for part, encoded in parts.items():
            if len(encoded) <= context:
                raise ValueError(
                    f"{corpus.source}: the {part} text must have more than context={context} tokens, "
                    f"got {len(encoded)}"
                )
        test = TEST_WINDOWS if limit is None else min(limit, TEST_WINDOWS)
        return cls(
            corpus.name,
            corpus.source,
            tokens,
            tokens.byte_lengths,
            _windows(parts["train"], context, limit),
            _windows(parts["test"], context, test),
        )

    @property
    def facts(self) -> DataFacts:
        """The data in numbers: an example is a window."""
        return DataFacts(
            name=self.name,
            source=self.source,
            train_examples=len(self.train_windows),
            test_examples=len(self.test_windows),
            example_shape=(1, 1, self._context),
            outputs=len(self.byte_lengths),
        )

    @property
    def images(self) -> None:
        """None: there are no images."""

    @property
    def examples(self) -> str:
        """Windows, with their size."""
        return f"windows of {self._context} tokens"

    @property
    def _context(self) -> int:
        return self.train_windows.shape[1] - 1

    @property
    def train_size(self) -> int:
        """How many training windows there are."""
        return len(self.train_windows)

    def for_run(self, config: RunConfig, device: torch.device) -> LanguageModelling:
        """Move the windows."""
        parts = ("byte_lengths", "train_windows", "test_windows")
        return replace(self, **{part: getattr(self, part).to(device) for part in parts})

    def build_model(self, config: RunConfig) -> nn.Module:
        """Build the GPT that the configuration describes."""
        return build_language_model(config, len(self.byte_lengths))

    @classmethod
    def rebuild_model(cls, config: RunConfig, facts: DataFacts) -> nn.Module:
        """Build the GPT."""
        return build_language_model(config, facts.outputs)

    def batch(self, examples: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens and their successors, int64, (n, context) each."""
        windows = self.train_windows[examples].long()
        return windows[:, :-1], windows[:, 1:]

    def loss(self, forward: Forward, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean cross-entropy of the next token, in nats."""
        tokens, following = batch
        return F.cross_entropy(forward(tokens).flatten(0, 1), following.flatten()), {}

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Mean cross-entropy in nats a token, and in bits a byte, on the test windows."""

        def sum_of_losses(windows: Tensor) -> Tensor:
            logits = model(windows[:, :-1]).flatten(0, 1)
            return F.cross_entropy(logits, windows[:, 1:].flatten(), reduction="sum").double()

        windows = self.test_windows.long()
        nats = float(torch.stack(over_batches(model, sum_of_losses, _TEST_BATCH, windows)).sum())
        following = windows[:, 1:]
        return {
            "test_loss": nats / following.numel(),
            "test_bits_per_byte": nats / math.log(2) / float(self.byte_lengths[following].sum()),
        }

    @classmethod
    def score(cls, facts: DataFacts) -> Score:
        """Bits per byte, which compare over vocabularies."""
        return BITS_PER_BYTE

    def save(self, folder: Path, model: nn.Module) -> None:
        """Write the vocabulary, if it is more than bytes."""
        self.tokens.save(folder)


def _windows(tokens: Tensor, context: int, limit: int | None) -> Tensor:
    """Cut windows of context + 1 tokens, of which neighbours share one."""
    available = (len(tokens) - 1) // context
    count = available if limit is None else min(limit, available)
    starts = torch.arange(count) * available // count * context
    return torch.stack([tokens[start : start + context + 1] for start in starts.tolist()])
