"""The command line: one app of all commands; errors become one line and an exit code.

Modules that import matplotlib, or that only one command needs, are imported by that command.
"""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING

from pydantic import ValidationError
from tyro.extras import SubcommandApp

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

Command = Callable[..., int]
COMMANDS: tuple[Command, ...] = (compare, train, audit, analyse, sample, reproduce, report)
STUDY_COMMANDS: tuple[Command, ...] = (study.run, study.status, study.schema)

_DESCRIPTION = f"""{alignonce.__doc__}

For example:
  alignonce compare
  alignonce train --rule soft:0.5 --out runs/mine
  alignonce audit --rule fa
  alignonce analyse runs/compare
  alignonce reproduce

All options of a command: alignonce COMMAND --help. The version: alignonce --version.
"""


def _explain(detail: ErrorDetails) -> str:
    argument = ".".join(str(part) for part in detail["loc"]).replace("_", "-")
    reason = detail["msg"].removeprefix("Value error, ")
    if not argument:
        return reason
    return f"{argument}: {reason}" + ("" if detail["type"] == "value_error" else f", got {detail['input']!r}")


def _app(commands: Sequence[Command], args: Sequence[str]) -> SubcommandApp:
    """Make one app of all commands; a list of commands has the first line of each docstring only."""
    app, studies = SubcommandApp(), SubcommandApp()
    for parent, members in ((app, commands), (studies, STUDY_COMMANDS)):
        for command in members:
            name = command.__name__
            summary = None if name in args else (command.__doc__ or "").partition("\n")[0]
            parent.command(name=name, help=summary)(_with_defaults_of_task(command, args))
    app.command(studies, name="study", help="Run a grid of experiments that one file describes.")
    return app


def _with_defaults_of_task(command: Command, args: Sequence[str]) -> Command:
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


def main(args: Sequence[str] | None = None, commands: Sequence[Command] = COMMANDS) -> int:
    """Run the command line.

    Args:
        args: the arguments; None takes those of the process.
        commands: the commands besides `study`, each by the name of its function.

    Returns:
        The exit code: 0 all well, 1 the audit found weight transport or measures of an analysis failed, 2 a
        user's error, 130 Ctrl-C.
    """
    args = sys.argv[1:] if args is None else list(args)
    if args == ["--version"]:
        print(f"alignonce {alignonce.__version__}")
        return OK
    try:
        code: int = _app(commands, args).cli(prog="alignonce", description=_DESCRIPTION, args=args)
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
