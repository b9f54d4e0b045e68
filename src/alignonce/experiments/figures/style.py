"""How every figure and page looks: the names and colours of learning rules, the style, the files."""

from __future__ import annotations

import colorsys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib as mpl
from matplotlib.figure import Figure

from alignonce.experiments.config.rule_specs import ALL_COSINES, canonical_rule, split_rule
from alignonce.experiments.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.typing import RcKeyType

# Soft alignment is drawn on a scale from light to dark blue.
_SOFT_SCALE = ((0.0, "#A9CFEA"), (0.5, "#3A8AC4"), (1.0, "#0B2F66"))

_STYLE: dict[RcKeyType, object] = {
    "font.size": 8.5,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#666666",
    "axes.labelcolor": "#333333",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.8,
    "xtick.color": "#666666",
    "ytick.color": "#666666",
    "xtick.labelcolor": "#333333",
    "ytick.labelcolor": "#333333",
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    # Text in a PDF stays text.
    "pdf.fonttype": 42,
}


def rule_label(spec: str) -> str:
    """Name a learning rule for people.

    Args:
        spec: such as `soft:0.5`.

    Returns:
        Such as `soft alignment 0.5`.
    """
    kind, _ = split_rule(spec)
    # As many values as the spec gives: the rest goes without saying.
    return " ".join([kind.title, *(f"{float(value):g}" for value in canonical_rule(spec).split(":")[1:])])


def rule_color(spec: str) -> str:
    """Give a learning rule its colour, the same everywhere; soft alignment is the darker, the better aligned.

    Args:
        spec: such as `soft:0.5`.

    Returns:
        `#RRGGBB`.
    """
    kind, values = split_rule(spec)
    if kind.name != "soft":
        return kind.color
    value = min(max(values[0], 0.0), 1.0)
    for (low, below), (high, above) in pairwise(_SOFT_SCALE):
        if value <= high:
            part = (value - low) / (high - low)
            mixed = [round(a + part * (b - a)) for a, b in zip(_rgb(below), _rgb(above), strict=True)]
            return "#{:02X}{:02X}{:02X}".format(*mixed)
    return _SOFT_SCALE[-1][1]


def save_figure(figure: Figure, path: Path) -> list[Path]:
    """Save a figure as PNG and as PDF.

    Args:
        figure: the figure.
        path: the file, whose suffix is replaced.

    Returns:
        The two files.
    """
    files = [path.with_suffix(".png"), path.with_suffix(".pdf")]
    with style():
        for file in files:
            write_atomically(file, lambda temporary: figure.savefig(temporary, dpi=200))
    return files


def _rgb(color: str) -> tuple[int, int, int]:
    return int(color[1:3], 16), int(color[3:5], 16), int(color[5:7], 16)


@contextmanager
def style() -> Iterator[None]:
    """Draw, within the context, in the style of all figures, whatever a user's own matplotlibrc says."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_STYLE)
        yield


def label_of(rule: str) -> str:
    """Name a learning rule for people.

    Args:
        rule: such as `soft:0.5`; or `soft`, which in findings means all cosines together.

    Returns:
        Such as `soft alignment 0.5`.
    """
    return "soft alignment, all cosines" if rule == ALL_COSINES else rule_label(rule)


def dark_page_color(rule: str) -> str:
    """Give a learning rule its colour on a dark page: the same hue, light where it is dark on paper.

    Args:
        rule: such as `soft:0.5`.

    Returns:
        `#RRGGBB`; backpropagation, black on paper, is nearly white.
    """
    color = rule_color(rule)
    red, green, blue = (int(color[i : i + 2], 16) / 255 for i in (1, 3, 5))
    hue, lightness, saturation = colorsys.rgb_to_hls(red, green, blue)
    mixed = colorsys.hls_to_rgb(hue, 0.98 - 0.7 * lightness, saturation)
    return "#{:02X}{:02X}{:02X}".format(*(round(255 * part) for part in mixed))
