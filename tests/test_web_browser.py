"""The web app in a browser: every page, chats that stream, stop, survive a reload and branch, two users, no way out."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from web_browser import DESK, STOP, Browser, Site, Visit, chromium, expect, running, sign_in, visit, waiting
from web_toy import line

PAGES = (
    *("/", "/teach", "/memory", "/forgetting", "/runs", "/runs/toy", "/compare?run=toy&run=lab/runs/wide/seed-0"),
    *("/models", "/settings", "/login"),
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with running(tmp_path_factory.mktemp("home")) as site:
        yield site


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def desk(browser: Browser, site: Site) -> Visit:
    """The local user's browser: one page for most tests, so that scripts are read once."""
    return visit(browser.new_context(viewport=DESK), site)


@pytest.fixture
def tab(desk: Visit) -> Iterator[Visit]:
    desk.errors.clear()
    desk.requests.clear()
    desk.page.set_viewport_size(DESK)
    yield desk
    assert not desk.errors


# -- every page -------------------------------------------------------------------------------------------------------

UNNAMED = """() => [...document.querySelectorAll(
    'button, a, input:not([type=hidden]), select, textarea, summary, img, [role=img], meter, progress')]
  .filter(e => e.checkVisibility())
  .filter(e => !(e.ariaLabel || e.alt || e.textContent.trim() || e.labels?.[0]?.textContent.trim()))
  .map(e => e.outerHTML.slice(0, 120))"""
SMALL = """() => [...document.querySelectorAll('button, .nav a, select')].filter(e => e.checkVisibility())
  .filter(e => Math.min(e.getBoundingClientRect().width, e.getBoundingClientRect().height) < 24)
  .map(e => e.outerHTML.slice(0, 120))"""


@pytest.mark.parametrize("path", PAGES)
def test_every_page_is_whole_on_a_desk_and_on_a_phone(tab: Visit, path: str) -> None:
    page = tab.go(path)
    assert "nanohydra" in page.title()
    expect(page.get_by_role("main")).to_have_count(1)
    expect(page.locator("h1").first).to_be_visible()
    assert page.evaluate(UNNAMED) == [], "controls without a name"
    assert page.evaluate(SMALL) == [], "controls too small to hit"
    if path != "/login":
        expect(page.get_by_role("navigation", name="Pages")).to_be_visible()
    page.set_viewport_size({"width": 360, "height": 720})
    assert page.evaluate("document.documentElement.scrollWidth") <= 360, "the page runs over the side"
    if path != "/login":
        expect(page.get_by_role("navigation", name="Pages")).to_be_hidden()
        page.locator(".main [data-sidebar]").first.click()
        expect(page.get_by_role("navigation", name="Pages")).to_be_visible()
        page.keyboard.press("Escape")
        expect(page.get_by_role("navigation", name="Pages")).to_be_hidden()


def test_the_first_paint_comes_soon(tab: Visit) -> None:
    paints = []
    for _ in range(3):
        before = waiting()
        tab.go("/")
        paint = tab.page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
        paints.append(paint / max(1.0, min(before, waiting())))
    assert min(paints) < 1500, "milliseconds, where the processor is ours"


def test_light_and_dark_are_the_systems_until_one_is_chosen(browser: Browser, site: Site) -> None:
    context = browser.new_context(color_scheme="dark")
    page = visit(context, site).go("/settings")
    ground = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(ground)
    page.get_by_role("button", name="Light or dark").click()
    light = page.evaluate(ground)
    assert sum(map(int, re.findall(r"\d+", dark))) < 200 < 600 < sum(map(int, re.findall(r"\d+", light)))
    page.reload()
    assert page.evaluate(ground) == light
    context.close()


def test_nothing_is_asked_of_another_machine(tab: Visit) -> None:
    for path in PAGES:
        tab.go(path)
    tab.go("/")
    tab.ask("a picture please")
    link = tab.answer().get_by_role("link", name="a picture")
    expect(link).to_have_attribute("rel", "noopener noreferrer")
    tab.page.wait_for_timeout(200)
    assert len(tab.requests) > 20
    own = re.compile(re.escape(tab.site.url.removeprefix("http:")))
    assert [url for url in tab.requests if not own.search(url) and not url.startswith("data:")] == []
    # Were a page to try, the browser itself would refuse.
    refused = tab.page.evaluate("fetch('http://example.org/').then(() => 'went out', e => e.name)")
    assert refused == "TypeError"
    assert any("Content Security Policy" in error for error in tab.errors)
    tab.errors.clear()


# -- a chat -----------------------------------------------------------------------------------------------------------


def test_a_chat_streams_and_is_kept(tab: Visit) -> None:
    page = tab.go("/")
    expect(page.locator("[data-composer]")).to_be_focused()
    tab.ask("some code please")
    answer = tab.answer()
    expect(answer.locator("figure.code .k").first).to_have_text("def")
    expect(answer.locator("table td").first).to_have_text("a b")
    expect(answer.locator(".turn-actions .figures")).to_contain_text("tokens · 48/s")
    expect(page.locator(".status .figures")).to_contain_text("of 4,096")
    expect(page).to_have_url(re.compile(r"/c/\d+$"))
    expect(page).to_have_title("some code please · nanohydra")
    expect(page.locator(".conversations a[aria-current]")).to_have_text("some code please")
    tab.ask("and a sum")
    expect(tab.answer().locator(".tool")).to_have_text("12+30 = 42")
    page.reload()
    expect(page.locator(".turn")).to_have_count(4)
    expect(page.locator(".turn.assistant").last.locator(".tool")).to_have_text("12+30 = 42")


def words(tab: Visit) -> int:
    return len(tab.page.locator(".turn.assistant .prose").last.inner_text().split())


def wait_words(tab: Visit, count: int) -> None:
    tab.page.wait_for_function(
        "n => (document.querySelector('.turn.assistant .prose')?.innerText.split(/\\s+/).length ?? 0) > n", arg=count
    )


def test_escape_stops_an_answer_in_the_middle(tab: Visit) -> None:
    tab.go("/")
    tab.ask("a slow one")
    wait_words(tab, 5)
    tab.page.keyboard.press("Escape")
    answer = tab.answer()
    expect(answer.locator(".note")).to_have_text("Stopped.")
    count = words(tab)
    assert 5 <= count < 2000
    tab.page.wait_for_timeout(300)
    assert words(tab) == count
    tab.page.reload()
    tab.answer()
    assert words(tab) == count


def test_a_reload_in_mid_answer_loses_nothing(tab: Visit, browser: Browser) -> None:
    page = tab.go("/")
    tab.ask("a slow one")
    wait_words(tab, 8)
    expect(page).to_have_url(re.compile(r"/c/\d+$"))
    before = words(tab)
    page.reload()
    expect(page.locator(STOP)).to_be_visible()
    wait_words(tab, before + 5)
    text = page.locator(".turn.assistant .prose").inner_text().split()
    assert text == [f"word{i}" for i in range(len(text))], "no word twice, none left out"
    second = visit(page.context, tab.site)
    second.page.goto(page.url)
    wait_words(second, before + 5)
    second.page.locator(STOP).click()
    expect(page.locator(".note")).to_have_text("Stopped.")
    assert not second.errors


def test_answers_and_questions_branch(tab: Visit) -> None:
    page = tab.go("/")
    tab.ask("hello one")
    expect(tab.answer()).to_contain_text("You said: hello one")
    page.get_by_role("button", name="Answer again").click()
    versions = page.get_by_role("group", name="Versions of this message")
    expect(versions).to_have_text("2 / 2")
    page.get_by_role("button", name="Earlier version").click()
    expect(versions).to_have_text("1 / 2")
    page.locator(".turn.user").hover()
    page.get_by_role("button", name="Edit and ask again").click()
    editor = page.get_by_role("textbox", name="Your message")
    expect(editor).to_be_focused()
    expect(editor).to_have_value("hello one")
    editor.fill("hello two")
    editor.press("Enter")
    expect(page.locator(".turn.assistant").last).to_contain_text("You said: hello two")
    expect(page.locator(".turn.user .branches")).to_have_text("2 / 2")
    expect(page.locator(".turn")).to_have_count(2)
    page.reload()
    expect(page.locator(".turn.user")).to_contain_text("hello two")
    page.get_by_role("button", name="Earlier version").click()
    expect(page.locator(".turn.user")).to_contain_text("hello one")
    expect(page.locator(".turn.assistant .branches")).to_have_text("2 / 2"), "where one was, or the newest"


def test_a_failed_answer_says_so_and_can_be_tried_again(tab: Visit) -> None:
    page = tab.go("/")
    tab.ask("broken")
    expect(tab.answer().locator(".note")).to_have_text("The engine broke down while it answered. Ask again.")
    page.get_by_role("button", name="Answer again").click()
    expect(page.get_by_role("group", name="Versions of this message")).to_have_text("2 / 2")


def test_settings_and_adapter_belong_to_the_chat(tab: Visit) -> None:
    page = tab.go("/")
    tab.ask("hello")
    tab.answer()
    page.get_by_role("button", name="Settings of this chat").click()
    page.locator("input[name=temperature]").fill("1.25")
    expect(page.locator("output").first).to_have_text("1.25")
    page.locator("textarea[name=system]").fill("You are terse.")
    page.locator("input[name=max_tokens]").fill("77")
    page.locator("input[name=max_tokens]").blur()
    page.get_by_role("combobox", name="Model and adapter").select_option("poet")
    tab.ask("again")
    expect(tab.answer()).to_contain_text("poet: You said: again")
    exported = page.request.get(f"{page.url}/export.json").json()
    assert exported["system"] == "You are terse."
    assert exported["settings"] == {"adapter": "poet", "temperature": 1.25, "max_tokens": 77}
    assert exported["messages"][-1]["provenance"]["sampling"]["temperature"] == 1.25
    text = page.request.get(f"{page.url}/export.md").text()
    assert "## You\n\nagain" in text
    assert "## tiny + poet\n\npoet: You said: again" in text


def test_chats_are_searched_renamed_and_deleted(tab: Visit) -> None:
    page = tab.go("/")
    tab.ask("hello zebra")
    tab.answer()
    page.get_by_role("link", name="New chat").click()
    expect(page).to_have_url(tab.site.url + "/")
    tab.ask("hello yak")
    tab.answer()
    page.go_back()
    expect(page.locator(".turn.user")).to_contain_text("zebra")
    page.keyboard.press("Control+k")
    search = page.get_by_role("searchbox", name="Search chats")
    expect(search).to_be_focused()
    search.fill("ZEBRA")
    expect(page.locator(".conversations a")).to_have_count(1)
    page.locator("summary").click()
    page.get_by_role("button", name="Rename").first.click()
    page.get_by_role("textbox", name="Title").fill("striped")
    page.keyboard.press("Enter")
    expect(page.locator(".conversations a")).to_have_text("striped")
    page.locator("summary").click()
    page.locator(".menu").get_by_role("button", name="Delete").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(page).to_have_url(tab.site.url + "/")
    expect(page.locator(".conversations")).to_contain_text("Nothing found.")


# -- keys -------------------------------------------------------------------------------------------------------------


def test_all_can_be_done_by_keys(tab: Visit) -> None:
    page = tab.go("/runs")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id || location.hash")
    page = tab.go("/")
    composer = page.locator("[data-composer]")
    expect(composer).to_be_focused()
    page.keyboard.type("first")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("second")
    expect(composer).to_have_value("first\nsecond")
    page.keyboard.press("Enter")
    expect(composer).to_have_value("")
    expect(page.locator(".turn.user")).to_contain_text("first\nsecond")
    tab.answer()
    page.keyboard.type("a draft")
    page.reload()
    expect(composer).to_have_value("a draft")
    page.locator("summary").focus()
    page.keyboard.press("Enter")
    expect(page.locator(".menu-items")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator(".menu-items")).to_be_hidden()
    expect(page.locator("summary")).to_be_focused()
    page.keyboard.press("Control+Shift+O")
    expect(page).to_have_url(tab.site.url + "/")
    expect(composer).to_be_focused()


# -- users ------------------------------------------------------------------------------------------------------------


def test_two_users_at_once_see_only_their_own(browser: Browser, site: Site) -> None:
    ada, ben = sign_in(browser, site, "ada"), sign_in(browser, site, "ben")
    expect(ada.page.locator(".who")).to_have_text("ada")
    expect(ada.page.get_by_role("region", name="Users")).to_have_count(0)
    for user, text in ((ada, "a slow one of Ada"), (ben, "a slow one of Ben")):
        user.go("/")
        user.ask(text)
    for user in (ada, ben):
        wait_words(user, 10)
        expect(user.page.locator(".conversations a")).to_have_count(1)
    expect(ben.page.locator(".conversations a")).to_have_text("a slow one of Ben")
    address = ada.page.url
    assert ben.page.request.get(address + "/export.json").status == 404
    ben.page.goto(address)
    expect(ben.page.locator(".toasts")).to_contain_text("not there")
    expect(ben.page.locator(".turn")).to_have_count(0)
    assert words(ada) > 10
    ada.page.locator(STOP).click()
    ada.page.get_by_role("button", name="Sign out").click()
    expect(ada.page).to_have_url(re.compile("/login"))
    for user in (ada, ben):
        assert not [e for e in user.errors if "404" not in e]
        user.page.context.close()


def test_a_wrong_token_opens_nothing(tab: Visit) -> None:
    page = tab.go("/login?to=//example.org/x")
    page.get_by_label("Token").fill("nh_wrong")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("alert")).to_contain_text("unknown")
    proxied = {"x-forwarded-for": "10.0.0.1"}  # so it is not the local user who asks
    for path in ("/", "/runs", "/runs/toy", "/compare", "/models", "/settings", "/c/1/export.json"):
        answer = page.request.get(tab.site.url + path, headers=proxied, max_redirects=0)
        assert (answer.status, answer.headers["location"][:7]) == (303, "/login?"), path


def test_a_token_is_shown_once_works_and_is_revoked(tab: Visit) -> None:
    page = tab.go("/settings")
    page.get_by_role("button", name="New token").click()
    page.get_by_label("What for").fill("laptop")
    page.get_by_role("dialog").get_by_role("button", name="Create").click()
    plain = page.locator("[data-token]").inner_text()
    assert plain.startswith("nh_")
    models = {"url": tab.site.url + "/v1/models", "headers": {"Authorization": f"Bearer {plain}"}}
    assert page.request.get(**models).status == 200
    page.get_by_role("dialog").get_by_role("button", name="Close").click()
    page.reload()
    expect(page.get_by_role("region", name="Tokens")).to_contain_text("laptop")
    assert plain not in page.content()
    page.get_by_role("button", name="Revoke laptop").click()
    expect(page.get_by_role("region", name="Tokens")).not_to_contain_text("laptop")
    assert page.request.get(**models).status == 401


def test_an_admin_makes_and_removes_users(tab: Visit) -> None:
    page = tab.go("/settings")
    page.get_by_role("button", name="New user").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Name").fill("cleo")
    dialog.get_by_label("Tokens a day").fill("5000")
    dialog.get_by_role("button", name="Create").click()
    users = page.get_by_role("region", name="Users")
    expect(users).to_contain_text("5,000")
    expect(page.get_by_role("heading", name="Tokens of cleo")).to_be_visible()
    page.get_by_role("button", name="Remove cleo").click()
    page.get_by_role("dialog").get_by_role("button", name="Remove").click()
    expect(users).not_to_contain_text("cleo")


# -- runs and models --------------------------------------------------------------------------------------------------


def test_runs_are_listed_compared_and_watched(tab: Visit) -> None:
    page = tab.go("/runs")
    expect(page.locator("tbody tr")).to_have_count(3)
    page.get_by_label("Compare toy").check()
    page.get_by_label("Compare lab/runs/wide/seed-0").check()
    page.get_by_role("link", name="Compare").click()
    expect(page.locator(".chart path")).to_have_count(4)
    expect(page.get_by_role("row", name=re.compile("train.lr"))).to_contain_text("0.2")
    page.get_by_role("combobox", name="Horizontal axis").select_option("seconds")
    expect(page.locator(".chart svg")).to_have_attribute("aria-label", re.compile("over seconds"))

    page = tab.go("/runs/live")
    expect(page.get_by_role("main")).to_contain_text("step 10 ")
    with (tab.site.home / "runs" / "live" / "metrics.jsonl").open("a") as file:
        file.writelines(line(step) for step in range(11, 21))
    expect(page.get_by_role("main")).to_contain_text("step 20 ")
    page.locator(".chart").first.hover()
    expect(page.locator(".readout")).to_contain_text("training, smoothed")


def test_a_run_shows_report_card_samples_and_diagnostics(tab: Visit) -> None:
    page = tab.go("/runs/toy")
    expect(page.get_by_role("row", name=re.compile("val loss"))).to_contain_text("0.4 to 0.6")
    expect(page.locator(".sample")).to_contain_text("A toy.")
    expect(page.locator(".finding")).to_have_text("Step 5: layer 0 mlp: 71% never fire")
    histogram = page.get_by_role("img", name="Histogram of layer 0 mlp (relu) over steps 1 to 5")
    assert histogram.evaluate("e => e.naturalWidth + ' ' + e.naturalHeight") == "3 40"
    page = tab.go("/runs/none")
    expect(page.get_by_role("main")).to_contain_text('There is no run "none".')


def test_models_say_where_they_are_from(tab: Visit) -> None:
    page = tab.go("/models")
    base = page.get_by_role("article", name="tiny")
    expect(base).to_contain_text("org/tiny")
    expect(base).to_contain_text("answers now")
    expect(page.get_by_role("article", name="poet")).to_contain_text("everybody's")
    page.get_by_label("Hub id, or smollm2").fill("/etc")
    page.get_by_role("button", name="Pull").click()
    expect(page.locator(".toasts")).to_contain_text("Give a hub id")
    page.get_by_role("button", name="Use by default").click()
    expect(page.get_by_role("article", name="poet")).to_contain_text("your default")
    page.get_by_role("button", name="Use the base by default").click()
    expect(page.get_by_role("article", name="poet")).not_to_contain_text("your default")


def test_no_page_has_loaded_torch(site: Site) -> None:
    libraries = Path(f"/proc/{site.pid}/maps").read_text()
    assert "libpython" in libraries or "python" in libraries
    assert "libtorch" not in libraries
