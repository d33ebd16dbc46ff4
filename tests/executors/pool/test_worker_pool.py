"""Worker processes: jobs whose process dies, hangs or raises; the messages; the end of the processes."""

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
from plain import Plain, plain_state

from fedlit.core.messages import EvaluateJob, TrainJob
from fedlit.executors import Processes
from fedlit.executors.pool import worker_pool as pool
from fedlit.executors.pool.transport import LARGE

pytestmark = pytest.mark.slow

STATE = plain_state(2.0, {"momentum": {"w": torch.tensor(1.0)}})


def children(parent):
    """Return the ids of the worker processes of a process."""
    result = subprocess.run(
        ["pgrep", "-f", "executors/pool/worker_process.py", "-P", str(parent)], capture_output=True, check=False
    )
    return [int(pid) for pid in result.stdout.split()]


def is_running(pid):
    """True if a process exists and has not ended."""
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


def have_ended(pids, seconds=5.0):
    """True if all processes end within some seconds."""
    deadline = time.monotonic() + seconds
    while any(map(is_running, pids)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not any(map(is_running, pids))


@pytest.fixture(scope="module")
def execute():
    """Two processes, which all tests here share, because they take seconds to start."""
    with Processes(2, threads=3, wall_timeout_s=1.5).open(Plain(torch.arange(LARGE)), 1) as execute:
        assert torch.get_num_threads() == 3  # the server's sums depend on the number of threads too
        yield execute
        assert len(children(os.getpid())) == 2
    assert children(os.getpid()) == []


def chunk(index, *clients, **calls):
    """A training job; the calls are those of its first client."""
    return TrainJob(0, index, clients or (index,), {(clients or (index,))[0]: calls})


def totals(partials):
    return [None if partial.total is None else partial.total.item() for partial in partials]


def test_results_come_in_the_order_of_the_jobs_if_the_first_takes_longest(execute):
    jobs = [chunk(0, slow=0.3), *(chunk(index) for index in range(1, 12))]
    assert totals(execute(jobs, STATE)) == [2.0 * index for index in range(12)]


def test_worker_process_has_the_data_and_the_threads_and_no_private_state(execute):
    (partial,) = execute([chunk(0, place=LARGE - 1)], STATE)
    assert partial.total.item() == LARGE - 1
    (scores,) = execute([EvaluateJob(0, "test")], STATE)
    assert scores.metrics == {"threads": 3, "private": 0}


def test_chunks_whose_processes_die_or_hang_run_again_and_their_processes_end(execute, tmp_path, caplog):
    path = tmp_path / "pid"
    jobs = [chunk(0, 3, hang=(0,)), chunk(1), chunk(2, 30, 31, orphan=str(path)), chunk(3)]  # two for each process
    partials = list(execute(jobs, STATE))
    assert totals(partials) == [6.0, 2.0, 2.0 * (30 + 31), 6.0]
    assert [partial.metrics["attempt"] for partial in partials] == [(1.0, 1.0), (0.0, 1.0), (1.0, 1.0), (0.0, 1.0)]
    assert [partial.failures for partial in partials] == [(), (), (), ()]
    assert caplog.text.count("gave no answer for 2 s") == 1  # the process that died with children was not waited for
    group = subprocess.run(["pgrep", "-g", path.read_text().strip()], capture_output=True, check=False)
    assert have_ended([int(pid) for pid in group.stdout.split()])


def test_error_of_a_job_is_raised_with_its_traceback_and_the_next_jobs_run(execute):
    with pytest.raises(ZeroDivisionError, match="of a client") as error:
        list(execute([chunk(0, fail="zero"), chunk(1)], STATE))
    assert "in fail" in "".join(error.value.__notes__)
    with pytest.raises(RuntimeError, match="NotUnpicklable: 1 2"):
        list(execute([chunk(0, fail="not unpicklable")], STATE))
    assert totals(execute([chunk(0), chunk(1)], STATE)) == [0.0, 2.0]


def test_results_of_an_abandoned_batch_do_not_reach_the_next_batch(execute):
    abandoned = execute([chunk(0, 5), *(chunk(index, slow=0.1) for index in range(1, 6))], STATE)
    assert next(abandoned).total.item() == 10.0
    abandoned.close()
    assert totals(execute([chunk(index, 50 + index) for index in range(3)], STATE)) == [100.0, 102.0, 104.0]
    other = plain_state(3.0)
    both = zip(execute(map(chunk, range(6)), STATE), execute(map(chunk, range(6)), other), strict=True)
    assert [(a.total.item(), b.total.item()) for a, b in both] == [(2.0 * i, 3.0 * i) for i in range(6)]


def test_at_most_twice_as_many_jobs_as_processes_run_ahead(execute, tmp_path):
    first = chunk(0, note=str(tmp_path), slow=0.5)
    results = execute([first, *(chunk(index, note=str(tmp_path)) for index in range(1, 20))], STATE)
    next(results)
    assert {path.name for path in tmp_path.iterdir()} <= {"0", "1", "2", "3"}
    assert len(list(results)) == 19


def test_server_state_is_sent_to_each_process_once_a_round(execute, monkeypatch):
    messages, state = [], plain_state(4.0, round=1)
    monkeypatch.setattr(
        pool, "send", lambda connection, parts, send=pool.send: (messages.append(parts), send(connection, parts))
    )
    for _ in range(2):  # an evaluation, and the next round
        list(execute([chunk(index) for index in range(8)], state))
    assert len(messages) <= 16 + 2


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the settings are for glibc")
def test_worker_process_keeps_the_memory_that_a_client_frees_for_the_next(execute):
    list(execute([chunk(0, churn=10)], STATE))
    (partial,) = execute([chunk(0, churn=10)], STATE)  # in the same process: it is the first that is free
    assert partial.total.item() < 5 * 1024  # less page faults than for the memory in use, not for ten times as much


def test_worker_process_ignores_signals_also_while_a_trainer_fits(execute):
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    (partial,) = execute([chunk(0, 3, signals=numbers)], STATE)
    assert (partial.total.item(), partial.metrics["attempt"]) == (6.0, (0.0, 1.0))


def test_dataloader_workers_work_in_a_worker_process(execute):
    assert totals(execute([chunk(0, loaders=2)], STATE)) == [45.0]


def hold(folder, notes):
    tempfile.tempdir = str(folder)
    with Processes(1).open(Plain(torch.arange(LARGE)), 1) as execute:
        list(execute([chunk(0, note=str(notes), slow=600.0)], STATE))


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # of threads, which are idle
def test_killed_parent_leaves_neither_busy_processes_nor_files(tmp_path):
    files, notes = tmp_path / "files", tmp_path / "notes"
    files.mkdir()
    notes.mkdir()
    parent = multiprocessing.get_context("fork").Process(target=hold, args=(files, notes))
    parent.start()
    while not any(notes.iterdir()):  # the process works at a job, and reads no message
        assert parent.is_alive()
        time.sleep(0.1)
    pids = children(parent.pid)
    assert len(pids) == 1
    parent.kill()
    parent.join()
    assert have_ended(pids)
    assert list(files.iterdir()) == []
