"""YAML files of any origin: read within bounds of time and memory, or refused with the reason."""

from __future__ import annotations

from pathlib import Path

import yaml

# PyYAML reads some 100,000 characters in a second. The largest study shipped has 3,140.
MOST_CHARACTERS = 256_000
# With aliases, a few lines can mean billions of values.
MOST_VALUES = 100_000


def read_yaml(path: Path) -> object:
    """Read a YAML file of one document.

    Args:
        path: the file.

    Returns:
        Mappings, lists, texts, numbers and so on; None for an empty document.

    Raises:
        ValueError: it is not YAML, or too large; says what is wrong and where.
    """
    with path.open(encoding="utf-8") as file:
        text = file.read(MOST_CHARACTERS + 1)
    if len(text) > MOST_CHARACTERS:
        raise ValueError(f"it has more than {MOST_CHARACTERS:,} characters")
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        values = _expanded_size(node, {})
        # Not before the size is known: merging (`<<`) copies what aliases stand for.
        content = loader.construct_document(node) if values <= MOST_VALUES else None
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    # Besides errors of its own, PyYAML lets through whatever its conversions raise: `!!int ""`, `2000-99-99`.
    except (yaml.YAMLError, ValueError, LookupError, ArithmeticError, AttributeError, TypeError) as error:
        raise ValueError(f"it is not YAML: {' '.join(str(error).split())}") from error
    if values > MOST_VALUES:
        raise ValueError(f"with its aliases it expands to {values:,} values; the limit is {MOST_VALUES:,}")
    return content


def _expanded_size(node: yaml.Node, sizes: dict[yaml.Node, int | None]) -> int:
    """How many values a node means, each alias counted as what it stands for."""
    if node in sizes:
        size = sizes[node]
        if size is None:
            raise ValueError(f"an alias stands for what it is a part of{node.start_mark}")
        return size
    sizes[node] = None  # we are within it
    children = node.value if isinstance(node, yaml.CollectionNode) else []
    if isinstance(node, yaml.MappingNode):
        children = [child for pair in children for child in pair]
    sizes[node] = size = 1 + sum(_expanded_size(child, sizes) for child in children)
    return size
