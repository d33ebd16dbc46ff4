"""A signal ends a run as its own, wherever it comes and whatever becomes of it."""

import os
import signal
import threading
import weakref
from contextlib import suppress

import pytest
from conftest import Quadratic, holdings, pairs

from fedlit.algorithms import FedAvg
from fedlit.client.trainer import ModuleReplica, TrainerConfig
from fedlit.client.worker import ClientWorker
from fedlit.core.messages import ServerState, TrainJob
from fedlit.experiment.signals import STOP_SIGNALS, Interrupted, clear_frames, handle_signals


def send(number):
    os.kill(os.getpid(), number)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGUSR1, 143)])
def test_the_first_signal_raises_stopped_with_its_status_and_the_handlers_are_put_back(number, status):
    before = [signal.getsignal(asking) for asking in STOP_SIGNALS]
    with pytest.raises(Interrupted, match=signal.Signals(number).name) as stopped, handle_signals():
        send(number)
    assert stopped.value.status == status
    assert stopped.value.found is before[STOP_SIGNALS.index(number)]
    assert [signal.getsignal(asking) for asking in STOP_SIGNALS] == before


def test_a_second_signal_ends_the_process_at_once(monkeypatch):
    ended = []
    monkeypatch.setattr(os, "_exit", ended.append)

    def twice():
        try:
            send(signal.SIGINT)
        finally:
            send(signal.SIGTERM)

    with pytest.raises(Interrupted), handle_signals():
        twice()
    assert ended == [130]


def test_stopped_is_no_exception_that_code_of_a_client_catches():
    assert not issubclass(Interrupted, Exception)


def test_what_swallowed_it_is_asked_again_between_rounds():
    def deaf():
        with suppress(BaseException):  # as some code does
            send(signal.SIGTERM)

    with handle_signals() as wish:
        wish.raise_if_set()
        deaf()
        with pytest.raises(Interrupted):
            wish.raise_if_set()


@pytest.mark.parametrize("error", [SystemExit, ValueError])
def test_what_is_made_of_it_is_stopped_again(error):
    def change():
        try:
            send(signal.SIGTERM)
        except BaseException as caught:
            raise error from caught

    with pytest.raises(Interrupted) as stopped, handle_signals():
        change()
    assert isinstance(stopped.value.__cause__, error)


def test_without_a_signal_an_error_is_what_it_is():
    with pytest.raises(ValueError, match="own"), handle_signals():
        raise ValueError("own")


def test_a_thread_leaves_signals_alone():
    seen = []

    def go():
        with handle_signals() as wish:
            wish.raise_if_set()
            seen.append([signal.getsignal(asking) for asking in STOP_SIGNALS])

    thread = threading.Thread(target=go)
    thread.start()
    thread.join()
    assert seen == [[signal.getsignal(asking) for asking in STOP_SIGNALS]]


class Held: ...


def test_what_the_frames_of_a_stopped_run_hold_is_freed_before_the_process_ends():
    seen = []

    def go():
        held = Held()
        seen.append(weakref.ref(held))
        send(signal.SIGTERM)
        return held

    with pytest.raises(Interrupted) as stopped, handle_signals():
        go()
    assert seen[0]() is not None
    clear_frames(stopped.value)
    assert seen[0]() is None


class Converting(Quadratic):
    """Makes another error of whatever comes in a step."""

    def training_step(self, batch, batch_idx):
        try:
            send(signal.SIGTERM)
        except BaseException as error:
            raise RuntimeError("in a step") from error
        return super().training_step(batch, batch_idx)


def test_a_signal_that_code_of_a_client_makes_an_error_of_is_not_the_clients():
    bench = ModuleReplica(Converting(1.0))
    work = ClientWorker(FedAvg(), bench, TrainerConfig({"accelerator": "cpu"}), holdings(pairs((1.0, 2.0)), [0]))
    with pytest.raises(Interrupted), handle_signals():
        work(TrainJob(0, 0, (0,)), ServerState(0, {"model": bench.read()}))


def test_a_block_inside_another_has_its_handlers_and_ends_as_it_does():
    def handlers():
        return [signal.getsignal(asking) for asking in STOP_SIGNALS]

    def within():
        with handle_signals() as wish:
            seen.append((wish, handlers()))
            with suppress(BaseException):
                send(signal.SIGTERM)
            raise SystemExit

    def around():
        with handle_signals() as wish:
            seen.append((wish, handlers()))
            try:
                within()
            finally:
                seen.append((wish, handlers()))

    seen, before = [], handlers()
    with pytest.raises(Interrupted) as stopped:
        around()
    assert seen == [(seen[0][0], seen[0][1])] * 3
    assert seen[0][0].stopped is stopped.value
    assert (stopped.value.found, handlers()) == (before[0], before)
