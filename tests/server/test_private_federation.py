"""Federations whose clients train by DP-SGD: histories over rounds, resume, executors and failures; refusals."""

from collections import Counter
from contextlib import nullcontext
from itertools import islice

import pytest
import torch
from test_script import Net, toy
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, WeightedRandomSampler

from fedlit import DiskCheckpointer, FedAvg, Federation, Iid, Loading, Schedule
from fedlit.algorithms import Ditto, QFedAvg, Scaffold
from fedlit.client.dp_sgd.accounting import ReleaseHistory, epsilon_of
from fedlit.client.dp_sgd.settings import ExamplePrivacy
from fedlit.client.trainer import TrainerConfig
from fedlit.core.errors import ConfigError, ConfigErrors
from fedlit.core.messages import ClientFailure, PartialAggregate, TrainJob
from fedlit.executors import Processes
from fedlit.executors.executor import Executor
from fedlit.server.checks.fingerprint import fingerprint
from fedlit.server.sampling import PowerOfChoice
from fedlit.simulation import Corrupt, Drop, FaultPlan, Raise
from fedlit.simulation.clock import VirtualClock
from fedlit.simulation.faults import FailurePolicy

PRIVACY = {"noise_multiplier": 1.0}


class Quiet(Net):
    """A module that logs the loss of its training."""

    def training_step(self, batch, batch_idx):
        loss = self.loss(batch)
        self.log("train/loss", loss)
        return loss


def federate(
    model=Quiet, algorithm=None, privacy=None, options=None, data=None, folder=None, loading=None, rounds=4, **parts
):
    """A federation of four clients with twelve examples each, of which two train in a round."""
    torch.set_num_threads(1)
    privacy, schedule = ExamplePrivacy(**(privacy or PRIVACY)), parts.pop("schedule", None)
    return Federation.of(
        model,
        (toy(48), toy(10, 1)) if data is None else data,
        Iid(4),
        algorithm or FedAvg(),
        schedule or Schedule(rounds=rounds, clients_per_round=2, local_epochs=1, quorum=parts.pop("quorum", 1)),
        seed=1,
        loading=Loading(**{"batch_size": 5, "val_fraction": 0.0, **(loading or {})}),
        trainer_config=TrainerConfig({"accelerator": "cpu", **(options or {})}, privacy=privacy),
        checkpointer=None if folder is None else DiskCheckpointer(folder),
        **parts,
    )


def histories(folder):
    """The history of each client in the newest checkpoint."""
    states = DiskCheckpointer(folder).load().client_states.read(range(4))
    return {client: ReleaseHistory.of(state).releases for client, state in states.items()}


def expected(cohorts, fits=1):
    """The histories after rounds with these cohorts: three steps in each fit."""
    count = Counter(client for cohort in cohorts for client in cohort)
    return {client: ((1.0, 5 / 12, 3 * fits * rounds),) for client, rounds in count.items()}


def test_each_client_is_charged_for_the_rounds_of_its_cohorts(tmp_path):
    records, spent = [], []
    for record in federate(folder=tmp_path).run():
        records.append(record)
        assert histories(tmp_path) == expected([one.cohort for one in records])
        spent.append(max(epsilon_of(ReleaseHistory(one), 1e-5) for one in histories(tmp_path).values()))
    assert [record.metrics["privacy/epsilon"] for record in records] == spent
    assert all(record.metrics["privacy/noise_multiplier"] == 1.0 for record in records)
    assert all(0 <= record.metrics["privacy/clipped_fraction"] <= 1 for record in records)
    assert not any(name.startswith("train") for record in records for name in record.metrics)


def test_a_resumed_run_ends_with_the_same_weights_histories_and_epsilon(tmp_path):
    whole = list(federate(Quiet, Ditto(), folder=tmp_path / "whole").run())
    run = federate(Quiet, Ditto(), folder=tmp_path / "parts").run()
    parts = list(islice(run, 2))
    run.close()
    parts += federate(Quiet, Ditto(), folder=tmp_path / "parts").run()
    assert [one.sha256 for one in parts] == [one.sha256 for one in whole]
    assert figures(parts) == figures(whole)
    assert histories(tmp_path / "parts") == histories(tmp_path / "whole") == expected([one.cohort for one in whole], 2)


def figures(records):
    return [{name: v for name, v in one.metrics.items() if name.startswith("privacy/")} for one in records]


@pytest.mark.slow
def test_worker_processes_give_the_same_bits(caplog):
    inline, processes = list(federate().run()), list(federate(executor=Processes(workers=2)).run())
    assert [one.sha256 for one in processes] == [one.sha256 for one in inline]
    assert figures(processes) == figures(inline)
    assert "runs inline" not in caplog.text


def test_finished_training_is_charged_also_in_a_lost_round_and_if_the_update_is_invalid_or_lost(tmp_path):
    lost = FailurePolicy(plans=(FaultPlan(Drop("after"), 1.0, clients=[0, 1]),), names=("drop",), max_lost_rounds=9)
    records = list(federate(folder=tmp_path / "lost", faults=lost).run())
    assert any(one.failures for one in records)
    assert histories(tmp_path / "lost") == expected([one.cohort for one in records])
    corrupt = FailurePolicy(plans=(FaultPlan(Corrupt(), 1.0, rounds=[2]),), names=("corrupt",), max_lost_rounds=9)
    records = list(federate(folder=tmp_path, faults=corrupt).run())
    assert [bool(one.lost) for one in records] == [False, True, False, False]
    assert histories(tmp_path) == expected([one.cohort for one in records])
    quorum = list(federate(folder=tmp_path / "quorum", quorum=2, faults=FailurePolicy(
        plans=(FaultPlan(Raise(), 0.5),), names=("raise",), max_lost_rounds=9)).run())  # fmt: skip
    assert any(one.lost and len(one.failures) == 1 for one in quorum)
    failed = [{failure.client for failure in one.failures} for one in quorum]
    sent = [set(one.cohort) - failures for one, failures in zip(quorum, failed, strict=True)]
    assert histories(tmp_path / "quorum") == expected(sent)  # who failed before training spends nothing


LENIENT = FailurePolicy(max_lost_rounds=9)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("clock", "over_select", "outcome"),
    [
        (VirtualClock(step_s=1.0, up_bytes_s=1e9, down_bytes_s=1e9, deadline_s=1.0), 1.0, "deadline"),
        (VirtualClock(step_s=1.0, up_bytes_s=1e9, down_bytes_s=1e9, step_sigma=1.0), 2.0, "surplus"),
    ],
    ids=["late", "surplus"],
)
def test_a_client_whose_update_comes_too_late_is_charged_for_all_its_steps(clock, over_select, outcome, tmp_path):
    schedule = Schedule(rounds=2, clients_per_round=2, local_epochs=1, over_select=over_select)
    parts = {"schedule": schedule, "clock": clock, "faults": LENIENT}
    records = list(federate(Quiet, Ditto(), folder=tmp_path, **parts).run())
    assert {failure.outcome for one in records for failure in one.failures} == {outcome}
    assert histories(tmp_path) == expected([one.cohort for one in records], 2)
    assert [one.metrics["privacy/epsilon"] for one in records][-1] == max(
        epsilon_of(ReleaseHistory(one), 1e-5) for one in histories(tmp_path).values()
    )


@pytest.mark.slow
def test_a_client_whose_worker_process_is_lost_is_charged_for_all_its_steps(tmp_path):
    class Lossy(Executor):
        """Loses the worker of client 1."""

        def open(self, worker, rounds):
            return nullcontext(lambda jobs, state: (self._run(worker, job, state) for job in jobs))

        def _run(self, worker, job, state):
            if isinstance(job, TrainJob) and job.clients == (1,):
                return PartialAggregate(index=job.index, failures=(ClientFailure(1, "lost_worker", ""),))
            return worker(job, state)

    records = list(federate(folder=tmp_path, executor=Lossy(), faults=LENIENT).run())
    assert {failure.client for one in records for failure in one.failures} == {1}
    assert histories(tmp_path) == expected([one.cohort for one in records])


class Breaking(Quiet):
    """A module that fails in the second step of a fit, and in the first step of the next one."""

    failing = -1

    def training_step(self, batch, batch_idx):
        if batch_idx == Breaking.failing:
            Breaking.failing = 1 - batch_idx
            raise RuntimeError("broken")
        return super().training_step(batch, batch_idx)


@pytest.mark.slow
def test_the_steps_before_an_error_are_charged_once(tmp_path, monkeypatch):
    """A retry has the same noise, so it is not charged beyond the steps of the first attempt."""
    fed = federate(Breaking, folder=tmp_path, faults=FailurePolicy(on_error="retry", max_lost_rounds=9))
    monkeypatch.setattr(Breaking, "failing", 1)
    records = list(fed.run())
    assert all(one.lost for one in records)
    whole = expected([one.cohort for one in records])
    assert histories(tmp_path) == {client: ((1.0, 5 / 12, steps // 3),) for client, ((*_, steps),) in whole.items()}


def test_a_target_calibrates_the_noise_and_is_part_of_the_experiment(tmp_path):
    target = {"epsilon": 5.0, "delta": 1e-3}
    fed = federate(privacy=target, folder=tmp_path)
    records = list(fed.run())
    taken = max(Counter(client for one in records for client in one.cohort).values())
    assert (4.9 if taken == 4 else 1.0) < records[-1].metrics["privacy/epsilon"] <= 5.0
    assert records[-1].metrics["privacy/noise_multiplier"] > 0.3
    with pytest.raises(ConfigErrors, match=r"privacy\.rounds"):
        list(federate(privacy=target, folder=tmp_path, rounds=6).run())
    assert not {key for key in fingerprint(federate()) if "privacy" in key} - {
        "privacy", *(f"privacy.{name}" for name in ("clip", "noise_multiplier", "epsilon", "delta", "rounds", "fits"))
    }  # fmt: skip


class Stream(IterableDataset):
    def __iter__(self):
        yield from toy()


REFUSED = {
    "q-FedAvg": ({"algorithm": QFedAvg()}, "the loss of each client's examples"),
    "SCAFFOLD by gradients": ({"algorithm": Scaffold(option=1)}, "the gradient of each client's examples"),
    "power of choice": ({"sampler": PowerOfChoice}, "chooses clients by the losses"),
    "BatchNorm": ({"model": lambda: with_layer(nn.BatchNorm1d(3))}, "BatchNorm1d"),
    "accumulation": ({"options": {"accumulate_grad_batches": 2}}, "several batches"),
    "clipping": ({"options": {"gradient_clip_val": 1.0}}, "after the noise"),
    "GradScaler": ({"options": {"precision": "16-mixed"}}, "scales the loss"),
    "drop_last": ({"loading": {"drop_last": True}}, "drawn independently"),
    "manual": ({"model": lambda: manual()}, "manual optimization"),
    "stream": ({"data": (Stream(), toy())}, "is not map-style"),
    "weighted sampler": (
        {"data": (DataLoader(toy(), sampler=WeightedRandomSampler([1.0] * 60, 60)), toy())},
        "has a WeightedRandomSampler",
    ),
}


def with_layer(layer):
    module = Net()
    module.net = nn.Sequential(nn.Linear(6, 3), layer, nn.Linear(3, 2))
    return module


def manual():
    module = Net()
    module.automatic_optimization = False
    return module


@pytest.mark.filterwarnings("ignore:You passed `Trainer")
@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused_before_round_1(name):
    parts, reason = REFUSED[name]
    with pytest.raises((ConfigError, ConfigErrors), match=reason):
        federate(**parts)


def test_terms_and_second_fits_are_accepted():
    for algorithm in (Scaffold(), Ditto(), FedAvg(proximal=0.1)):
        (record,) = federate(algorithm=algorithm, rounds=1).run()
        assert not record.failures
