"""Worker processes: what becomes of jobs whose processes die, hang, raise; what is sent; what is left."""

import multiprocessing
import os
import platform
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import pytest
import torch
from plain import Plain

from fedlit.core.messages import EvaluateJob, ServerState, TrainJob
from fedlit.executors import Processes
from fedlit.executors import worker_pool as pool
from fedlit.executors.transport import LARGE

pytestmark = pytest.mark.slow

STATE = ServerState(0, {"model": {"w": torch.tensor(2.0)}}, {"momentum": {"w": torch.tensor(1.0)}})


def children(parent):
    found = subprocess.run(
        ["pgrep", "-f", "executors/worker_process.py", "-P", str(parent)], capture_output=True, check=False
    )
    return [int(pid) for pid in found.stdout.split()]


def is_running(pid):
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


def gone(pids, seconds=5.0):
    """Whether they end soon."""
    until = time.monotonic() + seconds
    while any(map(is_running, pids)) and time.monotonic() < until:
        time.sleep(0.02)
    return not any(map(is_running, pids))


@pytest.fixture(scope="module")
def execute():
    """Two processes, which all tests here share: that is what they are for."""
    with Processes(2, threads=3, wall_timeout_s=1.5).open(Plain(torch.arange(LARGE)), 1) as execute:
        assert torch.get_num_threads() == 3  # the server's sums have bits too
        yield execute
        mine = children(os.getpid())
        assert len(mine) == 2
    assert children(os.getpid()) == []


def chunk(index, *clients, **orders):
    """A chunk; the orders are the first client's."""
    return TrainJob(0, index, clients or (index,), {(clients or (index,))[0]: orders})


def totals(partials):
    return [None if partial.total is None else partial.total.item() for partial in partials]


def test_results_come_in_order_though_the_first_takes_longest(execute):
    jobs = [chunk(0, slow=0.3), *(chunk(index) for index in range(1, 12))]
    assert totals(execute(jobs, STATE)) == [2.0 * index for index in range(12)]


def test_a_worker_has_the_data_the_threads_and_what_clients_are_sent_alone(execute):
    (partial,) = execute([chunk(0, place=LARGE - 1)], STATE)
    assert partial.total.item() == LARGE - 1
    (scores,) = execute([EvaluateJob(0, "test")], STATE)
    assert scores.metrics == {"threads": 3, "private": 0}


def test_chunks_whose_processes_die_and_hang_run_again_and_nothing_of_them_is_left(execute, tmp_path, caplog):
    path = tmp_path / "pid"
    partials = list(execute([chunk(0, 3, hang=(0,)), chunk(1), chunk(2, 30, 31, orphan=str(path))], STATE))
    assert totals(partials) == [6.0, 2.0, 2.0 * (30 + 31)]
    assert [partial.metrics["attempt"] for partial in partials] == [(1.0, 1.0), (0.0, 1.0), (1.0, 1.0)]
    assert [partial.failures for partial in partials] == [(), (), ()]
    assert caplog.text.count("gave no answer for 2 s") == 1  # the one that died with children was not waited for
    group = subprocess.run(["pgrep", "-g", path.read_text().strip()], capture_output=True, check=False)
    assert gone([int(pid) for pid in group.stdout.split()])


def test_what_a_job_raises_is_raised_with_where_and_the_next_jobs_are_done(execute):
    with pytest.raises(ZeroDivisionError, match="of a client") as error:
        list(execute([chunk(0, fail="zero"), chunk(1)], STATE))
    assert "in fail" in "".join(error.value.__notes__)
    with pytest.raises(RuntimeError, match="Odd: 1 2"):
        list(execute([chunk(0, fail="odd")], STATE))
    assert totals(execute([chunk(0), chunk(1)], STATE)) == [0.0, 2.0]


def test_jobs_that_nobody_waits_for_any_more_do_not_come_among_the_next(execute):
    left = execute([chunk(0, 5), *(chunk(index, slow=0.1) for index in range(1, 6))], STATE)
    assert next(left).total.item() == 10.0
    left.close()
    assert totals(execute([chunk(index, 50 + index) for index in range(3)], STATE)) == [100.0, 102.0, 104.0]
    other = ServerState(0, {"model": {"w": torch.tensor(3.0)}})
    both = zip(execute(map(chunk, range(6)), STATE), execute(map(chunk, range(6)), other), strict=True)
    assert [(a.total.item(), b.total.item()) for a, b in both] == [(2.0 * i, 3.0 * i) for i in range(6)]


def test_at_most_twice_as_many_jobs_as_processes_are_out_and_not_taken(execute, tmp_path):
    first = chunk(0, note=str(tmp_path), slow=0.5)
    results = execute([first, *(chunk(index, note=str(tmp_path)) for index in range(1, 20))], STATE)
    next(results)
    assert {path.name for path in tmp_path.iterdir()} <= {"0", "1", "2", "3"}
    assert len(list(results)) == 19


def test_the_state_goes_to_each_process_once_a_round(execute, monkeypatch):
    sent, state = [], ServerState(1, {"model": {"w": torch.tensor(4.0)}})
    monkeypatch.setattr(pool, "groups", lambda line, parts, send=pool.send: (sent.append(parts), send(line, parts)))
    for _ in range(2):  # an evaluation, and the next round
        list(execute([chunk(index) for index in range(8)], state))
    assert len(sent) <= 16 + 2


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="what is told is told glibc")
def test_a_process_keeps_the_memory_that_one_client_frees_for_the_next(execute):
    (partial,) = execute([chunk(0, churn=10)], STATE)
    assert partial.total.item() < 2 * 5 * 1024  # pages of twice what is used at a time, not ten times


def test_signals_are_the_parents_to_act_on_also_while_a_trainer_fits(execute):
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    (partial,) = execute([chunk(0, 3, signals=numbers)], STATE)
    assert (partial.total.item(), partial.metrics["attempt"]) == (6.0, (0.0, 1.0))


def test_loaders_work_in_a_process(execute):
    assert totals(execute([chunk(0, loaders=2)], STATE)) == [45.0]


def hold(folder):
    tempfile.tempdir = str(folder)
    with Processes(1).open(Plain(torch.arange(LARGE)), 1):
        time.sleep(600)


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # of threads, which are idle
def test_a_parent_that_is_killed_leaves_neither_processes_nor_files(tmp_path):
    parent = multiprocessing.get_context("fork").Process(target=hold, args=(tmp_path,))
    parent.start()
    while not (mine := children(parent.pid)):
        assert parent.is_alive()
        time.sleep(0.1)
    parent.kill()
    parent.join()
    assert gone(mine)
    assert list(tmp_path.iterdir()) == []
