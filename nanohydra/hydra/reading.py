"""Taking in what a person brings: text, pairs, a file, a conversation -> passages and facts."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nanohydra.errors import UserError
from nanohydra.hydra.extract import MAX_TEXT, Page, Row, pages
from nanohydra.hydra.facts import Context, is_subject, make_fact, read_sentence
from nanohydra.hydra.grammar import as_subject, with_article
from nanohydra.hydra.material import Fact, Material, Passage, plain
from nanohydra.hydra.pairs import fact_of_pair
from nanohydra.hydra.relations import bind
from nanohydra.hydra.sentences import sentences, tidy
from nanohydra.hydra.values import read_value

PASSAGE_WORDS = 100
Pair = tuple[str, str] | Mapping[str, str]

_REMEMBER = re.compile(
    r"\b(?:please )?(?:remember|keep in mind|do not forget|don['’]t forget|note|learn)\b(?: for (?:me|later|next time))?"
    r"(?:,? (?:this|that|the following)(?: fact)?)?\s*(?P<sign>[:,–—-]|that\b|(?<=that)\b|(?=my\b|I\b))\s*(?P<what>.+)",
    re.IGNORECASE | re.DOTALL,
)
_THE_ABOVE = re.compile(
    r"\W*(?:please )?(?:remember|keep in mind|note|learn) (?:this|that|it)(?: for (?:me|later))?(?: please)?\W*", re.I
)


def take_in(
    text: str | None = None,
    pairs: Iterable[Pair] = (),
    file: Path | str | tuple[str, bytes] | None = None,
    messages: Sequence[Mapping[str, Any]] | None = None,
    name: str = "",
) -> Material:
    """All that a lesson is to teach, from any of: text, pairs of question and answer ({"question", "answer"} or tuples), a
    file (its path, or its name and bytes), a conversation (what its user wants remembered).

    Raises UserError for what holds nothing, or cannot be read.
    """
    passages: list[Passage] = []
    facts: list[Fact] = []
    title = ""
    for pair in pairs:
        facts.append(fact_of_pair(*_question_answer(pair)))
    if text is not None and text.strip():
        _check_text(text)
        _take_page(Page(text, ""), "pasted text", passages, facts)
    if file is not None:
        title = Path(file[0] if isinstance(file, tuple) else file).name
        for page in pages(file):
            if isinstance(page, Row):
                _take_row(page, title, passages, facts)
            else:
                _take_page(page, title, passages, facts)
    for said in remembered(messages or ()):
        _check_text(said)
        _take_page(Page(said, ""), "conversation", passages, facts)
    if not facts and not passages:
        if messages:
            raise UserError('Nothing in the conversation says what to remember. Write "Remember this: ..." in it.')
        raise UserError("There is nothing to learn in this. Give text, pairs of question and answer, or a file.")
    kept, notes = _settle(facts)
    return Material(_name(name, title, kept, passages), kept, tuple(passages), notes)


def remembered(messages: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the user of a conversation wants remembered: after "remember this: ..." or "remember that ...", or the message
    before a bare "remember this"."""
    found: list[str] = []
    said = ""
    for message in messages:
        if message.get("role") != "user":
            continue
        content = message.get("content")
        if not isinstance(content, str):
            content = " ".join(
                p["text"] for p in content or () if isinstance(p, Mapping) and isinstance(p.get("text"), str)
            )
        if _THE_ABOVE.fullmatch(content):
            found += [said] if said else []
        elif (m := _REMEMBER.search(content)) and not content.rstrip().endswith("?"):
            what = m["what"].strip()
            found += [what] if what else []
        said = content.strip()
    return found


def _question_answer(pair: Pair) -> tuple[str, str]:
    if isinstance(pair, Mapping):
        question, answer = pair.get("question"), pair.get("answer")
    else:
        question, answer = pair if len(pair) == 2 else (None, None)
    if not isinstance(question, str) or not isinstance(answer, str) or not question.strip() or not answer.strip():
        raise UserError('A pair needs a question and an answer: {"question": "...", "answer": "..."}.')
    _check_text(question + answer)
    return question, answer


def _check_text(text: str) -> None:
    if len(text) > MAX_TEXT:
        raise UserError(
            f"{len(text):,} characters are too many for one lesson: at most {MAX_TEXT:,}. Teach it in parts."
        )
    if "\x00" in text:
        raise UserError("This is not text: it holds zero bytes. Give text, or a txt, md, pdf, html, csv or jsonl file.")


def _take_page(page: Page, title: str, passages: list[Passage], facts: list[Fact]) -> None:
    """Adds the passages of a stretch of text, and their facts."""
    source = f"{title}, {page.place}" if page.place else title
    context = Context()
    topic: str | None = None
    for piece in split_passages(page.text):
        number = len(passages)
        passages.append(Passage(number, piece, source))
        for block in piece.split("\n\n"):
            if heading := _heading(block):
                topic = heading
                context.subject = heading
        for one in sentences(piece):
            if named := re.fullmatch(r"(?:[-*•]\s+)?\**(?:Full )?[Nn]ame\**\s*:\**\s*(.{2,60})", one):
                topic = named[1].strip(" .*")
            elif (line := _attribute_line(one)) and topic:
                facts.append(_told(topic, line[0], line[1], number))
            else:
                facts += read_sentence(one, context, number)


def _heading(block: str) -> str | None:
    """The subject that a markdown heading names."""
    m = re.match(r"#{1,6}\s+(.+?)\s*#*(?:\n|$)", block)
    text = tidy(m[1]) if m else ""
    return as_subject(text) if text and text[:1].isupper() and is_subject(as_subject(text)) else None


def _attribute_line(text: str) -> tuple[str, str] | None:
    """ "- **Birthplace**: Trondheim" -> ("birthplace", "Trondheim")."""
    m = re.fullmatch(r"(?:[-*•]\s+)?\**([A-Za-z][A-Za-z' -]{1,30}?)\**\s*:\**\s+([^\n]{1,100})", text)
    if m is None or m[1].lower() in {"note", "warning", "example", "remember this", "todo", "remark", "see"}:
        return None
    value = m[2].strip(" .*")
    return (m[1].lower(), value) if value and len(value.split()) <= 12 else None


def _take_row(row: Row, title: str, passages: list[Passage], facts: list[Fact]) -> None:
    """Adds a table's row: a pair of question and answer, a text, or a subject with its attributes."""
    source = f"{title}, {row.place}"
    lower = {key.strip().lower(): value for key, value in row.cells.items() if key and key.strip()}
    question = next((lower[key] for key in ("question", "prompt", "instruction", "q") if lower.get(key)), "")
    answer = next((lower[key] for key in ("answer", "response", "completion", "output", "a") if lower.get(key)), "")
    number = len(passages)
    if question and answer:
        passages.append(Passage(number, f"{question} {answer}", source))
        facts.append(fact_of_pair(question, answer, number))
        return
    if set(lower) == {"text"}:
        _take_page(Page(lower["text"], row.place), title, passages, facts)
        return
    cells = {key: " ".join(value.split()) for key, value in lower.items() if value.strip()}
    if {"subject", "attribute", "value"} <= cells.keys():
        fact = _told(as_subject(cells["subject"]), cells["attribute"], cells["value"], number)
        passages.append(Passage(number, fact.answer, source))
        facts.append(fact)
        return
    (_, subject), *rest = list(cells.items()) or [("", "")]
    if not subject or not rest:
        if subject:
            passages.append(Passage(number, subject, source))
        return
    made = [_told(as_subject(subject), key, value, number) for key, value in rest if len(value.split()) <= 30]
    told = [fact.answer for fact in made] + [f"{key}: {value}" for key, value in rest if len(value.split()) > 30]
    passages.append(Passage(number, " ".join(told), source))
    facts += made


def _told(subject: str, attribute: str, value: str, passage: int) -> Fact:
    """A fact whose value a table or a list names: in the form that sentences give it, where it is of the usual kind."""
    return make_fact(subject, attribute, read_value(bind(attribute).relation.value, value) or value, passage)


def split_passages(text: str) -> list[str]:
    """Pieces of about 100 words, cut at paragraphs where possible, else at sentences, else at words. A heading stays with
    what it stands above."""
    found: list[str] = []
    current: list[str] = []
    size = 0
    for paragraph in re.split(r"\n\s*\n", text.replace("\r\n", "\n").replace("\r", "\n")):
        for piece in _pieces(paragraph.strip()):
            heading = piece.startswith("#") and "\n" not in piece
            count = len(piece.split())
            if current and (size + count > PASSAGE_WORDS * 1.25 or heading):
                found.append("\n\n".join(current))
                current, size = [], 0
            current.append(piece)
            size += count
    return [*found, "\n\n".join(current)] if current else found


def _pieces(paragraph: str) -> list[str]:
    """A paragraph whole, or, where it is long, in stretches of sentences."""
    if not paragraph:
        return []
    if len(paragraph.split()) <= 1.25 * PASSAGE_WORDS:
        return [paragraph]
    found: list[list[str]] = [[]]
    for one in sentences(paragraph):
        told = one.split()
        for start in range(0, len(told), PASSAGE_WORDS):
            part = told[start : start + PASSAGE_WORDS]
            if found[-1] and len(found[-1]) + len(part) > PASSAGE_WORDS:
                found.append([])
            found[-1] += part
    return [" ".join(part) for part in found if part]


def _settle(facts: list[Fact]) -> tuple[tuple[Fact, ...], tuple[str, ...]]:
    """One fact a key: what may be many at a time is joined, of two that contradict each other the later one is kept."""
    kept: dict[str, Fact] = {}
    notes: list[str] = []
    for fact in facts:
        earlier = kept.get(fact.key)
        if earlier is None or plain(earlier.value) == plain(fact.value):
            kept.setdefault(fact.key, fact)
        elif fact.attribute and bind(fact.attribute).relation.many:
            if not re.search(rf"\b{re.escape(fact.value)}\b", earlier.value, re.I):
                kept[fact.key] = _joined(earlier, fact)
        else:
            what = f"{fact.subject}: {fact.attribute}" if fact.attribute else fact.question
            notes.append(f'"{what}" is given twice ({earlier.value}; {fact.value}): the later one is kept.')
            del kept[fact.key]
            kept[fact.key] = fact
    return tuple(kept.values()), tuple(notes)


def _joined(one: Fact, other: Fact) -> Fact:
    articles = any("{aV}" in line for line in bind(one.attribute).relation.statements[:1])
    value = " and ".join(with_article(part) if articles else part for part in (one.value, other.value))
    return make_fact(one.subject, one.attribute, value, other.passage)


def _name(name: str, title: str, facts: Sequence[Fact], passages: Sequence[Passage]) -> str:
    """The lesson's name: as given, the file's, whom it is about, or its first words."""
    if name.strip():
        return " ".join(name.split())[:80]
    if title:
        return title[:80]
    subjects = list(dict.fromkeys(fact.subject for fact in facts if fact.subject))
    if subjects:
        rest = len(subjects) - 2
        return (", ".join(subjects[:2]) + (f" and {rest} more" if rest > 0 else ""))[:80]
    first = (passages[0].text if passages else facts[0].question).split()
    return " ".join(first[:6])[:80]
