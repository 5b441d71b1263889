"""The set of adapters attached to one model.

The model is not rebuilt: its linear layers keep their names and weights, and get a forward hook that adds what the
current call's adapters add. Which those are travels with the call (a context variable: threads and async tasks do not
see each other's), and is never a property of the model: `rows` says it for each row of a batch, `using` for all rows.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from nanohydra.adapt.adapter import Adapter, Metadata, new_adapter, stacked_weight
from nanohydra.adapt.config import AdapterConfig
from nanohydra.adapt.folder import load_adapter, save_adapter
from nanohydra.adapt.linear import Linear, linear_layers
from nanohydra.adapt.methods import AdapterLayer
from nanohydra.adapt.rows import Plans, RowsCall
from nanohydra.errors import UserError, did_you_mean

Row = None | str | Sequence[str]
"""A row's adapter: None for the base, a name (with what it was trained on top of), or names in order, lowest first."""


Parts = Sequence[tuple[str, Linear]]
"""The linear layers in one module by their paths: one, unless several were joined."""


class Call(Protocol):
    """What is applied in one forward call."""

    def apply(self, site: str, parts: Parts, x: Tensor, y: Tensor) -> Tensor | None:
        """The adapted output of a module, or None to leave y as it is; x (B, ..., in), y (B, ..., out)."""


class BaseCall:
    """The base alone."""

    def apply(self, site: str, parts: Parts, x: Tensor, y: Tensor) -> None:
        return None


class StackCall:
    """One stack of adapters for all rows, with gradients to those that are trainable."""

    def __init__(self, layers: dict[str, list[AdapterLayer]]) -> None:
        self.layers = layers

    def apply(self, site: str, parts: Parts, x: Tensor, y: Tensor) -> Tensor | None:
        for path, linear in parts:
            layers = self.layers.get(path, ())
            part = y if linear.outputs is None else y[..., linear.outputs]
            for i, layer in enumerate(layers):
                part = layer(x, part, partial(stacked_weight, linear, layers[:i]), linear.bias)
            if linear.outputs is None:
                return part
            y[..., linear.outputs] = part  # joined layers are for inference only
        return y


BASE = BaseCall()


class Adapters(nn.Module):
    """Attaches to a model as its submodule `adapters`, freezing the base's weights until `close` (or the end of a
    `with` block).

    Being a submodule, trainable adapters are seen by an optimizer over `model.parameters()` and saved with the model's
    state; every name outside `adapters.` stays what it was.
    """

    def __init__(self, model: nn.Module, base: str | None = None) -> None:
        """`base` is the content hash of the model's weights, where known: adapters of another base are refused."""
        super().__init__()
        if "adapters" in dict(model.named_children()):
            raise ValueError("The model has a set of adapters already.")
        self.base = base
        self._model = (model,)  # in a tuple, lest the model become a submodule of its own submodule
        self._linears = linear_layers(model)
        self._required_grad = {p: p.requires_grad for p in model.parameters()}
        model.requires_grad_(False)
        model.add_module("adapters", self)
        parts: dict[str, list[tuple[str, Linear]]] = {}
        for path, linear in self._linears.items():
            parts.setdefault(linear.site, []).append((path, linear))
        self._handles = [its[0][1].module.register_forward_hook(self._hook(site, its)) for site, its in parts.items()]
        self._selected: ContextVar[Call | None] = ContextVar("selected", default=None)
        self._default: Call = BASE
        self._default_row: Row = None
        self._originals: dict[str, tuple[Tensor, Tensor]] = {}
        self._trainable: set[str] = set()
        self._plans = Plans(self._linears, self._where)

    def _hook(self, site: str, parts: Parts) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor | None]:
        def hook(module: nn.Module, args: tuple[Tensor, ...], y: Tensor) -> Tensor | None:
            return (self._selected.get() or self._default).apply(site, parts, args[0], y)

        return hook

    def __enter__(self) -> Adapters:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    # ---- which adapters there are

    @property
    def names(self) -> list[str]:
        """The attached adapters, in the order they came."""
        return list(self._modules)  # a copy made at once: another thread may be adding one

    def __getitem__(self, name: str) -> Adapter:
        """The attached adapter of a name. Raises UserError where there is none."""
        if name not in self._modules:
            raise UserError(f'No adapter "{name}" is attached.{did_you_mean(name, self.names)}')
        return self._modules[name]  # type: ignore[return-value]  # nothing but adapters is a submodule

    def create(self, name: str, config: AdapterConfig, seed: int = 0, over: Sequence[str] = ()) -> Adapter:
        """A new trainable adapter, to be trained on top of the saved adapters `over` (lowest first) if any are named."""
        below = [self[n] for n in over]
        ids = tuple(adapter.id or "" for adapter in below)
        if not all(ids):
            raise UserError("An adapter can be trained only on top of saved ones: save those below it first.")
        metadata = Metadata(base=self.base, over=ids)
        return self.add(name, new_adapter(config, self._linears, seed, metadata, below))

    def add(self, name: str, adapter: Adapter) -> Adapter:
        """Attaches an adapter under a name (letters, digits, _ and -)."""
        if not re.fullmatch(r"[A-Za-z0-9_-]+", name) or (hasattr(self, name) and name not in self.names):
            raise UserError(f'"{name}" cannot name an adapter: use letters, digits, _ and -.')
        if name in self.names:
            raise UserError(f'An adapter "{name}" is attached already: remove it or choose another name.')
        made_for = adapter.metadata.base
        if made_for and self.base and made_for != self.base:
            raise UserError(f"The adapter is for another base: made for {made_for[:12]}, this is {self.base[:12]}.")
        adapter.check_fits(self._linears)
        adapter.to(next(self._model[0].parameters()).device).train(self._model[0].training)
        self.add_module(name, adapter)
        if any(p.requires_grad for p in adapter.parameters()):
            self._trainable.add(name)
        return adapter

    def load(self, folder: Path | str, name: str | None = None) -> str:
        """Attaches the adapter of a PEFT folder, frozen; returns its name, by default the head of its content hash. One
        that is attached already is left as it is."""
        adapter = load_adapter(Path(folder))
        assert adapter.id is not None
        name = name or adapter.id[:12]
        if name not in self.names or self[name].id != adapter.id:
            self.add(name, adapter)
        return name

    def save(self, name: str, folder: Path | str) -> str:
        """Writes an adapter as a PEFT folder with our sidecar; returns its id, the folder's content hash. It is frozen
        from then on, so that the id always names what it is."""
        identity = save_adapter(self[name], Path(folder))
        self.freeze(name)
        return identity

    def remove(self, name: str) -> None:
        """Detaches one adapter. Calls under way keep what they gathered of it."""
        self._refuse_while_merged()
        if self[name] and name in self.resolve(self._default_row):
            self.select(None)
        delattr(self, name)
        self._trainable.discard(name)
        self._plans.forget(name)

    def freeze(self, name: str) -> None:
        """Ends an adapter's training: from here on it is immutable."""
        self[name].requires_grad_(False)
        self._trainable.discard(name)
        self._plans.forget(name)

    def unfreeze(self, name: str) -> None:
        """Makes an adapter trainable (again); it is then another adapter, and has no id until it is saved."""
        adapter = self[name].requires_grad_(True)
        adapter.id = None
        self._trainable.add(name)
        self._plans.forget(name)

    def close(self) -> None:
        """Detaches all: the model is as it was before, to the bit."""
        self.unmerge()
        for handle in self._handles:
            handle.remove()
        delattr(self._model[0], "adapters")
        for parameter, required in self._required_grad.items():
            parameter.requires_grad_(required)

    # ---- which of them a call uses

    def resolve(self, row: Row) -> tuple[str, ...]:
        """The names that a row stands for, the lowest first. Raises UserError on a missing one."""
        if row is None:
            return ()
        if not isinstance(row, str):
            return tuple(name for name in row if self[name])
        over = self[row].metadata.over
        if not over:
            return (row,)
        by_id = {self[name].id: name for name in self.names}
        missing = [i for i in over if i not in by_id]
        if missing:
            raise UserError(f'Adapter "{row}" was trained on top of adapter {missing[0][:12]}: load that one first.')
        return (*(by_id[i] for i in over), row)

    def select(self, row: Row) -> None:
        """What calls outside `rows` and `using` do, such as a trainer's: the base (None) or a stack for all rows."""
        self._refuse_while_merged()
        self._default, self._default_row = self._stack_call(row), row

    @contextmanager
    def using(self, row: Row) -> Iterator[None]:
        """Within: all rows of every call use this adapter (or the base, None), with gradients to trainable ones. With
        activation checkpointing the backward pass computes layers again, so it belongs within, too."""
        with self._calling(self._stack_call(row)):
            yield

    @contextmanager
    def rows(self, rows: Sequence[Row]) -> Iterator[None]:
        """Within: row i of every batch uses the adapter `rows[i]`, all in one computation. For inference: gathering
        cuts gradients, so trainable adapters are refused while gradients are recorded."""
        stacks = tuple(self.resolve(row) for row in rows)
        moving = frozenset(name for stack in stacks for name in stack if name in self._trainable)
        if moving and torch.is_grad_enabled():
            raise ValueError("rows() passes no gradients: use using() to train, or torch.no_grad() to measure.")
        with self._calling(RowsCall(self._plans.plan(stacks, self._layers, moving)) if any(stacks) else BASE):
            yield

    @contextmanager
    def _calling(self, call: Call) -> Iterator[None]:
        self._refuse_while_merged()
        token = self._selected.set(call)
        try:
            yield
        finally:
            self._selected.reset(token)

    def _stack_call(self, row: Row) -> Call:
        names = self.resolve(row)
        return StackCall(self._layers(names)) if names else BASE

    def _layers(self, names: Iterable[str]) -> dict[str, list[AdapterLayer]]:
        layers: dict[str, list[AdapterLayer]] = {}
        for name in names:
            for path, layer in self[name].layers.items():
                layers.setdefault(path, []).append(layer)
        return layers

    # ---- merging

    @torch.no_grad()
    def merge(self, row: Row) -> None:
        """Puts a stack of adapters into the base's weights, until `unmerge`, which puts back the very tensors that were
        there. Meanwhile no other adapter can be used."""
        self._refuse_while_merged()
        layers = self._layers(self.resolve(row))
        targets = {path: m for path in layers if type(m := self._linears[path].module) is nn.Linear}
        if len(targets) < len(layers):
            raise UserError(
                "Nothing can be merged into 4-bit, int8 or packed weights: merge into the base as it was loaded."
            )
        shared = {id(module.weight) for module in targets.values()}
        for path, other in self._model[0].named_modules():
            if path not in layers and id(getattr(other, "weight", None)) in shared:
                raise UserError(f"A weight to merge into is shared with {path}: adapt only weights that are not tied.")
        for path, module in targets.items():
            self._originals[path] = (module.weight, module.weight.data)
            module.weight.data = stacked_weight(self._linears[path], layers[path]).to(module.weight.dtype)
        self._default = BASE

    def unmerge(self) -> None:
        """Puts the base's own weights back."""
        for weight, original in self._originals.values():
            weight.data = original
        if self._originals:
            self._originals = {}
            self.select(self._default_row)

    def _where(self) -> tuple[torch.dtype, torch.device]:
        """What the base computes in, and where: the trainer lends it weights of another type, and it may be moved."""
        first = next(self._model[0].parameters())
        return first.dtype, first.device

    def _refuse_while_merged(self) -> None:
        if self._originals:
            raise UserError("Adapters are merged into the base: call unmerge() first.")


def weights_hash(model: nn.Module) -> str:
    """SHA-256 over names, shapes, types and bytes of a model's own parameters and buffers, adapters left out."""
    digest = hashlib.sha256()
    tensors = {**dict(model.named_parameters(remove_duplicate=False)), **dict(model.named_buffers())}
    for name, tensor in sorted(tensors.items()):
        if not name.startswith("adapters."):
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
            digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
