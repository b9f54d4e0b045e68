"""`alignonce sample`."""

from __future__ import annotations

import sys
from pathlib import Path

import tyro

from alignonce.cli.common import OK


def sample(
    run: tyro.conf.Positional[Path],
    prompt: str = "\n",
    length: int = 400,
    temperature: float = 0.8,
    seed: int = 0,
) -> int:
    """Generate text from a trained language model, and print it after the prompt.

    For example:
      alignonce sample runs/mine --prompt "def "
      alignonce sample runs/mine --prompt "class Reader:" --temperature 0 --length 100

    Args:
        run: Folder of a run with task lm.
        prompt: The text to continue.
        length: Tokens to generate.
        temperature: Below 1, likely tokens become likelier; 0 always takes the likeliest one.
        seed: Seed of the random draws.

    Returns:
        The exit code.
    """
    from alignonce.experiments.data.tokens import load_tokens
    from alignonce.experiments.models import GPT
    from alignonce.experiments.models.sampling import sample as draw
    from alignonce.experiments.runs.folder import RunFolder

    model = RunFolder(run).load_model()
    if not isinstance(model, GPT):
        raise ValueError(f"run: {run} holds no language model")
    tokens = load_tokens(run)
    begun = tokens.encode(prompt.encode()).tolist()
    written = draw(model, begun, length, temperature=temperature, seed=seed)
    sys.stdout.buffer.write(tokens.decode(begun + written) + b"\n")
    sys.stdout.flush()
    return OK
