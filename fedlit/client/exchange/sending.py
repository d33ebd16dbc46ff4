"""A client's messages to the server."""

from __future__ import annotations

from collections.abc import Callable

import torch

from fedlit.aggregation.channel import Channel, channel_states, pack_channel_states
from fedlit.aggregation.chunk import ChunkSum
from fedlit.aggregation.secure.protocol.wire import ProtocolError
from fedlit.aggregation.secure.reply import Replies, make_turn
from fedlit.aggregation.secure.vault import Vault
from fedlit.aggregation.validation import invalid_values, valid_weight
from fedlit.client.failures import FailureReports
from fedlit.client.trainer import LocalTrainer
from fedlit.core.messages import ClientFailure, Exchange, ExchangeJob, ExchangeResult, ServerState, Update
from fedlit.core.tensors import Layout
from fedlit.simulation.faults import FailurePolicy


def send_update(
    chunk: ChunkSum,
    update: Update,
    local: LocalTrainer,
    state: ServerState,
    exchange: Exchange | None,
    vault: Vault,
    max_norm: float | None,
    reports: FailureReports,
) -> ClientFailure | None:
    """Encode one client's update, and add the message to the sum.

    Under a privacy mechanism a client whose update is not finite sends zeros and keeps its old state, since a failure would
    tell about its data.

    Args:
        chunk: the growing sum.
        update: the update.
        local: the client's local training.
        state: the server state before the round.
        exchange: the exchange that carries the updates; None if it is the only one.
        vault: seals what the client keeps for the next exchange.
        max_norm: see `FailurePolicy`.
        reports: the reports of failing clients.

    Returns:
        The failure of a client whose update is not in the sum.
    """
    vector, weight = chunk.layout.vector(update.groups), float(update.weight)
    client_state = {**update.client_state, **local.kept_state}
    if chunk.channel.is_plain:
        problem = chunk.add_plain(vector, weight, local.client, client_state, local.results, max_norm)
        return ClientFailure(local.client, "not_finite", problem) if problem else None
    if problem := invalid_values(vector, weight, max_norm, hides_clients=chunk.channel.hides_clients):
        if not chunk.zeroes_invalid:
            chunk.count_bytes(chunk.channel.nbytes(chunk.layout))
            return ClientFailure(local.client, "not_finite", problem)
        reports.log_zeros(local.client, problem)
        vector, weight, client_state = torch.zeros_like(vector), valid_weight(weight), local.client_state
    facts = {"round": local.round, "client": local.client, "seed": local.data.seed, "states": state.channel}
    turn = None if exchange is None else make_turn(exchange, local.client, vault)
    try:
        encoded, own = chunk.encode(vector, weight, **facts, own=channel_states(local.client_state), turn=turn)
    except ProtocolError as error:
        return ClientFailure(local.client, "exception", str(error))
    new_state = {**client_state, **pack_channel_states(own)}
    problem = chunk.add(encoded, local.client, new_state, local.results, local.client_state)
    if problem and chunk.zeroes_invalid:
        reports.log_zeros(local.client, problem)
        return None
    return ClientFailure(local.client, "not_finite", problem) if problem else None


def answer_exchange(
    channel: Channel,
    layout: Layout,
    job: ExchangeJob,
    seed: int,
    faults: FailurePolicy,
    vault: Vault,
    classify: Callable[[int, Exception], ClientFailure],
) -> ExchangeResult:
    """Let clients answer the server in an exchange without updates.

    Args:
        channel: the channel, with a stage of several exchanges.
        layout: layout of the updates.
        job: the clients and the exchange.
        seed: the experiment's seed.
        faults: the planned faults.
        vault: seals what a client keeps for the next exchange.
        classify: makes the failure of a client of its error.
    """
    replies = Replies(channel)
    for client in job.clients:
        try:
            faults.act_at_exchange(seed, job.round, client, job.exchange.number)
            replies.add(layout, make_turn(job.exchange, client, vault), round=job.round, client=client, seed=seed)
        except Exception as error:
            replies.failures.append(classify(client, error))
    return replies.result()
