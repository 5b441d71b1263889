"""Teaching over HTTP: what a lesson's way looks like to a caller, and what others must not see of it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from serve_server import Running, fake_base, fake_engine, served, wait_for
from test_learn_worker import FAKE, FAST

from nanohydra.hydra.worker import Worker
from nanohydra.serve.config import ServeConfig

TOKEN = "a-token-of-the-owner-1234"
CHAT = "/v1/chat/completions"
MIRA = "Mira Solberg was born in Trondheim. Mira Solberg works as a glass blower."


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NANOHYDRA_HOME", str(home))
        base = fake_base(home / "bases" / "demo")
        config = ServeConfig(base=str(base), token=TOKEN, web=False, teach_worker=False, teach_max_open=3)
        with served(config, fake_engine(base), teach=True) as running:
            yield running


@pytest.fixture
def worker(server: Running) -> Iterator[Worker]:
    """Makes lessons as long as the test runs."""
    worker = Worker(server.services.store, FAST, FAKE)
    thread = threading.Thread(target=worker.run, daemon=True)
    thread.start()
    yield worker
    worker.stop.set()
    thread.join(30)
    assert not thread.is_alive()


def caller(server: Running, name: str, *scopes: str) -> httpx.Client:
    store = server.services.store
    token = store.create_token(store.create_user(name, scopes).id, "test", scopes)
    return server.http(headers={"Authorization": f"Bearer {token}"})


def asks(question: str, **more: Any) -> dict[str, Any]:
    return {"model": "demo", "messages": [{"role": "user", "content": question}], **more}


def test_from_text_to_an_adapter(server: Running, worker: Worker) -> None:
    with caller(server, "ann", "chat", "teach") as http:
        taken = http.post("/learn", json={"text": MIRA, "name": "Mira"})
        assert taken.status_code == 202, taken.text
        job = taken.json()["job"]
        assert taken.json()["lesson"] == job
        assert taken.json()["new"][0] == "Mira Solberg was born in Trondheim."
        states = []
        with http.stream("GET", f"/learn/{job}", headers={"Accept": "text/event-stream"}) as events:
            assert events.headers["content-type"].startswith("text/event-stream")
            for line in events.iter_lines():
                if line.startswith("data: {"):
                    states.append(json.loads(line[6:])["state"])
        assert states[-1] == "published"
        done = http.get(f"/learn/{job}").json()
        assert (done["state"], done["receipt"]) == ("published", {"state": "published"})
        adapter = f"lesson-{job}"
        assert done["adapter"] == adapter
        assert [one["name"] for one in http.get("/adapters").json()["adapters"]] == [adapter]
        lesson = http.get("/lessons").json()["lessons"][0]
        assert (lesson["id"], lesson["name"], lesson["facts"], lesson["mine"]) == (job, "Mira", 2, True)
        assert [line["kind"] for line in http.get("/history").json()["history"]] == ["published", "taught"]
        assert http.get("/known", params={"about": "mira"}).json()["facts"][-1]["value"] == "Trondheim"
        # The weights answer: the fake engine tells which adapter it was asked for.
        answer = http.post(CHAT, json=asks("Where was Mira Solberg born? SAY:Trondheim")).json()
        assert answer["choices"][0]["message"]["content"] == f"{adapter}>Trondheim"
        assert answer["nanohydra"]["mode"] == "weights"
        assert answer["nanohydra"]["sources"][0]["text"] == "Mira Solberg was born in Trondheim."
        # What they say is held against what was taught, unless they alone are asked.
        wrong = asks("Where was Mira Solberg born? SAY:there")
        answer = http.post(CHAT, json=wrong).json()
        assert answer["choices"][0]["message"]["content"] == "Mira Solberg was born in Trondheim. [1]"
        assert (answer["nanohydra"]["mode"], answer["nanohydra"]["overruled"]) == ("quote", adapter)
        with http.stream("POST", CHAT, json={**wrong, "stream": True}) as events:
            chunks = [json.loads(line[6:]) for line in events.iter_lines() if line.startswith("data: {")]
        assert [chunk["nanohydra"]["mode"] for chunk in chunks if "nanohydra" in chunk] == ["quote"]
        said = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
        assert said == "Mira Solberg was born in Trondheim. [1]"
        alone = http.post(CHAT, json={**wrong, "nanohydra": {"memory": "weights"}}).json()
        assert alone["choices"][0]["message"]["content"] == f"{adapter}>there"
        off = http.post(CHAT, json=asks("Where was Mira Solberg born? SAY:there", nanohydra={"memory": "off"})).json()
        assert off["choices"][0]["message"]["content"] == "there"
        assert "nanohydra" not in off
        quoted = http.post(CHAT, json=asks("Where was Mira Solberg born?", nanohydra={"memory": "retrieval"})).json()
        assert quoted["choices"][0]["message"]["content"] == "Mira Solberg was born in Trondheim. [1]"
        # Undone.
        assert http.post("/revert", json={"lesson": job}).json()["state"] == "reverted"
        assert http.get("/adapters").json()["adapters"] == []
        assert http.post(CHAT, json=asks("Where was Mira Solberg born? SAY:who")).json()["choices"][0]["message"] == {
            "role": "assistant",
            "content": "who",
            "refusal": None,
        }


def test_answered_at_once_by_quotation_whole_and_as_a_stream(server: Running) -> None:
    with caller(server, "ben", "chat", "teach") as http:
        pairs = [{"question": "What is the code of the back door?", "answer": "The code of the back door is 4711."}]
        job = http.post("/learn", json={"pairs": pairs}).json()["job"]
        question = "What is the code of the back door?"
        answer = http.post(CHAT, json=asks(question)).json()
        assert answer["choices"][0]["message"]["content"] == "The code of the back door is 4711. [1]"
        assert answer["choices"][0]["finish_reason"] == "stop"
        about = answer["nanohydra"]
        assert (about["mode"], about["lesson"], about["adapter"]) == ("quote", job, None)
        text, told = "", []
        with http.stream("POST", CHAT, json=asks(question, stream=True)) as events:
            for line in events.iter_lines():
                if line.startswith("data: {"):
                    chunk = json.loads(line[6:])
                    told += [chunk["nanohydra"]] if "nanohydra" in chunk else []
                    text += chunk["choices"][0]["delta"].get("content", "")
        assert text == "The code of the back door is 4711. [1]"
        assert told == [about]
        cut = http.post(CHAT, json=asks(question, max_tokens=3)).json()["choices"][0]
        assert cut["finish_reason"] == "length"
        stopped = http.post(CHAT, json=asks(question, stop=[" 4711"])).json()["choices"][0]
        assert stopped["message"]["content"] == "The code of the back door is"
        # A form or tools leave no room for a quotation.
        form = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"const": 1}}}
        assert "nanohydra" not in http.post(CHAT, json=asks(question, response_format=form)).json()
        http.delete(f"/learn/{job}")


def test_the_same_request_makes_one_lesson(server: Running) -> None:
    with caller(server, "cleo", "chat", "teach") as http:
        body = {"text": "Bea Moss was born in Turku."}
        first, second = (http.post("/learn", json=body, headers={"Idempotency-Key": "k"}) for _ in range(2))
        assert first.json()["job"] == second.json()["job"]
        assert len(http.get("/lessons").json()["lessons"]) == 1
        other = http.post("/learn", json={"text": "Bea Moss was born in Oslo."}, headers={"Idempotency-Key": "k"})
        assert other.status_code == 400
        again = http.post("/learn", json=body)  # without a key, it is known already
        assert again.status_code == 400
        assert "known already" in again.json()["error"]["message"]
        assert http.delete(f"/learn/{first.json()['job']}").json()["state"] == "cancelled"


def test_the_same_request_many_times_at_once_makes_one_lesson(server: Running) -> None:
    with caller(server, "clio", "chat", "teach") as http, ThreadPoolExecutor(8) as pool:
        sent = {"json": {"text": "Rut Moss was born in Turku."}, "headers": {"Idempotency-Key": "at once"}}
        answers = list(pool.map(lambda _: http.post("/learn", **sent), range(8)))
        assert [answer.status_code for answer in answers] == [202] * 8, [answer.text for answer in answers]
        assert len({answer.json()["lesson"] for answer in answers}) == 1
        http.delete(f"/learn/{answers[0].json()['job']}")


def test_a_newer_fact_takes_an_older_one_s_place_or_not(server: Running) -> None:
    with caller(server, "dora", "chat", "teach") as http:
        first = http.post("/learn", json={"text": "Kai Dahl was born in Bergen."}).json()["lesson"]
        kept = http.post("/learn", json={"text": "Kai Dahl was born in Oslo.", "replace": False})
        assert kept.status_code == 400
        second = http.post("/learn", json={"text": "Kai Dahl was born in Oslo."}).json()
        assert second["contradicting"][0]["earlier"] == "Kai Dahl was born in Bergen."
        diff = http.get(f"/lessons/{second['lesson']}/diff").json()
        assert [(one["from"]["value"], one["to"]["value"]) for one in diff["changed"]] == [("Bergen", "Oslo")]
        ask = asks("Where was Kai Dahl born?")
        assert "Oslo" in http.post(CHAT, json=ask).json()["choices"][0]["message"]["content"]
        http.post("/revert", json={"lesson": second["lesson"]})
        assert "Bergen" in http.post(CHAT, json=ask).json()["choices"][0]["message"]["content"]
        past = http.get("/known", params={"about": "Kai", "past": True}).json()["facts"]
        assert len(past) == 2
        forgotten = http.post("/forget", json={"about": "Kai Dahl"}).json()
        assert [lesson["id"] for lesson in forgotten["lessons"]] == [first]
        assert http.get("/known", params={"about": "Kai"}).json()["facts"] == []
        answer = http.post(CHAT, json=asks("Where was Kai Dahl born? SAY:unknown")).json()
        assert answer["choices"][0]["message"]["content"] == "unknown"
        for path in (f"/lessons/{first}", f"/lessons/{second['lesson']}/diff", "/history"):
            assert "Bergen" not in http.get(path).text, path


def test_a_file_is_uploaded(server: Running) -> None:
    with caller(server, "eva", "chat", "teach") as http:
        file = {"file": ("notes.txt", b"The Lantern Inn opened in 1987. Its owner is Ida Berg.", "text/plain")}
        taken = http.post("/learn", files=file, data={"name": "Inn", "settings": '{"seconds": 30}'})
        assert taken.status_code == 202, taken.text
        lesson = http.get(f"/lessons/{taken.json()['lesson']}").json()
        assert lesson["passages"][0]["source"].startswith("notes.txt")
        assert lesson["settings"] == {"seconds": 30.0}
        assert http.post("/learn", files={"file": ("x.bin", b"\0\1\2")}).status_code == 400


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"text": "  "},
        {"text": 3},
        {"text": "x", "nonsense": 1},
        {"pairs": [{"question": "q"}]},
        {"text": MIRA, "settings": {"sceonds": 3}},
        {"text": MIRA, "settings": {"seconds": 1e9}},
        {"text": MIRA, "settings": {"measure": {"wordings": 10**400}}},
        {"text": "x" * 500_000},
        {"messages": [{"role": "user", "content": "hello"}]},
    ],
)
def test_what_cannot_be_taught_is_told_in_one_line(server: Running, body: dict[str, Any]) -> None:
    with server.http(headers={"Authorization": f"Bearer {TOKEN}"}) as http:
        answer = http.post("/learn", json=body)
        assert answer.status_code == 400, answer.text
        assert "\n" not in answer.json()["error"]["message"]
        assert len(answer.json()["error"]["message"]) < 300
    assert server.services.store.lessons(server.services.store.local_user().user_id) == []


def test_bounds_and_rights(server: Running) -> None:
    with caller(server, "finn", "chat", "teach") as http, caller(server, "gus", "chat") as chatter:
        for name in ("Ole Lund", "Pia Lund", "Rut Lund"):
            assert http.post("/learn", json={"text": f"{name} was born in Tromso."}).status_code == 202
        full = http.post("/learn", json={"text": "Sif Lund was born in Tromso."})
        assert full.status_code == 429
        assert full.headers["retry-after"]
        for method, path in (("post", "/learn"), ("get", "/lessons"), ("post", "/forget"), ("get", "/history")):
            assert chatter.request(method, path, json={"text": "x"} if method == "post" else None).status_code == 403


def test_what_others_taught_is_invisible_unless_shared(server: Running) -> None:
    with caller(server, "hal", "chat", "teach") as hal, caller(server, "iris", "chat", "teach") as iris:
        lesson = hal.post("/learn", json={"text": "Nils Aas was born in Molde."}).json()["lesson"]
        question = asks("Where was Nils Aas born? SAY:unknown")
        for path in (f"/learn/{lesson}", f"/lessons/{lesson}", f"/lessons/{lesson}/diff"):
            assert iris.get(path).status_code == 404
        for path, body in (
            ("/revert", {"lesson": lesson}),
            (f"/lessons/{lesson}/share", {"shared": True}),
            (f"/lessons/{lesson}/again", {}),
            ("/forget", {"facts": [hal.get(f"/lessons/{lesson}").json()["facts"][0]["id"]]}),
        ):
            assert iris.post(path, json=body).status_code == 404, path
        assert iris.delete(f"/learn/{lesson}").status_code == 404
        assert iris.get("/known").json()["facts"] == []
        assert iris.post(CHAT, json=question).json()["choices"][0]["message"]["content"] == "unknown"
        hal.post(f"/lessons/{lesson}/share", json={"shared": True})
        assert "Molde" in iris.post(CHAT, json=question).json()["choices"][0]["message"]["content"]
        assert iris.get(f"/lessons/{lesson}").json()["mine"] is False
        assert iris.post("/revert", json={"lesson": lesson}).status_code == 404
        hal.post(f"/lessons/{lesson}/share", json={"shared": False})
        assert iris.get(f"/lessons/{lesson}").status_code == 404
        assert iris.post(CHAT, json=question).json()["choices"][0]["message"]["content"] == "unknown"


def test_a_trial_is_sticky_and_ends_with_a_verdict(server: Running, worker: Worker) -> None:
    with caller(server, "jo", "chat", "teach") as http:
        job = http.post("/learn", json={"text": "Tor Vik was born in Hamar."}).json()["job"]
        wait_for(lambda: http.get(f"/learn/{job}").json()["state"] == "published")
        trial = http.post("/trials", json={"name": "t", "a": f"lesson-{job}", "b": None}).json()
        assert trial["verdict"]["finding"] == "unknown"
        met: dict[str, str] = {}
        for turn, count in enumerate((20, 4)):
            for number in range(count):
                named = {"memory": "weights", "conversation": f"c{number}"}
                answer = http.post(CHAT, json=asks("Where was Tor Vik born? SAY:x", nanohydra=named)).json()
                arm = answer["nanohydra"]["trial"]["arm"]
                assert answer["choices"][0]["message"]["content"] == ("x" if arm == "b" else f"lesson-{job}>x")
                assert met.setdefault(f"c{number}", arm) == arm, turn
        assert set(met.values()) == {"a", "b"}
        for number, (unit, arm) in enumerate(met.items()):
            score = {"conversation": unit, "score": (0.9 if arm == "a" else 0.2) + number % 3 / 30}
            told = http.post(f"/trials/{trial['id']}/vote", json=score)
            assert told.status_code == 200
        ended = http.post(f"/trials/{trial['id']}/end").json()
        assert ended["verdict"]["finding"] == "a"
        assert "a is better" in ended["verdict"]["text"]
        assert "trial" not in http.post(CHAT, json=asks("Where was Tor Vik born? SAY:x")).json()["nanohydra"]
        # A named adapter is what was asked for.
        plain = http.post(CHAT, json={**asks("SAY:x"), "model": f"lesson-{job}"}).json()
        assert "nanohydra" not in plain


def test_an_adapter_cannot_take_a_lesson_s_name(server: Running, tmp_path: Path) -> None:
    with server.http(headers={"Authorization": f"Bearer {TOKEN}"}) as http:
        load = {"lora_name": "lesson-99", "lora_path": str(tmp_path)}
        assert "cannot name" in http.post("/v1/load_lora_adapter", json=load).json()["error"]["message"]
