"""From text to numbers: bytes as they are, or byte pairs learnt from the training text."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from alignonce.experiments.files import write_atomically

BYTES = 256
TOKENIZER_FILE = "tokenizer.json"
# Byte-pair encoding has its cost per document; a long text is cut into pieces of so many characters.
_PIECE = 1_000_000


class Tokens(Protocol):
    """A vocabulary."""

    @property
    def byte_lengths(self) -> Tensor:
        """How many bytes each token stands for, (size,): so losses of several vocabularies compare."""

    def encode(self, text: bytes) -> Tensor:
        """Turn text into tokens.

        Args:
            text: the text.

        Returns:
            int32 or uint8, (tokens,).
        """

    def decode(self, tokens: Sequence[int]) -> bytes:
        """Turn tokens into text.

        Args:
            tokens: the tokens.

        Returns:
            The text.
        """

    def save(self, folder: Path) -> None:
        """Write what is needed to read the tokens of a network again; nothing for bytes.

        Args:
            folder: of the run.
        """


class ByteTokens:
    """A token for each byte: nothing to learn, nothing to store."""

    byte_lengths = torch.ones(BYTES)

    def encode(self, text: bytes) -> Tensor:
        """See `Tokens`; uint8."""
        return (
            torch.frombuffer(bytearray(text), dtype=torch.uint8)
            if text
            else torch.zeros(0, dtype=torch.uint8)
        )

    def decode(self, tokens: Sequence[int]) -> bytes:
        """See `Tokens`."""
        return bytes(tokens)

    def save(self, folder: Path) -> None:
        """See `Tokens`."""


class BytePairTokens:
    """Byte-pair encoding over bytes; every text can be encoded.

    Source: Sennrich, Haddow and Birch 2016, arXiv 1508.07909; over bytes as in GPT-2, by the tokenizers
    library.

    Args:
        tokenizer: a `tokenizers.Tokenizer` over bytes.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        # The library writes each byte as one character.
        names = [tokenizer.id_to_token(token) for token in range(tokenizer.get_vocab_size())]
        self.byte_lengths = torch.tensor([float(len(name)) for name in names])

    @classmethod
    def learnt_from(cls, text: bytes, size: int) -> BytePairTokens:
        """Learn a vocabulary.

        Args:
            text: the training text.
            size: tokens in the vocabulary; fewer if the text has not so many pairs.

        Returns:
            The vocabulary; a function of the arguments.
        """
        tokenizers = _import_tokenizers()
        pre = tokenizers.pre_tokenizers.ByteLevel
        tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
        tokenizer.pre_tokenizer = pre(add_prefix_space=False)
        tokenizer.decoder = tokenizers.decoders.ByteLevel()
        trainer = tokenizers.trainers.BpeTrainer(
            vocab_size=size, initial_alphabet=sorted(pre.alphabet()), show_progress=False
        )
        tokenizer.train_from_iterator(_pieces(text), trainer)
        return cls(tokenizer)

    @classmethod
    def load(cls, folder: Path) -> BytePairTokens:
        """Read a vocabulary that `save` wrote.

        Args:
            folder: of the run.

        Returns:
            The vocabulary.
        """
        text = (folder / TOKENIZER_FILE).read_text(encoding="utf-8")
        return cls(_import_tokenizers().Tokenizer.from_str(text))

    def encode(self, text: bytes) -> Tensor:
        """See `Tokens`; int32. Bytes that are no UTF-8 become the replacement character."""
        encodings = self._tokenizer.encode_batch(_pieces(text))
        return torch.cat([torch.tensor(encoding.ids, dtype=torch.int32) for encoding in encodings])

    def decode(self, tokens: Sequence[int]) -> bytes:
        """See `Tokens`."""
        text: str = self._tokenizer.decode(list(tokens))
        return text.encode()

    def save(self, folder: Path) -> None:
        """See `Tokens`."""
        write_atomically(folder / TOKENIZER_FILE, self._tokenizer.to_str(pretty=True))


def learn_tokens(text: bytes, size: int) -> Tokens:
    """Make a vocabulary for a text.

    Args:
        text: the training text.
        size: 256 for bytes; more for byte pairs.

    Returns:
        The vocabulary.
    """
    return ByteTokens() if size == BYTES else BytePairTokens.learnt_from(text, size)


def load_tokens(folder: Path) -> Tokens:
    """Read the vocabulary of a run.

    Args:
        folder: of the run.

    Returns:
        The vocabulary.
    """
    return BytePairTokens.load(folder) if (folder / TOKENIZER_FILE).exists() else ByteTokens()


def _pieces(text: bytes) -> list[str]:
    whole = text.decode(errors="replace")
    return [whole[start : start + _PIECE] for start in range(0, max(len(whole), 1), _PIECE)]


def _import_tokenizers() -> Any:
    try:
        return importlib.import_module("tokenizers")
    except ImportError as error:
        raise ValueError(
            "vocabulary: byte pairs need the tokenizers library, which is missing "
            f"({error}); pip install 'alignonce[transformers]', or use vocabulary 256, bytes"
        ) from error
