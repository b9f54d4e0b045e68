"""All situations, in the order of the page, and docs/situations.md.

cd tests && python -m situations.table    # runs every cell and writes the page
"""

import importlib
import pkgutil
from pathlib import Path

import torch

from situations.situation import Situation

_APART = {"by_hand", "situation", "table", "test_situations"}


def situations() -> dict[str, list[Situation]]:
    """By topic, a module of this folder: what its name says, in the order in which it defines them."""
    folder = Path(__file__).parent
    topics = sorted(m.name for m in pkgutil.iter_modules([str(folder)]) if m.name not in _APART)
    modules = [importlib.import_module(f"situations.{topic}") for topic in topics]
    return {
        module.TOPIC: [value for value in vars(module).values() if isinstance(value, Situation)]
        for module in modules
    }


def page() -> str:
    """The page, after running every cell."""
    parts = [_HEAD]
    for topic, rows in situations().items():
        parts.append(
            f"## {topic}\n\n"
            "| What happens if ... | outcome | how | checked with | since |\n|---|---|---|---|---|"
        )
        for row in rows:
            for case in row.cases:
                row.check(case)
            layers = dict.fromkeys(case.layer for case in row.cases)
            rules = dict.fromkeys(case.rule for case in row.cases)
            formats = dict.fromkeys(case.format for case in row.cases)
            sizes = f"{_count(layers, 'layer')}, {_count(rules, 'rule')}, {_count(formats, 'format')}"
            parts[-1] += f"\n| {row.what} | {row.outcome} | {row.remedy} | {sizes} | {row.since} |"
    return "\n\n".join(parts) + "\n"


def _count(names: dict[str, None], word: str) -> str:
    return next(iter(names)) if len(names) == 1 else f"{len(names)} {word}s"


_HEAD = """# What happens if ...

Whatever you do with a model that has a learning rule, its gradients are those of the rule (**right**), or one
error says what was done and what to do instead (**refused**). Each row is run by the tests with the layers,
rules and formats that it names; `python -m situations.table`, run in `tests/`, writes this page."""


def main() -> None:
    torch.set_num_threads(1)
    path = Path(__file__).parents[2] / "docs" / "situations.md"
    path.write_text(page(), encoding="utf-8")
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
