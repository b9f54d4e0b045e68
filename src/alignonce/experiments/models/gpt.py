"""A small GPT: a transformer that continues a sequence of tokens."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_EMBEDDING_DEVIATION = 0.02


class CausalAttention(nn.Module):
    """Self-attention of each token to itself and those before it.

    The products of queries and keys, and of weights and values, are of signals with signals: backpropagation
    through them transports no weight, whatever the learning rule of the four projections.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.output = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, tokens, width) to the same shape."""
        split = (*x.shape[:2], self.heads, x.shape[2] // self.heads)
        query, key, value = (
            project(x).view(split).transpose(1, 2) for project in (self.query, self.key, self.value)
        )
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        return self.output(mixed.transpose(1, 2).reshape(x.shape))


class GPTBlock(nn.Module):
    """Attention, then a perceptron on each token; a LayerNorm before each, a shortcut around each."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = CausalAttention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.expand = nn.Linear(width, 4 * width)
        self.contract = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, tokens, width) to the same shape."""
        x = x + self.attention(self.norm1(x))
        return x + self.contract(F.gelu(self.expand(self.norm2(x))))


class GPT(nn.Module):
    """Learnt tokens and positions, `depth` blocks, a LayerNorm, a linear layer to the next token's logits.

    Source: Radford et al. 2019, Language Models are Unsupervised Multitask Learners.

    Args:
        vocabulary: tokens that there are.
        context: tokens that the network sees at most.
        depth: blocks.
        width: numbers for each token.
        heads: attention heads in a block.
    """

    def __init__(self, vocabulary: int, context: int, depth: int, width: int, heads: int) -> None:
        super().__init__()
        self.context = context
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(context, width)
        self.blocks = nn.Sequential(*(GPTBlock(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens, int64 (batch, n), n at most `context`, to logits, (batch, n, vocabulary)."""
        x = self.tokens(tokens) + self.positions(torch.arange(tokens.shape[1], device=tokens.device))
        return self.head(self.norm(self.blocks(x)))

    def draw_embeddings(self, generator: torch.Generator) -> None:
        """Draw the initial tokens and positions.

        Args:
            generator: where the numbers come from.
        """
        for embedding in (self.tokens, self.positions):
            nn.init.normal_(embedding.weight, std=_EMBEDDING_DEVIATION, generator=generator)
