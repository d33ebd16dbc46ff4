"""A signal ends a run as its own, wherever it comes and whatever becomes of it."""

import os
import signal
import threading
import weakref
from contextlib import suppress

import pytest
from conftest import Quadratic, holdings, pairs

from fedlit.algorithms import FedAvg
from fedlit.client.trainer import Bench, Recipe
from fedlit.client.worker import ClientWorker
from fedlit.core.messages import Chunk, State
from fedlit.experiment.signals import ASKING, Stopped, let_go, stoppable


def send(number):
    os.kill(os.getpid(), number)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGUSR1, 143)])
def test_the_first_signal_raises_stopped_with_its_status_and_the_handlers_are_put_back(number, status):
    before = [signal.getsignal(asking) for asking in ASKING]
    with pytest.raises(Stopped, match=signal.Signals(number).name) as stopped, stoppable():
        send(number)
    assert stopped.value.status == status
    assert stopped.value.found is before[ASKING.index(number)]
    assert [signal.getsignal(asking) for asking in ASKING] == before


def test_a_second_signal_ends_the_process_at_once(monkeypatch):
    ended = []
    monkeypatch.setattr(os, "_exit", ended.append)

    def twice():
        try:
            send(signal.SIGINT)
        finally:
            send(signal.SIGTERM)

    with pytest.raises(Stopped), stoppable():
        twice()
    assert ended == [130]


def test_stopped_is_no_exception_that_code_of_a_client_catches():
    assert not issubclass(Stopped, Exception)


def test_what_swallowed_it_is_asked_again_between_rounds():
    def deaf():
        with suppress(BaseException):  # as some code does
            send(signal.SIGTERM)

    with stoppable() as wish:
        wish.heed()
        deaf()
        with pytest.raises(Stopped):
            wish.heed()


@pytest.mark.parametrize("error", [SystemExit, ValueError])
def test_what_is_made_of_it_is_stopped_again(error):
    def change():
        try:
            send(signal.SIGTERM)
        except BaseException as caught:
            raise error from caught

    with pytest.raises(Stopped) as stopped, stoppable():
        change()
    assert isinstance(stopped.value.__cause__, error)


def test_without_a_signal_an_error_is_what_it_is():
    with pytest.raises(ValueError, match="own"), stoppable():
        raise ValueError("own")


def test_a_thread_leaves_signals_alone():
    seen = []

    def go():
        with stoppable() as wish:
            wish.heed()
            seen.append([signal.getsignal(asking) for asking in ASKING])

    thread = threading.Thread(target=go)
    thread.start()
    thread.join()
    assert seen == [[signal.getsignal(asking) for asking in ASKING]]


class Held: ...


def test_what_the_frames_of_a_stopped_run_hold_is_freed_before_the_process_ends():
    seen = []

    def go():
        held = Held()
        seen.append(weakref.ref(held))
        send(signal.SIGTERM)
        return held

    with pytest.raises(Stopped) as stopped, stoppable():
        go()
    assert seen[0]() is not None
    let_go(stopped.value)
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
    bench = Bench(Converting(1.0))
    work = ClientWorker(FedAvg(), bench, Recipe({"accelerator": "cpu"}), holdings(pairs((1.0, 2.0)), [0]))
    with pytest.raises(Stopped), stoppable():
        work(Chunk(0, 0, (0,)), State(0, {"model": bench.read()}))


def test_a_block_inside_another_has_its_handlers_and_ends_as_it_does():
    def handlers():
        return [signal.getsignal(asking) for asking in ASKING]

    def within():
        with stoppable() as wish:
            seen.append((wish, handlers()))
            with suppress(BaseException):
                send(signal.SIGTERM)
            raise SystemExit

    def around():
        with stoppable() as wish:
            seen.append((wish, handlers()))
            try:
                within()
            finally:
                seen.append((wish, handlers()))

    seen, before = [], handlers()
    with pytest.raises(Stopped) as stopped:
        around()
    assert seen == [(seen[0][0], seen[0][1])] * 3
    assert seen[0][0].stopped is stopped.value
    assert (stopped.value.found, handlers()) == (before[0], before)
