"""Point 7: figures come from the run, in two schemes, with alt text, and are compared with the committed files."""

import base64
import io

import numpy
import pytest
from PIL import Image

from tests.page_runner import compare
from website import figures

PLOT = """
import matplotlib.pyplot as plt

fig, ax = plt.subplots()
ax.plot([0, 1], [0, {top}])
ax.set(xlabel="x (m)", ylabel="y (s)", ylim=(0, 2), title="Line {title}")
plt.show()
"""
ALT = "A straight line from the lower left to the upper right"
IMAGE = f"![{ALT}](topic/line-light.svg)\n"


def plot(top: float = 1, title: str = "one") -> str:
    return PLOT.format(top=top, title=title)


@pytest.fixture
def drawn(project):
    """A project whose figure is recorded, and its light and dark files."""
    project.page(plot(), IMAGE)
    assert project.run("docs", "--record").ret == 0
    return project, project.root / "docs/part/topic/line-light.svg", project.root / "docs/part/topic/line-dark.svg"


def test_a_recorded_figure_holds_and_is_drawn_alike_each_time(drawn):
    project, light, dark = drawn
    before = light.read_bytes(), dark.read_bytes()
    project.run().assert_outcomes(passed=1)
    light.unlink()
    project.run("docs", "--record")
    assert (light.read_bytes(), dark.read_bytes()) == before


def test_the_two_schemes_differ_in_colors_only(drawn):
    _, light, dark = (f.read_text() if hasattr(f, "read_text") else f for f in drawn)
    assert figures.dark(light) == dark != light
    assert not any(color in dark for color in figures.DARK)
    assert compare.figure(light, light) is None
    assert "fill" in compare.figure(light, dark)


def test_a_figure_that_is_drawn_otherwise_fails(drawn):
    project, *_ = drawn
    where = "docs/part/topic.md:10: part/topic/line-light.svg is not what this run draws"
    project.page(plot(top=1.02), IMAGE)
    project.fails(where, failed=1)
    project.page(plot(title="two"), IMAGE)
    project.fails(where, "Line one", "Line two", failed=1)
    project.page(plot().replace("[0, 1], [0", "[0, 0.5, 1], [0, 0.5"), IMAGE)
    project.fails(where, failed=1)
    project.page(plot().replace('"x (m)"', '"x"'), IMAGE)
    project.fails(where, failed=1)


def test_a_difference_nobody_sees_passes(drawn):
    project, *_ = drawn
    project.page(plot(top=1.0005), IMAGE)
    project.run().assert_outcomes(passed=1)


def test_an_edited_or_missing_file_fails(drawn):
    project, light, dark = drawn
    text = light.read_text()
    light.write_text(text.replace("Line one", "Line won"))
    project.fails("docs/part/topic.md:10: part/topic/line-light.svg is not what this run draws", failed=1)
    light.write_text("<svg")
    project.fails("the committed file is not SVG", failed=1)
    light.write_text(text)
    dark.write_text(dark.read_text().replace("Line one", "Line won"))
    project.fails("docs/part/topic.md:10: part/topic/line-dark.svg is not the dark twin", failed=1)
    dark.unlink()
    project.fails("docs/part/topic.md:10: part/topic/line has no committed drawing; `make record` draws it", failed=1)


def test_every_figure_is_shown_and_every_image_is_drawn(project):
    project.page(plot())
    project.fails("docs/part/topic.md:1: every figure that a fence draws is shown below it", failed=1)
    assert project.run("docs", "--record").ret == 1
    project.page("x = 1", IMAGE)
    project.fails("the fence draws 0, the page shows 1", failed=1)
    project.page(plot().replace("plt.show()", ""), IMAGE)
    project.fails("the fence leaves a figure that it never shows: call plt.show()", failed=1)


@pytest.mark.parametrize(
    ("image", "problem"),
    [
        ("![](topic/line-light.svg)", "topic.md:5: alt text says what is seen"),
        ("![A line](topic/line-light.svg)", "topic.md:5: alt text says what is seen, in 20 characters or more"),
        (f"![{ALT}](other/line-light.svg)", "topic.md:5: the figures of this page lie in topic/, not in other/"),
        (f"![{ALT}](topic/line-dark.svg)", "topic.md:5: a figure is a line of its own"),
        (f"See ![{ALT}](topic/line-light.svg) here", "topic.md:5: a figure is a line of its own"),
        (f"![{ALT}](topic/line-light.svg)\n\n![{ALT}](topic/line-light.svg)", "topic.md:7: two figures are named"),
    ],
)
def test_a_faulty_image_names_the_line(project, image, problem):
    project.write("docs/part/topic.md", f"```python\nx = 1\n```\n\n{image}\n")
    project.fails(f"docs/part/{problem}", errors=1)


def test_an_image_needs_a_fence_before_it(project):
    project.write("docs/part/topic.md", IMAGE)
    project.fails("docs/part/topic.md:1: a figure without a fence that draws it", errors=1)


def picture(value: int, corner: int | None = None) -> str:
    buffer, pixels = io.BytesIO(), numpy.full((28, 28), value, dtype=numpy.uint8)
    pixels[0, 0] = value if corner is None else corner
    Image.fromarray(pixels).save(buffer, format="PNG")
    uri = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
    return f'<svg xmlns="http://www.w3.org/2000/svg"><image href="{uri}"/></svg>'


def test_embedded_images_are_compared_as_pixels():
    assert compare.figure(picture(100), picture(101)) is None
    assert compare.figure(picture(100), picture(110)) == "an embedded image differs"
    assert compare.figure(picture(100), picture(100, corner=120)) == "an embedded image differs"


def test_a_drawn_image_may_differ_by_what_nobody_sees(project):
    page = "import matplotlib.pyplot as plt\nplt.imshow([[0, {}]], vmin=0, vmax=255)\nplt.show()"
    project.page(page.format(100), IMAGE)
    assert project.run("docs", "--record").ret == 0
    project.page(page.format(102), IMAGE)
    project.run().assert_outcomes(passed=1)
    project.page(page.format(120), IMAGE)
    project.fails("an embedded image differs", failed=1)


def test_ids_of_the_generator_do_not_matter_but_what_they_refer_to_does():
    one = '<svg><path id="m0123456789"/><path id="m9876543210"/><use href="#m0123456789"/></svg>'
    assert compare.figure(one, one.replace("m0123456789", "maaaaaaaaaa")) is None
    assert compare.figure(one, one.replace('href="#m0123456789"', 'href="#m9876543210"'))
    assert compare.figure(one, one.replace("<path id", '<path d="M 0 0" id'))


def test_cleaning_shortens_coordinates_and_not_what_is_read():
    svg = '<?xml version="1.0"?><!-- made by --><svg x="0.12345"><text y="-1.99999">p = 0.99987</text></svg>'
    assert figures.clean(svg) == '<svg x="0.123"><text y="-1.999">p = 0.99987</text></svg>\n'


def test_size_of_a_figure_is_in_pixels():
    assert figures.size('<svg width="460.8pt" height="259.2pt">') == (614, 346)
    with pytest.raises(ValueError, match="expected an <svg> with width and height in pt"):
        figures.size("<svg>")


def luminance(color: str) -> float:
    channels = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("light", [c for c in figures.DARK if c != "#d3dae2"])  # the grid may be faint
def test_colors_have_contrast_on_both_pages(light):
    assert 1.05 / (luminance(light) + 0.05) >= 4.5
    assert (luminance(figures.DARK[light]) + 0.05) / (luminance("#14181f") + 0.05) >= 4.5
