"""How figures and colours of the page look, without a browser."""

import re
from html.parser import HTMLParser

import pytest
from matplotlib.figure import Figure

from trm.reporting.figures.charts import THEME, inline_svg
from trm.reporting.html.page import HERE


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.wanted: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        del tag
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name.endswith("href") and value:
                self.wanted.append(value.removeprefix("#"))
            self.wanted += re.findall(r"url\(#([^)]*)\)", value or "")


def test_a_figure_is_part_of_the_page() -> None:
    """Ids of its own, that its references find; the colours of the theme; nothing of when and by what it was made."""

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
    assert not [colour for colour in THEME if colour in one]
    tags = Tags()
    tags.feed(one + other)
    assert len(tags.ids) == len(set(tags.ids))
    assert tags.wanted
    assert set(tags.wanted) <= set(tags.ids)


def luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    light, dark = sorted([luminance(one), luminance(other)], reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_colours_have_contrast(theme: int) -> None:
    """WCAG: 4.5 for words, 3 for what figures and grids say."""
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    block = (HERE / "page.css").read_text().split(":root {")[1 + theme].split("}")[0]
    colours = dict(re.findall(r"--([a-z]+): (#[0-9a-f]{6})", block))
    for ground in ("page", "card"):
        for words in ("ink", "soft", "a", "b"):
            assert contrast(colours[words], colours[ground]) >= 4.5, (words, ground)
        for shown in ("c", "d", "wall"):
            assert contrast(colours[shown], colours[ground]) >= 3, (shown, ground)
    for ground in ("cell", "given", "right", "wrong", "start", "goal"):
        assert contrast(colours["ink"], colours[ground]) >= 4.5, ground
    for mark, ground in (("b", "wrong"), ("b", "floor"), ("b", "wall"), ("a", "floor")):
        assert contrast(colours[mark], colours[ground]) >= (1.2 if ground == "wall" else 3), (mark, ground)
