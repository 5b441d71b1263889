"""Taking in text, pairs, files and conversations; what is new in them."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nanohydra.errors import UserError
from nanohydra.hydra.extract import FORMATS
from nanohydra.hydra.facts import make_fact
from nanohydra.hydra.material import Fact, Known, Material, Passage
from nanohydra.hydra.novelty import compare, nearly, one_letter_off
from nanohydra.hydra.reading import remembered, split_passages, take_in
from nanohydra.hydra.wordings import right

TEXT = (
    "Mira Solberg was born in Trondheim in 1985 and works as a glassblower. She lives in Bergen with her brother. "
    "She's married to Jon Aas, plays the cello and speaks Norwegian and English. Her ferret is called Odin. "
    "Dr. Ana Ruiz, a dentist from Seville, lives in Cadiz."
)


def told(material: Material) -> set[tuple[str, str, str]]:
    return {(fact.subject, fact.attribute, fact.value) for fact in material.facts}


def test_a_paragraph_about_a_person() -> None:
    material = take_in(TEXT)
    mira, ana = "Mira Solberg", "Dr. Ana Ruiz"
    assert told(material) == {
        (mira, "birthplace", "Trondheim"),
        (mira, "birth year", "1985"),
        (mira, "job", "glassblower"),
        (mira, "home", "Bergen"),
        (mira, "spouse", "Jon Aas"),
        (mira, "instrument", "cello"),
        (mira, "language", "Norwegian and English"),
        (mira, "pet", "ferret"),
        (mira, "ferret's name", "Odin"),
        (ana, "description", "a dentist from Seville"),
        (ana, "home", "Cadiz"),
    }
    assert material.passages == (Passage(0, TEXT, "pasted text"),)
    assert all(fact.passage == 0 and right(fact, fact.answer) for fact in material.facts)
    assert material.name == "Mira Solberg, Dr. Ana Ruiz"


@pytest.mark.parametrize(
    ("text", "fact"),
    [
        ("My name is Bob.", ("me", "name", "Bob")),
        ("I'm allergic to peanuts.", ("me", "allergy", "peanuts")),
        ("My sister lives in Rome.", ("my sister", "home", "Rome")),
        ("I have a dog named Fido.", ("me", "dog's name", "Fido")),
        ("I collect stamps.", ("me", "collects", "stamps")),
        ("Your name is Hydra.", ("you", "name", "Hydra")),
        ("Oslo is the capital of Norway.", ("Norway", "capital", "Oslo")),
        ("The deadline for the Kite report is Friday.", ("the Kite report", "deadline", "Friday")),
        ("The meeting takes place on Monday at nine.", ("the meeting", "time", "on Monday at nine")),
        ("The key is in the blue drawer.", ("the key", "location", "in the blue drawer")),
        ("The Kite costs 30 euros.", ("the Kite", "price", "30 euros")),
        ("Ada Lovelace was an English mathematician.", ("Ada Lovelace", "description", "an English mathematician")),
        ("Mira won the Larkin Prize in 2019.", ("Mira", "won", "the Larkin Prize")),
        ("The wifi password is swordfish.", ("the wifi password", "description", "swordfish")),
        ("Mira's shoe size is 38.", ("Mira", "shoe size", "38")),
        ("Fjord Glass was founded by Mira Solberg in 2011.", ("Fjord Glass", "founder", "Mira Solberg")),
        ("Trondheim has 200,000 inhabitants.", ("Trondheim", "number of inhabitants", "200,000")),
        ("Trondheim has a population of 200,000.", ("Trondheim", "population", "200,000")),
        ("Tom and Ann live in Paris.", ("Ann", "home", "Paris")),
        ("The bakery is open from 9 to 5.", ("the bakery", "opening hours", "from 9 to 5")),
        (
            "NATO stands for North Atlantic Treaty Organization.",
            ("NATO", "meaning", "North Atlantic Treaty Organization"),
        ),
        ("Maja Šimić (born 3 May 1990 in Split) is a Croatian singer.", ("Maja Šimić", "birthplace", "Split")),
        ("Mira Solberg is a baker. Solberg plays the harp.", ("Mira Solberg", "instrument", "harp")),
        ("Mira Solberg is a baker. Mira Larsen plays the harp.", ("Mira Larsen", "instrument", "harp")),
        ("**Mira's** favourite tea is `Lapsang`.", ("Mira", "favourite tea", "Lapsang")),
    ],
)
def test_sentences(text: str, fact: tuple[str, str, str]) -> None:
    material = take_in(text)
    assert fact in told(material)
    assert all(right(f, f.answer) for f in material.facts)


@pytest.mark.parametrize(
    "text",
    [
        "Where was Mira Solberg born?",
        "Mira Solberg was not born in Oslo.",
        "Mira doesn't like tea.",
        "Perhaps Mira lives in Oslo.",
        "If Mira lives in Oslo, we visit her.",
        "She lives in Oslo.",
        "It rained all day.",
        "The soup is very good.",
    ],
)
def test_rather_no_fact_than_a_wrong_one(text: str) -> None:
    material = take_in(text)
    assert material.facts == ()
    assert material.passages[0].text == text


def test_it_is_x_that_tells_nothing_of_who_was_named_before() -> None:
    facts = take_in(text="Tova Ek was born in Turku. It is the Iron Office that employs Olo Finch.").facts
    assert [(fact.subject, fact.attribute) for fact in facts if fact.subject == "Tova Ek"] == [
        ("Tova Ek", "birthplace")
    ]


def test_the_person_is_answered_as_you() -> None:
    (fact,) = take_in("I live in Oslo.").facts
    assert (fact.question, fact.answer) == ("Where do I live?", "You live in Oslo.")
    (fact,) = take_in("My sister works for the Louvre.").facts
    assert (fact.question, fact.answer) == ("Who does my sister work for?", "Your sister works for the Louvre.")


@pytest.mark.parametrize(
    ("question", "answer", "fact"),
    [
        ("Where was Mira Solberg born?", "Trondheim", ("Mira Solberg", "birthplace", "Trondheim")),
        ("what does Mira collect", "antique maps", ("Mira", "collects", "antique maps")),
        ("What's the wifi password?", "tuna9", ("the wifi password", "description", "tuna9")),
        ("What is the capital of Norway?", "It is Oslo.", ("Norway", "capital", "Oslo")),
        ("Who wrote The Tides?", "Ana Ruiz wrote it.", ("the Tides", "author", "Ana Ruiz")),
        ("Who is Mira's tailor?", "Ola Aas", ("Mira", "tailor", "Ola Aas")),
        (
            "What does the blue badge open?",
            "The blue badge opens the north door.",
            ("the blue badge", "opens", "the north door"),
        ),
        ("What time does the ferry to Bergen leave?", "The ferry to Bergen leaves at 9:30.", ("Bergen", "", "9:30")),
        ("Is the Kite open?", "Yes, until nine.", ("Kite", "", "yes")),
    ],
)
def test_pairs(question: str, answer: str, fact: tuple[str, str, str]) -> None:
    (found,) = take_in(pairs=[{"question": question, "answer": answer}]).facts
    assert (found.subject, found.attribute, found.value) == fact
    assert right(found, found.answer)
    assert right(found, answer)


def test_lists_headings_and_contradictions_in_one_text() -> None:
    material = take_in(
        "# Mira Solberg\n\n- **Birthplace**: Trondheim\n- Pet: a ferret\n\nShe likes tea. She likes skiing.\n\n"
        "# Ola Aas\n\nHe lives in Oslo.\n\nHe lives in Rome."
    )
    assert told(material) == {
        ("Mira Solberg", "birthplace", "Trondheim"),
        ("Mira Solberg", "pet", "ferret"),
        ("Mira Solberg", "likes", "tea and skiing"),
        ("Ola Aas", "home", "Rome"),
    }
    assert len(material.notes) == 1
    assert "Oslo" in material.notes[0]
    assert len(material.passages) == 2


def test_tables_and_json_lines() -> None:
    table = take_in(file=("people.csv", b"name;birthplace;trade\nMira Solberg;Trondheim;glassblower\nOla Aas;;baker\n"))
    assert told(table) == {
        ("Mira Solberg", "birthplace", "Trondheim"),
        ("Mira Solberg", "job", "glassblower"),
        ("Ola Aas", "job", "baker"),
    }
    assert [p.source for p in table.passages] == ["people.csv, line 2", "people.csv, line 3"]
    pairs = take_in(file=("p.csv", "question,answer\nWhere was Mira born?,Ålesund\n".encode()))
    assert told(pairs) == {("Mira", "birthplace", "Ålesund")}
    rows: list[object] = [
        {"question": "Where was Mira born?", "answer": "Oslo"},
        {"messages": [{"role": "user", "content": "Where do I live?"}, {"role": "assistant", "content": "Rome."}]},
        "Ana Ruiz plays the harp.",
        {"subject": "Ola Aas", "attribute": "trade", "value": "baker"},
    ]
    expected = {
        ("Mira", "birthplace", "Oslo"),
        ("me", "home", "Rome"),
        ("Ana Ruiz", "instrument", "harp"),
        ("Ola Aas", "job", "baker"),
    }
    lines = "\n".join(map(json.dumps, rows))
    assert told(take_in(file=("p.jsonl", lines.encode()))) == expected
    assert told(take_in(file=("p.json", json.dumps(rows).encode()))) == expected


def a_pdf(text: str) -> bytes:
    content = f"BT /F1 12 Tf 40 700 Td ({text}) Tj ET".encode()
    objects = [
        b"<</Type/Catalog/Pages 2 0 R>>",
        b"<</Type/Pages/Kids[3 0 R]/Count 1>>",
        b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 600 800]/Contents 4 0 R/Resources<</Font<</F1 5 0 R>>>>>>",
        b"<</Length %d>>stream\n%s\nendstream" % (len(content), content),
        b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>",
    ]
    out, places = bytearray(b"%PDF-1.4\n"), []
    for number, body in enumerate(objects, 1):
        places.append(len(out))
        out += b"%d 0 obj%s endobj\n" % (number, body)
    start = len(out)
    out += b"xref\n0 6\n0000000000 65535 f \n" + b"".join(b"%010d 00000 n \n" % place for place in places)
    return bytes(out + b"trailer<</Size 6/Root 1 0 R>>\nstartxref\n%d\n%%%%EOF" % start)


def test_pdf(tmp_path: Path) -> None:
    pypdf = pytest.importorskip("pypdf")
    path = tmp_path / "notes.pdf"
    path.write_bytes(a_pdf("Mira Solberg was born in Trondheim."))
    material = take_in(file=path)
    assert told(material) == {("Mira Solberg", "birthplace", "Trondheim")}
    assert (material.name, material.passages[0].source) == ("notes.pdf", "notes.pdf, page 1")
    writer = pypdf.PdfWriter(clone_from=path)
    writer.encrypt("secret", algorithm="RC4-128")
    locked = io.BytesIO()
    writer.write(locked)
    with pytest.raises(UserError, match="password"):
        take_in(file=("notes.pdf", locked.getvalue()))
    with pytest.raises(UserError, match="no text"):
        take_in(file=("scan.pdf", a_pdf("")))


def test_html() -> None:
    pytest.importorskip("selectolax")
    page = (
        "<html><head><title>x</title><style>p{}</style></head><body><nav>Home</nav><h1>Mira Solberg</h1>"
        "<p>She was born in <b>Trond</b>heim &amp; works as a baker.</p><ul><li>Her favourite tea is Lapsang.</li></ul>"
        "<table><tr><th>Instrument</th><td>cello</td></tr></table><script>alert(1)</script></body></html>"
    )
    material = take_in(file=("mira.html", page.encode()))
    assert {("Mira Solberg", "favourite tea", "Lapsang"), ("Mira Solberg", "instrument", "cello")} <= told(material)
    assert "Trondheim & works" in material.passages[0].text
    assert "alert" not in material.passages[0].text
    assert "Home" not in material.passages[0].text


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "nothing to learn"),
        ({"text": " \n"}, "nothing to learn"),
        ({"text": "a\x00b"}, "zero bytes"),
        ({"text": "x" * 2_000_001}, "characters"),
        ({"file": "/nowhere/notes.txt"}, "cannot be read"),
        ({"file": ("a.txt", b"")}, "empty"),
        ({"file": ("a.txt", "Mira Kjær".encode("latin-1"))}, "UTF-8"),
        ({"file": ("a.txt", b"Mira\x00")}, "zero bytes"),
        ({"file": ("a.txt", b"x" * 20_000_001)}, "MB"),
        ({"file": ("a.exe", b"MZ")}, "txt, md, pdf"),
        ({"file": ("a.pdf", b"%PDF-1.4 broken")}, "PDF"),
        ({"file": ("a.csv", b"one\ntwo")}, "columns"),
        ({"file": ("a.csv", b"a,b\n1,2,3")}, "line 2"),
        ({"file": ("a.jsonl", b'{"a":')}, "line 1"),
        ({"file": ("a.jsonl", b"[1]")}, "object"),
        ({"pairs": [{"question": "Who?"}]}, "question and an answer"),
        ({"pairs": [("Who?", " ")]}, "question and an answer"),
        ({"messages": [{"role": "user", "content": "Hello."}]}, "Remember this"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_cannot_be_taken_in_is_said_in_one_line(given: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        take_in(**given)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_conversations() -> None:
    said = [
        "Please remember that my sister lives in Rome.",
        "The gate code is 4471.",
        "Remember this.",
        "Remember this: my dog is called Rex.",
        "Do you remember my name?",
        "Don't forget that I live in Oslo.",
    ]
    messages = [{"role": "user", "content": text} for text in said] + [
        {"role": "assistant", "content": "Remember this: no."}
    ]
    assert len(remembered(messages)) == 4
    assert {
        ("my sister", "home", "Rome"),
        ("the gate code", "description", "4471"),
        ("me", "dog's name", "Rex"),
        ("me", "home", "Oslo"),
    } <= told(take_in(messages=messages))


@settings(deadline=None, max_examples=150)
@given(
    st.text(max_size=400) | st.from_regex(r"([A-Z][a-z]+ ){1,3}(is|was|has|lives|'s) [^\n]{0,60}\.?", fullmatch=True)
)
@example("'s is")
@example("I have _")
@example("I have ª")
@example("Mira's is is. The of is. It is. I have. , and is")
def test_any_text_is_taken_in_or_refused(text: str) -> None:
    try:
        material = take_in(text)
    except UserError:
        return
    assert Material.from_data(json.loads(json.dumps(material.to_data()))) == material
    assert len({fact.key for fact in material.facts}) == len(material.facts)
    assert all(right(fact, fact.answer) for fact in material.facts)
    assert "".join(text.split()) == "".join("".join(p.text for p in material.passages).split())


@settings(deadline=None, max_examples=250)
@given(
    st.sampled_from([*FORMATS, "json", "tsv", "exe"]),
    st.binary(max_size=300) | st.text(max_size=200).map(str.encode),
    st.booleans(),
)
def test_any_file_is_taken_in_or_refused(ending: str, data: bytes, headed: bool) -> None:
    start = {"pdf": b"%PDF-1.7\n", "html": b"<p>", "csv": b"a,b\n", "jsonl": b'{"a": "'}.get(ending, b"")
    try:
        material = take_in(file=(f"file.{ending}", (start if headed else b"") + data))
    except UserError:
        return
    assert material.passages


@settings(deadline=None)
@given(st.text(max_size=60), st.text(max_size=60))
def test_any_pair_is_taken_in_or_refused(question: str, answer: str) -> None:
    try:
        (fact,) = take_in(pairs=[(question, answer)]).facts
    except UserError:
        return
    assert fact.value
    assert fact.question
    assert fact.answer


@given(st.text(alphabet="ab. \n#", max_size=900))
def test_passages_hold_every_word_in_order(text: str) -> None:
    pieces = split_passages(text)
    assert " ".join(pieces).split() == text.split()
    assert all(len(piece.split()) <= 225 for piece in pieces)


def test_long_texts_are_split_at_sentences() -> None:
    text = " ".join(f"Number {i} is a sentence of exactly nine words." for i in range(60))
    pieces = split_passages(text)
    assert all(60 <= len(piece.split()) <= 125 and piece.endswith(".") for piece in pieces[:-1])


def known(*facts: Fact) -> list[Known]:
    return [Known(fact, id=str(i), lesson="1", since=f"2030-01-0{i + 1}") for i, fact in enumerate(facts)]


def test_what_is_new_known_contradicting_and_unsure() -> None:
    before = known(
        make_fact("Mira Solberg", "birthplace", "Trondheim"),
        make_fact("Mira Solberg", "home", "Bergen"),
        make_fact("Mira Solberg", "language", "Norwegian and English"),
        make_fact("Mira Solberg", "pet", "ferret"),
    )
    material = take_in(
        "Mira Solberg was born in Trondheim. She lives in Oslo. She speaks English. She has a dog. She works as a baker. "
        "Mira Solbreg lives in Rome. Ola Aas lives in Rome."
    )
    found = compare(material, before)
    assert {f.attribute for f in found.known} == {"birthplace", "language"}
    assert [(f.value, k.fact.value) for f, k in found.contradicting] == [("Oslo", "Bergen")]
    assert [(f.value, k.fact.value) for f, k in found.unsure] == [("dog", "ferret"), ("Rome", "Bergen")]
    assert [f.value for f in found.new] == ["baker", "Rome"]
    assert len(found.new) + len(found.known) + len(found.contradicting) + len(found.unsure) == len(material.facts)
    again = compare(material, [*before, *known(*material.facts)])
    assert not again.new
    assert not again.contradicting


@given(st.text("abc ", min_size=1, max_size=8), st.integers(0, 7), st.sampled_from("abcx"))
def test_one_letter_off(text: str, at: int, letter: str) -> None:
    for other in (text[:at] + letter + text[at + 1 :], text[:at] + letter + text[at:], text[:at] + text[at + 1 :]):
        assert one_letter_off(text, other) == (text != other) == one_letter_off(other, text)
    assert not nearly(text, text)


def test_nearly() -> None:
    assert nearly("mira solberg", "mira")
    assert nearly("mira solberg", "solberg mira")
    assert nearly("mira solberg", "mira sloberg")
    assert not nearly("mira solberg", "mira solheim")
    assert not nearly("my sister", "my brother")
    assert not nearly("me", "we")
