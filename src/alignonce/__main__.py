"""`alignonce` and `python -m alignonce`: the command line, or one line that says what to install for it."""

import sys
from collections.abc import Sequence

EXTRA_OF = {
    "filelock": "experiments",
    "jinja2": "study",
    "lightning_fabric": "experiments",
    "matplotlib": "experiments",
    "PIL": "experiments",
    "pydantic": "experiments",
    "rich": "experiments",
    "safetensors": "experiments",
    "sklearn": "experiments",
    "tyro": "experiments",
    "plotly": "study",
    "pyarrow": "study",
    "yaml": "study",
    "scipy": "study",
    "tensorboard": "study",
    "ray": "ray",
    "datasets": "hub",
    "hessian_eigenthings": "diagnostics",
    "art": "robustness",
    "kornia": "robustness",
    "transformers": "transformers",
}
"""The extra of pyproject.toml that brings a module."""


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line, which needs more packages than the library does.

    Args:
        args: the arguments; None takes those of the process.

    Returns:
        The exit code, that of `alignonce.cli.main`; 2 if a package is missing.
    """
    try:
        from alignonce.cli import main as command_line

        return command_line(args)
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in EXTRA_OF:
            raise
    extra = EXTRA_OF[missing]
    what = "the command line" if extra == "experiments" else "this command"
    print(
        f"alignonce: {what} needs more packages: pip install 'alignonce[{extra}]' ({missing} is missing)",
        file=sys.stderr,
    )
    return 2


if __name__ == "__main__":
    sys.exit(main())
