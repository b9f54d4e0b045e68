"""Letting a trained language model write."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from alignonce.experiments.models.gpt import GPT
from alignonce.undisturbed import undisturbed


def sample(
    model: GPT, prompt: Sequence[int], length: int, *, temperature: float = 1.0, seed: int = 0
) -> list[int]:
    """Continue a text, token by token, in evaluation mode; the network stays as it was.

    Args:
        model: the network.
        prompt: tokens to continue; what lies further back than the network's context has no effect.
        length: tokens to write.
        temperature: divides the logits: below 1, likely tokens become likelier; 0 takes the likeliest.
        seed: of the draws; the global random state is left alone.

    Returns:
        The tokens written, without the prompt.

    Raises:
        ValueError: the prompt is empty, the length is below 1, or the temperature is negative.
    """
    if not prompt:
        raise ValueError("prompt must hold at least one token")
    if length < 1:
        raise ValueError(f"length must be at least 1, got {length}")
    if not temperature >= 0:
        raise ValueError(f"temperature must be 0 or more, got {temperature}")
    generator = torch.Generator().manual_seed(seed)
    device, tokens = model.tokens.weight.device, list(prompt)
    with undisturbed(model, "eval"), torch.no_grad():
        for _ in range(length):
            seen = torch.tensor([tokens[-model.context :]], device=device)
            tokens.append(_draw(model(seen)[0, -1].cpu(), temperature, generator))
    return tokens[len(prompt) :]


def _draw(logits: Tensor, temperature: float, generator: torch.Generator) -> int:
    if temperature == 0:
        return int(logits.argmax())
    chances = torch.softmax(logits.double() / temperature, dim=0)
    return int(torch.multinomial(chances, 1, generator=generator))
