"""Epsilon of runs that are killed and resumed: that of an unbroken run, and a repeated round is charged once."""

import pytest
import torch
from durable import Stopped
from test_script import Net, toy

from fedlit import DiskCheckpointer, FedAvg, Federation, Iid, Loading, RoundRecord, Schedule
from fedlit.aggregation import Channel
from fedlit.aggregation.privacy import DPFTRL, CentralDP, LocalDP
from fedlit.server.sampling import MinSeparation, Poisson, RoundRobin, Uniform

pytest.importorskip("dp_accounting", reason="the extra dp is not installed")
pytestmark = pytest.mark.slow  # whole runs

ROUNDS, CRASH = 4, 3
MECHANISMS = {
    "poisson": (CentralDP(noise_multiplier=1.0), Poisson),
    "adaptive": (CentralDP(noise_multiplier=1.0, clip="adaptive", count_noise=2.0), Poisson),
    "fixed size": (CentralDP(noise_multiplier=3.0), Uniform),
    "round robin": (CentralDP(noise_multiplier=3.0), RoundRobin),
    "ftrl": (DPFTRL(noise_multiplier=1.0), MinSeparation),
    "local": (LocalDP(noise_multiplier=3.0), Uniform),
}


class KilledCheckpointer(DiskCheckpointer):
    """The process is killed once, before or after a round is committed."""

    moment = ""

    def commit(self, state, client_states, record):
        if state.round == CRASH and self.moment == "before":
            raise Stopped
        super().commit(state, client_states, record)
        if state.round == CRASH and self.moment == "after":
            raise Stopped


def federate(name, folder, moment=""):
    """A federation of four clients; the process is killed at a moment of a commit."""
    torch.set_num_threads(1)
    mechanism, sampler = MECHANISMS[name]
    checkpointer = KilledCheckpointer(folder)
    checkpointer.moment = moment
    return Federation.of(
        Net,
        (toy(48), toy(10, 1)),
        Iid(4),
        FedAvg(weights="uniform"),
        Schedule(rounds=ROUNDS, clients_per_round=2, local_steps=1),
        seed=1,
        loading=Loading(batch_size=5, val_fraction=0.0),
        channel=Channel.of([mechanism]),
        sampler=sampler,
        checkpointer=checkpointer,
    )


def killed(federation):
    """Run until the process is killed, and return the records of the committed rounds."""
    records: list[RoundRecord] = []
    with pytest.raises(Stopped):
        records.extend(federation.run())
    return records


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("name", MECHANISMS)
def test_a_killed_run_ends_with_the_epsilon_of_an_unbroken_one(name, moment, tmp_path):
    unbroken = list(federate(name, tmp_path / "unbroken").run())
    before = killed(federate(name, tmp_path / "killed", moment))
    federation = federate(name, tmp_path / "killed")
    after = list(federation.run())
    assert len(before) == CRASH - 1
    assert [record.number for record in after] == list(range(CRASH + (moment == "after"), ROUNDS + 1))
    assert after[-1].sha256 == unbroken[-1].sha256
    assert after[-1].metrics["privacy/epsilon"] == unbroken[-1].metrics["privacy/epsilon"]
    accountant = federation.channel.stages[0].accountant
    charged = ROUNDS
    if accountant.is_local:
        cohorts = [record.cohort for record in unbroken]
        charged = max(sum(client in cohort for cohort in cohorts) for client in range(4))
    assert after[-1].metrics["privacy/epsilon"] == accountant.epsilon(charged)


def test_epsilon_grows_with_every_round_and_is_that_of_the_plan(tmp_path):
    federation = federate("poisson", tmp_path)
    accountant = federation.channel.stages[0].accountant
    spent = [record.metrics["privacy/epsilon"] for record in federation.run()]
    assert spent == [accountant.epsilon(rounds) for rounds in range(1, ROUNDS + 1)]
