"""Three clients with quadratic objectives.

A federation trains them with Lightning, and `Local` trains them in exact rational numbers.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from dataclasses import dataclass
from fractions import Fraction

from conftest import Quadratic, holdings, pairs

from fedlit.client.module.replica import ModuleReplica
from fedlit.client.trainer import TrainerConfig
from fedlit.client.worker import ClientWorker
from fedlit.server.sampling import Uniform
from fedlit.server.schedule import Schedule
from fedlit.server.setup import Federation

CURVES = (Fraction(1), Fraction(2), Fraction(1, 2))
CENTERS = (Fraction(1), Fraction(-1), Fraction(3))
SIZES = (2, 4, 6)  # samples; in batches of two, so 1, 2 and 3 steps an epoch
START, RATE = Fraction(1, 2), Fraction(1, 8)


def federation(
    algorithm, cohort=3, rounds=3, epochs=1, rate=RATE, sizes=SIZES, optimizer=None, start=START, **schedule
):
    """A federation with quadratic objectives.

    They are f_i(w) = a_i / 2 * (w - b_i)^2. All samples of a client are equal, so the order of batches has no effect.

    Args:
        algorithm: the algorithm.
        cohort: clients in a round.
        rounds: number of rounds.
        epochs: passes over the shard in a round.
        rate: learning rate of the clients.
        sizes: number of samples of each client; a batch has two.
        optimizer: further arguments of torch's SGD.
        start: initial value of w.
        schedule: further arguments of Schedule.
    """
    samples = [(float(a), float(b)) for a, b, n in zip(CURVES, CENTERS, sizes, strict=True) for _ in range(n)]
    owner = [client for client, n in enumerate(sizes) for _ in range(n)]
    plan = Schedule(rounds=rounds, clients_per_round=cohort, local_epochs=epochs, **schedule)
    config = plan.configure(TrainerConfig({"accelerator": "cpu"}))
    replica = ModuleReplica(Quadratic(start=float(start), lr=float(rate), **(optimizer or {})))
    worker = ClientWorker(algorithm, replica, config, holdings(pairs(*samples), owner, clients=3, batch=2))
    return Federation.assemble(initial=replica.read(), worker=worker, sampler=Uniform(cohort), schedule=plan)


def trained(algorithm, **setting):
    """Train a federation.

    Returns:
        The parameter after each round, and the cohort of each round.

    Raises:
        RuntimeError: if a client failed or a round was lost; a mutation must fail by its numbers, with an AssertionError.
    """
    records = list(federation(algorithm, **setting).run())
    if any(record.failures or record.lost for record in records):
        raise RuntimeError([record.failures or record.lost for record in records])
    return [float(record.model.parameters["w"]) for record in records], [record.cohort for record in records]


@dataclass
class Local:
    """A client in rational numbers: torch's SGD with an algorithm's terms."""

    client: int
    steps: int
    rate: Fraction = RATE
    momentum: Fraction = Fraction(0)

    def gradient(self, w):
        return CURVES[self.client] * (w - CENTERS[self.client])

    def loss(self, w):
        return CURVES[self.client] / 2 * (w - CENTERS[self.client]) ** 2

    def fit(self, x, mu=Fraction(0), center=Fraction(0), offset=Fraction(0)):
        w, v = x, Fraction(0)
        for _ in range(self.steps):
            g = self.gradient(w) + mu * (w - center) + offset
            v = self.momentum * v + g
            w = w - self.rate * v
        return w


def clients(cohort, epochs=1, rate=RATE, momentum=Fraction(0), sizes=SIZES):
    """The clients of a cohort, by id."""
    return {i: Local(i, epochs * -(-sizes[i] // 2), rate, momentum) for i in cohort}


def mutated(module, *changes):
    """Import a copy of a module of fedlit with replaced text.

    Args:
        module: import path of the module.
        changes: pairs (old text, new text); each old text must occur once.

    Raises:
        ValueError: if an old text does not occur once.
    """
    spec = importlib.util.find_spec(module)
    source = spec.loader.get_source(module)
    for old, new in changes:
        if source.count(old) != 1:
            raise ValueError(f"{module} must have {old!r} once, and has it {source.count(old)} times")
        source = source.replace(old, new)
    changed = importlib.util.module_from_spec(spec)
    original = sys.modules[module] if module in sys.modules else importlib.import_module(module)
    sys.modules[module] = changed  # dataclasses look for their module there
    try:
        exec(compile(source, f"{module} (changed)", "exec"), changed.__dict__)
    finally:
        sys.modules[module] = original
    return changed
