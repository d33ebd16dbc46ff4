"""The protocol of homomorphic encryption: losses, refusals of clients and server, and the server's view."""

import pickle
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from fedlit.aggregation.secure.homomorphic import client as clients_half
from fedlit.aggregation.secure.homomorphic import server as servers_half
from fedlit.aggregation.secure.homomorphic.bfv import PARAMETERS, decrypt, make_keys, measure_sizes
from fedlit.aggregation.secure.homomorphic.ciphertexts import (
    CiphertextSum,
    pack_parts,
    to_bytes,
    to_vector,
    unpack_parts,
)
from fedlit.aggregation.secure.homomorphic.client import (
    KeeperSecrets,
    SumRequest,
    SumSetting,
    advertise_key,
    deal_key,
    decrypt_sum,
    encrypt_vector,
)
from fedlit.aggregation.secure.homomorphic.server import HomomorphicServer, sum_messages_nbytes
from fedlit.aggregation.secure.protocol.graph import make_thresholds
from fedlit.aggregation.secure.protocol.primitives import KeyPair
from fedlit.aggregation.secure.protocol.setting import LostGroup, ProtocolSetting
from fedlit.aggregation.secure.protocol.wire import HEADER, ID, NONCE_BYTES, SEAL_BYTES, ProtocolError, pack_records

pytestmark = pytest.mark.slow  # keys of BFV

BFV = PARAMETERS[32]


@pytest.fixture(scope="module", autouse=True)
def few_keys():
    """Draws keys from four pairs, which are expensive."""
    pairs = [make_keys(BFV) for _ in range(4)]
    generator = np.random.default_rng(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clients_half, "make_keys", lambda parameters: pairs[generator.integers(4)])
        yield pairs


@dataclass
class SumRun:
    """One group, its server, and everything that its clients sent.

    Args:
        clients: number of clients.
        lost: the clients that are lost in each exchange, and stay lost.
        keepers: clients that keep the secret key.
    """

    clients: int
    lost: tuple = (set(), set(), set(), set())
    keepers: int = 3
    secrets: dict = field(default_factory=dict)
    sent: dict = field(default_factory=dict)
    views: list = field(default_factory=list)
    total: object = None
    up: int = 0
    down: int = 0

    def __post_init__(self):
        generator = np.random.default_rng(self.clients)
        self.setting = SumSetting(
            ProtocolSetting(5, 0, 4, 32, make_thresholds(self.clients, None, None)), BFV, self.keepers
        )
        self.server = HomomorphicServer(self.setting, range(self.clients))
        self.vectors = {u: generator.integers(-1000, 1000, 4) for u in range(self.clients)}

    def run(self):
        """Run all exchanges; return the opened sum."""
        while len(self.views) < 4:
            self.exchange()
        return self.server.opened().tolist()

    def exchange(self):
        """Run the open exchange and close it."""
        name, number = self.server.exchange, len(self.views)
        total = [] if self.total is None else unpack_parts(to_bytes(self.total))
        requests = self.server.requests(total)
        for client, request in requests.items():
            if client in self.lost[number]:
                continue
            reply = self.answer(name, client, request)
            self.up, self.down = self.up + len(reply), self.down + HEADER.size + len(request)
            self.server.receive(client, reply)
        self.views.append(pickle.dumps((self.server, requests, self.sent, self.total)))
        self.server.close()

    def answer(self, name, client, request):
        if name == "advertise_keys":
            self.secrets[client], reply = advertise_key(client, self.setting)
        elif name == "share_context":
            self.secrets[client], reply = deal_key(self.secrets[client], self.setting, request)
        elif name == "ciphertexts":
            own = self.secrets[client]
            self.secrets[client], content = encrypt_vector(own, self.setting, request, self.vectors[client])
            self.sent[client], reply = content, b""
            self.total = CiphertextSum(BFV).add(self.total, to_vector(content), 1.0)
        else:
            reply = decrypt_sum(self.secrets[client], self.setting, request)
        return reply

    def plain_sum(self):
        return sum(self.vectors[client] for client in self.sent).tolist()


@pytest.mark.parametrize("clients", [3, 6])
def test_the_sum_is_that_of_the_vectors(clients):
    run = SumRun(clients)
    assert run.run() == run.plain_sum()
    assert len(run.sent) == clients


def test_the_exchanges_survive_lost_keepers_and_lost_clients():
    run = SumRun(8, lost=({7}, {0}, {6}, {1}))  # the keepers are 0, 1, 2
    with pytest.raises(LostGroup, match="5 of 8 clients answered Ciphertexts, and 6 are needed"):
        run.run()
    run = SumRun(8, lost=(set(), {0}, {1}, set()))
    assert run.run() == run.plain_sum()
    assert sorted(run.sent) == [2, 3, 4, 5, 6, 7]
    run = SumRun(8, lost=(set(), set(), {0}, {1}))  # 0 drew the key, and 2 alone opens the sum
    assert run.run() == run.plain_sum()


@pytest.mark.parametrize(
    ("lost", "reason"),
    [
        (({0, 1, 2}, set(), set(), set()), "5 of 8 clients answered AdvertiseKeys, and 6 are needed"),
        ((set(), {0, 1}, set(), set()), "none of the 2 keepers of the key is left"),
        ((set(), set(), {0, 1}, set()), "none of the 2 keepers of the key is left"),
        ((set(), set(), set(), {0, 1}), "0 of 2 clients answered Decryption, and 1 are needed"),
    ],
)
def test_losses_that_are_too_many_abort_with_the_reason(lost, reason):
    with pytest.raises(LostGroup, match=reason):
        SumRun(8, lost=lost, keepers=2).run()


def test_random_losses_in_all_exchanges_give_the_exact_sum_or_an_abort():
    """It aborts exactly if too few clients or no keeper is left; the keepers are the first of the live clients."""
    generator, done = np.random.default_rng(1), 0
    for _ in range(25):
        lost = [set(np.flatnonzero(generator.random(7) < 0.12).tolist()) for _ in range(4)]
        run = SumRun(7, tuple(lost), keepers=2)
        live = [u for u in range(7) if u not in lost[0]]
        keepers, alive = live[:2], [u for u in live if u not in lost[2] and not (u in live[:2] and u in lost[1])]
        opens = [u for u in keepers if u in alive and u not in lost[3]]
        try:
            assert run.run() == run.plain_sum()
            assert sorted(run.sent) == alive
            done += 1
            completed = True
        except LostGroup:
            completed = False
        assert completed == (len(alive) >= 5 and bool(opens))
    assert 5 < done < 25


@pytest.fixture(scope="module")
def finished():
    run = SumRun(5)
    run.run()
    return run


def secret_values(run):
    """Everything that would open a ciphertext: private keys, and pieces of the secret keys of BFV."""
    values = [own.private for own in run.secrets.values()]
    for own in run.secrets.values():
        values += [own.secret[start : start + 32] for start in range(1000, len(own.secret) - 32, 5000)]
    return values


def openings(views, ciphertexts):
    """The vectors that an attacker opens who takes each message, and each part of it, for a secret key."""
    found = []
    for content in views:
        for part in (content, *nested_parts(content)):
            try:
                found += [decrypt(BFV, part, unpack_parts(text))[:4].tolist() for text in ciphertexts]
            except (ValueError, ProtocolError):
                continue
    return found


def nested_parts(content):
    try:
        parts = unpack_parts(content)
    except ProtocolError:
        return []
    return [piece for part in parts for piece in (part, part[4:], *nested_parts(part))]


def test_no_secret_is_in_the_server_after_any_exchange(finished):
    assert len({own.secret for own in finished.secrets.values() if own.secret}) >= 1
    assert len(secret_values(finished)) > 30
    for view in finished.views:
        assert [value for value in secret_values(finished) if value in view] == []
        assert not any(vector.tobytes() in view for vector in finished.vectors.values())


def test_the_server_opens_no_ciphertext_with_what_it_received(finished):
    server = finished.server
    messages = [content for public, sealed in server._dealt.values() for content in (public, *sealed.values())]
    messages += [*server._publics.values(), *finished.sent.values(), to_bytes(finished.total)]
    assert len(messages) == 3 * 3 + 5 + 5 + 1
    assert openings(messages, finished.sent.values()) == []


def test_the_attack_opens_every_update_when_the_server_holds_a_secret_key(finished):
    leaked = pack_parts([finished.secrets[finished.server._dealer].secret])
    vectors = [vector.tolist() for vector in finished.vectors.values()]
    found = openings([leaked], finished.sent.values())
    assert found == vectors * (len(found) // len(vectors))  # the key behind its length is sometimes a key, too
    assert found


def test_the_attack_finds_a_secret_in_a_server_that_has_one(finished):
    view = finished.views[3] + finished.secrets[0].dump()
    assert [value for value in secret_values(finished) if value in view] != []


def test_a_sealed_secret_key_opens_for_its_receiver_in_its_round_alone(finished):
    server, setting = finished.server, finished.setting
    asked = SumRequest.load(server._ask(1, unpack_parts(to_bytes(finished.total))))
    assert decrypt_sum(finished.secrets[1], setting, asked.dump())
    later = replace(setting, protocol=replace(setting.protocol, round=6))
    for own, its in ((finished.secrets[2], setting), (finished.secrets[1], later)):
        with pytest.raises(ProtocolError, match="cannot open the sum: a sealed message was changed"):
            decrypt_sum(own, its, asked.dump())


def test_a_replay_of_exchange_2_does_not_show_the_difference_of_two_secret_keys(finished, few_keys):
    """The server lets a keeper deal keys again and again from one state: other secret keys, under the same key."""
    own, public = advertise_key(0, finished.setting)
    request = pack_records({0: public, 1: KeyPair().public})
    dealt = [deal_key(own, finished.setting, request) for _ in range(8)]
    assert len({secrets.secret for secrets, _ in dealt}) > 1
    sealed = [unpack_parts(reply)[1][ID.size :] for _, reply in dealt]
    assert len({text[:NONCE_BYTES] for text in sealed}) == len(sealed)
    assert [len(text) for text in sealed] == [len(secrets.secret) + SEAL_BYTES for secrets, _ in dealt]


def test_messages_are_as_long_as_predicted(few_keys, monkeypatch):
    """The lengths of keys vary, so all keepers draw one pair here."""
    sizes = replace(measure_sizes(BFV), public=len(few_keys[0][0]), secret=len(few_keys[0][1]))
    monkeypatch.setattr(clients_half, "make_keys", lambda parameters: few_keys[0])
    monkeypatch.setattr(servers_half, "measure_sizes", lambda parameters: sizes)
    run = SumRun(5)
    run.run()
    up, down = sum_messages_nbytes(5, run.setting)
    assert (up, down) == (-(-run.up // 5), -(-run.down // 5))


@pytest.mark.parametrize(
    ("updates", "times", "text"),
    [
        (3, 1, "is asked to open 3 updates, and refuses below 4"),
        (5, 2, "is asked to open 5 updates, and the sum has 10"),
        (4, 1, "is asked to open 4 updates, and the sum has 5"),
    ],
)
def test_a_keeper_opens_sums_of_enough_updates_alone(finished, updates, times, text):
    total = finished.total
    for _ in range(times - 1):
        total = CiphertextSum(BFV).merge(total, finished.total)
    request = replace(SumRequest.load(finished.server._ask(0, unpack_parts(to_bytes(total)))), updates=updates)
    with pytest.raises(ProtocolError, match=text):
        decrypt_sum(finished.secrets[0], finished.setting, request.dump())


def test_a_keeper_opens_no_sum_of_more_updates_than_the_named_group_has_clients(finished):
    """The server named a group of 4 in all exchanges, so that 3 of 5 updates would suffice."""
    named = replace(
        finished.setting, protocol=replace(finished.setting.protocol, thresholds=make_thresholds(4, None, None))
    )
    own = replace(finished.secrets[0], group=(0, 4))
    request = finished.server._ask(0, unpack_parts(to_bytes(finished.total)))
    with pytest.raises(ProtocolError, match="open 5 updates, and its group has 4: the server named too small a group"):
        decrypt_sum(own, named, request)


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_client_refuses_another_group_than_that_of_exchange_1(number):
    run = SumRun(5)
    for _ in range(number):
        run.exchange()
    total = [] if run.total is None else unpack_parts(to_bytes(run.total))
    name, request = run.server.exchange, run.server.requests(total)[0]
    run.setting = replace(
        run.setting, protocol=replace(run.setting.protocol, thresholds=make_thresholds(4, None, None))
    )
    with pytest.raises(ProtocolError, match="client 0 was in group 0 of 5 clients, and is now in group 0 of 4 clients"):
        run.answer(name, 0, request)


def test_a_keeper_does_not_open_a_single_update(finished):
    request = replace(SumRequest.load(finished.server._ask(0, unpack_parts(finished.sent[3]))), updates=5)
    with pytest.raises(ProtocolError, match="and the sum has 1"):
        decrypt_sum(finished.secrets[0], finished.setting, request.dump())


def test_a_client_answers_each_exchange_once(finished):
    own = finished.secrets[0]
    for answer in (deal_key, lambda *arguments: encrypt_vector(*arguments, np.zeros(4, np.int64))):
        with pytest.raises(ProtocolError, match="client 0 has encrypted and was asked as if"):
            answer(own, finished.setting, b"")
    with pytest.raises(ProtocolError, match="client 0 has advertised and was asked as if it had only encrypted"):
        decrypt_sum(advertise_key(0, finished.setting)[0], finished.setting, b"")


def test_a_keeper_deals_no_key_for_keys_that_are_wrong(finished):
    own, public = advertise_key(0, finished.setting)
    for request, text in (
        (pack_records({1: KeyPair().public}), "did not get its own key back"),
        (pack_records({0: KeyPair().public}), "did not get its own key back"),
        (pack_records({0: public, 1: public}), "got the same key twice"),
        (pack_records({0: public} | {v: KeyPair().public for v in (1, 2, 3)}), "keys of 4 keepers, and a group of 5"),
    ):
        with pytest.raises(ProtocolError, match=text):
            deal_key(own, finished.setting, request)


def test_a_client_does_not_encrypt_under_a_key_that_is_not_one_of_the_protocol(finished, few_keys):
    own = advertise_key(3, finished.setting)[0]
    for public, text in ((few_keys[0][1], "comes with its secret key"), (b"x", "malformed")):
        with pytest.raises(ProtocolError, match=f"client 3 does not encrypt: .*{text}"):
            encrypt_vector(own, finished.setting, public, np.zeros(4, np.int64))


def test_the_server_refuses_unexpected_messages():
    run = SumRun(4)
    for client, reply in ((9, bytes(32)), (0, bytes(31))):
        with pytest.raises(ProtocolError, match=f"client {client} sent an unexpected message in advertise_keys"):
            run.server.receive(client, reply)
    run.exchange()
    with pytest.raises(ProtocolError, match="share_context"):
        run.server.receive(3, b"")  # no keeper
    with pytest.raises(ProtocolError, match="share_context"):
        run.server.receive(0, pack_parts([b"public"]))  # seals nothing for the others
    run.exchange()
    run.exchange()
    with pytest.raises(ProtocolError, match="decryption"):
        run.server.receive(0, bytes(15))
    run.server.receive(0, bytes(16))
    with pytest.raises(ProtocolError, match="decryption"):
        run.server.receive(0, bytes(16))
    run.server.receive(1, bytes(15) + b"\1")
    run.server.close()
    with pytest.raises(LostGroup, match="opened different sums"):
        run.server.opened()


def test_a_message_that_ends_too_early_is_refused():
    whole = pack_parts([b"abc", b"", b"d"])
    assert unpack_parts(whole) == [b"abc", b"", b"d"]
    for cut in (1, 3):
        with pytest.raises(ProtocolError, match="ends within a"):
            unpack_parts(whole[:-cut])


def test_secrets_survive_the_vault_and_stay_out_of_logs(finished):
    own = replace(advertise_key(7, finished.setting)[0], phase="dealt", secret=b"key")
    assert KeeperSecrets.load(7, own.dump()) == own
    assert repr(own) == "KeeperSecrets(client=7, phase=dealt)"
