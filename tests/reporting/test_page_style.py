"""Figures and colors of the HTML report, without a browser."""

import re
from html.parser import HTMLParser

import pytest
from matplotlib.figure import Figure

from trm.config.dataset_meta import DatasetMeta
from trm.datasets.drawings import get_drawing
from trm.reporting.figures.charts import THEME, inline_svg
from trm.reporting.html.page import HERE


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.references: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        del tag
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name.endswith("href") and value:
                self.references.append(value.removeprefix("#"))
            self.references += re.findall(r"url\(#([^)]*)\)", value or "")


def test_inline_svg() -> None:
    """Unique ids with valid references, the colors of the theme, no date and no creator."""

    def made(name: str) -> str:
        figure = Figure(figsize=(3, 2))
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], marker="o", label="a <b> & c")
        axes.bar([0], [1], hatch="//", color="none", edgecolor="C1")
        axes.legend()
        return str(inline_svg(figure, name, 'A "title"', "Says <more>"))

    one, other = made("one"), made("other")
    assert made("one") == one
    assert 'aria-label="A &#34;title&#34;. Says &lt;more&gt;"' in one
    assert "<title>A &#34;title&#34;</title>" in one
    assert "a &lt;b&gt; &amp; c" in one
    assert not re.search(r"<metadata|http|20\d\d-", one)
    assert "var(--a)" in one
    assert "var(--b)" in one
    assert not [color for color in THEME if color in one]
    tags = Tags()
    tags.feed(one + other)
    assert len(tags.ids) == len(set(tags.ids))
    assert tags.references
    assert set(tags.references) <= set(tags.ids)


def luminance(color: str) -> float:
    parts = [int(color[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    light, dark = sorted([luminance(one), luminance(other)], reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_colors_have_contrast(theme: int) -> None:
    """WCAG: 4.5 for text, 3 for graphics."""
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    block = (HERE / "page.css").read_text().split(":root {")[1 + theme].split("}")[0]
    colors = dict(re.findall(r"--([a-z]+): (#[0-9a-f]{6})", block))
    for background in ("page", "card"):
        for text in ("ink", "soft", "a", "b"):
            assert contrast(colors[text], colors[background]) >= 4.5, (text, background)
        for shown in ("c", "d", "wall"):
            assert contrast(colors[shown], colors[background]) >= 3, (shown, background)
    for background in ("cell", "given", "correct", "wrong", "start", "goal"):
        assert contrast(colors["ink"], colors[background]) >= 4.5, background
    for mark, background in (("b", "wrong"), ("b", "floor"), ("b", "wall"), ("a", "floor")):
        assert contrast(colors[mark], colors[background]) >= (1.2 if background == "wall" else 3), (mark, background)


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize("count", [2, 3, 12, 40])
def test_symbols_of_any_alphabet_are_readable(theme: int, count: int) -> None:
    """The colors are mixed with the background of the theme: contrast 4.5 and more, and they differ."""
    meta = DatasetMeta(name="custom", height=1, width=1, vocabulary=("pad", *map(str, range(count))), num_identifiers=1)
    drawing = get_drawing(meta)
    block = (HERE / "page.css").read_text().split(":root {")[1 + theme].split("}")[0]
    variables = dict(re.findall(r"--([a-z]+): (#[0-9a-f]{6})", block))
    assert drawing.html_colors is not None
    shown = set()
    for css in drawing.html_colors:
        parts = re.fullmatch(r"color-mix\(in srgb, (#[0-9a-f]{6}) (\d+)%, var\(--cell\)\)", css)
        assert parts is not None
        color, share = parts[1], int(parts[2]) / 100
        pairs = ((int(one[at : at + 2], 16) for one in (color, variables["cell"])) for at in (1, 3, 5))
        mixed = "#" + bytes(round(share * one + (1 - share) * other) for one, other in pairs).hex()
        assert contrast(variables["ink"], mixed) >= 4.5
        shown.add(mixed)
    assert len(shown) == count
