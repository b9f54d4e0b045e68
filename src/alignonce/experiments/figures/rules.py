"""How a report calls and colours learning rules."""

import colorsys

from alignonce.experiments.claims import ALL_COSINES
from alignonce.experiments.figures.comparison import rule_color, rule_label


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
