"""Parts of the pages about lessons that need no browser: citations, the R matrix, uploads, words."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("nicegui", reason="the web app needs nicegui: pip install 'nanohydra[serve]'")

import web_lessons
from starlette.testclient import TestClient
from web_server import ToldEngine

from nanohydra.hydra import history
from nanohydra.serve.app import create_app
from nanohydra.serve.config import ServeConfig
from nanohydra.serve.web.charts import Series, data_table, line_chart
from nanohydra.serve.web.chat_turn import parts_html
from nanohydra.serve.web.forgetting_data import forgetting_of
from nanohydra.serve.web.lesson_words import counted, duration, fact_state
from nanohydra.serve.web.receipt_view import advice
from nanohydra.serve.web.sources import linked
from nanohydra.serve.web.uploads import KEPT_SECONDS, Upload, Uploads
from nanohydra.serve.web.visitors import COOKIE
from nanohydra.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Any:
    store = Store.open(f"sqlite:///{tmp_path / 'web.db'}")
    yield store
    store.close()


# -- citations --------------------------------------------------------------------------------------------------------

SOURCES = [{"n": 1}, {"n": 2}]


def test_numbers_of_sources_become_links_and_other_brackets_stay() -> None:
    html = parts_html([{"type": "text", "text": "Bodø [1], see [2] and [3]. `a[1]`\n\n```\nb[2]\n```"}], SOURCES)
    assert re.findall(r'data-cite="(\d+)"', html) == ["1", "2"]
    assert "and [3]." in html
    assert "<code>a[1]</code>" in html
    assert "b[2]" in html
    assert parts_html([{"type": "text", "text": "x [1]"}]) == "<p>x [1]</p>\n"


@given(
    st.lists(st.sampled_from(["[1]", "[2]", "[x]", "<b title='[1]'>", "<code>", "</code>", "<", "]", "a"])).map("".join)
)
def test_citations_change_nothing_but_numbers(html: str) -> None:
    made = linked(html, SOURCES)
    assert re.sub(r'<a class="cite"[^>]*>(\[\d\])</a>', r"\1", made) == html


# -- the R matrix -----------------------------------------------------------------------------------------------------


def test_the_matrix_holds_what_the_receipts_say(store: Store) -> None:
    user = store.local_user().user_id
    first, second, rejected = web_lessons.taught(store, user)
    found = forgetting_of(store.lessons(user))
    assert [lesson.id for lesson in found.columns] == [first.id, second.id]
    assert [stage.recall for stage in found.stages] == [(1.0, None), (1.0, 1.0)]
    assert (found.last, found.forgotten) == (1.0, 0.0)
    third = (web_lessons.FACTS[1],)
    worse = web_lessons.receipt(third, {str(first.id): ("About Mira", 6), str(second.id): ("A correction", 8)})
    worse |= {"state": "published", "reason": ""}
    web_lessons.end(store, web_lessons.add(store, user, "Tea", third), worse)
    found = forgetting_of(store.lessons(user))
    assert found.stages[-1].recall == (0.75, 1.0, 1.0)
    assert found.forgotten == pytest.approx(0.125), "the mean of what two lessons lost"
    assert found.measured("drift", [("forced", "f")])[0].points == [(n, pytest.approx(2.1)) for n in (1, 2, 3)]
    store.revert(second.id, user)
    assert [stage.recall for stage in forgetting_of(store.lessons(user)).stages] == [(1.0, None), (0.75, 1.0)]
    assert forgetting_of(store.lessons(user), "another base").columns == ()
    assert rejected.state == "rejected"


def test_a_consolidation_is_a_row_and_no_column(store: Store) -> None:
    user = store.local_user().user_id
    first, second, _ = web_lessons.taught(store, user)
    whole = history.consolidate(store, user, web_lessons.BASE, "tiny")
    earlier = {str(first.id): ("About Mira", 8), str(second.id): ("A correction", 7)}
    made = {
        **web_lessons.receipt(web_lessons.FACTS, earlier),
        "kind": "consolidation",
        "state": "published",
        "reason": "",
    }
    web_lessons.end(store, whole, made)
    found = forgetting_of(store.lessons(user))
    assert len(found.columns) == 2
    assert found.stages[-1].recall == (1.0, 0.875)


def test_a_chart_has_its_values_in_a_table() -> None:
    series = [Series("<a>", [(1, 50.0), (2, 75.5)]), Series("b", [(2, 1.0)])]
    cells = re.findall(r"<t[dh](?: [^>]*)?>([^<]*)<", data_table(series, "lesson", "%"))
    assert cells == ["lesson", "&lt;a&gt;", "b", "1", "50%", "–", "2", "75.5%", "1%"]
    marks = re.findall(
        r'text-anchor="middle">([\d.]+)<', line_chart(series, "lesson", "%", whole_x=True, show_y=(0, 100))
    )
    assert marks == ["1", "2"], "no half lessons"


# -- words ------------------------------------------------------------------------------------------------------------


def test_durations_and_counts_are_said_plainly() -> None:
    assert [duration(s) for s in (0.2, 1.4, 89, 95, 600, 7200)] == [
        "1 second", "1 second", "89 seconds", "2 minutes", "10 minutes", "2.0 hours",
    ]  # fmt: skip
    assert (counted(1, "fact"), counted(1200, "fact")) == ("1 fact", "1,200 facts")


def test_a_fact_tells_its_dates() -> None:
    day = datetime(2026, 3, 4, 12, tzinfo=UTC).isoformat()
    later = datetime(2026, 3, 9, 12, tzinfo=UTC).isoformat()
    current = {"valid_from": day, "valid_until": None, "forgotten": False}
    assert fact_state(current) == ("badge good", "since 4 March 2026")
    ended = {**current, "valid_until": later}
    assert fact_state(ended, "Oslo")[1] == "held from 4 March 2026 to 9 March 2026, then: Oslo"
    assert fact_state({**ended, "forgotten": True}, "Oslo")[1] == "forgotten on 9 March 2026"


def test_each_failed_check_has_its_advice() -> None:
    made = web_lessons.receipt(web_lessons.FACTS, {"1": ("x", 0)}, right=1)
    failed = {check["name"].split(" ")[0] for check in made["checks"] if not check["passed"]}
    assert failed == {"recall", "earlier"}
    assert len(advice(made)) == 2
    assert advice(web_lessons.receipt(web_lessons.FACTS, {})) == []


# -- rights -----------------------------------------------------------------------------------------------------------


def test_pages_show_lessons_to_their_owner_with_the_right_to_teach(tmp_path: Path) -> None:
    config = ServeConfig(base="tiny", host="0.0.0.0", database=f"sqlite:///{tmp_path / 'x.db'}", teach_worker=False)
    app = create_app(config, ToldEngine(tmp_path))
    store = app.state.services.store
    users = {name: store.create_user(name, ["chat", "teach"]).id for name in ("ada", "ben")}
    lesson = web_lessons.taught(store, users["ada"])[0]
    tokens = {
        "ada": store.create_token(users["ada"], "all", ["chat", "teach"]),
        "chat": store.create_token(users["ada"], "chat", ["chat"]),
        "ben": store.create_token(users["ben"], "all", ["chat", "teach"]),
    }
    with TestClient(app, client=("10.0.0.9", 5000), follow_redirects=False) as client:
        shown = {
            "/memory": "A correction",
            f"/teach/{lesson.id}": "Trondheim",
            "/forgetting": "A correction",
            "/teach": "A correction",
        }
        for path, words in shown.items():
            assert client.get(path).status_code == 303, "nobody without a token"
            pages = {name: client.get(path, headers={"cookie": f"{COOKIE}={token}"}) for name, token in tokens.items()}
            assert {page.status_code for page in pages.values()} == {200}
            assert [name for name, page in pages.items() if words in page.text] == ["ada"]
            assert "no right to teach" in pages["chat"].text
        sent = {
            name: client.post("/teach/file?name=..%2Fa.txt", content=b"x", headers={"cookie": f"{COOKIE}={token}"})
            for name, token in tokens.items()
        }
        assert (sent["ada"].status_code, sent["chat"].status_code) == (200, 403)
        assert client.post("/teach/file", content=b"x").status_code == 403


# -- uploads ----------------------------------------------------------------------------------------------------------


def test_a_file_is_its_users_alone_and_only_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    uploads = Uploads()
    mine = uploads.keep(1, "notes.txt", b"secret")
    assert uploads.of(1, mine.id) == mine
    assert uploads.of(2, mine.id) is None
    newer = uploads.keep(1, "more.txt", b"more")
    assert uploads.of(1, mine.id) is None, "one file a user"
    old = Upload(newer.id, newer.name, newer.content, came=newer.came - KEPT_SECONDS - 1)
    monkeypatch.setitem(uploads._kept, 1, old)
    uploads.keep(2, "x", b"y")
    assert uploads.of(1, newer.id) is None
    uploads.drop(2)
    assert uploads._kept == {}
