"""Suggestions for a key that the configuration does not have.

A suggestion is tried before it is printed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from difflib import SequenceMatcher, get_close_matches

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from fedlit.cli.overrides.texts import value_text
from fedlit.core.errors import ConfigError, ConfigErrors
from fedlit.experiment.config.plain import to_plain
from fedlit.runs.keys import TOP_KEYS

CUTOFF = 0.75
"""Smallest similarity of a suggested name, of 1."""
HIDDEN = ("_target_", "_args_", "_partial_", "_convert_", "_recursive_")
"""Keys of Hydra, which almost every group has: the same key elsewhere is no suggestion."""
CLOSED = ("fedlit.data.", "fedlit.models.")
"""Sources and models of fedlit take no new key; only torch could tell which keys they take."""


@dataclass(frozen=True)
class KeyTree:
    """All keys of a configuration, and the names of its groups.

    Args:
        config: the configuration of the choices alone.
        keys: all its keys, dotted.
        groups: names of all groups.
    """

    config: DictConfig
    keys: Sequence[str]
    groups: Sequence[str]

    def unknown_key(self, override: Override) -> ConfigError:
        """The error of a key that does not exist, with a hint."""
        key, value = override.key_or_group, value_text(override)
        error = ConfigError(key, value, "is not a key of the configuration")
        if names := similar_keys(key, [*self.keys, *self.groups]):
            return ConfigError(key, value, error.problem, self._did_you_mean(names, override))
        parent = key.rpartition(".")[0]
        if parent not in self.keys or override.is_delete():
            return ConfigError(key, value, error.problem, self._siblings(key) or "--help lists groups and common keys")
        if refusal := self._refusal(key, override):
            return refusal
        if self._is_closed(parent):
            return ConfigError(key, value, error.problem, self._siblings(key))
        return ConfigError(key, value, error.problem, f"+{key}={value} adds a new key")

    def unused_key(self, override: Override) -> ConfigError:
        """The error of a new top key that nothing uses."""
        key, value = override.key_or_group, value_text(override)
        top, dot, rest = key.partition(".")
        if names := get_close_matches(top, [name for name in TOP_KEYS if name != top], n=1, cutoff=CUTOFF):
            name = f"{names[0]}{dot}{rest}"
            plus = "" if name in self.keys else "+"
            text = f"{plus}{name}={value}" if plus else name
            hint = f"did you mean {text}?" if self._refusal(name, override) is None else ""
        else:
            names = similar_keys(key, self.keys)
            hint = self._did_you_mean(names, override) if names else ""
        return ConfigError(key, value, "is a new key that nothing uses", hint)

    def _did_you_mean(self, names: Sequence[str], override: Override) -> str:
        """A question with the names that take the override's value.

        If none takes it, the question has the first name, and its error.
        """
        refusals = {name: None if override.is_delete() else self._refusal(name, override) for name in names}
        accepted = [name for name, refusal in refusals.items() if refusal is None] or [*names[:1]]
        question, refusal = f"did you mean {' or '.join(accepted)}?", refusals[accepted[0]]
        return question if refusal is None else f"{question} Its value {refusal.problem}"

    def _refusal(self, key: str, override: Override) -> ConfigError | None:
        """The error of `key` with the override's value, if any."""
        from fedlit.experiment.config.settings import setting_errors  # here: NumPy takes a fifth of a second

        if override.is_sweep_override():
            return None
        config, value = deepcopy(self.config), override.value()
        for missing in OmegaConf.missing_keys(config):
            OmegaConf.update(config, missing, None, merge=False)
        with open_dict(config):
            try:
                OmegaConf.update(config, key, value, merge=False, force_add=True)
                errors = setting_errors(to_plain(config))
            except (OmegaConfBaseException, ConfigErrors):
                return None
        return next((error for error in errors if error.key == key), None)

    def has_own_class(self, group: str) -> bool:
        """Return True if a group calls the user's own class or function."""
        node = OmegaConf.select(self.config, group)
        has_target = isinstance(node, DictConfig) and "_target_" in [*node.keys()]  # also without a value
        return has_target and not str(OmegaConf.select(self.config, f"{group}._target_")).startswith("fedlit.")

    def _is_closed(self, parent: str) -> bool:
        target = OmegaConf.select(self.config, f"{parent}._target_")
        return isinstance(target, str) and target.startswith(CLOSED)

    def _siblings(self, key: str) -> str:
        """The keys beside a key, or beside its first ancestor that exists."""
        parent = key.rpartition(".")[0]
        while parent and parent not in self.keys:
            parent = parent.rpartition(".")[0]
        node = OmegaConf.select(self.config, parent) if parent else None
        if not isinstance(node, DictConfig):
            return ""
        names = [str(name) for name in node if name not in HIDDEN]
        return f"{parent} has the keys {', '.join(names)}" if names else ""


def similar_keys(key: str, keys: Sequence[str], limit: int = 3) -> list[str]:
    """The most similar keys, best first; empty if none is similar.

    The last part of a key counts first, then the parts before.
    """
    parent, _, last = key.rpartition(".")
    lasts = {known: known.rpartition(".")[2] for known in keys}
    if last in HIDDEN:
        return []
    similar = [known for known in keys if lasts[known] == last]
    similar = similar or [known for known in keys if lasts[known] in (last.replace("-", "_"), f"{last}s")]
    if not similar:
        close = get_close_matches(last.lower(), {*lasts.values()} - {*HIDDEN}, n=3, cutoff=CUTOFF)
        similar = [known for known in keys if lasts[known] in close]
    if not similar and len(last) > 2:
        similar = [known for known in keys if known.startswith(f"{parent}.{last}_")]
        ends = [known for known in keys if lasts[known].endswith(f"_{last}")]
        similar = similar or (ends if len(ends) == 1 else [])
    ranked = sorted(similar, key=lambda known: _similarity(key, known), reverse=True)
    best = _similarity(key, ranked[0])[0] if ranked else 0
    equal = [known for known in ranked if _similarity(key, known)[0] == best]
    return (equal if lasts[equal[0]] == last else equal[:1])[:limit] if equal else []


def _similarity(key: str, known: str) -> tuple[int, float]:
    """The number of common parts, then the similarity of the texts."""
    common = len(set(key.split(".")) & set(known.split(".")))
    return common, SequenceMatcher(None, key, known).ratio()


def list_keys(config: DictConfig, prefix: str = "") -> Iterator[str]:
    """Yield every dotted key of a configuration, parents first."""
    for key in config:
        path = f"{prefix}{key}"
        yield path
        if not OmegaConf.is_missing(config, key) and not OmegaConf.is_interpolation(config, str(key)):
            value = config[key]
            if isinstance(value, DictConfig):
                yield from list_keys(value, f"{path}.")
