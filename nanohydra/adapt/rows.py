"""A batch whose rows have different adapters, in one computation: each row's factors are gathered into stacked tensors.

Every stack of adapters is flattened once into one vector with the factors of all its layers, ranks padded with zeros to
a common R. A batch's rows are then `torch.stack`s of parts of such vectors, kept while the same rows come again, and a
layer is two batched products. Layers that share their input (q, k and v; gate and up) share the first product. A row
without an adapter is not touched: its output is the base's to the bit.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from nanohydra.adapt.adapter import stacked_weight
from nanohydra.adapt.linear import Linear
from nanohydra.adapt.methods import AdapterLayer

SAME_INPUT = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
"""Layers of one parent module that are given the same input. Should a model give them different ones after all, the
result is still right, only slower: the shared product is reused for the very same tensor only."""

KEPT_PLANS = 2
"""How many plans are kept: one for the decode steps of a batch, one for what comes between. (A plan of one adapter for
all rows holds views only, any other a copy of every adapted row's factors.)"""

Layers = Mapping[str, Sequence[AdapterLayer]]
"""A stack of adapters by module path: the layers there, the lowest first."""


@dataclass(frozen=True)
class _Place:
    """Where one module path's factors are in a flat vector."""

    group: int
    a: slice
    a_shape: tuple[int, int]
    columns: slice
    b: slice
    b_shape: tuple[int, int]
    gain: slice


class Layout:
    """Where the factors of every adapted path are in a flat vector: a group's A (in, k R) for its k paths, then their
    B (R, out) one by one. (Stored transposed, as the products of single tokens read them fastest.)"""

    def __init__(
        self, linears: Mapping[str, Linear], paths: Iterable[str], rank: int, where: tuple[torch.dtype, torch.device]
    ) -> None:
        self.linears, self.rank = linears, rank
        self.where = where
        self.device = where[1]
        # On a CPU fp32 is faster even for a bf16 base: oneDNN's bf16 products of single rows take twice its time.
        self.dtype = torch.float32 if self.device.type == "cpu" else where[0]
        self.places: dict[str, _Place] = {}
        self.size = self.gains = 0
        groups: dict[tuple[str, str], list[str]] = {}
        for path in paths:
            groups.setdefault(_input_of(path), []).append(path)
        for number, members in enumerate(groups.values()):
            width = linears[members[0]].in_features
            a = slice(self.size, self.size + len(members) * rank * width)
            self.size = a.stop
            for i, path in enumerate(members):
                out = linears[path].out_features
                b, gain = slice(self.size, self.size + out * rank), slice(self.gains, self.gains + out)
                columns = slice(i * rank, (i + 1) * rank)
                a_shape = (width, len(members) * rank)
                self.places[path] = _Place(number, a, a_shape, columns, b, (rank, out), gain)
                self.size, self.gains = b.stop, gain.stop

    @torch.no_grad()
    def flatten(self, stack: Layers) -> Flat:
        """The flat vector of a stack of adapters. Its layers' factors must not exceed the layout's rank in sum."""
        data = torch.zeros(self.size, dtype=self.dtype, device=self.device)
        gains = None
        for path, layers in stack.items():
            place, start = self.places[path], 0
            a_columns, b_rows = data[place.a].view(place.a_shape)[:, place.columns], data[place.b].view(place.b_shape)
            for i, layer in enumerate(layers):
                a, b = layer.factors()
                part = slice(start, start := start + len(a))
                gain = layer.gain(partial(stacked_weight, self.linears[path], layers[:i]))
                a_columns[:, part] = a.t()
                b_rows[part] = layer.scale * b.t()
                if gain is not None:  # y becomes g (y + s B A x): the gain is on all that lies below, too
                    gains = torch.ones(self.gains, device=self.device) if gains is None else gains
                    b_rows[:start] *= gain
                    gains[place.gain] *= gain
        return Flat(data, None if gains is None else (gains - 1).to(self.dtype), frozenset(stack))


class Flat(NamedTuple):
    """One stack of adapters as one vector. Never written again once made, so any thread may read it."""

    data: Tensor
    """(size,) all factors, scales folded into B."""
    gains: Tensor | None
    """(gains,) what each output is multiplied by, less 1 (DoRA); None: nothing."""
    paths: frozenset[str]
    """The module paths it changes."""


class _Part(NamedTuple):
    """One linear layer of a module."""

    linear: Linear
    columns: slice  # of x A
    b: Tensor  # (n, R, out)
    gain: Tensor | None  # (n, 1, out)


class _Site(NamedTuple):
    """One module."""

    group: int
    a: Tensor  # (n, in, k R), the group's
    parts: list[_Part]


class Plan:
    """The gathered factors of a batch's rows. Read-only: threads may share it, and it may be kept for later calls."""

    def __init__(self, layout: Layout, flats: Sequence[Flat | None]) -> None:
        self.rows = len(flats)
        adapted = [i for i, flat in enumerate(flats) if flat is not None]
        self.active = None if len(adapted) == self.rows else torch.tensor(adapted, device=layout.device)
        """The numbers of the rows that have an adapter: no other is touched. None: all have."""
        used = [flat for flat in flats if flat is not None]
        if all(flat is used[0] for flat in used):
            used = used[:1]
        self.n = len(used)
        """1 where all adapted rows have the same adapter, else the number of adapted rows."""
        gains = None
        if any(flat.gains is not None for flat in used):
            unchanged = torch.zeros(layout.gains, dtype=layout.dtype, device=layout.device)
            gains = _stack([unchanged if flat.gains is None else flat.gains for flat in used])
        paths = frozenset[str]().union(*(flat.paths for flat in used))
        self.sites: dict[str, _Site] = {}
        first: dict[int, Tensor] = {}  # A of each group
        for path, place in layout.places.items():
            if path in paths:
                if place.group not in first:
                    first[place.group] = _stack([flat.data[place.a].view(place.a_shape) for flat in used])
                a, b = first[place.group], _stack([flat.data[place.b].view(place.b_shape) for flat in used])
                gain = None if gains is None else gains[:, None, place.gain]
                linear = layout.linears[path]
                site = self.sites.setdefault(linear.site, _Site(place.group, a, []))
                site.parts.append(_Part(linear, place.columns, b, gain))


class Plans:
    """Makes plans and keeps them: the flat vector of every stack, and the last plans."""

    def __init__(self, linears: Mapping[str, Linear], where: Callable[[], tuple[torch.dtype, torch.device]]) -> None:
        self.linears, self.where = linears, where
        self._layout = Layout(linears, (), 0, where())
        self._flats: dict[tuple[str, ...], Flat] = {}
        self._plans: OrderedDict[tuple[tuple[str, ...], ...], Plan] = OrderedDict()
        self._lock = threading.Lock()

    def plan(
        self,
        stacks: tuple[tuple[str, ...], ...],
        layers: Callable[[tuple[str, ...]], Layers],
        moving: frozenset[str] = frozenset(),
    ) -> Plan:
        """The plan of a batch with these stacks, one a row (an empty one is the base); `layers` gives a stack's layers.

        What was made of the adapters in `moving`, which are being trained, is made anew.
        """
        with self._lock:
            self._drop(moving)
            if self.where() != self._layout.where:
                self._start(Layout(self.linears, self._layout.places, self._layout.rank, self.where()))
            if plan := self._plans.get(stacks):
                self._plans.move_to_end(stacks)
                return plan
            made = {stack: layers(stack) for stack in {*stacks} if stack and stack not in self._flats}
            if self._outgrown(made.values()):
                made = {stack: layers(stack) for stack in {*stacks} if stack}
            for stack, stack_layers in made.items():
                self._flats[stack] = self._layout.flatten(stack_layers)
            plan = Plan(self._layout, [self._flats[stack] if stack else None for stack in stacks])
            self._plans[stacks] = plan
            while len(self._plans) > KEPT_PLANS:
                self._plans.popitem(last=False)
            return plan

    def forget(self, name: str) -> None:
        """Drops what was made of an adapter."""
        with self._lock:
            self._drop({name})

    def _drop(self, names: Iterable[str]) -> None:
        names = set(names)
        for stack in [stack for stack in self._flats if names & {*stack}]:
            del self._flats[stack]
        for stacks in [stacks for stacks in self._plans if any(names & {*stack} for stack in stacks)]:
            del self._plans[stacks]

    def _outgrown(self, stacks: Iterable[Layers]) -> bool:
        """Replaces the layout where these stacks do not fit it; whether it did."""
        paths, rank = {*self._layout.places}, self._layout.rank
        for stack in stacks:
            paths.update(stack)
            rank = max(rank, *(sum(len(layer.factors()[0]) for layer in layers) for layers in stack.values()))
        if rank == self._layout.rank and len(paths) == len(self._layout.places):
            return False
        self._start(Layout(self.linears, [path for path in self.linears if path in paths], rank, self.where()))
        return True

    def _start(self, layout: Layout) -> None:
        self._layout = layout
        self._flats.clear()
        self._plans.clear()


class RowsCall:
    """One use of a plan. It keeps the product that layers with the same input share, so each use makes its own."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._shared: tuple[int, Tensor, Tensor] | None = None

    def apply(self, site: str, parts: object, x: Tensor, y: Tensor) -> Tensor | None:
        """The adapted output of a module from its input x (B, ..., in) and its output y (B, ..., out)."""
        plan = self.plan
        found = plan.sites.get(site)
        if found is None:
            return None
        if len(x) != plan.rows and (plan.n > 1 or plan.active is not None):
            raise ValueError(f"The batch has {len(x)} rows, but rows() was told of {plan.rows}.")
        if torch.is_grad_enabled():
            y = y.clone()  # what follows is in place: y was made for this call, but here the graph may need it
        adapted = y if plan.active is None else y.index_select(0, plan.active)
        out = adapted.reshape(plan.n, -1, y.shape[-1])
        hidden = self._hidden(found, x)
        for linear, columns, b, gain in found.parts:
            part = out if linear.outputs is None else out[..., linear.outputs]
            if gain is not None:
                part.addcmul_(part if linear.bias is None else part - linear.bias, gain)
            if part.dtype == b.dtype:
                part.baddbmm_(hidden[..., columns], b)
            else:
                part.add_(torch.bmm(hidden[..., columns], b))
        out = out.view(adapted.shape)
        return out if plan.active is None else y.index_copy_(0, plan.active, out)

    def _hidden(self, site: _Site, x: Tensor) -> Tensor:
        """x A (n, ..., k R) for the site's group, computed once for modules that are given the very same x."""
        if self._shared is None or self._shared[0] != site.group or self._shared[1] is not x:
            adapted = x if self.plan.active is None else x.index_select(0, self.plan.active)
            adapted = adapted.reshape(self.plan.n, -1, x.shape[-1]).to(site.a.dtype)
            self._shared = (site.group, x, torch.bmm(adapted, site.a))
        return self._shared[2]


def _stack(vectors: Sequence[Tensor]) -> Tensor:
    return vectors[0][None] if len(vectors) == 1 else torch.stack(list(vectors))


def _input_of(path: str) -> tuple[str, str]:
    """What a module path shares its input by: its parent and the group of its name."""
    parent, _, name = path.rpartition(".")
    return parent, next((group[0] for group in SAME_INPUT if name in group), name)
