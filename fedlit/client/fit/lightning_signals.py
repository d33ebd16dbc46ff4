"""Private APIs of Lightning around signals, checked with lightning 2.6.6.

Handlers of signals stay as Lightning sets and restores them, at less cost.
"""

from __future__ import annotations

import signal
from importlib import import_module
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.trainer.connectors.signal_connector import _SignalConnector

_current: Any = import_module("_signal")  # the functions of `signal` make an enum of each number


def use_light_signals(trainer: Trainer) -> None:
    """Give a Trainer a connector that saves and restores all handlers quickly.

    Sets `_signal_connector` of the Trainer; checked with lightning 2.6.6.
    """
    trainer._signal_connector = LightSignals(trainer)


class LightSignals(_SignalConnector):
    """Lightning's connector, which restores only the handlers that have changed."""

    @staticmethod
    def _get_current_signal_handlers() -> dict[Any, Any]:
        """Return the handler of each signal that can have one."""
        return {number: _current.getsignal(number) for number in _SIGNALS}

    def teardown(self) -> None:
        """Restore the handlers from before the run."""
        for number, handler in self._original_handlers.items():
            if handler is not None and _current.getsignal(number) is not handler:
                self._register_signal(number, handler)
        self._original_handlers = {}


_SIGNALS = sorted(int(number) for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP})
