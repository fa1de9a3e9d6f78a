"""Colours, names, text and files: what all figures share."""

from __future__ import annotations

import subprocess
import sys

import matplotlib
import numpy as np
import pandas as pd
import pytest

from nmfbench.errors import InputError
from nmfbench.figures import palette, style
from nmfbench.models import MODELS, get_card


def test_importing_figures_is_light(repository):
    code = "import sys, nmfbench.figures; print([m for m in ('matplotlib', 'pandas') if m in sys.modules])"
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=repository / "scripts", capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "[]"


def test_unknown_name_is_an_attribute_error():
    import nmfbench.figures

    with pytest.raises(AttributeError, match="pie_figure"):
        nmfbench.figures.pie_figure  # noqa: B018
    assert callable(nmfbench.figures.save)


# ---- colours


def smallest_distance(colours, deuteranope=False):
    """Oklab distance of the two most similar of the ``#rrggbb`` colours."""
    rgb = palette.hex_to_rgb(colours)
    lab = palette.oklab(palette.simulate_deuteranopia(rgb) if deuteranope else palette.to_linear(rgb))
    distances = np.linalg.norm(lab[:, None] - lab[None], axis=-1)
    return distances[np.triu_indices(len(lab), 1)].min()


def test_simulation_keeps_white_black_and_grey():
    rgb = palette.hex_to_rgb(["#FFFFFF", "#000000", "#808080"])
    np.testing.assert_allclose(palette.simulate_deuteranopia(rgb), palette.to_linear(rgb), atol=1e-5)


def test_simulation_confuses_red_and_green():
    pair = ["#B05A00", "#6E7A00"]
    assert smallest_distance(pair, deuteranope=True) < 0.5 * smallest_distance(pair)


@pytest.mark.parametrize(("n", "normal", "deuteranope"), [(4, 15, 15), (8, 15, 7)])
def test_model_colours_stay_apart(n, normal, deuteranope):
    colours = palette.MODEL_COLOURS[:n]
    assert smallest_distance(colours) > normal
    assert smallest_distance(colours, deuteranope=True) > deuteranope


def test_forty_categories_stay_apart():
    colours = palette.categorical(40)
    assert len(set(colours)) == 40
    assert smallest_distance(colours) > 9
    assert smallest_distance(colours, deuteranope=True) > 4.5
    assert colours[:24] == palette.categorical(24)  # donors keep their colours when one is added


def test_more_categories_than_colours_repeat():
    colours = palette.categorical(300)
    assert len(colours) == 300
    assert colours[256:] == colours[:44]


def test_colours_of_two_labels_are_apart_from_one_another():
    from nmfbench.figures.umap import _colours

    for sizes in ((1, 1), (10, 6), (45, 24, 3)):
        chosen = [colour for colours in _colours(sizes) for colour in colours]
        assert len(chosen) == len(set(chosen)) == sum(sizes)


def test_hex_round_trip():
    assert tuple(palette.rgb_to_hex(palette.hex_to_rgb(palette.MODEL_COLOURS))) == palette.MODEL_COLOURS


def test_model_styles_are_fixed_and_distinct():
    many = [*MODELS, *(f"variant_{i}" for i in range(16))]
    styles = style.model_styles(many)
    assert len({(s.colour, s.hatch) for s in styles.values()}) == len(MODELS) + 16
    assert len({(s.colour, s.marker) for s in styles.values()}) == len(MODELS) + 16
    assert style.model_styles(["cae_nmf2"])["cae_nmf2"] == styles["cae_nmf2"]
    assert style.model_styles(reversed(many)) == styles
    for kind, looks in style.model_styles([]).items():
        assert (looks.colour, looks.marker) == (get_card(kind).colour, get_card(kind).marker)


def test_a_variant_keeps_its_colour_whatever_other_variants_there_are():
    names = [f"ae_nmf_{i}" for i in range(60)]
    together = style.model_styles(names)
    for name in names:
        assert style.model_styles([name])[name].colour == together[name].colour
    assert {name: style.model_styles(names[:20])[name].colour for name in names[:20]} == {
        name: together[name].colour for name in names[:20]
    }
    of_cards = {get_card(kind).colour for kind in MODELS}
    assert not of_cards & {together[name].colour for name in names}


def test_variants_of_one_colour_are_told_apart_by_marker_hatch_and_line():
    names = [f"variant_{i}" for i in range(400)]
    first = style.model_styles(names)[names[0]].colour
    alike = [name for name in names if style.model_styles([name])[name].colour == first][:3]
    looks = [style.model_styles(alike)[name] for name in alike]
    assert len({look.colour for look in looks}) == 1
    for part in ("marker", "hatch", "line"):
        assert len({getattr(look, part) for look in looks}) == 3


# ---- names and text


def test_natural_order():
    names = ["donor 10", "Donor 2", "donor 1", "10", "9", "ß-cell"]
    assert sorted(names, key=style.natural_key) == ["9", "10", "donor 1", "Donor 2", "donor 10", "ß-cell"]


def test_text_is_shown_to_the_letter():
    assert style.plain("a $x$\n b") == r"a \$x\$ b"


def test_shorten_fits():
    long = "naive thymus-derived CD4-positive, alpha-beta T cell"
    short = style.shorten(long, 30.0)
    assert short.endswith("…")
    assert style.text_width(short) <= 30.0 < style.text_width(long)
    assert style.shorten("B cell", 30.0) == "B cell"


def test_models_keep_the_order_of_the_config():
    assert style.order_models(["x", "b", "x"], {"b": "B", "a": "A"}) == ["b", "a", "x"]


def test_missing_column_names_the_table():
    with pytest.raises(InputError, match=r"scores\.tsv: columns"):
        style.require_columns(pd.DataFrame({"model": []}), ["model", "value"], "scores.tsv")


# ---- files


def test_save_writes_the_same_bytes_and_embeds_fonts(tmp_path):
    for turn in "ab":
        figure = style.new_figure(60, 30)
        style.add_text(figure, 5, 5, "größer → β")
        style.save(figure, [tmp_path / turn / "f.png", tmp_path / turn / "f.pdf"])
    for name in ("f.png", "f.pdf"):
        first, second = ((tmp_path / turn / name).read_bytes() for turn in "ab")
        assert first == second
        assert len(first) > 500
    pdf = (tmp_path / "a" / "f.pdf").read_bytes()
    assert b"/FontFile2" in pdf
    assert b"/Type3" not in pdf


def test_size_is_in_millimetres():
    figure = style.new_figure(183, 100)
    np.testing.assert_allclose(style.size_mm(figure), (183, 100))
    axes = style.add_axes(figure, 20, 10, 50, 30)
    box = axes.get_position()
    placed = [box.x0 * 183, (1 - box.y1) * 100, box.width * 183, box.height * 100]
    np.testing.assert_allclose(placed, [20, 10, 50, 30])


def test_matplotlib_settings_are_left_alone():
    before = dict(matplotlib.rcParams)

    @style.styled
    def draw():
        return matplotlib.rcParams["pdf.fonttype"]

    assert draw() == 42
    assert dict(matplotlib.rcParams) == before


def test_a_script_without_glyphs_does_not_stop_a_figure(tmp_path):
    figure = style.new_figure(60, 30)
    style.add_text(figure, 5, 5, "免疫細胞")
    style.save(figure, [tmp_path / "f.png"])
    assert style.text_width("免疫細胞") > 0


def cut_letter_by_letter(text, room, points=style.NORMAL):
    """The slow twin of `shorten`."""
    if style.text_width(text, points) <= room:
        return text
    for end in range(len(text) - 1, 0, -1):
        if style.text_width(cut := text[:end].rstrip(" ,\\") + "…", points) <= room:
            return cut
    return "…"


@pytest.mark.parametrize("room", [1.0, 8.0, 20.0, 45.0])
def test_text_is_cut_where_letter_by_letter_would_cut_it(room):
    words = [
        "CD4-positive, alpha-beta T cell",
        "iiiiiiiiiiiiiiiiiiiiiiiiiiii",
        "W" * 30,
        "a, b, c, d, e, f, g, h",
        "x",
    ]
    for text in words:
        assert style.shorten(text, room) == cut_letter_by_letter(text, room)


def test_text_of_thousands_of_letters_is_cut_before_it_is_measured(monkeypatch):
    longest = []
    really = style._text_width

    def measured(text, points, weight):
        longest.append(len(text))
        return really(text, points, weight)

    monkeypatch.setattr(style, "_text_width", measured)
    assert style.shorten(style.plain("cell " * 5000), 40).endswith("…")
    assert style.shorten("y" * 100_000, 40).endswith("…")
    assert max(longest) <= style.LONGEST_TEXT
    assert len(longest) < 40
    assert style.natural_key("9" * 100_000) > style.natural_key("8")


def test_marks_of_writing_direction_turn_nothing():
    assert style.plain("T\u202e cell\u2066\x00\x07 $x$") == r"T cell \$x\$"
