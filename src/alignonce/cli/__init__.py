"""The commands of the command line, one file each. Each calls one function, and prints."""

from alignonce.cli.main import main

__all__ = ["main"]
