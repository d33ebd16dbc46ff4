"""Canaries of Lightning's private APIs around signals; and handlers are restored as by Lightning's own connector."""

import signal
from importlib.metadata import version

import pytest
from conftest import Quadratic, pairs
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.trainer.connectors.signal_connector import _SignalConnector

from fedlit.client.fit.lightning_signals import LightSignals, use_light_signals

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP, signal.SIGWINCH)


def gone(what):
    return f"lightning {version('lightning')}: {what} has changed; adapt fedlit/client/fit/lightning_signals.py"


def trainer_with(callback, is_light):
    options = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = Trainer(accelerator="cpu", max_epochs=1, callbacks=[callback], **options)
    if is_light:
        use_light_signals(trainer)
    return trainer


class Handles(Callback):
    """Changes a handler, and looks at all of them and at a signal's arrival."""

    def on_train_start(self, trainer, pl_module):
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        self.handlers = [str(type(signal.getsignal(number))) for number in SIGNALS]
        signal.raise_signal(signal.SIGTERM)
        self.received = trainer.received_sigterm
        trainer._signal_connector.received_sigterm = False


@pytest.fixture
def arrivals():
    """Handlers of this process, one of each kind; yields the signals that arrived."""
    arrived, before = [], {number: signal.getsignal(number) for number in SIGNALS}
    signal.signal(signal.SIGTERM, lambda number, _: arrived.append(number))
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGWINCH, signal.SIG_DFL)
    yield arrived
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.filterwarnings("ignore:.*(many workers|validation_step|LeafSpec)")
def test_handlers_are_set_and_restored_as_by_lightnings_own_connector(arrivals):
    seen = []
    for is_light in (False, True):
        callback, before = Handles(), [signal.getsignal(number) for number in SIGNALS]
        trainer = trainer_with(callback, is_light)
        trainer.fit(Quadratic(), train_dataloaders=pairs((1.0, 2.0)).batches(None, 1))
        assert [signal.getsignal(number) for number in SIGNALS] == before
        seen.append((callback.handlers, callback.received, type(trainer._signal_connector)))
    assert seen[0][:2] == seen[1][:2]
    assert [connector for *_, connector in seen] == [_SignalConnector, LightSignals], gone("_signal_connector")
    assert (seen[1][1], arrivals) == (True, [signal.SIGTERM] * 2)


def test_all_handlers_are_saved():
    own, light = (connector._get_current_signal_handlers() for connector in (_SignalConnector, LightSignals))
    assert own == light, gone("_get_current_signal_handlers")
