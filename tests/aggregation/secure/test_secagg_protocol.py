"""The secure aggregation protocol: exact sums under losses, refusals, changed messages."""

from dataclasses import replace

import numpy as np
import pytest
from secagg_runs import ProtocolRun

from fedlit.aggregation.secure.protocol.client import (
    ClientSecrets,
    advertise_keys,
    mask_vector,
    reveal_shares,
    share_keys,
)
from fedlit.aggregation.secure.protocol.graph import (
    default_threshold,
    make_groups,
    make_neighbourhoods,
    make_thresholds,
)
from fedlit.aggregation.secure.protocol.primitives import seal, unseal
from fedlit.aggregation.secure.protocol.setting import ALIVE, LOST, LostGroup
from fedlit.aggregation.secure.protocol.wire import (
    KEY_BYTES,
    NONCE_BYTES,
    SEAL_BYTES,
    SEALED_BYTES,
    ProtocolError,
    pack_records,
    unpack_records,
)


def lost(*stages):
    return tuple(set(stage) for stage in stages)


@pytest.mark.parametrize("ring_bits", [32, 64])
@pytest.mark.parametrize("neighbours", [None, 4])
def test_without_losses_the_sum_is_that_of_all_vectors(ring_bits, neighbours):
    run = ProtocolRun(7, neighbours=neighbours, ring_bits=ring_bits)
    assert run.run().tolist() == sum(vector.astype(int) for vector in run.vectors.values()).tolist()
    assert run.server.alive == set(range(7))


def test_sums_are_modulo_the_ring():
    run = ProtocolRun(3)
    run.vectors = {client: np.full(4, 2**31 + client, np.uint32) for client in range(3)}
    assert run.run().tolist() == [(3 * 2**31 + 3) % 2**32] * 4


@pytest.mark.parametrize("stage", range(4))
def test_a_loss_in_each_exchange_gives_the_survivors_sum(stage):
    stages = [[], [], [], []]
    stages[stage] = [1, 4]
    run = ProtocolRun(7, lost=lost(*stages))
    assert run.run().tolist() == run.plain_sum().tolist()
    assert run.server.alive == set(range(7)) - (set() if stage == 3 else {1, 4})


@pytest.mark.parametrize("stage", range(4))
def test_one_loss_more_than_the_threshold_allows_aborts(stage):
    stages = [[], [], [], []]
    stages[stage] = [0, 1, 2]
    run = ProtocolRun(7, lost=lost(*stages))
    with pytest.raises(LostGroup, match=r"4 of 7 clients answered .*, and 5 are needed"):
        run.run()


def random_losses(number):
    """A run with random losses in all exchanges."""
    generator = np.random.default_rng(number)
    clients = int(generator.integers(3, 10))
    neighbours = None if generator.random() < 0.5 else 4
    rate = generator.choice([0.02, 0.08, 0.2])
    stages = tuple({client for client in range(clients) if generator.random() < rate} for _ in range(4))
    return ProtocolRun(clients, 3, stages, neighbours, seed=number)


def check_random_losses(numbers):
    """Each run gives the survivors' exact sum or aborts.

    In a complete graph it aborts only with fewer clients than the threshold.
    """
    aborted = 0
    for number in numbers:
        run = random_losses(number)
        left = [set(range(run.clients)).difference(*run.lost[: stage + 1]) for stage in range(4)]
        is_enough = min(map(len, left)) >= run.setting.thresholds.group
        try:
            total = run.run()
        except LostGroup:
            aborted += 1
            assert not is_enough or run.neighbours is not None, number
            continue
        assert is_enough, number
        assert run.server.alive == left[2], number
        assert total.tolist() == run.plain_sum().tolist(), number
    return aborted


def test_random_losses_in_several_exchanges_give_the_exact_sum_or_abort():
    assert 5 < check_random_losses(range(40)) < 35


@pytest.mark.slow
def test_a_thousand_random_losses_give_the_exact_sum_or_abort():
    assert 100 < check_random_losses(range(1000, 2000)) < 900


def prepared(exchanges, clients=5, **options):
    """A run after some exchanges."""
    run = ProtocolRun(clients, **options)
    for _ in range(exchanges):
        run.exchange()
    return run


def test_a_client_never_reveals_both_shares_of_a_client():
    run = prepared(3)
    request = run.server.requests()[0]
    secrets, reply = reveal_shares(run.secrets[0], run.setting, request)
    flags = unpack_records(request, 1)
    with pytest.raises(ProtocolError, match="has unmasked"):
        reveal_shares(secrets, run.setting, pack_records({**flags, 3: LOST}))
    with pytest.raises(ProtocolError, match="twice"):
        reveal_shares(run.secrets[0], run.setting, request + pack_records({3: LOST}))
    assert len(unpack_records(reply, 33)) == 5
    assert (secrets.seed, secrets.mask_key, secrets.sealing_key, secrets.received) == (b"", b"", b"", {})


def test_a_client_refuses_a_second_unmasking_and_a_second_vector():
    run = prepared(4)
    with pytest.raises(ProtocolError, match="has unmasked"):
        reveal_shares(run.secrets[0], run.setting, b"")
    run = prepared(2)
    request = run.server.requests()[0]
    secrets, _ = mask_vector(run.secrets[0], run.setting, request, run.vectors[0])
    with pytest.raises(ProtocolError, match="has masked"):
        mask_vector(secrets, run.setting, request, run.vectors[0])


def test_a_client_refuses_to_unmask_a_few_clients():
    run = prepared(3)
    flags = dict.fromkeys(range(5), LOST) | {0: ALIVE, 1: ALIVE, 2: ALIVE}
    with pytest.raises(ProtocolError, match="unmask 3 clients, and refuses below 4"):
        reveal_shares(run.secrets[0], run.setting, pack_records(flags))


@pytest.mark.parametrize("flags", [{0: LOST}, {}, {0: ALIVE, 1: b"\2"}])
def test_a_client_refuses_to_unmask_without_its_own_vector(flags):
    run = prepared(3)
    rest = {client: ALIVE for client in range(1, 5) if client not in flags}
    with pytest.raises(ProtocolError, match="its own vector"):
        reveal_shares(run.secrets[0], run.setting, pack_records({**rest, **flags}))


def test_a_client_refuses_unknown_clients_in_each_exchange():
    run = prepared(2)
    shares = unpack_records(run.server.requests()[0], SEALED_BYTES)
    with pytest.raises(ProtocolError, match=r"\[9\].*not its neighbours"):
        mask_vector(run.secrets[0], run.setting, pack_records({**shares, 9: shares[1]}), run.vectors[0])
    run = prepared(3)
    with pytest.raises(ProtocolError, match=r"\[9\]"):
        reveal_shares(run.secrets[0], run.setting, pack_records(dict.fromkeys([0, 1, 2, 3, 9], ALIVE)))


def test_a_client_refuses_too_few_keys_and_shares():
    run = prepared(1)
    keys = unpack_records(run.server.requests()[0], 64)
    with pytest.raises(ProtocolError, match="keys of 3 clients and needs 4"):
        share_keys(run.secrets[0], run.setting, pack_records({client: keys[client] for client in (0, 1, 2)}))
    run = prepared(2)
    shares = unpack_records(run.server.requests()[0], SEALED_BYTES)
    with pytest.raises(ProtocolError, match="shares of 2 neighbours and needs 3"):
        mask_vector(
            run.secrets[0], run.setting, pack_records({client: shares[client] for client in (1, 2)}), run.vectors[0]
        )


def test_a_client_refuses_equal_keys_and_keys_without_its_own():
    run = prepared(1)
    keys = unpack_records(run.server.requests()[0], 64)
    with pytest.raises(ProtocolError, match="same key twice"):
        share_keys(run.secrets[0], run.setting, pack_records({**keys, 1: keys[2]}))
    other = advertise_keys(0, run.setting)[1]
    with pytest.raises(ProtocolError, match="its own keys"):
        share_keys(run.secrets[0], run.setting, pack_records({**keys, 0: other}))


def changed(content, place):
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


def test_a_changed_share_is_left_out_and_the_others_give_the_sum():
    run = prepared(2)
    run.server._sealed[1][0] = changed(run.server._sealed[1][0], 5)
    run.exchange()
    run.exchange()
    assert len(run.server._shares[1]) == 4
    assert run.server.unmask(run.total()).tolist() == run.plain_sum().tolist()


def test_a_share_for_another_receiver_or_of_another_round_is_left_out():
    run, other = prepared(2), prepared(2)
    run.server._sealed[1][0], run.server._sealed[1][2] = run.server._sealed[1][2], run.server._sealed[1][0]
    run.server._sealed[3][4] = other.server._sealed[3][4]
    run.exchange()
    run.exchange()
    assert {owner: len(shares) for owner, shares in run.server._shares.items()} == {0: 5, 1: 3, 2: 5, 3: 4, 4: 5}
    with pytest.raises(LostGroup, match="3 shares of client 1's secret arrived, and 4 are needed"):
        run.server.unmask(run.total())


@pytest.mark.parametrize("stage", [2, 3])
def test_a_wrong_share_aborts_instead_of_a_wrong_sum(stage):
    stages = [[], [], [], []]
    stages[stage] = [4]
    run = prepared(4, lost=lost(*stages))
    owner = 4 if stage == 2 else 0
    run.server._shares[owner][1] ^= 1
    with pytest.raises(LostGroup, match=f"client {owner}.*fit together"):
        run.server.unmask(run.total())


def test_messages_that_come_twice_late_or_malformed_are_refused():
    run = prepared(2)
    with pytest.raises(ProtocolError, match="client 7"):
        run.server.receive(7, b"")
    run.server.receive(0, b"")
    with pytest.raises(ProtocolError, match="client 0"):
        run.server.receive(0, b"")
    run = prepared(3, lost=lost([], [], [4], []))
    with pytest.raises(ProtocolError, match="client 4 sent an unexpected message in unmasking"):
        run.server.receive(4, b"")  # its masked vector arrives late
    with pytest.raises(ProtocolError, match="records of 33"):
        run.server.receive(0, bytes(34))


@pytest.mark.parametrize("change", [{"round": 6}, {"group": 1}])
def test_shares_and_masks_are_bound_to_the_round_and_the_group(change):
    """A client in another round opens no share of this one, and its masks do not cancel those of this one."""
    run = prepared(2)
    request, other = run.server.requests()[0], replace(run.setting, **change)
    secrets, masked = mask_vector(run.secrets[0], run.setting, request, run.vectors[0])
    _, elsewhere = mask_vector(in_group(other, run.secrets[0]), other, request, run.vectors[0])
    assert (masked != elsewhere).any()
    flags = pack_records(dict.fromkeys(range(5), ALIVE))
    assert unpack_records(reveal_shares(secrets, run.setting, flags)[1], 33).keys() == set(range(5))
    assert unpack_records(reveal_shares(in_group(other, secrets), other, flags)[1], 33).keys() == {0}


def in_group(setting, secrets):
    """The secrets of a client that was told of this group in exchange 1."""
    return replace(secrets, group=(setting.group, setting.thresholds.clients))


@pytest.mark.parametrize("neighbours", [None, 4])
def test_a_client_refuses_more_keys_than_the_named_group_has_clients(neighbours):
    """The server names a group of 4 in all exchanges, so that 3 of 7 clients would suffice; it shows 7 or 5 keys."""
    run = prepared(1, clients=7, neighbours=neighbours)
    named = replace(run.setting, thresholds=make_thresholds(4, None, neighbours))
    count = 7 if neighbours is None else 5
    with pytest.raises(
        ProtocolError, match=f"keys of {count} clients, and its neighbourhood has 4: the server named too"
    ):
        share_keys(in_group(named, run.secrets[0]), named, run.server.requests()[0])


@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize("change", [{"thresholds": make_thresholds(4, None, None)}, {"group": 1}])
def test_a_client_refuses_another_group_than_that_of_exchange_1(number, change):
    """A smaller group in exchange 4 alone would lower the threshold at which a client unmasks."""
    run = prepared(number)
    name, request, named = run.server.exchange, run.server.requests()[0], replace(run.setting, **change)
    run.setting = named
    group = f"group {named.group} of {named.thresholds.clients} clients"
    with pytest.raises(ProtocolError, match=f"client 0 was in group 0 of 5 clients, and is now in {group}"):
        run.answer(name, 0, request)


def test_two_seals_of_one_key_never_share_a_nonce():
    sealed = [seal(bytes(32), b"a share", b"bound") for _ in range(100)]
    assert len({text[:NONCE_BYTES] for text in sealed}) == 100
    assert {unseal(bytes(32), text, b"bound") for text in sealed} == {b"a share"}
    assert {len(text) for text in sealed} == {len(b"a share") + SEAL_BYTES}
    for text in (b"", sealed[0][:5], sealed[0][:-1]):
        with pytest.raises(ValueError, match="was changed"):
            unseal(bytes(32), text, b"bound")


def test_a_replay_of_exchange_2_does_not_show_the_difference_of_two_shares():
    """The server lets client 0 share its secrets twice from one state: other secrets, under the same keys."""
    run = prepared(1)
    request = run.server.requests()[0]
    replies = [share_keys(run.secrets[0], run.setting, request) for _ in range(2)]
    for v in range(1, 5):
        key, bound = replies[0][0].channels[v], run.setting.info("shares", 0, v)
        assert replies[1][0].channels[v] == key
        sealed = [unpack_records(reply[KEY_BYTES:], SEALED_BYTES)[v] for _, reply in replies]
        plain = [unseal(key, text, bound) for text in sealed]
        assert plain[0] != plain[1]
        assert sealed[0][:NONCE_BYTES] != sealed[1][:NONCE_BYTES]
        ciphers = [text[NONCE_BYTES : NONCE_BYTES + len(plain[0])] for text in sealed]
        assert difference(*ciphers) != difference(*plain)


def difference(first, second):
    return bytes(a ^ b for a, b in zip(first, second, strict=True))


def test_a_client_draws_other_keys_each_time_and_for_each_purpose():
    pairs = [advertise_keys(0, ProtocolRun(3).setting)[1] for _ in range(4)]
    assert len({key for pair in pairs for key in (pair[:32], pair[32:])}) == 8


def test_secrets_come_back_from_bytes_and_are_not_in_a_log():
    run = prepared(3)
    own = run.secrets[0]
    assert ClientSecrets.load(own.dump()) == own
    assert repr(own) == "ClientSecrets(client=0, phase=masked)"


def test_thresholds():
    assert [default_threshold(n) for n in (3, 4, 5, 6, 7, 10, 100)] == [3, 3, 4, 5, 5, 7, 67]
    assert [make_thresholds(n, None, None).losses for n in (3, 4, 7, 100)] == [0, 1, 2, 33]
    figures = make_thresholds(100, None, 32)
    assert (figures.group, figures.neighbourhood) == (67, 23)
    assert make_thresholds(10, 0.8, None).group == 8
    assert make_thresholds(10, 0.5001, None).group == 6
    with pytest.raises(ValueError, match="2 clients is too small"):
        make_thresholds(2, None, None)


def test_neighbourhoods_are_regular_and_symmetric():
    graph = make_neighbourhoods(range(20), 6, np.random.default_rng(0))
    assert {len(members) for members in graph.values()} == {7}
    assert all(client in graph[other] for client, members in graph.items() for other in members)
    assert graph != make_neighbourhoods(range(20), 6, np.random.default_rng(1))
    assert make_neighbourhoods([2, 0, 1], 6, np.random.default_rng(0)) == dict.fromkeys([0, 1, 2], (0, 1, 2))


def test_groups_cover_the_cohort_and_have_the_least_size():
    for count in range(1, 40):
        groups = make_groups(range(count), 5)
        assert sorted(client for group in groups for client in group) == list(range(count))
        sizes = [len(group) for group in groups]
        assert max(sizes) - min(sizes) <= 1
        assert min(sizes) >= min(5, count)
        assert max(sizes) < 10
    assert make_groups([3, 1], None) == [(3, 1)]
