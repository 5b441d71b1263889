"""The panel beside a chat: system prompt and sampling."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from nanohydra.errors import UserError
from nanohydra.infer.config import SamplingParams
from nanohydra.serve.web.theme import button, choice, el, labelled


@dataclass(frozen=True)
class Control:
    """A number that can be set. `kind`: a slider ("range") or a field ("number")."""

    name: str
    label: str
    hint: str
    kind: str
    low: float
    high: float
    step: float


CONTROLS = (
    Control(
        "temperature", "Temperature", "0 always takes the likeliest token; higher is livelier.", "range", 0, 2, 0.05
    ),
    Control("top_p", "Top-p", "Keep the likeliest tokens up to this share.", "range", 0.05, 1, 0.05),
    Control("min_p", "Min-p", "Drop tokens less likely than this share of the best.", "range", 0, 0.5, 0.01),
    Control(
        "repetition_penalty", "Repetition penalty", "Above 1, what was said becomes less likely.", "range", 1, 2, 0.05
    ),
    Control("top_k", "Top-k", "Keep so many tokens; 0 keeps all.", "number", 0, 1000, 1),
    Control("max_tokens", "Longest answer", "In tokens.", "number", 1, 32768, 1),
    Control("seed", "Seed", "The same seed gives the same answer; empty draws anew.", "number", 0, 2**31 - 1, 1),
)
USES = {
    "on": "on: by heart, else quoted",
    "weights": "by heart only (adapters)",
    "retrieval": "quoted only (retrieval)",
    "off": "off: the base alone",
}
"""What of somebody's memory may answer in a chat, as `serve.memory.Use` names it."""
_WHOLE = {c.name for c in CONTROLS if c.kind == "number"}


def params_of(settings: Mapping[str, Any], defaults: SamplingParams) -> SamplingParams:
    """The sampling that a conversation's settings ask for. UserError for values that cannot be."""
    names = [c.name for c in CONTROLS]
    values = {name: settings[name] for name in names if settings.get(name) is not None}
    stop = tuple(line for line in str(settings.get("stop", "")).splitlines() if line)
    known = {name: getattr(defaults, name) for name in names}
    return SamplingParams(**{**known, **values}, stop=stop or defaults.stop)


class SettingsPanel:
    """Fills the panel for one conversation; each change is handed to `on_change(name, value)` at once."""

    def __init__(
        self, on_change: Callable[[str, Any], Awaitable[None]], on_reset: Callable[[], Awaitable[None]]
    ) -> None:
        self._on_change = on_change
        self._on_reset = on_reset
        self.box = el("div", "settings-fields")

    def fill(self, system: str, settings: Mapping[str, Any], defaults: SamplingParams) -> None:
        """Shows the values of a conversation."""
        self.box.clear()
        with self.box:
            with labelled(
                "System prompt", "Tells the model who it is and how to answer. Counts from the next answer on."
            ):
                area = el("textarea", "", system, rows=5, placeholder="You are …", name="system")
                area.on("change", self._text("system"), js_handler="e => emit(e.target.value)")
            with labelled("Memory", "Whether what you taught may answer, where no adapter is chosen above."):
                choice(USES, settings.get("memory", "on"), lambda use: self._on_change("memory", use), name="memory")
            for control in CONTROLS:
                value = settings.get(control.name)
                self._control(control, getattr(defaults, control.name) if value is None else value)
            with labelled("Stop at", "One string a line; the answer ends before it."):
                area = el("textarea", "", str(settings.get("stop", "")), rows=2, name="stop")
                area.on("change", self._text("stop"), js_handler="e => emit(e.target.value)")
            button("Back to the defaults", on_click=self._on_reset)

    def _control(self, control: Control, value: float | None) -> None:
        with labelled(control.label, control.hint):
            shown = "" if value is None else f"{value:g}"
            field = el(
                "input",
                type=control.kind,
                name=control.name,
                min=control.low,
                max=control.high,
                step=control.step,
                inputmode="numeric" if control.kind == "number" else None,
                **{"^value": shown},
            )
            if control.kind == "range":
                el("output", text=shown)
            field.on("change", self._number(control), js_handler="e => emit(e.target.value)")

    def _text(self, name: str) -> Callable[[Any], Awaitable[None]]:
        return lambda event: self._on_change(name, str(event.args))

    def _number(self, control: Control) -> Callable[[Any], Awaitable[None]]:
        async def changed(event: Any) -> None:
            value: float | None = None
            with contextlib.suppress(ValueError):
                value = min(max(float(event.args), control.low), control.high) if event.args != "" else None
            await self._on_change(control.name, int(value) if value is not None and control.name in _WHOLE else value)

        return changed


def checked(settings: Mapping[str, Any], defaults: SamplingParams) -> str:
    """Why these settings cannot be; empty where they can."""
    try:
        params_of(settings, defaults)
    except (UserError, TypeError) as e:
        return str(e)
    return ""
