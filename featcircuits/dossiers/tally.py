"""What a text says of one site's features, added up block by block; nothing dense over tokens is kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from featcircuits.dossiers.best import Best
from featcircuits.dossiers.histogram import BINS, bins_of
from featcircuits.dossiers.mass import Mass
from featcircuits.dossiers.options import SAME_BEFORE, Options
from featcircuits.dossiers.text import POSITIONS

MOST_ACTIVE = 0.25
"""Mean density of a site's features above which co-activation is left out there: they are active with everything."""
_MULTIPLIERS = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9], np.uint64)


class Block(NamedTuple):
    """Tokens of some documents, padded on the right [row * slot]."""

    slots: int
    ids: NDArray[np.int64]
    keys: NDArray[np.int64]
    """Equal where a token and those before it, as many as count, are equal."""
    draws: NDArray[np.float64]
    """A number in [0, 1) made of the key: what random samples are drawn by, whatever the order of the text."""
    places: NDArray[np.int64]
    sampled: NDArray[np.bool_]
    """Which tokens are among those that co-activation is measured on."""

    def rows(self, start: int, end: int) -> Block:
        """Some of its rows."""
        part = slice(start * self.slots, end * self.slots)
        arrays = {name: values[part] for name, values in self._asdict().items() if name != "slots"}
        return self._replace(**arrays)


def block_of(ids: NDArray[np.int64], documents: list[int], every: int) -> Block:
    """From padded token ids [row, slot]; every so-many-th document is sampled."""
    rows, slots = ids.shape
    keys = np.zeros((rows, slots), np.uint64)
    for back in range(SAME_BEFORE, -1, -1):
        keys[:, back:] = _mixed(keys[:, back:]) + ids[:, : max(0, slots - back)].astype(np.uint64) + np.uint64(1)
        keys[:, :back] = _mixed(keys[:, :back])
    keys = _mixed(keys)
    numbers = np.array(documents, np.int64)[:, None]
    places = numbers * POSITIONS + np.arange(slots)
    sampled = np.broadcast_to(numbers % every == 0, (rows, slots))
    flat = [ids.astype(np.int64), keys.view(np.int64), (_mixed(keys) >> np.uint64(11)) / 2.0**53, places, sampled]
    return Block(slots, *(np.ascontiguousarray(values).ravel() for values in flat))


def _mixed(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of MurmurHash3 with other constants: each bit depends on every bit."""
    x = (x ^ (x >> np.uint64(33))) * _MULTIPLIERS[0]
    x = (x ^ (x >> np.uint64(29))) * _MULTIPLIERS[1]
    return (x ^ (x >> np.uint64(32))) * _MULTIPLIERS[2]


@dataclass(frozen=True)
class Entries:
    """Tokens of a block where features are active [n]."""

    features: Tensor
    counted: Tensor
    block: Block
    options: Options
    token: NDArray[np.int64]
    feature: NDArray[np.int64]

    def key(self, which: NDArray[np.int64]) -> NDArray[np.int64]:
        return self.block.keys[self.token[which]]

    def place(self, which: NDArray[np.int64]) -> NDArray[np.int64]:
        return self.block.places[self.token[which]]

    def windows(self, which: NDArray[np.int64]) -> NDArray[np.float32]:
        """[n, window]: a feature around a token of its row, NaN outside of the row and where tokens do not count."""
        offsets = np.arange(-self.options.before, self.options.after + 1)
        token, slots, device = self.token[which][:, None], self.block.slots, self.features.device
        slot = token % slots + offsets
        inside = torch.from_numpy((slot >= 0) & (slot < slots)).to(device)
        around = torch.from_numpy(token + offsets).to(device).clamp_(0, len(self.features) - 1)
        values = self.features[around, torch.from_numpy(self.feature[which]).to(device)[:, None]].float()
        return _numpy(values.masked_fill_(~(inside & self.counted[around]), torch.nan))


class Together(NamedTuple):
    """Which features were active at sampled tokens: one entry for each pair."""

    place: NDArray[np.int64]
    feature: NDArray[np.int32]


@dataclass
class Tally:
    """Of one site. `ids`: the features that count; the arrays follow their order."""

    ids: Tensor
    vocabulary: int
    options: Options
    n_tokens: int = 0
    """Tokens that are no sinks here."""
    n_sinks: int = 0
    n_active: int = 0
    """Of all features together."""
    scale: float = 0.0
    """Sum over tokens of what a normalising dictionary's rows are multiplied by."""
    histogram: NDArray[np.int64] = field(init=False)
    negative: NDArray[np.int64] = field(init=False)
    """Times that a feature was below 0."""
    mass: Mass = field(init=False)
    top: Best = field(init=False)
    drawn: Best = field(init=False)
    together: list[Together] = field(default_factory=list)

    def __post_init__(self) -> None:
        n, options = len(self.ids), self.options
        self.histogram, self.negative = np.zeros((n, BINS), np.int64), np.zeros(n, np.int64)
        self.mass = Mass(n, self.vocabulary)
        self.top = Best(n, options.contexts, options.window)
        self.drawn = Best(n, options.samples, options.window)

    @property
    def numbers(self) -> list[int]:
        """The features that count."""
        return self.ids.tolist()

    @property
    def crowded(self) -> bool:
        """Whether features are active so often that co-activation is left out."""
        return self.n_active > MOST_ACTIVE * self.n_tokens * len(self.ids)

    @property
    def active(self) -> NDArray[np.int64]:
        """[feature]: tokens where it is active."""
        return self.histogram.sum(1)

    def add(self, features: Tensor, active: Tensor, counted: Tensor, block: Block) -> None:
        """One block's features [token, feature], where they are active, and which tokens count."""
        at = _true(active)
        self.n_active += len(at)
        token = at // len(self.ids)
        feature = at - token * len(self.ids)
        value = _at(features, at)
        size = np.abs(value)
        np.add.at(self.histogram.ravel(), feature * BINS + bins_of(size), 1)
        below = value < 0
        if below.any():
            self.negative += np.bincount(feature[below], minlength=len(self.ids))
        self.mass.add(feature, block.ids[token], size)
        found = Entries(features, counted, block, self.options, token, feature)
        self.top.offer(found, size)
        self.drawn.offer(found, -block.draws[token])
        if self.options.coactive and not self.crowded and block.sampled.any():
            (some,) = block.sampled[token].nonzero()
            self.together.append(Together(found.place(some), feature[some].astype(np.int32)))

    def settle(self) -> None:
        """Sort and add up what waits."""
        for part in (self.mass, self.top, self.drawn):
            part.settle()

    def tensors(self) -> Mapping[str, NDArray]:
        """What a checkpoint keeps."""
        self.settle()
        parts = {"mass": self.mass, "top": self.top, "drawn": self.drawn}
        return {
            "counts": np.array([self.n_tokens, self.n_sinks, self.n_active]), "scale": np.array(self.scale),
            "histogram": self.histogram, "negative": self.negative,
            "place": _joined([part.place for part in self.together], np.int64),
            "feature": _joined([part.feature for part in self.together], np.int32),
            **{f"{name}.{key}": value for name, part in parts.items() for key, value in part.tensors().items()},
        }  # fmt: skip

    def restore(self, tensors: Mapping[str, NDArray]) -> None:
        """Go on from a checkpoint."""
        self.n_tokens, self.n_sinks, self.n_active = map(int, tensors["counts"])
        self.scale = float(tensors["scale"])
        self.histogram, self.negative = tensors["histogram"], tensors["negative"]
        self.together = [Together(tensors["place"], tensors["feature"])]
        for name, part in {"mass": self.mass, "top": self.top, "drawn": self.drawn}.items():
            own = {k.removeprefix(f"{name}."): v for k, v in tensors.items() if k.startswith(f"{name}.")}
            part.restore(own)


def _joined(parts: list[NDArray], dtype: type) -> NDArray:
    return np.concatenate([np.zeros(0, dtype), *parts])


def _numpy(x: Tensor) -> NDArray:
    return x.cpu().numpy()


def _at(x: Tensor, numbers: NDArray[np.int64]) -> NDArray:
    """Entries by their flat numbers."""
    flat = x.reshape(-1)
    if x.device.type == "cpu":
        return flat.numpy()[numbers]
    return _numpy(flat[torch.from_numpy(numbers).to(x.device)])


def _true(mask: Tensor) -> NDArray[np.int64]:
    """Flat numbers of what is true, in order."""
    flat = mask.reshape(-1)
    return np.flatnonzero(flat.numpy()) if flat.device.type == "cpu" else _numpy(flat.nonzero()[:, 0])
