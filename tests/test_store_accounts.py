"""Users, tokens, quotas, adapters and settings: who may do what, and what is kept of it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from store_databases import KINDS, fresh_store, somebody

from nanohydra.errors import UserError
from nanohydra.store import ADMIN, SCOPES, NotFound, Store, accounts
from nanohydra.store.models import now


@pytest.fixture(scope="module", params=KINDS)
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with fresh_store(request.param, tmp_path_factory.mktemp("accounts")) as store:
        yield store


def test_the_first_token_is_shown_once_and_a_new_one_when_none_works(store: Store) -> None:
    admin, token = store.ensure_admin()
    assert token is not None
    assert admin.name == ADMIN
    principal = store.authenticate(token)
    assert principal is not None
    assert principal.scopes == set(SCOPES)
    assert principal.user_id == admin.id == store.local_user().user_id  # who chatted without a token keeps it all
    assert store.local_user().scopes == set(SCOPES)
    assert store.ensure_admin()[1] is None
    assert principal.token_id is not None
    store.revoke_token(principal.token_id)
    assert store.authenticate(token) is None
    store.create_token(admin.id, "only chats", ["chat"])
    store.create_token(admin.id, "is over", [ADMIN], now() - timedelta(seconds=1))
    again = store.ensure_admin()[1]
    assert again not in (None, token)


def test_many_starts_at_once_make_one_first_token(store: Store) -> None:
    for token in store.tokens(store.local_user().user_id):
        store.revoke_token(token.id)
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: store.ensure_admin()[1], range(8)))
    assert sum(token is not None for token in made) == 1


def test_the_admin_keeps_the_keys(store: Store) -> None:
    admin = store.local_user().user_id
    with pytest.raises(UserError, match="stays"):
        store.delete_user(admin)
    with pytest.raises(UserError, match="all scopes"):
        store.update_user(admin, scopes=["chat"], quota=None)
    assert store.update_user(admin, scopes=SCOPES, quota=5).quota == 5
    store.update_user(admin, scopes=SCOPES, quota=None)


def test_only_the_hash_of_a_token_is_kept(store: Store) -> None:
    user = somebody(store)
    plain = store.create_token(user, "laptop", ["chat"])
    assert len(plain) > 40
    (row,) = store.tokens(user)
    kept = {key: value for key, value in vars(row).items() if not key.startswith("_")}
    assert plain not in map(str, kept.values())
    assert row.digest == hashlib.sha256(plain.encode()).hexdigest()
    assert plain.startswith(row.hint)
    assert len(row.hint) <= 8


@given(st.text(st.characters(), max_size=80))
@hypothesis_settings(max_examples=40, deadline=None)
def test_no_other_text_is_a_token(store: Store, text: str) -> None:
    assert store.authenticate(text) is None
    for token in store.tokens(store.local_user().user_id):
        assert store.authenticate(token.digest) is None
        assert store.authenticate(token.hint + text) is None


def test_a_token_can_do_what_its_user_can_and_no_more(store: Store) -> None:
    user = somebody(store, "chat", "teach", quota=10)
    with pytest.raises(UserError, match="admin"):
        store.create_token(user, "too much", ["chat", "admin"])
    assert store.tokens(user) == []
    plain = store.create_token(user, "both", ["teach", "chat"])
    store.update_user(user, scopes=["chat"], quota=None)
    principal = store.authenticate(plain)
    assert principal is not None
    assert (principal.scopes, principal.quota, principal.user_id) == ({"chat"}, None, user)


def test_a_token_ends(store: Store) -> None:
    user, stranger = somebody(store), somebody(store)
    over = store.create_token(user, "over", ["chat"], now() - timedelta(seconds=1))
    runs = store.create_token(user, "runs", ["chat"], now() + timedelta(hours=1))
    assert store.authenticate(over) is None
    principal = store.authenticate(runs)
    assert principal is not None
    assert principal.token_id is not None
    assert [t.last_used is None for t in store.tokens(user)] == [True, False]
    with pytest.raises(NotFound):
        store.revoke_token(principal.token_id, stranger)
    assert store.authenticate(runs) == principal
    store.revoke_token(principal.token_id, user)
    assert store.authenticate(runs) is None
    third = store.create_token(user, "third", ["chat"])
    store.delete_user(user)
    assert store.authenticate(third) is None


def test_the_last_use_is_not_written_at_every_request(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    user = somebody(store)
    plain = store.create_token(user, "busy", ["chat"])
    seen = []
    for minutes in (0, 5, 11):
        monkeypatch.setattr(accounts, "now", lambda: start + timedelta(minutes=minutes))  # noqa: B023
        start = now()
        store.authenticate(plain)
        seen.append(store.tokens(user)[0].last_used)
    assert seen[0] == seen[1] != seen[2]


@pytest.mark.parametrize(
    ("name", "scopes", "quota"),
    [("", ["chat"], None), ("x" * 65, ["chat"], None), ("x", ["caht"], None), ("x", [], -1), (ADMIN, ["chat"], None)],
)
def test_bad_users_are_refused_in_one_line(store: Store, name: str, scopes: list[str], quota: int | None) -> None:
    before = [u.name for u in store.users()]
    with pytest.raises(UserError) as error:
        store.create_user(name, scopes, quota)
    assert "\n" not in str(error.value)
    assert [u.name for u in store.users()] == before


def test_what_is_not_there_is_said(store: Store) -> None:
    for nobody in (10**6, 10**30):
        for call in (store.user, store.delete_user, store.quota_left, store.revoke_token):
            with pytest.raises(NotFound):
                call(nobody)
        with pytest.raises(NotFound):
            store.create_token(nobody, "x", [])
        with pytest.raises(NotFound):
            store.create_conversation(nobody, "x")
        with pytest.raises(NotFound):
            store.register_adapter("x", "/x", "base", "id", nobody)


@given(st.integers(0, 50), st.lists(st.integers(-30, 30), max_size=6))
@hypothesis_settings(max_examples=20, deadline=None)
def test_a_quota_counts(store: Store, quota: int, uses: list[int]) -> None:
    user = somebody(store, quota=quota)
    used = 0
    for use in uses:
        used = max(0, used + use)
        assert store.use_quota(user, use) == store.quota_left(user) == max(0, quota - used)


def test_without_a_quota_there_is_no_limit(store: Store) -> None:
    user = somebody(store)
    assert store.use_quota(user, 10**12) is None
    assert store.quota_left(user) is None


def test_a_quota_begins_anew_each_day(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    user = somebody(store, quota=10)
    assert store.use_quota(user, 8) == 2
    monkeypatch.setattr(accounts, "now", lambda: now() + timedelta(days=1))
    assert store.quota_left(user) == 10
    assert store.use_quota(user, 3) == 7


def test_no_use_is_lost_when_many_count_at_once(store: Store) -> None:
    user = somebody(store, quota=1000)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: store.use_quota(user, n), range(25)))
    assert store.quota_left(user) == 1000 - sum(range(25))


def test_an_adapter_is_its_owners_or_everybodys(store: Store) -> None:
    ann, bob = somebody(store), somebody(store)
    store.register_adapter("shared", "/a/shared", "base", "id-1")
    store.register_adapter("anns", "/a/anns", "base", "id-2", ann)
    assert [a.name for a in store.adapters(ann)] == ["anns", "shared"]
    assert [a.name for a in store.adapters(bob)] == ["shared"]
    store.set_default_adapter(ann, "anns")
    with pytest.raises(NotFound):
        store.set_default_adapter(bob, "anns")  # and the line does not name it
    with pytest.raises(UserError, match="already"):
        store.register_adapter("anns", "/b", "base", "id-3", bob)
    store.register_adapter("anns", "/a/anns-2", "base", "id-4", ann)
    assert [(a.folder, a.content_id) for a in store.adapters(ann) if a.owner] == [("/a/anns-2", "id-4")]
    assert (store.user(ann).default_adapter, store.user(bob).default_adapter) == ("anns", None)
    store.remove_adapter("anns")
    assert store.user(ann).default_adapter is None
    with pytest.raises(NotFound):
        store.remove_adapter("anns")
    store.set_default_adapter(ann, "shared")
    store.set_default_adapter(ann, None)
    assert store.user(ann).default_adapter is None
    store.remove_adapter("shared")


def test_the_adapters_of_a_user_go_with_them(store: Store) -> None:
    ann = somebody(store)
    store.register_adapter("gone", "/a", "base", "id", ann)
    store.delete_user(ann)
    assert store.register_adapter("gone", "/b", "base", "id").owner is None
    store.remove_adapter("gone")


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(JSON)
@hypothesis_settings(max_examples=30, deadline=None)
def test_a_setting_comes_back_as_it_was(store: Store, value: object) -> None:
    store.set_setting("k", value)
    assert store.setting("k") == value


def test_settings_at_once(store: Store) -> None:
    assert store.setting("never set") is None
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: store.set_setting("same", n), range(16)))
    assert store.setting("same") in range(16)
    with pytest.raises(Exception, match="JSON"):
        store.set_setting("nan", float("nan"))  # SQLite would keep it and PostgreSQL would not
    assert store.setting("nan") is None
