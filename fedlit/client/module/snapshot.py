"""A snapshot of a module's attributes: no fit influences the next."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import nn

from fedlit.client.lightning_internals import own_attributes
from fedlit.client.module.content import content_of
from fedlit.client.module.objects import hidden_state


class ModuleSnapshot:
    """The attributes of a module's parts at one moment, for `restore`.

    The snapshot covers numbers, strings, tensors, arrays, random generators, containers, functions with their closures, and
    objects of any class with attributes. Mutable values are restored in place, so that two names of one object stay two names
    of one object. Iterators and objects that hide their state keep the changes of a fit; see `changes`.

    Args:
        parts: submodules by their paths.
        others: objects that the snapshot leaves out: weights, which loading restores, and metrics, which are reset.
    """

    def __init__(self, parts: Mapping[str, nn.Module], others: Iterable[object]) -> None:
        self._attributes: list[tuple[nn.Module, bool, dict[str, Any], frozenset[str]]] = []
        self._contents: list[tuple[Callable[..., Any], tuple[Any, ...]]] = []
        self._hidden: list[tuple[str, Any, bytes]] = []
        seen = {id(value) for value in (*parts.values(), *others)}
        queue: deque[tuple[str, Any]] = deque()
        for path, part in parts.items():
            is_library = type(part).__module__.startswith("torch.")
            attributes = {name: value for name, value in vars(part).items() if _is_covered(name, is_library)}
            self._attributes.append((part, is_library, attributes, frozenset(vars(part))))
            queue += [(f"{path}.{name}".lstrip("."), value) for name, value in attributes.items()]
        while queue:
            path, value = queue.popleft()
            if id(value) not in seen:
                seen.add(id(value))
                queue += self._capture(path, value)

    def _capture(self, path: str, value: Any) -> list[tuple[str, Any]]:
        """Record the content of a value.

        Returns:
            (path, value) of each object inside.
        """
        content = content_of(value)
        if content.restore is not None:
            self._contents.append((content.restore, content.args))
        if content.hidden_state is not None:
            self._hidden.append((path, value, content.hidden_state))
        return [(f"{path}{name}", inner) for name, inner in content.inner]

    def restore(self) -> None:
        """Restore all recorded values, and remove attributes that are new."""
        for part, is_library, recorded, names in self._attributes:
            attributes = vars(part)
            for name in attributes.keys() - names:
                if _is_covered(name, is_library):
                    delattr(part, name)
            attributes.update(recorded)
        for restore, args in self._contents:
            restore(*args)

    def changes(self) -> dict[str, object]:
        """Return the objects that changed and cannot be restored, by their paths."""
        return {path: value for path, value, before in self._hidden if hidden_state(value) != before}


def _is_covered(name: str, is_library: bool) -> bool:
    """Return True if an attribute belongs to the module's author."""
    return name not in own_attributes() and not (is_library and name.startswith("_"))
