"""Both themes can be read, and lines can be told apart, by everybody."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from ui.theme import DARK, LIGHT, SERIES, Colours, line_style

# Machado, Oliveira and Fernandes 2009, severity 1: what a colour looks like without one kind of cones.
BLINDNESS = {
    "none": np.eye(3),
    "protan": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deutan": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "tritan": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]
    ),
}
TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def linear(colour: str) -> np.ndarray:
    channels = np.array([int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)])
    return np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)


def contrast(one: str, other: str) -> float:
    """WCAG 2 contrast ratio."""
    light, dark = sorted((float(linear(colour) @ TO_XYZ[1]) for colour in (one, other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def lab(colour: str, blindness: str) -> np.ndarray:
    xyz = TO_XYZ @ np.clip(BLINDNESS[blindness] @ linear(colour), 0, 1) / np.array([0.9505, 1, 1.089])
    root = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * root[1] - 16, 500 * (root[0] - root[1]), 200 * (root[1] - root[2])])


@pytest.mark.parametrize("colours", [LIGHT, DARK], ids=["light", "dark"])
@pytest.mark.parametrize("part", ["text", "quiet", "primary", "good", "warn", "bad", "info"])
def test_text_can_be_read_on_both_grounds(colours: Colours, part: str) -> None:
    colour = getattr(colours, part)
    assert contrast(colour, colours.surface) >= 4.5
    assert contrast(colour, colours.background) >= 4.5


@pytest.mark.parametrize("colours", [LIGHT, DARK], ids=["light", "dark"])
def test_a_button_can_be_read(colours: Colours) -> None:
    assert contrast(colours.on_primary, colours.primary) >= 4.5


@pytest.mark.parametrize("colour", SERIES)
def test_a_line_stands_out_on_both_themes(colour: str) -> None:
    assert contrast(colour, LIGHT.surface) >= 3
    assert contrast(colour, DARK.surface) >= 3


@pytest.mark.parametrize("blindness", BLINDNESS)
def test_two_lines_can_be_told_apart(blindness: str) -> None:
    for one, other in combinations(SERIES, 2):
        assert np.linalg.norm(lab(one, blindness) - lab(other, blindness)) > 20, (one, other)


def test_more_lines_than_colours_differ_in_their_dashes() -> None:
    styles = [line_style(index) for index in range(3 * len(SERIES))]
    assert len(set(styles)) == len(styles)
