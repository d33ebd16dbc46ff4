"""Homomorphic encryption in the loop: sums, losses, resume, worker processes, and what the loop holds."""

import pickle

import pytest
from secagg_runs import keep_values, leaked_values, leave_vault_open
from test_secure_rounds import Recorder, drop, dropped, federation, keys_of, parameter, records

from fedlit.aggregation.secure import HomomorphicSum, IdealSum, SecAgg
from fedlit.aggregation.secure.homomorphic import client
from fedlit.aggregation.secure.homomorphic.bfv import decrypt
from fedlit.aggregation.secure.homomorphic.ciphertexts import to_bytes, unpack_parts
from fedlit.aggregation.secure.homomorphic.stage import KeeperSecrets
from fedlit.aggregation.secure.protocol.wire import HEADER
from fedlit.algorithms import Scaffold
from fedlit.executors import Inline, Processes
from fedlit.server.checkpoint.disk import DiskCheckpointer
from fedlit.simulation.client_faults import Drop
from fedlit.simulation.faults import FaultPlan

pytestmark = pytest.mark.slow  # keys of BFV in each round


@pytest.fixture(scope="module")
def full():
    """A round without losses, and its keepers."""
    executor = Recorder()
    (record,) = records(HomomorphicSum(), executor=executor)
    keepers = [client for job in executor.jobs if name_of(job) == "share_context" for client in job.clients]
    assert len(keepers) == 3
    return record, keepers


def name_of(job):
    exchange = getattr(job, "exchange", None)
    return None if exchange is None else exchange.name


@pytest.mark.parametrize("other", [{}, {"ring": 64}, {"group_size": 3}, {"keepers": 1}, {"keepers": 9}], ids=str)
def test_the_bits_are_those_of_secagg(other):
    assert records(HomomorphicSum(**other))[0].sha256 == records(SecAgg())[0].sha256


def test_several_groups_of_an_update_have_the_bits_of_secagg():
    """SCAFFOLD sends two."""
    stages = HomomorphicSum(range=4, bits=24), SecAgg(range=4, bits=24)
    first, second = (records(stage, rounds=2, algorithm=Scaffold()) for stage in stages)
    assert [record.sha256 for record in first] == [record.sha256 for record in second]
    assert first[0].sha256 != first[1].sha256


def test_losses_of_clients_give_the_sum_of_the_survivors(full):
    gone = full[0].cohort[:2]
    ideal = records(IdealSum(), faults=dropped(FaultPlan(Drop(), 1.0, gone)))[0]
    for exchange in (1, 3):
        (record,) = records(HomomorphicSum(), faults=dropped(drop(exchange, gone)))
        assert {failure.client for failure in record.failures} == set(gone)
        assert f"exchange {exchange}" in record.failures[0].reason
        assert record.sha256 == ideal.sha256


def test_keepers_that_are_lost_before_the_training_are_not_in_the_sum(full):
    record, keepers = full
    (some,) = records(HomomorphicSum(), faults=dropped(drop(2, record.cohort)))
    assert "secure sum is lost: 4 of 7 clients answered ShareContext, and 5 are needed" in some.lost
    assert parameter(some) == 0.25
    (two,) = records(HomomorphicSum(), faults=dropped(drop(2, keepers[:2])))
    assert two.lost is None
    assert two.sha256 == records(IdealSum(), faults=dropped(FaultPlan(Drop(), 1.0, keepers[:2])))[0].sha256


def test_one_keeper_that_is_left_opens_the_sum(full):
    record, keepers = full
    (two,) = records(HomomorphicSum(), faults=dropped(drop(4, keepers[:2])))
    assert (two.sha256, two.failures, two.metrics["secure/decryption_silent"]) == (record.sha256, (), 2)
    (none,) = records(HomomorphicSum(), faults=dropped(drop(4, keepers)))
    assert "secure sum is lost: 0 of 3 clients answered Decryption, and 1 are needed" in none.lost
    assert {failure.outcome for failure in none.failures} == {"aborted"}
    assert len(none.failures) == 7
    assert parameter(none) == 0.25


def test_the_record_has_the_bytes_that_the_plan_expects_and_the_seconds(full):
    (record, _), stage = full, HomomorphicSum()
    for name in stage.exchanges:
        for figure in (f"time/{name}_clients_s", f"time/{name}_server_s"):
            assert record.metrics[figure] > 0
    work = federation(stage).round_work(record.cohort, federation(stage).initial_state())
    down = records(None)[0].metrics["comm/down_bytes"] / 7
    assert record.metrics["secure/ciphertexts_up_bytes"] == 7 * stage.codec.nbytes(work_layout(stage))
    assert record.metrics["comm/up_bytes"] == pytest.approx(7 * work.up_bytes, rel=1e-3)
    assert record.metrics["comm/down_bytes"] == pytest.approx(7 * work.down_bytes, rel=1e-3)
    assert work.down_bytes > down
    assert not [name for name in record.metrics if name.startswith(("train/", "drift/"))]


def work_layout(stage):
    fed = federation(stage)
    return fed.channel.encoded_layout(fed.update_layout(fed.initial_state()))


@pytest.mark.parametrize("exchange", [1, 2, 3, 4])
def test_a_run_killed_within_an_exchange_repeats_the_round_with_new_keys_and_the_same_sum(exchange, tmp_path):
    whole = records(HomomorphicSum(), rounds=2)
    interrupted, resumed = Recorder(exchange), Recorder()
    with pytest.raises(KeyboardInterrupt):
        records(HomomorphicSum(), rounds=2, executor=interrupted, checkpointer=DiskCheckpointer(tmp_path))
    again = records(HomomorphicSum(), rounds=2, executor=resumed, checkpointer=DiskCheckpointer(tmp_path))
    assert [(record.number, record.sha256) for record in again] == [(2, whole[1].sha256)]
    first, second = (keys_of(executor, 1) for executor in (interrupted, resumed))
    assert first.keys() <= second.keys()
    assert all(first[client] != second[client] for client in first)


def test_worker_processes_have_the_same_bits():
    faults = dropped(*(FaultPlan(Drop(exchange=exchange), 0.1) for exchange in (2, 3, 4)))
    inline, processes = (
        records(HomomorphicSum(), rounds=2, faults=faults, executor=executor)
        for executor in (Inline(), Processes(workers=2))
    )
    assert [record.sha256 for record in inline] == [record.sha256 for record in processes]
    assert [record.failures for record in inline] == [record.failures for record in processes]
    assert all(record.lost is None for record in processes)


def pieces_of(secrets):
    pieces = [secrets.secret[start : start + 32] for start in range(1000, len(secrets.secret) - 32, 9000)]
    return [secrets.private, *pieces]


@pytest.fixture
def kept(monkeypatch):
    """The values that only the worker sees."""
    return keep_values(monkeypatch, HomomorphicSum, KeeperSecrets, "dump", pieces_of)


def test_nothing_that_the_loop_holds_has_an_update_or_a_secret_key(kept):
    executor = Recorder()
    (record,) = records(HomomorphicSum(), executor=executor)
    assert record.lost is None
    assert len(kept["integers"]) == 7
    assert len(set(kept["secrets"])) == 7 + 3 * 7
    assert leaked_values(executor.seen, kept) == set()


def test_the_search_finds_a_secret_that_is_not_sealed(kept, monkeypatch):
    leave_vault_open(monkeypatch)
    executor = Recorder()
    records(HomomorphicSum(), executor=executor)
    assert leaked_values(executor.seen, kept) == {"secrets"}


def test_the_search_finds_a_secret_key_that_is_not_sealed_for_its_receiver(kept, monkeypatch):
    monkeypatch.setattr(client, "seal", lambda key, content, bound: content)
    monkeypatch.setattr(client, "unseal", lambda key, content, bound: content)
    executor = Recorder()
    records(HomomorphicSum(), executor=executor)
    assert leaked_values(executor.seen, kept) == {"secrets"}


def test_the_public_key_opens_no_message_of_a_client():
    executor, stage = Recorder(), HomomorphicSum()
    records(stage, executor=executor)
    results = [pickle.loads(content) for content in executor.seen[1::2]]
    carriers = [pair for pair in zip(executor.jobs, results, strict=True) if name_of(pair[0]) == "ciphertexts"]
    (public,) = {request[HEADER.size :] for job, _ in carriers for request in job.exchange.requests.values()}
    assert len(carriers) == 7
    for _, result in carriers:
        with pytest.raises(ValueError, match="secret key is missing"):
            decrypt(stage.parameters, public, unpack_parts(to_bytes(result.total)))


def test_a_keeper_has_no_secret_after_the_decryption():
    """So it cannot open a second sum."""
    executor = Recorder()
    records(HomomorphicSum(), executor=executor)
    results = [pickle.loads(content) for content in executor.seen[1::2]]
    pending = {"share_context": [], "ciphertexts": [], "decryption": []}
    for job, result in zip(executor.jobs, results, strict=True):
        if name_of(job) in pending:
            pending[name_of(job)] += [bool(tensors) for tensors in result.pending.values()]
    assert pending == {"share_context": [True] * 3, "ciphertexts": [True] * 7, "decryption": [False] * 3}
