"""A signal interrupts a run wherever it comes, also if other code catches or replaces the exception."""

import os
import signal
import threading
import weakref
from contextlib import suppress

import pytest
from conftest import Quadratic, holdings, pairs

from fedlit.algorithms import FedAvg
from fedlit.client.module.replica import ModuleReplica
from fedlit.client.trainer import TrainerConfig
from fedlit.client.worker import ClientWorker
from fedlit.core.messages import ServerState, Shared, TrainJob
from fedlit.experiment.signals import STOP_SIGNALS, Interrupted, clear_frames, handle_signals


def send(number):
    os.kill(os.getpid(), number)


def handlers():
    return [signal.getsignal(number) for number in STOP_SIGNALS]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGUSR1, 143)])
def test_first_signal_raises_interrupted_and_the_handlers_are_restored(number, status):
    before = handlers()
    with pytest.raises(Interrupted, match=signal.Signals(number).name) as error, handle_signals():
        send(number)
    assert error.value.status == status
    assert error.value.signal_number == number
    assert error.value.previous_handler is before[STOP_SIGNALS.index(number)]
    assert handlers() == before


def test_second_signal_exits_the_process(monkeypatch):
    statuses = []
    monkeypatch.setattr(os, "_exit", statuses.append)

    def twice():
        try:
            send(signal.SIGINT)
        finally:
            send(signal.SIGTERM)

    with pytest.raises(Interrupted), handle_signals():
        twice()
    assert statuses == [130]


def test_interrupted_is_not_an_exception_that_client_code_catches():
    assert not issubclass(Interrupted, Exception)


def test_interrupted_that_code_suppresses_is_raised_between_rounds():
    def suppressing():
        with suppress(BaseException):  # as some code does
            send(signal.SIGTERM)

    with handle_signals() as request:
        request.raise_if_set()
        suppressing()
        with pytest.raises(Interrupted):
            request.raise_if_set()


@pytest.mark.parametrize("error", [SystemExit, ValueError])
def test_replaced_exception_becomes_interrupted_again(error):
    def change():
        try:
            send(signal.SIGTERM)
        except BaseException as caught:
            raise error from caught

    with pytest.raises(Interrupted) as interrupted, handle_signals():
        change()
    assert isinstance(interrupted.value.__cause__, error)


def test_error_without_a_signal_stays_the_same():
    with pytest.raises(ValueError, match="own"), handle_signals():
        raise ValueError("own")


def test_thread_does_not_change_the_handlers():
    seen = []

    def in_thread():
        with handle_signals() as request:
            request.raise_if_set()
            seen.append(handlers())

    thread = threading.Thread(target=in_thread)
    thread.start()
    thread.join()
    assert seen == [handlers()]


class Local: ...


def test_clear_frames_frees_the_local_variables_of_an_interrupted_run():
    references = []

    def interrupted():
        local = Local()
        references.append(weakref.ref(local))
        send(signal.SIGTERM)
        return local

    with pytest.raises(Interrupted) as error, handle_signals():
        interrupted()
    assert references[0]() is not None
    clear_frames(error.value)
    assert references[0]() is None


class Converting(Quadratic):
    """Raises another error instead of any exception in a step."""

    def training_step(self, batch, batch_idx):
        try:
            send(signal.SIGTERM)
        except BaseException as error:
            raise RuntimeError("in a step") from error
        return super().training_step(batch, batch_idx)


def test_signal_that_client_code_turns_into_an_error_is_not_a_client_failure():
    replica = ModuleReplica(Converting(1.0))
    worker = ClientWorker(FedAvg(), replica, TrainerConfig({"accelerator": "cpu"}), holdings(pairs((1.0, 2.0)), [0]))
    with pytest.raises(Interrupted), handle_signals():
        worker(TrainJob(0, 0, (0,)), ServerState(0, Shared(replica.read())))


def test_nested_block_shares_handlers_and_request_of_the_outer_block():
    def inner():
        with handle_signals() as request:
            seen.append((request, handlers()))
            with suppress(BaseException):
                send(signal.SIGTERM)
            raise SystemExit

    def outer():
        with handle_signals() as request:
            seen.append((request, handlers()))
            try:
                inner()
            finally:
                seen.append((request, handlers()))

    seen, before = [], handlers()
    with pytest.raises(Interrupted) as error:
        outer()
    assert seen == [(seen[0][0], seen[0][1])] * 3
    assert seen[0][0].interruption is error.value
    assert (error.value.previous_handler, handlers()) == (before[0], before)
