"""The channel in the loop: codecs, error feedback, the downlink, fixed divisors, empty rounds, and what the record has."""

from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pytest
import torch
from conftest import Quadratic, pairs
from test_rounds import ROWS, by_row

from fedlit.aggregation import Channel, Clip, Codec, Float32, Order, Stage
from fedlit.aggregation.channel.downlink import broadcast, broadcast_nbytes
from fedlit.algorithms import FedAvg, Scaffold
from fedlit.core.errors import ConfigError, ConfigErrors
from fedlit.core.messages import StageState
from fedlit.core.serialization import shared_tree, state_bytes
from fedlit.data import Data
from fedlit.data.loading import Loading
from fedlit.executors import Inline, Processes
from fedlit.server.checkpoint.disk import DiskCheckpointer
from fedlit.server.schedule import Schedule
from fedlit.server.setup import Federation
from fedlit.simulation.client_faults import Corrupt, Drop
from fedlit.simulation.faults import FailurePolicy, FaultPlan


class Tenths(Codec):
    """Rounds down to tenths, in two bytes a number."""

    packs_weights = True

    def pack(self, vector, ticket):
        return torch.floor(vector * 10).to(torch.int16).numpy().tobytes()

    def unpack(self, content, layout):
        return torch.frombuffer(content, dtype=torch.int16, count=layout.size).float() / 10

    def nbytes(self, layout):
        return 2 * layout.size


@dataclass(frozen=True)
class Fixed(Clip):
    """A clip to a norm whose sum has a fixed divisor, and which opens empty rounds by adding 1."""

    norm: float = 1e9
    divisor: float = 2.0
    rounds: int = 0

    @property
    def denominator(self):
        return self.divisor

    @property
    def releases_empty(self):
        return True

    @property
    def hides_clients(self):
        return True

    def bind(self, facts):
        assert facts.weighting == "equal"
        assert dict(facts.update_numbers) == {"parameters": 1, "buffers": 0}
        return replace(self, rounds=facts.rounds)

    def init(self, layout):
        return StageState(private={"clipped": torch.tensor(0)})

    def factor(self, vector, ticket):
        return min(1.0, self.norm / max(float(vector.double().norm()), 1e-12))

    def open(self, total, ticket, state):
        return total + 1, StageState(private={"clipped": state.private["clipped"] + ticket.clipped})

    def metrics(self, state):
        return {"privacy/clipped": float(state.private["clipped"])}


class Unbound(Fixed):
    """The same clip, which knows no number of rounds: a resumed run may have more."""

    def bind(self, facts):
        return self


class Sixteenths(Stage):
    """Sends whole sixteenths, and keeps the rest if the client feeds back what was lost."""

    order = Order.PROJECT

    def encode(self, vector, ticket):
        vector = vector + ticket.own.get("residual", torch.zeros(len(vector)))
        sent = torch.floor(vector * 16) / 16
        return sent, {"residual": vector - sent} if ticket.error_feedback else {}


def make(*stages, algorithm=None, faults=None, executor=None, folder=None, sampler=None, channel=None, **schedule):
    """Make a federation with one client a row, which sends one number; four rounds by default."""
    return Federation.of(
        partial(Quadratic, 1.0),
        Data("rows", pairs(*ROWS), None, (2,), ()),
        by_row,
        algorithm or FedAvg("uniform"),
        Schedule(**{"rounds": 4, "client_fraction": 1.0, "local_steps": 2, **schedule}),
        loading=Loading(batch_size="full", val_fraction=0.0),
        sampler=sampler or (lambda size: lambda pool, generator: np.arange(size)),
        channel=channel or Channel.of(stages),
        executor=executor or Inline(),
        checkpointer=None if folder is None else DiskCheckpointer(folder),
        faults=faults or FailurePolicy(),
    )


def weights(record):
    return next(iter(record.model.parameters.values())).double()


def digests(fed):
    return [record.sha256 for record in fed.run()]


def test_the_record_has_the_packed_bytes_and_their_ratio():
    plain, packed = (next(iter(make(*stages, rounds=1).run())).metrics for stages in ((), (Tenths(),)))
    assert (plain["comm/up_bytes"], plain["comm/ratio"]) == (4 * (8 + 4), 1.0)
    assert (packed["comm/up_bytes"], packed["comm/ratio"]) == (4 * (8 + 2), 12 / 10)


FAULTS = FailurePolicy(
    plans=(FaultPlan(Corrupt(), 1.0, clients=[1], rounds=[2]), FaultPlan(Drop(), 1.0, clients=[0, 2], rounds=[3]))
)


@pytest.mark.parametrize(
    "channel",
    [Channel.of([Tenths()], error_feedback=True), Channel.of([Sixteenths()], error_feedback=True)],
    ids=["codec", "projection"],
)
def test_sent_and_residual_are_the_sum_of_the_accepted_updates(tmp_path, channel):
    exact, sent = torch.zeros(4, 1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    fed = make(channel=channel, faults=FAULTS, folder=tmp_path)
    state = fed.initial_state()
    for record in fed.run():
        lost = {failure.client for failure in record.failures}
        accepted = [client for client in range(4) if client not in lost]
        for client in accepted:  # a rule depends on the model alone, so each update can be made again
            _, update = make().dry_run(client, state)
            exact[client] += update.groups["parameters"]["w"].flatten().double()
        checkpoint = DiskCheckpointer(tmp_path).peek({})
        step = checkpoint.state.model.parameters["w"].double() - state.model.parameters["w"].double()
        sent += step.flatten() * len(accepted)
        state = checkpoint.state
        residuals = checkpoint.client_states.read(range(4))
        kept = sum(next(iter(groups.values()))["residual"].double() for groups in residuals.values())
        torch.testing.assert_close(sent + kept, exact.sum(0), atol=1e-5, rtol=0)
    assert [len(record) for record in residuals.values()] == [1, 1, 1, 1]


@pytest.mark.parametrize("executor", [pytest.param("processes", marks=pytest.mark.slow), "resumed"])
def test_a_codec_with_error_feedback_has_the_same_bits(tmp_path, executor):
    channel = Channel.of([Tenths(), Unbound(norm=0.5)], error_feedback=True, down=Tenths())
    faults = FailurePolicy(plans=FAULTS.plans[:1])
    expected = digests(make(channel=channel, faults=faults))
    if executor == "processes":
        assert digests(make(channel=channel, faults=faults, executor=Processes(workers=2))) == expected
        return
    first = digests(make(channel=channel, faults=faults, folder=tmp_path, rounds=2))
    assert first + digests(make(channel=channel, faults=faults, folder=tmp_path)) == expected


def test_a_packed_broadcast_has_the_stated_length_and_leaves_the_server_exact():
    fed = make(algorithm=Scaffold(), channel=Channel.of(down=Tenths()))
    state = fed.initial_state()
    state = state.with_shared(model=state.model.add({"parameters": {"w": torch.tensor(0.25)}}))
    received = fed.broadcast(state)
    assert received.model.parameters["w"].flatten().tolist() == pytest.approx([1.2])
    assert state.model.parameters["w"].flatten().tolist() == pytest.approx([1.25])
    exact = len(state_bytes(shared_tree(state)))
    assert broadcast_nbytes(None, state) == exact
    assert fed.down_nbytes(state) == exact - 2 * (4 - 2)  # two numbers, of the model and of the control variate
    assert broadcast(None, state, 1) is state
    records = list(fed.run())
    assert records[0].metrics["comm/down_bytes"] == 4 * fed.down_nbytes(state)


def test_a_fixed_divisor_takes_part_of_failures_and_empty_rounds():
    draws = [[0, 1], [], [0, 1, 2, 3], [2]]
    fed = make(Fixed(), sampler=lambda size: lambda pool, generator: np.array(draws[pool.round], int), faults=FAULTS)
    assert fed.channel.stages[0].rounds == 4
    state, before = fed.initial_state(), torch.ones(1, dtype=torch.float64)
    for record, draw in zip(fed.run(), draws, strict=True):
        members = [client for client in draw if client not in {failure.client for failure in record.failures}]
        updates = [make().dry_run(client, state)[1].groups["parameters"]["w"].flatten() for client in members]
        total = sum((update.double() for update in updates), torch.zeros(1, dtype=torch.float64)) + 1
        torch.testing.assert_close(weights(record).flatten() - before, total / 2.0, atol=1e-6, rtol=0)
        assert record.lost is None
        assert not [name for name in record.metrics if name.startswith(("train/", "drift/"))]
        assert record.metrics["privacy/clipped"] == 0
        before, state = weights(record).flatten(), replace(state, shared=replace(state.shared, model=record.model))


def test_clipped_updates_are_counted():
    assert [record.metrics["privacy/clipped"] for record in make(Fixed(norm=1e-3), rounds=2).run()] == [4.0, 8.0]


def test_a_fixed_divisor_refuses_other_weights_at_run_time():
    class Sized(FedAvg):
        def weight(self, y):
            return 2.0

    with pytest.raises(ConfigError, match=r"algorithm: gives client 0 the weight 2\.0"):
        list(make(Fixed(), algorithm=Sized("uniform")).run())


def test_an_error_of_binding_is_an_error_of_the_configuration():
    class Refuses(Fixed):
        def bind(self, facts):
            from fedlit.core.errors import ConfigError

            raise ConfigError("privacy.epsilon", 1.0, "cannot be reached")

    with pytest.raises(ConfigErrors, match="cannot be reached"):
        make(Refuses())


def test_error_feedback_of_a_lossless_codec_is_a_warning():
    (warning,) = Channel.of([Float32()], error_feedback=True).check(
        make().facts(Data("rows", pairs(*ROWS), None, (2,), ()))
    )
    assert warning.warning
    assert "the codec loses nothing" in str(warning)


@dataclass(frozen=True)
class Careless(FedAvg):
    """A client rule that divides by the number of steps, which is 0 for a client without examples."""

    def client(self, local, shared, client_state):
        self.divide(local.fit(shared.model).steps)
        return super().client(local, shared, client_state)

    def divide(self, steps):
        return 1 / steps


def test_a_client_rule_that_fails_without_examples_is_an_error_with_its_own_line():
    with pytest.raises(ConfigErrors, match="ZeroDivisionError: division by zero") as raised:
        make(Fixed(), algorithm=Careless())
    (error,) = raised.value.errors
    assert error.subject == "algorithm=Careless"
    assert "test_channel_in_rounds.py" in error.problem
    assert "in divide: return 1 / steps" in error.problem
    assert isinstance(error.__cause__, ZeroDivisionError)
