"""The command line: finds the command, reads its arguments, and turns errors into one line and an exit code.

Modules that import torch or matplotlib are imported by the command that needs them.
"""

from __future__ import annotations

import argparse
import inspect
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING

import tyro
from pydantic import ValidationError

import alignonce
from alignonce.cli import study
from alignonce.cli.analyse import analyse
from alignonce.cli.audit import audit
from alignonce.cli.common import INTERRUPTED, OK, USER_ERROR
from alignonce.cli.compare import compare
from alignonce.cli.report import report, reproduce
from alignonce.cli.sample import sample
from alignonce.cli.train import train
from alignonce.experiments.config.task_specs import spec_of

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

_EPILOG = """commands:
  compare   train one network under several learning rules; a table and a figure
  train     train one network under one learning rule; a run folder
  audit     find out by experiment whether the backward pass reads forward weights
  analyse   measure saved runs: what learning did, and what the result withstands
  sample    generate text from a trained language model
  study     run a grid of experiments described in one file, and show its progress
  report    the report of a study: what its numbers say about each claim of the paper
  reproduce test every claim of the paper on real data, and write the report

examples:
  alignonce compare
  alignonce train --rule soft:0.5 --out runs/mine
  alignonce audit --rule fa
  alignonce analyse runs/compare
  alignonce reproduce

All options of a command: alignonce COMMAND --help
"""


def _explain(detail: ErrorDetails) -> str:
    argument = ".".join(str(part) for part in detail["loc"]).replace("_", "-")
    reason = detail["msg"].removeprefix("Value error, ")
    if not argument:
        return reason
    return f"{argument}: {reason}" + ("" if detail["type"] == "value_error" else f", got {detail['input']!r}")


COMMANDS: dict[str, Callable[..., int] | dict[str, Callable[..., int]]] = {
    "compare": compare,
    "train": train,
    "audit": audit,
    "analyse": analyse,
    "sample": sample,
    "reproduce": reproduce,
    "report": report,
    "study": {"run": study.run, "status": study.status, "schema": study.schema},
}


def _with_defaults_of_task(command: Callable[..., int], args: Sequence[str]) -> Callable[..., int]:
    """Give a command the defaults of the task that its arguments name, for them to stand in --help too."""
    task = next((value for name, value in pairwise(args) if name == "--task"), "images")
    task = next((arg.removeprefix("--task=") for arg in args if arg.startswith("--task=")), task)
    config = inspect.signature(command, eval_str=True).parameters.get("config")
    spec = spec_of(task)
    if config is None or spec is None:
        return command
    # Not validated: what depends on other arguments must stay open until all are known.
    kind = config.annotation.__origin__
    defaults = {name: value for name, value in spec.defaults.items() if name in kind.model_fields}
    return partial(command, config=kind.model_construct(task=task, **defaults))


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        args: the arguments; None takes those of the process.

    Returns:
        The exit code: 0 all well, 1 the audit found weight transport or measures of an analysis failed, 2 a
        user's error, 130 Ctrl-C.
    """
    args = sys.argv[1:] if args is None else list(args)
    parser = argparse.ArgumentParser(
        prog="alignonce",
        description=alignonce.__doc__,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"alignonce {alignonce.__version__}")
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND", help=", ".join(COMMANDS))
    command = parser.parse_args(args[:1]).command
    try:
        chosen, prog = COMMANDS[command], f"alignonce {command}"
        if isinstance(chosen, dict):
            return tyro.extras.subcommand_cli_from_dict(chosen, prog=prog, args=args[1:])
        code: int = tyro.cli(_with_defaults_of_task(chosen, args), prog=prog, args=args[1:])
        return code
    except ValidationError as error:
        message = "; ".join(_explain(detail) for detail in error.errors())
    except BrokenPipeError:
        # Whoever read the output has seen enough; nor must the interpreter complain when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except (ValueError, OSError) as error:
        message = str(error)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    print(f"alignonce: error: {' '.join(message.split())}", file=sys.stderr)
    return USER_ERROR
