"""The hooks of layers and parameters: no fit leaves one behind."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from fedlit.core.torch_internals import module_hooks, tensor_hooks


class HookSnapshot:
    """The hooks of layers and parameters at one moment, for `restore`.

    Args:
        parts: the module and its submodules.
        parameters: its parameters.
    """

    def __init__(self, parts: Iterable[nn.Module], parameters: Iterable[Tensor]) -> None:
        self._of_parts = [(hooks, dict(hooks)) for part in parts for hooks in module_hooks(part)]
        self._of_parameters = [(tensor, [dict(hooks) for hooks in tensor_hooks(tensor)]) for tensor in parameters]

    def restore(self) -> None:
        """Remove hooks that are new, and add those that were removed."""
        for hooks, recorded in self._of_parts:
            if hooks or recorded:  # most are empty
                _restore(hooks, recorded)
        for tensor, dictionaries in self._of_parameters:
            for hooks, recorded in zip(tensor_hooks(tensor), dictionaries, strict=True):
                _restore(hooks, recorded)


def _restore(hooks: dict[int, Any], recorded: dict[int, Any]) -> None:
    if hooks.keys() != recorded.keys():  # each hook has a number of its own
        hooks.clear()
        hooks.update(recorded)
