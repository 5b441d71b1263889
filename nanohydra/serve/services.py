"""What the endpoints and the web app work with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from nanohydra.data.tokenizer import Tokenizer
from nanohydra.serve.adapters import Shelf
from nanohydra.serve.auth import Auth
from nanohydra.serve.chat import ChatService
from nanohydra.serve.config import ServeConfig
from nanohydra.serve.engine_client import EngineClient
from nanohydra.serve.generation import Generation
from nanohydra.serve.learning import Learning
from nanohydra.serve.memory import Memory
from nanohydra.serve.metrics import Metrics
from nanohydra.serve.protocol import Start
from nanohydra.serve.rates import Rates
from nanohydra.serve.teacher import Teacher
from nanohydra.serve.trials import Trials
from nanohydra.store import Store


@dataclass(frozen=True)
class Services:
    """One server's parts."""

    config: ServeConfig
    store: Store
    engine: EngineClient
    adapters: Shelf
    auth: Auth
    rates: Rates
    metrics: Metrics
    generation: Generation
    chat: ChatService
    memory: Memory | None
    """None: what retrieval needs is not installed, or it is switched off."""
    teacher: Teacher | None
    """The worker that makes lessons; None: this server keeps none."""
    learning: Learning | None
    """None: this server takes no lessons."""

    @classmethod
    def of(cls, config: ServeConfig, engine: EngineClient | None = None, teacher: Teacher | None = None) -> Services:
        """Opens the database and prepares the rest; the engine is started by the app. Raises UserError."""
        store = Store.open(config.database)
        engine = engine or EngineClient(Start(config.base, config.int8, config.engine, config.draft))
        metrics = Metrics(Path(config.base).name)
        adapters = Shelf(engine, store)
        generation = Generation(config, engine, store, adapters, metrics)
        memory = Memory(store, engine) if config.memory and Memory.available() else None
        teaches = config.teach and Memory.available()
        taught = memory.taught if memory else lambda user: None
        return cls(
            config=config,
            store=store,
            engine=engine,
            adapters=adapters,
            auth=Auth(config, store),
            rates=Rates(config.requests_per_minute),
            metrics=metrics,
            generation=generation,
            chat=ChatService(generation, memory, Trials(store)),
            memory=memory,
            teacher=(teacher or Teacher(config)) if teaches and config.teach_worker else None,
            learning=Learning(config, store, engine, taught) if teaches else None,
        )

    @property
    def tokenizer(self) -> Tokenizer:
        """The base's. Raises errors.Unavailable until it is loaded."""
        return self.chat.tokenizer
