"""Search finds: for what readers ask, the right page is among the first three results."""

import json

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
