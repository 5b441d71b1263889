"""Teaching in a browser, the whole story: teach, wait, ask, see where the answer is from, contradict, revert, ask again.

A stand-in makes the lessons (web_lessons.py); reading, memory, routing, quoting, the worker and the store are the real ones.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from web_browser import DESK, Browser, Site, Visit, chromium, expect, running, sign_in

MIRA = "Mira Solberg was born in Trondheim. Mira Solberg works as a glass blower."
ASKED = "Where was Mira Solberg born?"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with running(tmp_path_factory.mktemp("home")) as site:
        yield site


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def ada(browser: Browser, site: Site) -> Visit:
    """A user who may chat and teach, on a desk."""
    made = sign_in(browser, site, "ada")
    made.page.set_viewport_size(DESK)
    return made


@pytest.fixture
def tab(ada: Visit) -> Iterator[Visit]:
    ada.errors.clear()
    yield ada
    assert not ada.errors


@pytest.fixture
def made(site: Site) -> Iterator[Any]:
    """Lets lessons come to their end."""
    yield lambda: (site.home / "go").touch()
    (site.home / "go").unlink(missing_ok=True)


def teach(tab: Visit, text: str, name: str) -> None:
    """Up to the preview."""
    page = tab.go("/teach")
    page.get_by_role("textbox", name="Text").fill(text)
    page.get_by_label("Name of the lesson").fill(name)
    page.get_by_role("button", name="Look at it").click()
    expect(page.locator("[data-preview]")).to_be_visible()


def confirm(tab: Visit, name: str) -> str:
    """Teaches what is previewed; the lesson's address."""
    tab.page.get_by_role("button", name="Teach", exact=True).click()
    expect(tab.page).to_have_url(re.compile(r"/teach/\d+$"))
    expect(tab.page.get_by_role("heading", level=1)).to_have_text(name)
    return tab.page.url.removeprefix(tab.site.url)


def learned(tab: Visit, address: str) -> None:
    """Waits on the lesson's page, until it is published."""
    if not tab.page.url.endswith(address):
        tab.go(address)
    expect(tab.page.get_by_role("region", name="State").locator(".badge")).to_have_text("learned")


def ask(tab: Visit, text: str = ASKED) -> Any:
    """The answer in a new chat."""
    tab.go("/")
    tab.ask(text)
    return tab.answer()


def test_the_whole_story(tab: Visit, made: Any) -> None:
    page = tab.page
    teach(tab, MIRA, "About Mira")
    expect(page.get_by_role("group", name="New")).to_contain_text("Mira Solberg was born in Trondheim.")
    first = confirm(tab, "About Mira")
    expect(page.get_by_role("region", name="State")).to_contain_text("You can ask about it already")

    # It is being learned: quoted at once, with what stands behind it.
    page.get_by_role("link", name="Ask about it").click()
    expect(page.locator("[data-composer]")).to_have_value(re.compile("Mira Solberg"))
    answer = ask(tab)
    expect(answer).to_contain_text("Trondheim")
    expect(answer.get_by_role("group", name="Where this answer comes from")).to_contain_text(
        "Quoted from what was taught"
    )
    answer.locator(".prose").get_by_role("button", name="Source 1").click()
    source = page.get_by_role("dialog", name="Source")
    expect(source.locator("blockquote")).to_have_text(MIRA)
    expect(source.get_by_role("link", name="To the lesson")).to_have_attribute("href", first)
    page.keyboard.press("Escape")
    expect(source).to_be_hidden()

    # The page may be closed meanwhile.
    tab.go(first)
    expect(page.get_by_role("progressbar")).to_be_visible()
    expect(page.get_by_role("list", name="Stages").locator("[aria-current=step]")).to_have_text("Learn")
    page.reload()
    expect(page.get_by_role("progressbar")).to_be_visible()
    made()
    learned(tab, first)
    exam = page.get_by_role("region", name="Receipt")
    expect(exam.get_by_role("row", name=re.compile("Recall"))).to_contain_text("at least 90.0%")
    expect(exam.get_by_role("row", name=re.compile("False attributions"))).to_contain_text("30.0%")
    answer = ask(tab)
    expect(answer).to_contain_text("Trondheim")
    expect(answer.locator(".chip.from")).to_have_text("Learned by heart: lesson-1")
    expect(answer.locator(".chip.from")).to_have_attribute("href", first)
    expect(answer.locator(".chip.why")).to_have_text(re.compile("names mira solberg", re.IGNORECASE))
    expect(answer.locator("[data-source='1']")).to_be_visible()

    # What contradicts is asked about; the newer holds, until it is reverted.
    teach(tab, "Mira Solberg was born in Oslo.", "A correction")
    which = page.get_by_role("group", name=ASKED)
    expect(which).to_contain_text("Mira Solberg was born in Trondheim.")
    expect(which.get_by_role("radio").first).to_be_checked()
    second = confirm(tab, "A correction")
    learned(tab, second)
    expect(ask(tab).locator(".prose")).to_contain_text("Oslo")
    page = tab.go(first)
    expect(page.get_by_role("group", name=ASKED)).to_contain_text("then: Oslo")
    tab.go(second)
    page.get_by_role("button", name="Revert").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("hold again")
    dialog.get_by_role("button", name="Revert").click()
    expect(page.get_by_role("region", name="State").locator(".badge")).to_have_text("reverted")
    answer = ask(tab)
    expect(answer.locator(".prose")).to_contain_text("Trondheim")
    expect(answer.locator(".chip.from")).to_have_text("Learned by heart: lesson-1")


def test_memory_tells_what_is_known_and_forgets(tab: Visit, made: Any) -> None:
    page = tab.go("/memory")
    known = page.get_by_role("region", name="What is known")
    expect(known.locator(".fact")).to_have_count(2)
    page.get_by_label("What is known about").fill("glass")
    expect(known.locator(".fact")).to_have_count(1)
    page.get_by_label("What is known about").fill("nobody")
    expect(known).to_contain_text("Nothing is known about “nobody”.")
    page.get_by_label("What is known about").fill("")
    page.get_by_label("also what no longer holds").check()
    expect(known.locator(".fact.past")).to_have_count(1)
    history = page.get_by_role("region", name="History")
    expect(history.locator(".reverted")).to_have_count(1)
    expect(history.locator(".published")).to_have_count(2)
    expect(page.get_by_role("row", name=re.compile("A correction"))).to_contain_text("reverted")

    page.get_by_role("button", name=f"Forget: {ASKED}").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("learned again without this fact")
    dialog.get_by_role("button", name="Forget").click()
    expect(known.locator(".fact.past")).to_have_count(2)
    expect(known).to_contain_text("A forgotten fact")
    expect(known).not_to_contain_text("born in Trondheim")
    expect(history).to_contain_text("Forgot 1 fact")
    answer = ask(tab)
    expect(answer.locator(".prose")).not_to_contain_text("Trondheim")
    made()
    learned(tab, "/teach/1")


def test_a_rejected_lesson_says_why_and_what_can_be_done(tab: Visit, made: Any) -> None:
    made()
    teach(tab, "Ragna Dahl lives in Moss.", "A hard one")
    address = confirm(tab, "A hard one")
    state = tab.page.get_by_role("region", name="State")
    expect(state.locator(".badge")).to_have_text("not learned")
    expect(state).to_contain_text("25.0% of the questions about its facts are answered rightly, and 90% are needed")
    expect(tab.page.get_by_role("region", name="What can be done")).to_contain_text("Nothing is lost")
    expect(tab.page.get_by_role("row", name=re.compile("Recall"))).to_contain_text("failed")
    expect(ask(tab, "Where does Ragna Dahl live?").locator(".chip.from")).to_have_text("Quoted from what was taught")
    (tab.site.home / "go").unlink()
    tab.go(address)
    tab.page.get_by_role("button", name="5 minutes").click()
    expect(state.locator(".badge")).to_have_text("being learned")
    tab.page.get_by_role("button", name="Cancel").click()
    expect(state.locator(".badge")).to_have_text("cancelled")


def test_pairs_and_files_are_taught_too(tab: Visit, tmp_path: Path) -> None:
    page = tab.go("/teach")
    page.get_by_role("tab", name="Text").focus()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("tab", name="Questions and answers")).to_be_focused()
    pairs = page.locator(".pair")
    expect(pairs).to_have_count(2)
    page.get_by_role("button", name="Another pair").click()
    expect(pairs).to_have_count(3)
    pairs.nth(2).get_by_label("Question").fill("What is the wifi password of the cabin?")
    page.get_by_role("button", name="Look at it").click()
    expect(page.locator(".toasts")).to_contain_text("A pair has a question and an answer.")
    pairs.nth(2).get_by_label("Answer").fill("It is moss-and-fern.")
    page.get_by_role("button", name="Look at it").click()
    expect(page.get_by_role("group", name="New")).to_contain_text("wifi password")

    file = tmp_path / "notes.md"
    file.write_text("# The cabin\n\nThe cabin was built in 1911. Elin Berg lives in Hamar.\n")
    page.get_by_role("tab", name="A file").click()
    page.get_by_role("button", name="Look at it").click()
    expect(page.locator(".toasts")).to_contain_text("Choose a file first.")
    page.locator("input[type=file]").set_input_files(file)
    page.get_by_label("Name of the lesson").fill("From a file")
    page.get_by_role("button", name="Look at it").click()
    new = page.get_by_role("group", name="New")
    expect(new).to_contain_text("Hamar")
    page.locator("[data-preview] summary").last.click()
    expect(page.locator("[data-preview] .passage").first).to_contain_text("notes.md")
    new.get_by_role("checkbox").first.uncheck()
    confirm(tab, "From a file")
    tab.page.get_by_role("button", name="Cancel").click()


def test_a_chat_can_leave_memory_alone(tab: Visit, made: Any) -> None:
    made()
    page = tab.go("/")
    page.get_by_role("button", name="Settings of this chat").click()
    page.get_by_label("Memory").select_option("off")
    tab.ask("What does Mira Solberg do for a living?")
    answer = tab.answer()
    expect(answer).to_contain_text("You said")
    expect(answer.locator(".chips")).to_have_count(0)
    page.get_by_label("Memory").select_option("retrieval")
    tab.ask("Where does Mira Solberg work as what?")
    exported = page.request.get(f"{page.url}/export.json").json()
    assert exported["settings"]["memory"] == "retrieval"


def test_forgetting_is_drawn_and_told_in_tables(tab: Visit, made: Any) -> None:
    made()
    teach(tab, "Jonas Berg was born in Hamar.", "About Jonas")
    learned(tab, confirm(tab, "About Jonas"))
    page = tab.go("/forgetting")
    matrix = page.get_by_role("table", name="Recall of each lesson after each lesson")
    row = matrix.get_by_role("row", name=re.compile("About Jonas")).last
    expect(row.locator(".cell").nth(1)).to_have_text("100%")
    assert set(row.locator(".cell").all_inner_texts()) == {"100%"}
    lessons = row.locator(".cell").count()
    expect(page.get_by_role("region", name="Drift").get_by_role("img")).to_have_attribute(
        "aria-label", re.compile("over lesson: as you meet it")
    )
    page.get_by_role("region", name="Recall over time").locator("summary").click()
    table = page.get_by_role("region", name="Recall over time").get_by_role("table")
    expect(table.get_by_role("row")).to_have_count(1 + lessons)


def test_a_trial_is_fed_by_thumbs(tab: Visit) -> None:
    page = tab.go("/forgetting")
    page.get_by_label("New trial").fill("by heart or not")
    page.locator(".trial-form select").nth(1).select_option("lesson-1")
    page.get_by_role("button", name="Begin").click()
    trial = page.get_by_role("article", name="by heart or not")
    expect(trial).to_contain_text("Not to be told yet: 0 and 0 conversations were judged")
    answer = ask(tab, "What does Mira Solberg do for a living?")
    expect(answer.locator(".chip.from")).to_have_text("Part of the trial “by heart or not”")
    answer.get_by_role("button", name="A good answer").click()
    expect(answer.get_by_role("button", name="A good answer")).to_have_attribute("aria-pressed", "true")
    tab.go("/forgetting")
    expect(trial).to_contain_text("1 vote, 100% liked")  # of the one that this conversation met, which is not told
    trial.get_by_role("button", name="End").click()
    expect(trial).to_contain_text("ended on")


def test_what_one_teaches_no_other_sees(tab: Visit, browser: Browser, site: Site, made: Any) -> None:
    ben = sign_in(browser, site, "ben")
    for path in ("/memory", "/forgetting", "/teach"):
        ben.go(path)
        expect(ben.page.get_by_role("main")).not_to_contain_text("Mira")
    ben.go("/teach/1")
    expect(ben.page.get_by_role("main")).to_contain_text("There is no lesson 1.")
    expect(ask(ben, "What does Mira Solberg do?").locator(".chips")).to_have_count(0)
    tab.go("/teach/1")
    tab.page.get_by_role("button", name="Share").click()
    expect(tab.page.get_by_role("button", name="Stop sharing")).to_be_visible()
    ben.go("/memory")
    expect(ben.page.get_by_role("main")).to_contain_text("shared with you")
    ben.go("/teach/1")
    expect(ben.page.get_by_role("button", name="Revert")).to_have_count(0)
    tab.page.get_by_role("button", name="Stop sharing").click()
    expect(tab.page.get_by_role("button", name="Share", exact=True)).to_be_visible()
    expect(ben.page).to_have_url(site.url + "/memory"), "the open page of somebody else's lesson ends"
    expect(ben.page.get_by_role("main")).not_to_contain_text("Mira")
    ben.page.context.close()


def test_consolidating_is_asked_for_by_hand(tab: Visit) -> None:
    page = tab.go("/memory")
    page.get_by_role("button", name="Consolidate").click()
    expect(page).to_have_url(re.compile(r"/teach/\d+$"))
    expect(page.get_by_role("region", name="State")).to_be_visible()
    page.get_by_role("button", name="Cancel").click()


OVER = """() => [...document.querySelectorAll('.main *')]
  .filter(e => e.getBoundingClientRect().right > 362 && !e.closest('.scroll-x, .chart'))
  .map(e => e.outerHTML.slice(0, 120))"""


@pytest.mark.parametrize("path", ["/teach/1", "/memory", "/forgetting"])
def test_on_a_phone_nothing_runs_over_the_side(tab: Visit, path: str) -> None:
    page = tab.go(path)
    page.set_viewport_size({"width": 360, "height": 720})
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert page.evaluate(OVER) == []
    page.set_viewport_size(DESK)


def test_the_history_holds_it_all(tab: Visit) -> None:
    lines = tab.page.request.get(
        tab.site.url + "/history", headers={"Authorization": f"Bearer {tab.site.tokens['ada']}"}
    ).json()
    kinds = [line["kind"] for line in lines["history"]]
    assert {"taught", "published", "rejected", "reverted", "forgot", "cancelled", "shared", "trial"} <= set(kinds), (
        json.dumps(kinds)
    )
