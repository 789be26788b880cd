"""Search finds: for what readers ask, the right page is among the first three results."""

import json
import re

import pytest

from tests.website import browser as look
from tests.website.questions import ASKED, HELD_OUT

FIRST = 3  # results that are seen without scrolling

# The built site's own worker, with its own index: what the search box talks to.
ASK = """async ([index, questions]) => {
    const { base, search } = JSON.parse(document.querySelector("#__config").textContent)
    const worker = new Worker(new URL(search, location))
    const send = (type, data) => new Promise((done, failed) => {
        worker.onmessage = ({ data }) => done(data.data)
        worker.onerror = ({ message }) => failed(Error(message))
        worker.postMessage({ type, data })
    })
    const read = await (await fetch(new URL(`${base}/${index}`, location))).json()
    await send(0, { ...read, options: { suggest: true } })
    const found = []
    for (const question of questions) {
        const { items } = await send(2, question)
        found.push(items.map(sections => sections[0].location.split("#")[0]))
    }
    worker.terminate()
    return found
}"""


def ask(browser, served, questions: list[str], index: str = "search/search_index.json") -> list[list[str]]:
    """The pages that search finds for each question, the best first."""
    context = look.new_context(browser)
    context.set_default_timeout(120_000)
    page = look.Visit(context, look.address(served, "index.md"), served.url).page
    found = page.evaluate(ASK, [index, questions])
    context.close()
    return found


@pytest.fixture(scope="module")
def answers(browser, served):
    questions = [*ASKED, *HELD_OUT]
    return dict(zip(questions, ask(browser, served, questions), strict=True))


def missed(answers: dict, wanted: dict) -> list[str]:
    """The questions whose pages are not among the first results, and what is there instead."""
    return [
        f"{question!r}: {pages}, not {answers[question][:FIRST]}"
        for question, pages in wanted.items()
        if not {f"{page}.html" for page in pages.split()} & set(answers[question][:FIRST])
    ]


def test_finds(answers):
    assert not missed(answers, ASKED)


def test_finds_what_nobody_thought_of(answers):
    assert len(missed(answers, HELD_OUT)) <= len(HELD_OUT) / 5, missed(answers, HELD_OUT)


def test_notices_a_page_that_is_not_found():
    answers = {"a": ["x.html", "y.html", "z.html", "w.html"], "b": [], "c": ["y.html"]}
    assert missed(answers, {"a": "z w", "c": "y"}) == []
    assert [text[:3] for text in missed(answers, {"a": "w", "b": "x", "c": "x"})] == ["'a'", "'b'", "'c'"]


def test_asks_for_pages_that_exist(site):
    named = {page for pages in (ASKED | HELD_OUT).values() for page in pages.split()}
    assert [page for page in sorted(named) if not (site / f"{page}.html").is_file()] == []
    assert not set(ASKED) & set(HELD_OUT)


def test_finds_numbers(browser, served):
    """lunr by itself takes some for others, and then says that nothing is found. (No page holds the other word.)"""
    index = json.loads((served.folder / "search/search_index.json").read_text(encoding="utf-8"))
    text = " ".join(entry["text"] for entry in index["docs"])
    numbers = sorted({number for number in re.findall(r"(?<=\s)\d{1,4}(?=\s)", text)})
    found = ask(browser, served, [f"{number} qqqq" for number in numbers])
    assert len(numbers) > 100
    assert [number for number, pages in zip(numbers, found, strict=True) if not pages] == []


MEANT = {"x^2 + 1": "x 2 1", "-1": "1", "~12 times": "12 times", "RuntimeError: shape:": "RuntimeError shape", "+ nan": "nan",
         '"loss': "loss", "title:loss": "title loss", "loss*": "loss", "": "", "?": "", "The NaN": "nan", "to be": "be"}  # fmt: skip


def test_takes_signs_for_what_they_are(browser, served):
    found = ask(browser, served, [*MEANT, *MEANT.values()])
    for question, signs, words in zip(MEANT, found, found[len(MEANT) :], strict=False):
        assert signs == words, question
        assert bool(words) == bool(MEANT[question]), question


@pytest.mark.parametrize(("word", "other"), [("gradients", "gradient"), ("initializing", "initialize"), ("losses", "loss")])
def test_finds_other_forms_of_a_word(browser, served, word, other):
    assert ask(browser, served, [f"{word} qqqq", f"{other} qqqq"])[0]


def test_the_search_box_shows_what_the_worker_finds(browser, served, answers):
    question = "view size is not compatible with input tensor's size and stride"
    context = look.new_context(browser)
    page = look.Visit(context, look.address(served, "index.md"), served.url).page
    page.keyboard.press("/")
    page.keyboard.type(question)
    first = [served.url + location for location in answers[question][:FIRST]]
    page.wait_for_function(
        """first => {
            const items = [...document.querySelectorAll(".md-search-result__item")]
            return first.every((url, i) => items[i]?.querySelector("a").href.split(/[?#]/)[0] === url)
        }""",
        arg=first,
        timeout=120_000,
    )
    context.close()
