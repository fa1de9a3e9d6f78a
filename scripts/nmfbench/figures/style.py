"""One look for all figures: sizes, fonts, model colours, names, and how they are saved.

Layout is in millimetres from the top left corner, because that is how journals
ask for it and because text can then be given exactly the room it needs.
"""

from __future__ import annotations

import functools
import re
import unicodedata
import warnings
import zlib
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.ticker import FuncFormatter, NullFormatter

from nmfbench.errors import InputError
from nmfbench.figures.palette import MODEL_COLOURS, categorical
from nmfbench.metrics import METRICS
from nmfbench.models import cards as get_cards

MM = 1 / 25.4
SINGLE_COLUMN, DOUBLE_COLUMN = 89.0, 183.0  # mm, the two widths journals print
DPI = 200
# Points. Nothing printed is below 5.
SMALL, NORMAL, LARGE = 5.5, 6.5, 8.0
LONGEST_TEXT = 400  # letters: more than fit into the width of a page at the smallest size
_UNSEEN = ("Cc", "Cf", "Cs")  # kinds of letters: control characters, writing direction, halves of characters
LEGEND_ROW = 3.6  # mm, one line of a legend in NORMAL
# Height over width that fits a window beside the report's menu: taller figures lose their top there.
TALLEST = 0.55

RC = {
    "font.family": ["DejaVu Sans"],  # comes with matplotlib: the same file on every machine
    "font.size": NORMAL,
    "axes.titlesize": NORMAL,
    "axes.labelsize": NORMAL,
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
    "axes.linewidth": 0.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "xtick.major.width": 0.5,
    "ytick.major.width": 0.5,
    "xtick.minor.width": 0.3,
    "ytick.minor.width": 0.3,
    "xtick.major.size": 2,
    "ytick.major.size": 2,
    "xtick.minor.size": 1.2,
    "ytick.minor.size": 1.2,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.4,
    "hatch.linewidth": 0.5,
    "pdf.fonttype": 42,  # text stays text, with its font embedded
    "ps.fonttype": 42,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
}

_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
VARIANT_COLOURS = 48
_HATCHES = ("", "/////", ".....", "xxxxx")
_LINES = ("-", (0, (4, 1.5)), (0, (1, 1)), (0, (4, 1, 1, 1)))

LABEL_NAMES = {"cell_type": "cell type", "donor_id": "donor"}
DIRECTIONS = {"cell_type": METRICS["ARI"].identity, "donor_id": METRICS["ARI"].batch}
ARROWS = {"higher": "↑", "lower": "↓"}


class ModelStyle(NamedTuple):
    """How one model is drawn, in every figure."""

    colour: str
    marker: str
    hatch: str
    line: str | tuple


def styled(function: Callable) -> Callable:
    """Run a figure function under the style, leaving matplotlib's settings as they were."""

    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        with matplotlib.rc_context(RC), warnings.catch_warnings():
            # A label in a script that the font lacks shows boxes; that is no reason to stop.
            warnings.filterwarnings("ignore", message=r"Glyph .* missing from")
            return function(*args, **kwargs)

    return wrapper


def model_styles(models: Iterable[str]) -> dict[str, ModelStyle]:
    """Give every model its style: that of its card, and for other names (variants) one from the name alone.

    Parameters
    ----------
    models : iterable of str
        Model names (keys of the config), all that the dataset has, so that the
        same model looks the same in every figure.

    Returns
    -------
    dict of str to ModelStyle
        A name that is a kind looks the same whatever else is there. So does any other name, but where two of
        these have one colour: marker, hatch and line tell them apart.
    """
    cards = get_cards()
    styles = {
        kind: ModelStyle(card.colour, card.marker, _HATCHES[0], _LINES[0]) for kind, card in cards.items()
    }
    taken = {card.colour for card in cards.values()}
    markers: dict[str, list[str]] = {}  # by colour
    for model in sorted(set(map(str, models)) - set(cards)):
        colour = _colour_of(model, taken)
        used = markers.setdefault(colour, [])
        turn = len(used)
        first = zlib.crc32(model.encode()) // VARIANT_COLOURS % len(_MARKERS)
        ring = [*_MARKERS[first:], *_MARKERS[:first]]
        used.append(next((marker for marker in ring if marker not in used), ring[0]))
        styles[model] = ModelStyle(
            colour,
            used[-1],
            _HATCHES[1 + turn % (len(_HATCHES) - 1)],
            _LINES[1 + turn % (len(_LINES) - 1)],
        )
    return styles


def _colour_of(name: str, taken: Collection[str]) -> str:
    """The colour of a variant: from its name, past those that a card has."""
    colours = categorical(len(MODEL_COLOURS) + VARIANT_COLOURS)[len(MODEL_COLOURS) :]
    slot = zlib.crc32(name.encode())
    while colours[slot % VARIANT_COLOURS] in taken:
        slot += 1
    return colours[slot % VARIANT_COLOURS]


def order_models(present: Iterable[str], display_names: Mapping[str, str] | None) -> list[str]:
    """Models in the order of the config, then those that only the table has, as they come."""
    return list(dict.fromkeys([*(display_names or {}), *map(str, present)]))


def natural_key(text: str) -> tuple:
    """Sort key under which 'donor 2' comes before 'donor 10'."""
    parts = re.split(r"(\d+)", text[:LONGEST_TEXT])
    return tuple((0, int(p), "") if p.isdecimal() else (1, 0, p.casefold()) for p in parts)


def plain(text: object) -> str:
    """Text that matplotlib shows to the letter: one line, no mathematics between dollar signs.

    It is cut before anything measures it, and holds no marks of writing direction, which would turn what
    stands beside it.
    """
    words = " ".join(str(text)[: 4 * LONGEST_TEXT].split())
    shown = "".join(letter for letter in words if unicodedata.category(letter) not in _UNSEEN)
    if len(shown) > LONGEST_TEXT:
        shown = shown[: LONGEST_TEXT - 1].rstrip() + "…"
    return shown.replace("$", r"\$")


def gap(model: str, inapplicable: Collection[str]) -> str:
    """The word for a model of which there is nothing to draw."""
    return "not applicable" if model in inapplicable else "missing"


def room_below(width: float) -> float:
    """Height in mm that a figure of this width may have."""
    return TALLEST * width


def wide_enough(width: float, height: float) -> float:
    """The width in mm that a figure of this height needs, at least `width`."""
    return max(width, height / TALLEST)


def new_figure(width: float, height: float) -> Figure:
    """Make an empty figure on an Agg canvas, at least width mm wide and height mm tall.

    One that would be too tall for a screen gets room at its right: text and panels keep their size.
    """
    width = wide_enough(width, height)
    figure = Figure(figsize=(width * MM, height * MM), dpi=DPI)
    FigureCanvasAgg(figure)
    return figure


def size_mm(figure: Figure) -> tuple[float, float]:
    """Width and height of a figure in mm."""
    width, height = figure.get_size_inches()
    return width / MM, height / MM


def add_axes(figure: Figure, left: float, top: float, width: float, height: float, **kwargs) -> Axes:
    """Add axes whose box lies left and top mm from the figure's top left corner."""
    total_width, total_height = size_mm(figure)
    box = (left / total_width, 1 - (top + height) / total_height, width / total_width, height / total_height)
    return figure.add_axes(box, **kwargs)


def add_text(figure: Figure, left: float, top: float, text: str, **kwargs):
    """Write text whose upper left corner lies left and top mm from the figure's."""
    width, height = size_mm(figure)
    kwargs = {"va": "top", "ha": "left", **kwargs}
    return figure.text(left / width, 1 - top / height, text, **kwargs)


@functools.lru_cache(maxsize=8192)
def _text_width(text: str, points: float, weight: str) -> float:
    canvas = FigureCanvasAgg(Figure(dpi=DPI))
    font = FontProperties(family=RC["font.family"], size=points, weight=weight)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from")
        width, _, _ = canvas.get_renderer().get_text_width_height_descent(
            text.replace(r"\$", "$"), font, ismath=False
        )
    return width / DPI / MM


def text_width(texts: str | Iterable[str], points: float = NORMAL, weight: str = "normal") -> float:
    """Width in mm of the widest of the texts; 0 without any."""
    texts = [texts] if isinstance(texts, str) else list(texts)
    return max((_text_width(text, points, weight) for text in texts), default=0.0)


def shorten(text: str, room: float, points: float = NORMAL) -> str:
    """Cut a text, ending it in an ellipsis, until it is at most room mm wide."""
    if len(text) <= LONGEST_TEXT and text_width(text, points) <= room:
        return text

    def cut(end: int) -> str:
        return text[:end].rstrip(" ,\\") + "…"

    fits, too_long = 0, min(len(text), LONGEST_TEXT)  # letters; found by halves
    while too_long - fits > 1:
        middle = (fits + too_long) // 2
        fits, too_long = (middle, too_long) if text_width(cut(middle), points) <= room else (fits, middle)
    return cut(fits)


def legend_grid(names: list[str], room: float, handle: float) -> tuple[int, int]:
    """Columns and rows of a legend of these names in room mm, handle mm taken by each sample."""
    column = text_width(names) + handle
    columns = max(1, min(len(names), int(room // column)))
    return columns, -(-len(names) // columns)


def add_legend(figure: Figure, left: float, top: float, handles: list, names: list[str], columns: int):
    """Put a frameless legend with its upper left corner left and top mm from the figure's."""
    width, height = size_mm(figure)
    return figure.legend(
        handles,
        names,
        loc="upper left",
        bbox_to_anchor=(left / width, 1 - top / height),
        borderaxespad=0,
        borderpad=0,
        frameon=False,
        ncols=columns,
        fontsize=NORMAL,
        handlelength=1.8,
        handletextpad=0.5,
        columnspacing=1.2,
        labelspacing=0.5,
    )


def plain_log_ticks(axis: Axis) -> None:
    """Label the decades of a logarithmic axis 0.1, 1, 10, 1,000 rather than as powers."""
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}" if value >= 1 else f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def label_name(label: str) -> str:
    """Display name of a scored column of obs."""
    return LABEL_NAMES.get(label, plain(label))


def require_columns(table, columns: Iterable[str], what: str) -> None:
    """Raise InputError unless the DataFrame has these columns."""
    if missing := [column for column in columns if column not in table.columns]:
        raise InputError(
            f"{what}: columns",
            f"{', '.join(columns)}",
            f"{', '.join(map(str, table.columns))}; {', '.join(missing)} missing",
            "remake the table: delete it and run the workflow again",
        )


def save(figure: Figure, paths: Iterable[str | Path]) -> None:
    """Write a figure to every path, in the format of its suffix.

    Parameters
    ----------
    figure : Figure
    paths : iterable of str or Path
        ``.png`` (200 dpi) and ``.pdf`` (fonts embedded as TrueType). Neither
        holds a date: the same figure gives the same bytes.
    """
    dates = {".png": {"Software": None}, ".pdf": {"CreationDate": None}, ".svg": {"Date": None}}
    for path in map(Path, paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        with matplotlib.rc_context(RC), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=r"Glyph .* missing from")
            figure.savefig(path, dpi=DPI, metadata=dates.get(path.suffix.lower()))
