"""Colours that stay apart, for most eyes and for colour-blind ones.

Numpy only. Models take the Okabe-Ito colours; categories (cell types, donors)
continue them with colours chosen greedily to be far from all earlier ones, both
as they are and as a deuteranope sees them.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

# Okabe & Ito (2008), reordered so that the first four are as far apart for a deuteranope as the eight allow.
# Their black is a dark grey here: error bars are drawn over the bars and have to stay visible.
MODEL_COLOURS = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#56B4E9",
    "#CC79A7",
    "#D55E00",
    "#F0E442",
    "#4D4D4D",
)
MISSING_COLOUR = "#8A8A8A"
# Paul Tol's muted scheme (personal.sron.nl/~pault), for a second set of categories beside the first.
SECOND_COLOURS = (
    *("#332288", "#88CCEE", "#44AA99", "#117733", "#999933", "#DDCC77", "#CC6677", "#882255", "#AA4499"),
)

# Deuteranopia in linear RGB, severity 1.0: Machado, Oliveira & Fernandes (2009), table of matrices.
DEUTERANOPIA = np.array(
    [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ]
)
# Ottosson (2020), Oklab: linear RGB to cone response, then its cube root to lightness and two opponent axes.
_TO_CONES = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
_TO_OKLAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)


def hex_to_rgb(colours) -> np.ndarray:
    """Turn ``#rrggbb`` strings into sRGB.

    Parameters
    ----------
    colours : sequence of str, length n

    Returns
    -------
    ndarray of shape (n, 3)
        sRGB between 0 and 1.
    """
    return np.array([[int(c[i : i + 2], 16) / 255 for i in (1, 3, 5)] for c in colours]).reshape(-1, 3)


def rgb_to_hex(rgb: np.ndarray) -> list[str]:
    """Turn sRGB of shape (n, 3), between 0 and 1, into n ``#rrggbb`` strings."""
    return ["#" + "".join(f"{round(255 * float(v)):02X}" for v in row) for row in np.atleast_2d(rgb)]


def to_linear(rgb: np.ndarray) -> np.ndarray:
    """Undo the sRGB transfer curve (IEC 61966-2-1); any shape, values between 0 and 1."""
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def simulate_deuteranopia(rgb: np.ndarray) -> np.ndarray:
    """Show colours as a deuteranope sees them.

    Parameters
    ----------
    rgb : ndarray of shape (n, 3)
        sRGB between 0 and 1.

    Returns
    -------
    ndarray of shape (n, 3)
        *Linear* RGB between 0 and 1, ready for :func:`oklab`.
    """
    return np.clip(to_linear(rgb) @ DEUTERANOPIA.T, 0, 1)


def oklab(linear: np.ndarray) -> np.ndarray:
    """Coordinates in which distance is close to perceived difference.

    Parameters
    ----------
    linear : ndarray of shape (n, 3)
        Linear RGB between 0 and 1.

    Returns
    -------
    ndarray of shape (n, 3)
        Oklab L, a, b, each times 100; 2 is about a just noticeable difference.
    """
    return 100 * np.cbrt(linear @ _TO_CONES.T) @ _TO_OKLAB.T


def lightness(colour: str) -> float:
    """Oklab lightness of a ``#rrggbb`` colour, 0 (black) to 100 (white)."""
    return float(oklab(to_linear(hex_to_rgb([colour])))[0, 0])


@lru_cache(maxsize=16)
def categorical(
    n: int, first: tuple[str, ...] = MODEL_COLOURS, others: tuple[str, ...] = ()
) -> tuple[str, ...]:
    """n colours that begin with those given, each next one far from all before.

    Parameters
    ----------
    n : int
        How many; above 256 they repeat.
    first : tuple of str
        The colours to begin with, by default those of models.
    others : tuple of str
        Colours that have a meaning beside these: none is taken again.

    Returns
    -------
    tuple of str, length n
        ``#rrggbb``; a shorter list is a prefix of a longer one.
    """
    if n > 256:
        return tuple(categorical(256, first, others)[i % 256] for i in range(n))
    steps = np.linspace(0, 1, 18)
    rgb = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1).reshape(-1, 3)
    seen = oklab(to_linear(rgb))
    # Neither near-white (lost on paper) nor near-black (all dark colours look alike as small dots).
    rgb = rgb[(seen[:, 0] > 32) & (seen[:, 0] < 90)]
    seen, seen_deuteranope = oklab(to_linear(rgb)), oklab(simulate_deuteranopia(rgb))
    free = ~np.isin(rgb_to_hex(rgb), others)
    rgb, seen, seen_deuteranope = rgb[free], seen[free], seen_deuteranope[free]
    chosen = [colour for colour in first if colour not in others][:n]
    nearest = np.full(len(rgb), np.inf)

    def keep_away(lab: np.ndarray, lab_deuteranope: np.ndarray) -> None:
        # A deuteranope has two dimensions instead of three, so there less distance has to do.
        normal = np.linalg.norm(seen - lab, axis=1)
        deuteranope = np.linalg.norm(seen_deuteranope - lab_deuteranope, axis=1)
        np.minimum(nearest, np.minimum(normal, 2.0 * deuteranope), out=nearest)

    # The paper and the grey of missing cells are taken.
    taken = hex_to_rgb([*chosen, "#FFFFFF", MISSING_COLOUR])
    for lab, lab_deuteranope in zip(
        oklab(to_linear(taken)), oklab(simulate_deuteranopia(taken)), strict=True
    ):
        keep_away(lab, lab_deuteranope)
    while len(chosen) < n:
        best = int(nearest.argmax())
        chosen.extend(rgb_to_hex(rgb[best]))
        keep_away(seen[best], seen_deuteranope[best])
    return tuple(chosen)
