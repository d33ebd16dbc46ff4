"""The executor `Ray`: results bit-identical to inline, also when an actor, a node or the head is lost."""

import logging
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import test_powersgd_rounds as powersgd_rounds
import torch
from conftest import federation
from plain import Plain, plain_state
from shared_processes import Several, SharedProcesses
from test_compressed_rounds import CHANNELS as CODECS
from test_compressed_rounds import compressed
from test_processes import comparable

from fedlit.aggregation.secure import SecAgg
from fedlit.core.errors import ConfigError, ConfigErrors
from fedlit.core.facts import FederationFacts
from fedlit.core.messages import EvaluateJob, TrainJob
from fedlit.executors import Processes, Ray, Vectorized
from fedlit.executors.pool.transport import LARGE

STATE = plain_state(2.0, {"momentum": {"w": torch.tensor(1.0)}})
TESTS = Path(__file__).parent.parent
CLIENTS = FederationFacts(sizes=np.full(9, 5), cohort_size=5, splits=(), has_client_tests=False)


@pytest.mark.parametrize(
    ("key", "value"),
    [("workers", 0), ("workers", "all"), ("threads", 0), ("gpus", -0.5), ("group_size", 0), ("wall_timeout_s", 0)],
)
def test_invalid_arguments_are_errors(key, value):
    with pytest.raises(ConfigError, match=f"{key}={value}"):
        Ray(**{key: value})


def test_a_missing_ray_is_an_error_that_names_the_extra(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'fedlit\[ray\]'"):
        Ray()


def test_actors_share_no_key_so_secure_aggregation_is_refused():
    for executor, problems in ((Ray(), 1), (Processes(workers=2), 0)):
        facts = replace(CLIENTS, has_common_key=executor.has_common_key)
        assert len([error for error in SecAgg().check(facts) if "no common key" in str(error)]) == problems


def test_the_estimate_has_the_start_and_the_makespan():
    assert Ray(workers=2).estimate_seconds([[[3.0, 1.0, 2.0], [1.0]]] * 10, torch.device("cpu")) == 15.0 + 10 * 4.0


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nowhere", "host:port"])
def test_an_address_without_a_cluster_is_an_error_at_once(address):
    from fedlit.executors.cluster.connection import check_address  # here: Ray takes seconds to import

    with pytest.raises(ConfigErrors, match="is not a cluster that can be used"):
        check_address(address)


@pytest.fixture(scope="module")
def cluster():
    """A cluster of two nodes on this machine, with one core each, to which this process is connected."""
    import ray
    from ray.cluster_utils import Cluster

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    cluster.add_node(num_cpus=1)
    ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.WARNING)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def chunk(index, **calls):
    return TrainJob(0, index, (index,), {index: calls})


def totals(partials):
    return [partial.total.item() for partial in partials]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_actors_of_a_cluster_have_the_worker_and_survive_what_happens_to_them(cluster, caplog):
    expected = [2.0 * index for index in range(8)]
    with Ray(threads=1, wall_timeout_s=20.0).open(Plain(torch.arange(LARGE)), 1) as execute:
        partials = list(execute([chunk(index, slow=0.2) for index in range(8)], STATE))
        assert totals(partials) == expected
        pids = {int(partial.metrics["pid"][0]) for partial in partials}
        assert len(pids) == 2
        assert totals(execute([chunk(0, place=LARGE - 1)], STATE)) == [LARGE - 1]
        (scores,) = execute([EvaluateJob(0, "test")], STATE)
        assert scores.metrics == {"threads": 1, "private": 0}
        with pytest.raises(ZeroDivisionError, match="of a client") as error:
            list(execute([chunk(0, fail="zero")], STATE))
        assert "in fail" in "".join(error.value.__notes__)
        os.kill(min(pids), signal.SIGKILL)
        assert totals(execute([chunk(index, slow=0.2) for index in range(8)], STATE)) == expected
        results = execute([chunk(index, slow=0.5) for index in range(8)], STATE)
        first = next(results)
        (node,) = cluster.worker_nodes
        cluster.remove_node(node)  # while it works at a job
        assert totals([first, *results]) == expected
        cluster.add_node(num_cpus=1)
        pids = set()
        for _ in range(60):  # until the actor of the lost node has a new place
            partials = list(execute([chunk(index, slow=0.2) for index in range(8)], STATE))
            assert totals(partials) == expected
            pids |= {partial.metrics["pid"] for partial in partials}
            if len(pids) == 2:
                break
        assert len(pids) == 2
    assert caplog.text.count("an actor is lost") == 2


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_federation_in_actors_is_bit_identical_to_one_inline(cluster, caplog):
    fed = federation(clients=5, rounds=2, cohort=4)
    expected = [comparable(record) for record in fed.run()]
    with caplog.at_level("INFO", "fedlit"):
        assert [comparable(record) for record in replace(fed, executor=Ray(workers=2)).run()] == expected
    assert "2 actors of Ray start on" in caplog.text
    stacked = [comparable(record) for record in replace(fed, executor=Vectorized(2)).run()]
    assert [comparable(record) for record in replace(fed, executor=Ray(workers=2, group_size=2)).run()] == stacked
    with pytest.raises(ConfigErrors, match="does not fit: the cluster has"):
        next(replace(fed, executor=Ray(gpus=1.0)).run())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_codecs_in_actors_are_bit_identical_to_inline(cluster):
    """A codec with a compressed broadcast, error feedback, and PowerSGD's two exchanges, each with lost updates."""
    feds = [*(compressed(CODECS[which]) for which in (1, 3)), powersgd_rounds.federation(powersgd_rounds.CHANNELS[0])]
    expected = [[comparable(record) for record in fed.run()] for fed in feds]
    with Ray(workers=2).open(Several(tuple(fed.worker for fed in feds)), 1) as execute:
        for which, fed in enumerate(feds):
            shared = replace(fed, executor=SharedProcesses(execute=execute, which=which))
            assert [comparable(record) for record in shared.run()] == expected[which], fed.channel


SCRIPT = """
import sys
from dataclasses import replace
from pathlib import Path
from conftest import federation
from fedlit.executors import Inline, Ray
from fedlit.server.checkpoint.disk import DiskCheckpointer

folder, executor = Path(sys.argv[1]), Ray(workers=1) if sys.argv[2] == "ray" else Inline()
fed = replace(federation(clients=5, rounds=3, cohort=4), checkpointer=DiskCheckpointer(folder), executor=executor)
for record in fed.run():
    print(record.number, record.sha256, flush=True)
    if sys.argv[2] == "ray" and record.number == 1:
        import os, signal, subprocess
        own = subprocess.run(["pgrep", "-P", str(os.getpid())], capture_output=True, text=True).stdout.split()
        for pid in own:  # the head of the cluster: GCS and raylet
            os.kill(int(pid), signal.SIGKILL)
"""


@pytest.mark.slow
def test_a_run_whose_head_is_lost_is_resumed_bit_identical(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)])}
    environment["RAY_gcs_rpc_server_reconnect_timeout_s"] = "2"
    outputs = []
    for name, executor in (("a", "inline"), ("b", "ray"), ("b", "inline")):
        (tmp_path / name).mkdir(exist_ok=True)
        command = [sys.executable, "-W", "ignore", str(tmp_path / "script.py"), str(tmp_path / name), executor]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=240)
        outputs.append((done.returncode, done.stdout.split()))
    (status, whole), (lost, first), (resumed, rest) = outputs
    assert (status, resumed) == (0, 0)
    assert lost != 0
    assert first[:2] == whole[:2]
    assert len(first) < len(whole)
    assert [*first, *rest] == whole
