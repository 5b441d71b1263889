"""Makes adapters of one base: trains, measures, judges, and tries again while there is time. A lesson and a consolidation
differ in what they are given."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from nanohydra.adapt.adapter import Metadata
from nanohydra.adapt.attach import Adapters, weights_hash
from nanohydra.adapt.folder import write_sidecar
from nanohydra.agent.calculator import CALCULATOR
from nanohydra.agent.embedding import Embedder
from nanohydra.data.chat import Message
from nanohydra.home import home
from nanohydra.hydra.attributes import Attributes, Embed
from nanohydra.hydra.config import LearnConfig, LessonTraining, Progress
from nanohydra.hydra.frames import framed_chats
from nanohydra.hydra.gate import judge, reason
from nanohydra.hydra.material import Fact
from nanohydra.hydra.measuring import Lesson, Measured, Route, measure
from nanohydra.hydra.probes import probes_of
from nanohydra.hydra.receipt import Attempt, Outcome, Receipt
from nanohydra.hydra.router import Router
from nanohydra.hydra.strangers import Stranger, near_misses
from nanohydra.hydra.training import LessonRows, Rendered, adapter_config, render, shared_beginning, train
from nanohydra.hydra.wordings import chat, training_chats
from nanohydra.infer.config import EngineConfig
from nanohydra.infer.engine import Engine
from nanohydra.infer.quantize import pack
from nanohydra.jobs.bases import open_engine
from nanohydra.model.hub import base_id, load_base
from nanohydra.train.precision import resolve_dtype

Tell = Callable[[Progress], bool]
"""Takes news; returns False to stop."""
Merges = dict[str, dict[str, float]]
NAME = "lesson"
"""The new adapter's name while it is made."""
TRAIN_SHARE = 0.66
"""Of the time: when the first training must be over."""
LEAST_RETRY = 0.12
"""Of the time: the shortest training that is worth a retry."""
SMALL = 20_000_000
"""Parameters: below, a base has other defaults."""


class Cancelled(Exception):
    """Whoever was told of the progress wants no more of it."""


@dataclass(frozen=True)
class Earlier:
    """A lesson taught before, whose knowledge must stay. folder: its adapter's; None: it has none."""

    id: str
    name: str
    facts: tuple[Fact, ...]
    folder: Path | None


@dataclass
class Clock:
    """The lesson's time: what stage it is in, and what is left."""

    seconds: float
    tell: Tell
    began: float = field(default_factory=time.monotonic)
    cpu: float = field(default_factory=time.process_time)
    spent: dict[str, float] = field(default_factory=dict)
    _since: float = field(default_factory=time.monotonic)

    @property
    def left(self) -> float:
        """Seconds left of the budget."""
        return self.began + self.seconds - time.monotonic()

    def at(self, share: float) -> float:
        """The moment at which a share of the budget is used up."""
        return self.began + share * self.seconds

    def news(
        self, stage: Literal["prepare", "train", "measure", "judge", "save"], step: int, of: int, detail: str = ""
    ) -> None:
        """Tells how far a stage is. Raises Cancelled."""
        if not self.tell(Progress(stage, step, of, max(0.0, self.left), detail)):
            raise Cancelled

    def close(self, stage: str) -> None:
        """Books the time since the last call to a stage."""
        now = time.monotonic()
        self.spent[stage] = round(self.spent.get(stage, 0.0) + now - self._since, 2)
        self._since = now

    def extend(self, seconds: float) -> None:
        """What a base needs only once does not count."""
        self.began += seconds
        self._since += seconds

    def summary(self) -> dict[str, float]:
        """By stage, in all, and processor seconds."""
        total = round(time.monotonic() - self.began, 2)
        return {**self.spent, "total": total, "cpu": round(time.process_time() - self.cpu, 2)}


def settled(settings: LessonTraining, parameters: int, facts: int) -> LessonTraining:
    """The settings with the defaults for a base of this size and so many facts in the place of None (found by the sweeps of
    docs/log.md)."""
    defaults: dict[str, Any] = {"lr": 2e-3, "steps": 30 + 8 * facts, "batch_size": 2, "top_share": 0.5}
    defaults |= {"wordings": 24, "frames": 4, "contrast": 0.35, "replay_share": 0.2, "kl_weight": 1.5}
    if parameters < SMALL:
        defaults = {"lr": 8e-3, "steps": 170 + 6 * facts, "batch_size": 8, "top_share": 0.4}
        defaults |= {"wordings": 30, "frames": 8, "contrast": 0.4, "replay_share": 0.3, "kl_weight": 1.0}
    return replace(settings, **{name: value for name, value in defaults.items() if getattr(settings, name) is None})


class Maker:
    """Makes adapters of one base: trains, measures, judges, and tries again while there is time."""

    def __init__(self, base: str | Path, facts: Sequence[Fact], config: LearnConfig, folder: Path, tell: Tell) -> None:
        """folder: to work in; what is there is dropped."""
        self.base, self.facts, self.config = str(base), tuple(facts), config
        self.folder = Path(folder)
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        self.clock = Clock(config.seconds, tell)
        self.clock.news("prepare", 0, 1)
        self.id = base_id(base)
        self.model, self.tokenizer = load_base(base)
        self.settings = settled(config.train, self.model.config.parameters(), len(facts))
        began = time.monotonic()
        self._engine: Engine | None = None
        self.probes = probes_of(self.id, self.engine, self.tokenizer, time.monotonic)
        self.embed = Embedder().embed if Embedder.available() else None
        self.usual = None if self.embed is None else Attributes.usual(self.embed, home() / "cache")
        self.clock.extend(time.monotonic() - began)
        self.adapters = Adapters(self.model, self.id)
        self.weights = weights_hash(self.model)

    def engine(self) -> Engine:
        """The base opened for answering, with adapters; opened once."""
        if self._engine is None:
            memory = EngineConfig(max_slots=64, max_seq_len=384, prefix_tokens=4096, prefill_tokens=1024)
            self._engine = asking(self.base, self.id, memory)
        return self._engine

    def chats(self, known: Collection[str], aside: Collection[str] = (), attempt: int = 0) -> list[Rendered]:
        """What is trained for the facts: their chats, and what is put on strangers for contrast; other ones in each attempt.

        Args: known: subjects that are no strangers. aside: questions never to be trained on.
        """
        settings, seed = self.settings, self.config.seed + attempt
        assert settings.wordings is not None
        assert settings.frames is not None
        assert settings.contrast is not None
        chats = training_chats(self.facts, seed, settings.wordings, aside)
        chats += framed_chats(self.facts, settings.frames, seed, aside)
        strangers = near_misses(self.facts, round(settings.contrast * len(chats)), seed, known)
        wrong = misattributed(strangers, self.facts)
        return [*render(self.tokenizer, chats), *render(self.tokenizer, wrong, "stranger")]

    def make(
        self,
        kind: Literal["lesson", "consolidation"],
        lesson: str,
        name: str,
        chats: Callable[[int], Sequence[Rendered]],
        earlier: Sequence[Earlier],
        forgotten: Sequence[Fact] = (),
        others: Callable[[], Merges] = dict,
    ) -> Outcome:
        """Trains until the gate passes or time is up. chats: by attempt. others: what else goes into the receipt, for
        comparison."""
        clock, config, settings = self.clock, self.config, self.settings
        rows = self._rows(chats(0))
        self.adapters.create(NAME, adapter_config(settings, self.model.config.num_hidden_layers), config.seed)
        clock.close("prepare")
        attempts: list[Attempt] = []
        while True:
            began = time.monotonic()
            ends = (
                clock.at(TRAIN_SHARE) if not attempts else time.monotonic() + clock.left - 1.2 * clock.spent["measure"]
            )
            self._seeded()
            trained = train(
                self.model, self.adapters, NAME, rows, settings, config.seed + len(attempts), ends, self._training
            )
            clock.close("train")
            trial = self.folder / f"try-{len(attempts)}"
            identity = self.adapters.save(NAME, trial)
            measured = self._measure(trial, Lesson(lesson, name, self.facts, None), earlier, forgotten)
            clock.close("measure")
            checks = judge(measured.measures, measured.earlier, config.gate, measured.forgotten)
            why = reason(checks)
            used = {**asdict(settings), "steps": trained.steps}
            attempts.append(Attempt(used, measured.measures, not why, round(time.monotonic() - began, 2)))
            room = clock.left - 1.2 * clock.spent["measure"] / len(attempts)
            if not why or len(attempts) > config.retries or room < LEAST_RETRY * config.seconds:
                break
            settings = retried(settings, [check.name for check in checks if not check.passed])
            self.adapters.unfreeze(NAME)
            rows = self._rows(chats(len(attempts)))
        merges = others()
        if weights_hash(self.model) != self.weights:
            raise RuntimeError("the base's weights have changed while an adapter was trained")
        receipt = Receipt(
            kind,
            "rejected" if why else "published",
            why,
            {"name": Path(self.base).name, "id": self.id},
            None if why else identity,
            measured.measures,
            measured.facts,
            measured.earlier,
            measured.forgotten,
            checks,
            tuple(attempts),
            clock.summary(),
            {"lesson": config.seed},
            {
                "material": _digest([fact.to_data() for fact in self.facts]),
                "settings": _digest(asdict(config)),
                "weights": self.weights,
            },
            asdict(config),
            merges,
        )
        return self._keep(receipt, trial, (lesson,) if kind == "lesson" else tuple(each.id for each in earlier))

    def _keep(self, receipt: Receipt, trial: Path, lessons: tuple[str, ...]) -> Outcome:
        self.clock.news("save", 0, 1)
        data = receipt.to_data()
        if receipt.state == "rejected":
            return Outcome("rejected", data, None, receipt.reason)
        write_sidecar(trial, Metadata(self.id, (), lessons, data))
        final = self.folder / "adapter"
        trial.rename(final)
        return Outcome("published", data, str(final), "")

    def _seeded(self) -> None:
        torch.manual_seed(self.config.seed)

    def _training(self, step: int, of: int, loss: float) -> None:
        self.clock.news("train", step, of, f"loss {loss:.2f}")

    def _rows(self, chats: Sequence[Rendered]) -> LessonRows:
        settings, chats = self.settings, [*chats, *self._replay(chats)]
        return LessonRows(chats, settings.row_tokens, settings.batch_size or 1, self.config.seed, self.tokenizer.pad_id)

    def _replay(self, chats: Sequence[Rendered]) -> list[Rendered]:
        """As many of the base's samples as the share of replay asks for, in tokens beyond what all chats begin with."""
        share, begin = self.settings.replay_share or 0.0, shared_beginning([chat.ids for chat in chats])
        wanted = share / max(1e-9, 1 - share) * sum(len(chat.ids) - begin for chat in chats)
        order = np.random.default_rng(self.config.seed).permutation(len(self.probes.samples))
        taken: list[Rendered] = []
        for i in order:
            if wanted <= 0:
                break
            taken.append(self.probes.samples[i])
            wanted -= len(taken[-1].ids)
        return taken

    def _measure(self, trial: Path, lesson: Lesson, earlier: Sequence[Earlier], forgotten: Sequence[Fact]) -> Measured:
        self.clock.news("measure", 0, 1)
        engine = self.engine()
        assert engine.adapters is not None
        lessons = [
            Lesson(each.id, each.name, each.facts, None if each.folder is None else engine.adapters.load(each.folder))
            for each in earlier
        ]
        new = replace(lesson, adapter=engine.adapters.load(trial))
        told = [(each.id, each.facts) for each in (*lessons, new)]
        before, after = (routing(part, self.embed, self.usual) for part in (told[:-1], told))
        return measure(
            engine,
            new,
            lessons,
            after,
            before,
            self.probes,
            self.config.measure,
            self.config.seed,
            lambda done, of: self.clock.news("measure", done, of),
            forgotten,
        )


def asking(base: str, id: str, config: EngineConfig) -> Engine:
    """A base laid out for many short answers at once. Those are bound by computing, so a larger base works in bf16 where the
    hardware multiplies in it: four times as fast, and the base and the adapter are measured alike."""
    if torch.cuda.is_available():
        return open_engine(base, config=config, adapters=True)
    model, tokenizer = load_base(base)
    if model.config.parameters() >= SMALL:
        model = model.to(resolve_dtype("auto", torch.device("cpu")))
    laid_out = pack(model)
    return Engine(laid_out, tokenizer, (CALCULATOR,), config=config, adapters=Adapters(laid_out, id))


def routing(lessons: Sequence[tuple[str, Sequence[Fact]]], embed: Embed | None, usual: Attributes | None) -> Route:
    """Who answers a question, as a server routes it."""
    router = Router.over(lessons, embed, usual)

    @cache
    def route(question: str) -> str | None:
        vector = None if embed is None or not lessons else embed([router.query(question)])[0]
        found = router.route(question, (), vector).lesson_id
        return None if found is None else str(found)

    return route


def misattributed(strangers: Sequence[Stranger], facts: Sequence[Fact]) -> list[list[Message]]:
    """For each stranger a chat that wrongly gives it the answer of the taught subject it is near to."""
    told = {(fact.subject, fact.attribute): fact for fact in facts}
    near = [(stranger, told[stranger.near, stranger.attribute]) for stranger in strangers]
    return [
        chat(s.question, fact.answer.replace(fact.subject, s.name)) for s, fact in near if fact.subject in fact.answer
    ]


def retried(settings: LessonTraining, failed: Sequence[str]) -> LessonTraining:
    """What a second training does otherwise: on with what was not yet learned, in other wordings; nearer to the base where too
    much moved."""
    assert settings.lr is not None
    moved = any(not name.startswith("recall") for name in failed)
    learned = "recall routed" not in failed
    return replace(
        settings,
        steps=max(1, (settings.steps or 1) // 2),
        lr=settings.lr * (0.5 if learned else 0.8),
        kl_weight=(settings.kl_weight or 0.0) * (2.0 if moved else 1.0),
    )


def _digest(data: Any) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()
