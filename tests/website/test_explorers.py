"""The explorers show the numbers that their page has recorded, for every choice, to every reader."""

import json
import math
import re

import pytest

from tests.website import browser as look
from tests.website.every_page import in_mode
from website.pages import ROOT

DEPTH, DESCENT = "initialization/xavier.md", "basics/gradient-descent.md"
FILES = {DEPTH: "docs/initialization/xavier/depth.json", DESCENT: "docs/basics/gradient-descent/descent.json"}
DATA = {source: json.loads((ROOT / file).read_text(encoding="utf-8")) for source, file in FILES.items()}
BOX = "div.explorer"

# What a reader sees of a chart: where its ticks, dots and lines are, in pixels, and what the ticks say.
CHARTS = r"""() => [...document.querySelectorAll("div.explorer .charts > svg")].map(svg => {
    const all = selector => [...svg.querySelectorAll(selector)];
    const pairs = path => path.getAttribute("d").slice(1).split("L").map(pair => pair.split(" ").map(Number));
    const says = (group, place) => {
        const text = group.querySelector("text").textContent.replace("\u2212", "-");
        const start = group.querySelector("path").getAttribute("d").match(/^M(\S+) (\S+?)[VH]/);
        return [Number(group.querySelector("tspan") ? text.replace(/^10/, "") : text), Number(start[1 + place])];
    };
    return {
        shown: svg.checkVisibility(), label: svg.ariaLabel,
        x: all(".column").map(group => says(group, 0)), y: all(".row").map(group => says(group, 1)),
        dots: all(".dot").map(dot => [Number(dot.getAttribute("cx")), Number(dot.getAttribute("cy"))]),
        measured: all("path.measured").flatMap(pairs), predicted: all("path.predicted").flatMap(pairs),
        arrows: all(".arrow").length,
    };
})"""


@pytest.fixture(scope="module")
def visits(browser, served):
    """Opens a page in a mode, its explorer as it is at first."""
    found = {}

    def open_page(source: str, mode: str = "light-1280") -> look.Visit:
        if source not in found:
            found[source] = look.Visit(look.new_context(browser), look.address(served, source), served.url)
        visit, (scheme, width) = found[source], look.MODES[mode]
        visit.page.emulate_media(color_scheme=scheme)
        visit.page.set_viewport_size({"width": width, "height": 800})
        visit.kept, visit.taken = visit.page.evaluate(
            """() => {
                const box = document.querySelector("div.explorer");
                box.querySelector(".stage").remove();
                const kept = box.getBoundingClientRect().height;
                explorers.explore(box);
                return [kept, box.getBoundingClientRect().height];
            }"""
        )
        return visit

    yield open_page
    for visit in found.values():
        visit.page.context.close()


@pytest.fixture
def depth(visits):
    return visits(DEPTH).page


@pytest.fixture
def descent(visits):
    return visits(DESCENT).page


def field(page, label: str):
    """The control with a label."""
    return page.locator(f"{BOX} label").filter(has_text=re.compile(rf"^{re.escape(label)}")).locator("select, input")


def slide(control, value: str) -> None:
    """Move a slider to where it says this value."""
    moved = control.evaluate(
        """(input, wanted) => {
            for (let value = Number(input.min); value <= input.max; value += Number(input.step || 1)) {
                input.value = value;
                input.dispatchEvent(new Event("input", {bubbles: true}));
                if ((input.getAttribute("aria-valuetext") ?? input.value) === wanted) return true;
            }
            return false;
        }""",
        value,
    )
    assert moved, f"the slider does not come to {value}"


def reading(page) -> str:
    return page.text_content(f"{BOX} .reading")


def value_at(ticks: list, place: float) -> float:
    """What an axis says of a place in pixels."""
    (first, start), (last, end) = ticks[0], ticks[-1]
    return first + (place - start) * (last - first) / (end - start)


def values_at(chart: dict, points: list) -> list[tuple[float, float]]:
    return [(value_at(chart["x"], x), value_at(chart["y"], y)) for x, y in points]


def close(points, expected, tolerance: float = 1e-6) -> bool:
    """Whether points are where they should be, to a part of the span of the whole."""
    span = max(1, *(max(axis) - min(axis) for axis in zip(*expected, strict=True)))
    pairs = zip(points, expected, strict=False)
    return len(points) == len(expected) and all(math.dist(a, b) <= tolerance * span for a, b in pairs)


def power(exponent: float) -> str:
    return f"10^{exponent:z.2f}".replace("-", "−")


def plain(number: float) -> str:
    return f"{number:.3g}"


# Depth


def curves(data: dict, scheme: str, activation: str, depth: int, width: int) -> dict:
    """What is recorded of a choice: for each way (measured, predicted, layer at the end)."""
    wanted = (scheme, activation, width)
    (curve,) = [c for c in data["curves"] if (c["scheme"], c["activation"], c["width"]) == wanted]
    sums = curve["backward_predicted"]
    return {
        "forward": (curve["forward"][: depth + 1], curve["forward_predicted"][: depth + 1], depth),
        "backward": (curve["backward"][str(depth)], [sums[depth] - sums[layer] for layer in range(depth + 1)], 0),
    }


def word(exponent: float) -> str:
    return "vanishes" if exponent < -2 else "explodes" if exponent > 2 else "holds"


def test_every_choice_draws_what_is_recorded_and_says_it(depth):
    """Points converted back by the ticks of the axes, over every combination of the four lists."""
    data = DATA[DEPTH]
    shown = depth.evaluate(
        """charts => {
            const selects = [...document.querySelectorAll("div.explorer select")], found = [];
            const choose = (i, values) => {
                if (i < selects.length)
                    return [...selects[i].options].forEach(option => choose(i + 1, [...values, option.value]));
                values.forEach((value, k) => (selects[k].value = value));
                selects[0].dispatchEvent(new Event("input", {bubbles: true}));
                found.push([values, eval(charts)(), document.querySelector("div.explorer .reading").textContent]);
            };
            choose(0, []);
            return found;
        }""",
        CHARTS,
    )
    lists = (data["schemes"], data["activations"], data["depths"], data["widths"])
    assert len(shown) == math.prod(map(len, lists))
    words = set()
    for (scheme, activation, layers, width), charts, text in shown:
        choice = curves(data, scheme, activation, int(layers), int(width))
        said = f"{scheme}, {activation}, {layers} layers of {width}."
        for chart, (way, (measured, predicted, end)) in zip(charts, choice.items(), strict=True):
            name = (scheme, activation, layers, width, way)
            assert close(values_at(chart, chart["dots"]), list(enumerate(measured))), name
            assert close(values_at(chart, chart["measured"]), list(enumerate(measured))), name
            assert close(values_at(chart, chart["predicted"]), list(enumerate(predicted))), name
            ticks = [tick for tick, _ in chart["y"]]
            step, span = ticks[1] - ticks[0], max(*measured, *predicted, 0) - min(*measured, *predicted, 0)
            assert chart["y"] == sorted(chart["y"], key=lambda tick: -tick[1]) == sorted(chart["y"]), "more is above"
            assert 0 in ticks, name
            assert step == int(step) > 0, name
            assert 3 <= len(ticks) <= 8 or span <= 2, name
            assert max(ticks) - min(ticks) <= max(2, 2 * span), name
            values = f"{power(measured[end])} measured, {power(predicted[end])} predicted"
            assert values in chart["label"], name
            said += f" The {way} signal {word(measured[end])}: {values}."
            words.add(word(measured[end]))
        assert text == said
    assert words == {"vanishes", "holds", "explodes"}


@pytest.mark.parametrize("label", ["Scheme", "Activation", "Depth", "Width"])
def test_a_list_that_a_reader_chooses_from_changes_the_charts(depth, label):
    lists = {"Scheme": "schemes", "Activation": "activations", "Depth": "depths", "Width": "widths"}
    options = [str(option) for option in DATA[DEPTH][lists[label]]]
    select = field(depth, label)
    assert select.evaluate("select => [...select.options].map(option => option.text)") == options
    seen = set()
    for option in options:
        select.select_option(option)
        seen.add(json.dumps([chart["measured"] for chart in depth.evaluate(CHARTS)]) + reading(depth))
    assert len(seen) == len(options)


# Descent


def walk(model: dict, lr: float, start: list, steps: int) -> list[list[float]]:
    """Gradient descent on the mean squared error, written once more."""
    points, x, y = [start], model["x"], model["y"]
    for _ in range(steps):
        w, b = [*points[-1], 0.0][:2]
        off = [w * x_i + b - y_i for x_i, y_i in zip(x, y, strict=True)]
        gradient = [2 * sum(o * x_i for o, x_i in zip(off, x, strict=True)) / len(x), 2 * sum(off) / len(x)]
        points.append([p - lr * g for p, g in zip(points[-1], gradient, strict=False)])
    return points


def loss(model: dict, point: list) -> float:
    w, b = [*point, 0.0][:2]
    return sum((w * x + b - y) ** 2 for x, y in zip(model["x"], model["y"], strict=True)) / len(model["x"])


def choose_model(page, name: str) -> dict:
    field(page, "Model").select_option({"line": "y = w x", "surface": "y = w x + b"}[name])
    return DATA[DESCENT][name]


@pytest.mark.parametrize("recorded", DATA[DESCENT]["paths"], ids=lambda path: f"{path['model']}-{path['lr']:.3g}")
def test_the_path_is_the_one_that_the_page_has_recorded(descent, recorded):
    model = choose_model(descent, recorded["model"])
    computed = descent.evaluate(
        "([data, lr, start]) => { const points = explorers.path(data, lr, start, 10); return [points, points.map(p => explorers.loss(data, p))] }",
        [model, recorded["lr"], recorded["start"]],
    )
    for ours, theirs in zip(computed, [recorded["path"], recorded["losses"]], strict=True):
        assert len(ours) == len(theirs) == 11
        for a, b in zip(ours, theirs, strict=True):
            assert a == pytest.approx(b, rel=1e-5, abs=1e-5)

    assert recorded["start"] == model["start"]
    slide(field(descent, "Steps"), "10")
    slide(field(descent, "Learning rate"), plain(recorded["lr"]))
    (chart,) = descent.evaluate(CHARTS)
    points = [[w, loss(model, [w])] for (w,) in recorded["path"]] if recorded["model"] == "line" else recorded["path"]
    shown = values_at(chart, chart["dots"])
    assert close(shown, points[: len(shown)], 1e-5)
    if len(shown) < len(points):  # the rest is beyond the frame, where the arrow points to
        assert chart["arrows"] == 1
        outside = points[len(shown)]
        assert any(not low <= value <= high for value, low, high in zip(outside, *edges(chart), strict=True))
    else:
        assert chart["arrows"] == 0


def edges(chart: dict) -> tuple[list, list]:
    """The lowest and the highest values that are sure to be inside the frame."""
    ticks = [[tick for tick, _ in chart[axis]] for axis in "xy"]
    return [min(axis) for axis in ticks], [max(axis) for axis in ticks]


@pytest.mark.parametrize("name", ["line", "surface"])
def test_says_what_becomes_of_a_learning_rate(descent, name):
    model = choose_model(descent, name)
    bound, rate = model["bound"], field(descent, "Learning rate")
    assert f"bound 2/λ = {plain(bound)}." in reading(descent)

    slide(rate, plain(model["lr"]))
    steps = next(n for n, p in enumerate(walk(model, model["lr"], model["start"], 10_000))
                 if math.dist(p, model["minimum"]) <= 0.01 * math.dist(model["start"], model["minimum"]))  # fmt: skip
    assert f"converges: after {steps} steps it is within 1\u00a0% of" in reading(descent)
    slide(field(descent, "Steps"), "20")
    said = re.search(r"Loss after 20 steps: (\S+?)(?: × 10\^(\S+?))?\.$", reading(descent).replace("−", "-"))
    end = loss(model, walk(model, model["lr"], model["start"], 20)[-1])
    assert float(said[1]) * 10 ** int(said[2] or 0) == pytest.approx(end, rel=6e-3)

    rate.press("End")
    lr = float(rate.get_attribute("aria-valuetext"))
    assert lr > bound
    assert "Gradient descent diverges: the distance to the minimum grows by a factor of" in reading(descent)
    factor = float(re.search(r"a factor of (\S+) each step", reading(descent))[1])
    assert factor == pytest.approx(abs(1 - 2 * lr / bound), rel=6e-3)
    (chart,) = descent.evaluate(CHARTS)
    assert chart["arrows"] == 1
    assert len(chart["dots"]) < 20

    marked = descent.get_attribute(f"#{rate.get_attribute('list')} option", "value")
    while int(rate.input_value()) > int(marked):
        assert "diverges" in reading(descent)
        rate.press("ArrowLeft")
    assert rate.get_attribute("aria-valuetext") == plain(bound)
    assert "oscillates for ever" in reading(descent)
    rate.press("ArrowLeft")
    assert "converges" in reading(descent)
    at, whole = descent.locator(f"{BOX} small").bounding_box(), rate.bounding_box()
    share = (at["x"] + at["width"] / 2 - whole["x"] - 8) / (whole["width"] - 16)  # a thumb is 16 px wide
    assert share == pytest.approx(int(marked) / int(rate.get_attribute("max")), abs=0.01)


@pytest.mark.parametrize("name", ["line", "surface"])
def test_starts_where_the_reader_says(descent, name):
    model = choose_model(descent, name)
    labels = ["Start: w", "Start: b"][: len(model["start"])]
    assert [float(field(descent, label).input_value()) for label in labels] == model["start"]
    assert field(descent, "Start: b").is_visible() == (name == "surface")
    for label in labels:
        field(descent, label).press("ArrowRight")
    moved = [float(field(descent, label).input_value()) for label in labels]
    assert all(a > b for a, b in zip(moved, model["start"], strict=True))

    def first_dot():
        (chart,) = descent.evaluate(CHARTS)
        return values_at(chart, chart["dots"][:1])[0]

    assert first_dot() == pytest.approx(moved if name == "surface" else [moved[0], loss(model, moved)])
    before = first_dot()
    descent.locator(f"{BOX} .charts > svg").click(position={"x": 300, "y": 150})
    clicked = [float(field(descent, label).input_value()) for label in labels]
    (chart,) = descent.evaluate(CHARTS)
    pointed = [value_at(chart[axis], place) for axis, place in zip("xy", (300, 150), strict=True)]
    step = float(field(descent, "Start: w").get_attribute("step"))
    assert clicked == pytest.approx(pointed[: len(clicked)], abs=step)
    assert first_dot() != before


# For every reader


@pytest.mark.parametrize("source", FILES)
def test_works_with_the_keyboard_alone(visits, source):
    page = visits(source).page
    if source == DESCENT:
        choose_model(page, "surface")
    names = page.locator(f"{BOX} label").all_inner_texts()
    page.evaluate("document.querySelector('div.explorer select').focus()")
    stops = []
    for _ in names:
        stops.append(page.evaluate(look.STOP))
        before = page.evaluate(CHARTS), reading(page)
        for key, back in ("ArrowLeft", "ArrowRight"), ("ArrowRight", "ArrowLeft"):  # at an end, one changes nothing
            page.keyboard.press(key)
            if changed := (page.evaluate(CHARTS), reading(page)) != before:
                page.keyboard.press(back)
                break
        assert changed, stops[-1]
        page.keyboard.press("Tab")
    assert not look.walk(stops)
    assert [stop["name"] for stop in stops] == [name.split("\n")[0] for name in names]
    assert page.evaluate("document.activeElement.matches('div.explorer a')"), "the link to the numbers comes last"


@pytest.mark.parametrize("source", FILES)
@in_mode(*look.MODES)
def test_is_accessible_and_fits_after_use(visits, source, mode):
    page = visits(source, mode).page
    assert (look.background(page) > 128) == mode.startswith("light")
    if source == DESCENT:
        choose_model(page, "surface")
        field(page, "Learning rate").press("End")
    else:
        field(page, "Activation").select_option("linear")
    assert not look.axe(page, BOX)
    assert not look.overflow(page)
    smallest = page.evaluate(
        """() => Math.min(...[...document.querySelectorAll("div.explorer :is(text, tspan)")].map(text =>
            parseFloat(getComputedStyle(text).fontSize) * text.ownerSVGElement.getScreenCTM().a))"""
    )
    assert smallest >= 11
    assert page.evaluate(
        """() => [...document.querySelectorAll("div.explorer .charts > svg")].every(svg => {
            const around = svg.getBoundingClientRect();
            return [...svg.querySelectorAll("text")].every(text => {
                const box = text.getBoundingClientRect();
                return box.left >= around.left - 1 && box.right <= around.right + 1;
            });
        })"""
    ), "text is cut off"


@pytest.mark.parametrize("source", FILES)
@in_mode(*look.MODES)
def test_room_is_kept_until_it_is_drawn(visits, source, mode):
    """Where the explorer is on screen while the page loads, what stands below it does not move."""
    visit = visits(source, mode)
    assert abs(visit.taken - visit.kept) <= 10, (visit.kept, visit.taken)


@pytest.mark.parametrize("source", FILES)
def test_is_drawn_again_where_the_window_changes(visits, source):
    page = visits(source, "dark-1280").page
    page.set_viewport_size({"width": 360, "height": 800})
    page.wait_for_function("document.querySelector('div.explorer .charts > svg').viewBox.baseVal.width < 360")
    assert not look.overflow(page)


def test_works_after_going_from_page_to_page(browser, served):
    context = look.new_context(browser)
    visit = look.Visit(context, served.url + "index.html", served.url)
    page = visit.page
    page.wait_for_load_state("networkidle")  # a request that leaving the page cuts off has failed

    def works():
        page.wait_for_selector(f"{BOX} .stage")
        assert page.locator(f"{BOX} .stage").count() == page.locator(BOX).count() == 1
        before = reading(page)
        page.locator(f"{BOX} select").first.select_option(index=1)
        assert reading(page) != before
        page.wait_for_load_state("networkidle")

    for source in (DEPTH, DESCENT):
        url = look.address(served, source)
        page.evaluate("url => [...document.links].find(link => link.href === url).click()", url)
        page.wait_for_url(url, wait_until="commit")
        page.wait_for_selector(f"[data-explorer='{FILES[source].rpartition('/')[2].removesuffix('.json')}']")
        works()
    page.go_back(wait_until="commit")
    page.wait_for_selector("[data-explorer='depth']")
    works()
    assert not look.quiet(visit)
    page.goto("about:blank")
    context.close()


@pytest.mark.parametrize("source", FILES)
def test_without_javascript_there_are_the_link_the_figure_and_the_table(browser, served, source):
    context = look.new_context(browser, java_script_enabled=False)
    page = look.Visit(context, look.address(served, source), served.url).page
    found = page.evaluate(
        r"""() => {
            const box = document.querySelector("div.explorer"), seen = e => e.checkVisibility() && e.getBoundingClientRect().height > 0;
            const above = selector => [...document.querySelectorAll(selector)].filter(
                e => seen(e) && e.compareDocumentPosition(box) & Node.DOCUMENT_POSITION_FOLLOWING);
            return {
                text: box.innerText.trim(), link: box.querySelector("a").innerText.trim(), height: box.getBoundingClientRect().height,
                figures: above("img.figure").length, tables: above(".output").length, controls: box.querySelectorAll("select, input").length,
            };
        }"""
    )
    assert found["text"] == found["link"] != ""
    assert found["height"] < 80
    assert found["figures"] >= 1
    assert found["tables"] >= 1
    assert found["controls"] == 0
    with page.expect_download() as download:
        page.locator(f"{BOX} a").click()
    assert json.loads(download.value.path().read_text(encoding="utf-8")) == DATA[source]
    context.close()


def test_paper_has_the_charts_and_no_controls(visits):
    page = visits(DEPTH, "dark-360").page
    page.emulate_media(media="print")
    assert page.locator(f"{BOX} .charts > svg").first.is_visible()
    assert page.locator(f"{BOX} .reading").is_visible()
    assert not page.locator(f"{BOX} select").first.is_visible()
    page.emulate_media(media="screen")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("data.curves = []", "nothing is recorded for this choice"),
        ("data.curves.forEach(curve => (curve.forward[0] = null))", "nothing is recorded for this choice"),
        ("data.curves.forEach(curve => (curve.forward_predicted.length = 9))", "nothing is recorded for this choice"),
        ("data.curves.forEach(curve => (curve.backward = {}))", "nothing is recorded for this choice"),
        ("delete data.schemes", "These numbers cannot be drawn"),
        ("delete data.curves", "These numbers cannot be drawn"),
        ("data = undefined", "These numbers cannot be drawn"),
    ],
)
def test_says_so_where_numbers_are_missing(visits, change, said):
    visit = visits(DEPTH, "light-360")
    visit.page.evaluate(
        """change => {
            const box = document.querySelector("div.explorer").cloneNode(true);
            const script = box.querySelector("script");
            const changed = Function("data", `${change}; return data`)(JSON.parse(script.textContent));
            script.textContent = changed ? JSON.stringify(changed) : "{";
            box.querySelector(".stage").remove();
            box.id = "broken";
            document.querySelector("div.explorer").before(box);
            explorers.explore(box);
        }""",
        change,
    )
    broken = visit.page.locator("#broken")
    assert said in broken.inner_text()
    assert not [svg for svg in broken.locator(".charts > svg").all() if svg.is_visible()]
    assert not visit.problems
    broken.evaluate("box => box.remove()")
