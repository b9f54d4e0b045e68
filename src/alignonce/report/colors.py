"""Colours of learning rules on a dark page."""

import colorsys

from alignonce.experiments.figures import rule_color


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
    mixed = colorsys.hls_to_rgb(hue, 0.93 - 0.5 * lightness, saturation)
    return "#{:02X}{:02X}{:02X}".format(*(round(255 * part) for part in mixed))
