"""Conversations: the tree against a plain model of it, and strangers who find nothing."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import insert
from store_databases import KINDS, fresh_store, somebody

from nanohydra.errors import UserError
from nanohydra.store import Message, NotFound, Store
from nanohydra.store.conversations import Conversations
from nanohydra.store.models import clean


@pytest.fixture(scope="module", params=KINDS)
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with fresh_store(request.param, tmp_path_factory.mktemp("conversations")) as store:
        yield store


def family(messages: list[Message]) -> list[tuple[int, int | None, str]]:
    return [(m.id, m.parent_id, m.content) for m in messages]


@given(st.lists(st.tuples(st.sampled_from(["add", "head", "update"]), st.integers(0, 30)), max_size=12))
@settings(max_examples=25, deadline=None)
def test_a_conversation_is_a_tree(store: Store, moves: list[tuple[str, int]]) -> None:
    user = somebody(store)
    conversation = store.create_conversation(user, "tree").id
    tree: dict[int, tuple[int | None, str]] = {}
    head: int | None = None
    for step, (move, choice) in enumerate(moves):
        chosen = [None, *tree][choice % (len(tree) + 1)]
        if move == "add":
            head = store.add_message(conversation, user, chosen, "user", f"text {step}").id
            tree[head] = (chosen, f"text {step}")
        elif move == "head":
            store.set_head(conversation, user, chosen)
            head = chosen
        elif chosen is not None:
            store.update_message(chosen, user, f"text {step}")
            tree[chosen] = (tree[chosen][0], f"text {step}")
    path = []
    at = head
    while at is not None:
        path.append((at, *tree[at]))
        at = tree[at][0]
    assert family(store.path(conversation, user)) == path[::-1]
    assert family(store.messages(conversation, user)) == [(i, *m) for i, m in tree.items()]
    export = json.loads(json.dumps(store.export(conversation, user)))
    assert export["head"] == head == store.conversation(conversation, user).head
    assert [(m["id"], m["parent_id"], m["content"]) for m in export["messages"]] == [(i, *m) for i, m in tree.items()]


@given(st.text(st.characters()), st.dictionaries(st.text(st.characters()), st.text(st.characters())))
@settings(max_examples=40, deadline=None)
def test_any_text_comes_back(store: Store, text: str, data: dict[str, str]) -> None:
    user = somebody(store)
    conversation = store.create_conversation(user, text, text, data)
    assert (conversation.title, conversation.system, conversation.settings) == (clean(text), clean(text), data)
    message = store.add_message(conversation.id, user, None, "assistant", text, data)
    store.update_message(message.id, user, text + "!")
    (read,) = store.path(conversation.id, user)
    assert (read.content, read.provenance, read.role) == (clean(text) + "!", data, "assistant")


ALPHABET = st.text("aAbBäÄ中%_\\ ", min_size=1, max_size=4)


@given(title=ALPHABET, content=ALPHABET, search=ALPHABET)
@settings(max_examples=40, deadline=None)
def test_search_is_in_title_or_text_in_any_case(store: Store, title: str, content: str, search: str) -> None:
    user = somebody(store)
    store.create_conversation(user, "z")
    conversation = store.create_conversation(user, title).id
    store.add_message(conversation, user, None, "user", content)
    found = [c.id for c in store.conversations(user, search)]
    assert found == [conversation] * (search.lower() in title.lower() or search.lower() in content.lower())
    store.delete(conversation, user)
    assert store.conversations(user, search) == []


def test_the_last_changed_comes_first(store: Store) -> None:
    user = somebody(store)
    ids = [store.create_conversation(user, f"t{i}").id for i in range(3)]
    store.add_message(ids[0], user, None, "user", "hello")
    assert [c.id for c in store.conversations(user)] == [ids[0], ids[2], ids[1]]


def test_rename_configure_delete(store: Store) -> None:
    user = somebody(store)
    conversation = store.create_conversation(user, "a", "b", {"c": 1}).id
    store.rename(conversation, user, "A")
    store.configure(conversation, user, "B", {"C": 2})
    read = store.conversation(conversation, user)
    assert (read.title, read.system, read.settings) == ("A", "B", {"C": 2})
    message = store.add_message(conversation, user, None, "user", "x").id
    store.delete(conversation, user)
    with pytest.raises(NotFound):
        store.conversation(conversation, user)
    with pytest.raises(NotFound):
        store.update_message(message, user, "y")
    assert store.create_conversation(user, "new").id > conversation  # a number is never used again


def test_a_long_conversation_can_be_deleted(store: Store) -> None:
    user = somebody(store)
    conversation = store.create_conversation(user, "deep").id
    first, parent = 10**8, 10**8 + 1099
    same = {"conversation_id": conversation, "role": "user", "content": "", "provenance": {}}
    rows = [{**same, "id": first + n, "parent_id": first + n - 1 if n else None} for n in range(1100)]
    with store._writing() as session:
        session.execute(insert(Message), rows)
    store.set_head(conversation, user, parent)
    assert len(store.path(conversation, user)) == 1100
    store.delete(conversation, user)
    with store._reading() as session:
        assert session.get(Message, parent) is None


def test_a_parent_of_another_conversation_is_refused(store: Store) -> None:
    user = somebody(store)
    here, there = (store.create_conversation(user, t).id for t in "ab")
    message = store.add_message(there, user, None, "user", "x").id
    for call in (
        lambda: store.add_message(here, user, message, "user", "y"),
        lambda: store.set_head(here, user, message),
    ):
        with pytest.raises(NotFound):
            call()
    assert store.messages(here, user) == []
    with pytest.raises(UserError, match="assistant"):
        store.add_message(here, user, None, "asistant", "y")


CALLS: dict[str, Callable[[Store, int, int, int], Any]] = {
    "conversation": lambda s, c, m, u: s.conversation(c, u),
    "rename": lambda s, c, m, u: s.rename(c, u, "mine"),
    "configure": lambda s, c, m, u: s.configure(c, u, "mine", {}),
    "delete": lambda s, c, m, u: s.delete(c, u),
    "add_message": lambda s, c, m, u: s.add_message(c, u, m, "user", "mine"),
    "update_message": lambda s, c, m, u: s.update_message(m, u, "mine"),
    "messages": lambda s, c, m, u: s.messages(c, u),
    "set_head": lambda s, c, m, u: s.set_head(c, u, None),
    "path": lambda s, c, m, u: s.path(c, u),
    "export": lambda s, c, m, u: s.export(c, u),
}


def test_every_call_is_tried_by_a_stranger() -> None:
    public = {name for name in vars(Conversations) if not name.startswith("_")}
    assert public == {*CALLS, "create_conversation", "conversations"}
    assert all("user_id" in inspect.signature(getattr(Store, name)).parameters for name in public)


@pytest.mark.parametrize("name", CALLS)
def test_a_stranger_finds_nothing_and_changes_nothing(store: Store, name: str) -> None:
    owner, stranger = somebody(store), somebody(store)
    conversation = store.create_conversation(owner, "secret").id
    message = store.add_message(conversation, owner, None, "user", "secret").id
    before = {k: v for k, v in store.export(conversation, owner).items() if k != "exported"}
    with pytest.raises(NotFound) as theirs:
        CALLS[name](store, conversation, message, stranger)
    number = str(message if name == "update_message" else conversation)
    for nobodys in (10**6, 10**30, -1):
        with pytest.raises(NotFound) as never:
            CALLS[name](store, nobodys, nobodys, stranger)
        assert str(theirs.value).replace(number, "?") == str(never.value).replace(str(nobodys), "?")
    assert {k: v for k, v in store.export(conversation, owner).items() if k != "exported"} == before
    assert store.conversations(stranger) == store.conversations(stranger, "secret") == []


def test_conversations_go_with_their_user(store: Store) -> None:
    user = somebody(store)
    conversation = store.create_conversation(user, "x").id
    message = store.add_message(conversation, user, None, "user", "x").id
    store.add_message(conversation, user, message, "assistant", "y")
    store.delete_user(user)
    with store._reading() as session:
        assert session.get(Message, message) is None


def test_threads_that_write_at_once_lose_nothing(store: Store) -> None:
    users = [somebody(store) for _ in range(2)]
    shared = [store.create_conversation(user, "shared").id for user in users]

    def write(worker: int) -> list[tuple[int, int | None, str]]:
        user, conversation = users[worker % 2], shared[worker % 2]
        parent, written = None, []
        for n in range(8):
            message = store.add_message(conversation, user, parent, "user", "")
            store.update_message(message.id, user, f"{worker}:{n}")
            written.append((message.id, parent, f"{worker}:{n}"))
            parent = message.id
        return written

    with ThreadPoolExecutor(8) as pool:
        written = list(pool.map(write, range(8)))
    for which, (user, conversation) in enumerate(zip(users, shared)):
        expected = sorted(row for rows in written[which::2] for row in rows)
        assert family(store.messages(conversation, user)) == expected
        assert store.conversation(conversation, user).head in {row[0] for row in expected}


def test_a_conversation_deleted_while_others_write_to_it_leaves_nothing(store: Store) -> None:
    user = somebody(store)
    conversation = store.create_conversation(user, "x").id

    def write(n: int) -> bool:
        try:
            if n == 10:
                store.delete(conversation, user)
            else:
                store.add_message(conversation, user, None, "user", "x")
        except NotFound:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(24)))
    with store._reading() as session:
        assert session.query(Message).filter_by(conversation_id=conversation).count() == 0
