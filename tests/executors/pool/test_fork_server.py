"""Worker processes that are forked from a copy of a process without threads: same results, own environment, same end."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from fedlit.executors.pool import fork_server as module
from fedlit.executors.pool.fork_server import close_fork_server, fork_server, start_fork_server
from fedlit.executors.processes import FORKED_START_S, START_S, Processes

TESTS = Path(__file__).parent.parent.parent

SCRIPT = """
import json, logging, os, signal, sys
import torch
from plain import Plain, plain_state
from fedlit.core.messages import EvaluateJob, TrainJob
from fedlit.executors import Inline, Processes
from fedlit.executors.pool import worker_pool
from fedlit.executors.pool.fork_server import close_fork_server, fork_server, start_fork_server
from fedlit.executors.pool.transport import LARGE

logging.getLogger("fedlit").addHandler(logging.FileHandler(sys.argv[1]))
logging.getLogger("fedlit").setLevel(logging.INFO)
start_fork_server()
torch.set_num_threads(2)
(torch.randn(500, 500) @ torch.randn(500, 500)).sum()  # this process has threads from here on
threads = len(os.listdir("/proc/self/task"))
state, worker = plain_state(2.0, {"momentum": {"w": torch.tensor(1.0)}}), Plain(torch.arange(LARGE))


def jobs():
    return [TrainJob(0, i, (i,), {i: call}) for i, call in enumerate(({"place": LARGE - 1}, {}, {"slow": 0.1}, {}))]


def totals(execute):
    return [partial.total.item() for partial in execute(jobs(), state)]


pools, start = [], worker_pool.WorkerPool.start
worker_pool.WorkerPool.start = lambda pool, *arguments: (pools.append(pool), start(pool, *arguments))[1]
with Inline(threads=3).open(worker, 1) as execute:
    inline = totals(execute)
server = fork_server()
with Processes(2, threads=3).open(worker, 1) as execute:
    forked, workers = totals(execute), pools[0]._workers
    (scores,) = execute([EvaluateJob(0, "test")], state)
    parents = [open(f"/proc/{w.process.pid}/stat").read().rpartition(")")[2].split()[1] for w in workers]
    files = [os.readlink(f"/proc/{workers[0].process.pid}/fd/{fd}") for fd in os.listdir(f"/proc/{workers[0].process.pid}/fd")]
    os.kill(workers[0].process.pid, signal.SIGKILL)
    again = totals(execute)
    lost = [totals(execute)]
    os.kill(server.pid, signal.SIGKILL)  # its worker processes end too, and new processes replace them
    lost.append(totals(execute))
    ended = fork_server() is None
print(json.dumps({
    "threads": threads, "inline": inline, "forked": forked, "again": again, "lost": lost, "scores": dict(scores.metrics),
    "parents": [int(parent) == server.pid for parent in parents], "has_log": sys.argv[1] in files, "ended": ended,
}))
"""


@pytest.fixture
def closed():
    """No fork server before and after the test."""
    close_fork_server()
    yield
    close_fork_server()


@pytest.mark.slow
def test_forked_worker_processes_give_the_results_of_inline_and_are_replaced(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)])}
    command = [sys.executable, str(tmp_path / "script.py"), str(tmp_path / "log")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["threads"] > 1
    assert result["forked"] == result["again"] == result["inline"]
    assert result["lost"] == [result["inline"]] * 2
    assert result["scores"] == {"threads": 3, "private": 0}
    assert result["parents"] == [True, True]
    assert not result["has_log"]
    assert result["ended"]
    log = (tmp_path / "log").read_text()
    assert "2 worker processes start, forked from a copy of this process without threads" in log
    assert "the fork server has ended, so worker processes are new processes" in log


def test_a_process_with_threads_is_not_copied(closed, caplog):
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    with caplog.at_level("INFO", "fedlit"):
        start_fork_server()
    stop.set()
    thread.join()
    assert fork_server() is None
    assert "worker processes are new processes, because this process has" in caplog.text
    with pytest.raises(ChildProcessError):  # the copy has ended
        os.waitpid(-1, os.WNOHANG)


@pytest.mark.parametrize("reason", ["cuda", "driver", "system", "no torch"])
def test_a_process_that_uses_cuda_or_has_no_torch_is_not_copied(closed, monkeypatch, tmp_path, reason):
    if reason == "cuda":
        monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    elif reason == "driver":
        (tmp_path / "maps").write_text("7f1c-7f1d r-xp 00000000 fe:00 1 /usr/lib/x86_64-linux-gnu/libcuda.so.570\n")
        monkeypatch.setattr(module, "PROCESS_MAPS", tmp_path / "maps")
    elif reason == "system":
        monkeypatch.setattr(module.sys, "platform", "darwin")
    else:
        monkeypatch.delitem(sys.modules, "torch")
    monkeypatch.setattr(os, "fork", lambda: pytest.fail("copied"))
    start_fork_server()
    assert fork_server() is None


def test_one_worker_process_needs_no_copy(monkeypatch):
    started = []
    monkeypatch.setattr("fedlit.executors.processes.start_fork_server", lambda: started.append(1))
    for cores, workers, expected in ((1, "auto", 0), (1, 1, 0), (2, "auto", 1), (1, 2, 1), (2, 1, 1)):
        started.clear()
        monkeypatch.setattr("fedlit.executors.processes.available_cores", lambda cores=cores: cores)
        Processes(workers).prepare()
        assert len(started) == expected


def test_a_forked_process_starts_faster(monkeypatch):
    monkeypatch.setattr("fedlit.executors.processes.available_cores", lambda: 2)
    cpu = torch.device("cpu")
    assert Processes(4).start_seconds(cpu) == 2 * START_S
    monkeypatch.setattr("fedlit.executors.processes.fork_server", object)
    assert Processes(4).start_seconds(cpu) == 2 * FORKED_START_S
    assert Processes(4).start_seconds(cpu, 1.0) == 2.0
