"""Each algorithm equals its paper; a wrong line fails the test.

The expected numbers are exact rational numbers, computed from the papers' formulas and not from the code.
"""

from fractions import Fraction

import pytest
from quadratics import RATE, SIZES, START, clients, mutated, trained

from fedlit.algorithms import FedAvg, FedDyn, FedNova, Momentum, QFedAvg, Scaffold

N = len(SIZES)
HALF = Fraction(1, 2)


def share(cohort):
    """p_i: the clients' shares of the cohort's examples."""
    total = sum(SIZES[i] for i in cohort)
    return {i: Fraction(SIZES[i], total) for i in cohort}


def fedavg(cohorts, momentum, mu=Fraction(0)):
    """FedAvg of McMahan et al.; with mu FedProx of Li et al."""
    x, parameters = START, []
    for cohort in cohorts:
        p = share(cohort)
        x += sum(p[i] * (local.fit(x, mu, x) - x) for i, local in clients(cohort, momentum=momentum).items())
        parameters.append(x)
    return parameters


def a_norm(steps, rho, alpha=Fraction(0)):
    """||a||_1 of Wang et al.

    Args:
        steps: number of local steps.
        rho: momentum.
        alpha: rate * mu of a proximal term; with momentum too, the term enters before the momentum, as in the callback.
    """
    if rho and not alpha:
        return (steps - rho * (1 - rho**steps) / (1 - rho)) / (1 - rho)
    if alpha and not rho:
        return (1 - (1 - alpha) ** steps) / alpha
    a, c = Fraction(0), Fraction(0)
    for _ in range(steps):
        c = rho * c + 1 - alpha * a
        a = a + c
    return a


def fedavgm(cohorts, momentum):
    """FedAvgM of Hsu et al. with beta = 1/2.

    The first velocity is the first pseudo-gradient.
    """
    x, v, parameters = START, Fraction(0), []
    for cohort in cohorts:
        p = share(cohort)
        v = HALF * v + sum(p[i] * (x - local.fit(x)) for i, local in clients(cohort, momentum=momentum).items())
        x -= v
        parameters.append(x)
    return parameters


def fednova(cohorts, momentum, mu=Fraction(0), slow=Fraction(0)):
    """FedNova of Wang et al., with the server's momentum `slow`.

    x + tau_eff * sum p_i Delta_i / ||a_i||_1.
    """
    x, u, parameters = START, Fraction(0), []
    for cohort in cohorts:
        p, locals_by_id = share(cohort), clients(cohort, momentum=momentum)
        a = {i: a_norm(local.steps, momentum, RATE * mu) for i, local in locals_by_id.items()}
        tau = sum(p[i] * a[i] for i in cohort)
        u = slow * u + tau * sum(p[i] * (local.fit(x, mu, x) - x) / a[i] for i, local in locals_by_id.items())
        x += u
        parameters.append(x)
    return parameters


def scaffold(cohorts, momentum, option=2, rate=Fraction(1), decay=Fraction(1)):
    """Algorithm 1 of Karimireddy et al.

    Under momentum eta * ||a||_1 replaces K * eta.
    """
    x, c, c_i, parameters = START, Fraction(0), [Fraction(0)] * N, []
    for t, cohort in enumerate(cohorts):
        eta = RATE * decay**t
        moves, changes = Fraction(0), Fraction(0)
        for i, local in clients(cohort, rate=eta, momentum=momentum).items():
            y = local.fit(x, offset=c - c_i[i])
            new = local.gradient(x) if option == 1 else c_i[i] - c + (x - y) / (eta * a_norm(local.steps, momentum))
            moves, changes, c_i[i] = moves + y - x, changes + new - c_i[i], new
        x, c = x + rate * moves / len(cohort), c + changes / N
        parameters.append(x)
    return parameters


def feddyn(cohorts, momentum, alpha=HALF):
    """Algorithm 1 of Acar et al."""
    x, h, g, parameters = START, Fraction(0), [Fraction(0)] * N, []
    for cohort in cohorts:
        y = {i: local.fit(x, alpha, x, -g[i]) for i, local in clients(cohort, momentum=momentum).items()}
        for i in cohort:
            g[i] -= alpha * (y[i] - x)
        h -= alpha / N * sum(y[i] - x for i in cohort)
        x = sum(y.values()) / len(cohort) - h / alpha
        parameters.append(x)
    return parameters


def qfedavg(cohorts, momentum, q=2, decay=Fraction(1)):
    """Algorithm 2 of Li et al., for a whole number q; L is 1 / the round's rate."""
    x, parameters = START, []
    for t, cohort in enumerate(cohorts):
        eta = RATE * decay**t
        top = bottom = Fraction(0)
        for local in clients(cohort, rate=eta, momentum=momentum).values():
            f, w = local.loss(x), (x - local.fit(x)) / eta
            top += f**q * w
            bottom += q * f ** (q - 1) * w**2 + f**q / eta
        x -= top / bottom
        parameters.append(x)
    return parameters


def check(algorithm, exact, cohort=3, momentum=Fraction(0), **setting):
    """Assert that three rounds agree to 1e-6."""
    optimizer = {"momentum": float(momentum)} if momentum else None
    parameters, cohorts = trained(algorithm, cohort=cohort, optimizer=optimizer, **setting)
    assert parameters == pytest.approx([float(w) for w in exact(cohorts, momentum)], abs=1e-6)


CASES = {
    "fedavg": (lambda: FedAvg(), fedavg),
    "fedprox": (lambda: FedAvg(proximal=0.5), lambda s, m: fedavg(s, m, HALF)),
    "fedavgm": (lambda: FedAvg(optimizer=Momentum(momentum=0.5)), fedavgm),
    "fednova": (lambda: FedNova(), fednova),
    "fednova, proximal": (lambda: FedNova(proximal=0.5), lambda s, m: fednova(s, m, HALF)),
    "fednova, server momentum": (
        lambda: FedNova(optimizer=Momentum(momentum=0.5)),
        lambda s, m: fednova(s, m, slow=HALF),
    ),
    "scaffold": (lambda: Scaffold(), scaffold),
    "scaffold, option 1": (lambda: Scaffold(option=1), lambda s, m: scaffold(s, m, option=1)),
    "scaffold, server rate": (lambda: Scaffold(lr=0.5), lambda s, m: scaffold(s, m, rate=HALF)),
    "feddyn": (lambda: FedDyn(alpha=0.5), feddyn),
    "qfedavg": (lambda: QFedAvg(q=2.0, lr=float(RATE)), qfedavg),
}


@pytest.mark.parametrize("momentum", [Fraction(0), HALF], ids=["plain", "momentum"])
@pytest.mark.parametrize("cohort", [3, 2], ids=["all", "two"])
@pytest.mark.parametrize("name", CASES)
def test_three_rounds_equal_the_paper(name, cohort, momentum):
    make, exact = CASES[name]
    check(make(), exact, cohort, momentum)


HALVED = {"lr": "step", "lr_every": 1, "lr_gamma": 0.5}


def test_scaffold_divides_by_the_rate_of_the_round():
    check(Scaffold(), lambda s, m: scaffold(s, m, decay=HALF), **HALVED)


def test_qfedavg_takes_the_rate_of_the_round():
    check(QFedAvg(q=2.0, lr=float(RATE)), lambda s, m: qfedavg(s, m, decay=HALF), cohort=2, **HALVED)


def test_a_constant_l_in_qfedavg_fails():
    constant = mutated("fedlit.algorithms.qfedavg", ("(self.lr * local.lr_factor)", "self.lr"))
    with pytest.raises(AssertionError):
        check(constant.QFedAvg(q=2.0, lr=float(RATE)), lambda s, m: qfedavg(s, m, decay=HALF), cohort=2, **HALVED)


# Errors of other implementations, by their numbers in the project's table: (module, class, arguments, exact numbers, changes).
SCAFFOLD = ("scaffold", "Scaffold", {}, lambda s, m: scaffold(s, m))
NOVA = ("fednova", "FedNova", {}, lambda s, m: fednova(s, m))
DYN = ("feddyn", "FedDyn", {"alpha": 0.5}, feddyn)
FAIR = ("qfedavg", "QFedAvg", {"q": 2.0, "lr": float(RATE)}, qfedavg)
ERRORS = {
    "1 sign of the new control variate": (
        *SCAFFOLD,
        ("+ difference[name] / reach", "- difference[name] / reach"),
    ),
    "1 sign of the correction": (*SCAFFOLD, ("offset=sub(c, c_i)", "offset=sub(c_i, c)")),
    "2 correction never applied": (*SCAFFOLD, ("local.fit(x, GradientTerm(offset=sub(c, c_i)))", "local.fit(x)")),
    "3 penalties without a gradient": (*DYN, ("y = local.fit(x, GradientTerm(", "y = local.fit(x) or (GradientTerm(")),
    "7 models instead of differences": (
        *NOVA,
        ("name: d / reach[name]", "name: y.model.parameters[name] / reach[name]"),
    ),
    "8 sign of the client's gradient": (*DYN, ('{"gradient": axpy(-self', '{"gradient": axpy(self')),
    "8 mean over the cohort instead of N": (*DYN, ("share = aggregate.weight / aggregate.population", "share = 1.0")),
    "8 sign of the linear term": (*DYN, ("scale(-1.0, g)", "scale(1.0, g)")),
    "10 alpha not halved": (*DYN, ("GradientTerm(mu=self.alpha", "GradientTerm(mu=2 * self.alpha")),
    "14 average by examples": (*SCAFFOLD, ('FedAvg("uniform"', 'FedAvg("examples"')),
    "15 control variate starts at the model": (*SCAFFOLD, ('"control", zeros_like(c))', '"control", x.parameters)')),
    "16, 31 no |S| / N": (*SCAFFOLD, ("aggregate.weight / aggregate.population", "1.0")),
    "17 too long by N / |S|": (*NOVA, ("* unit for", "* unit * aggregate.population / aggregate.clients for")),
    "18 too short by |S| / N": (*NOVA, ("* unit for", "* unit * aggregate.clients / aggregate.population for")),
    "tau_eff left out": (*NOVA, ('aggregate["displacement"][name] * unit', "0.125 * unit")),
    "25 loss after training": (
        *FAIR,
        ("        loss = local.loss(x) + TINY\n", ""),
        ("y = local.fit(x)\n", "y = local.fit(x)\n        loss = local.loss(y.model) + TINY\n"),
    ),
    "no square in h": (
        *FAIR,
        ('(lipschitz * norm(delta["parameters"])) ** 2', 'lipschitz * norm(delta["parameters"])'),
    ),
    "no q in h": (*FAIR, ("h = self.q * loss", "h = loss")),
}


@pytest.mark.parametrize("name", ERRORS)
def test_an_error_in_an_algorithm_fails(name):
    file, kind, arguments, exact, *changes = ERRORS[name]
    algorithm = getattr(mutated(f"fedlit.algorithms.{file}", *changes), kind)(**arguments)
    with pytest.raises(AssertionError):
        check(algorithm, exact, cohort=2)


SERVER = {
    "9 first round's update discarded": (
        "self.lr * v for name, v in velocity.items()}, {",
        'self.lr * v for name, v in slots["velocity"].items()}, {',
    ),
    "19 momentum reset in every round": ('self.momentum * slots["velocity"][name] + delta', "0.0 * delta + delta"),
}


@pytest.mark.parametrize("name", SERVER)
def test_an_error_in_the_servers_momentum_fails(name):
    momentum = mutated("fedlit.algorithms.server_optimizers", SERVER[name]).Momentum(momentum=0.5)
    with pytest.raises(AssertionError):
        check(FedAvg(optimizer=momentum), fedavgm)


def test_unchanged_copies_equal_the_paper():
    for file, kind, arguments, exact in (SCAFFOLD, NOVA, DYN, FAIR):
        check(getattr(mutated(f"fedlit.algorithms.{file}"), kind)(**arguments), exact, cohort=2)
