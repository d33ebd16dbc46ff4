"""Server optimizers equal the papers' rules, computed with 50 digits."""

import pickle
from decimal import Decimal, localcontext

import pytest
import torch

from fedlit.algorithms import Adagrad, Adam, AdaptiveOptimizer, FedAvg, Momentum, Yogi
from fedlit.core.errors import ConfigError
from fedlit.core.messages import Aggregate
from fedlit.core.model import Model

DELTAS = ("0.5", "-0.25", "0.125", "0.75")
X = Model({"w": torch.tensor([1.0])}, {"var": torch.tensor([4.0]), "count": torch.tensor(3)})
BUFFERS = {"var": torch.tensor([-0.5], dtype=torch.float64), "count": torch.tensor(2.0, dtype=torch.float64)}


def path(optimizer, deltas=DELTAS, **average):
    """The parameter after each round, from the server's code."""
    algorithm = FedAvg(optimizer=optimizer, **average)
    state, parameters = algorithm.init(X), []
    for delta in deltas:
        groups = {"parameters": {"w": torch.tensor([float(delta)], dtype=torch.float64)}, "buffers": BUFFERS}
        state = algorithm.server(state, Aggregate(groups, 3.0, 2, 2))
        parameters.append(state.model.parameters["w"].item())
    return parameters


def exact(rule, lr, beta1, tau, beta2):
    """The parameter after each round, by Algorithm 2 of Reddi et al."""
    with localcontext() as context:
        context.prec = 50
        lr, b1, tau, b2 = map(Decimal, (lr, beta1, tau, beta2))
        x, m, v, parameters = Decimal(1), Decimal(0), tau * tau, []
        for delta in map(Decimal, DELTAS):
            square = delta * delta
            m = b1 * m + (1 - b1) * delta
            if rule == "adam":
                v = b2 * v + (1 - b2) * square
            elif rule == "yogi":
                v = v - (1 - b2) * square * (Decimal(1) if v > square else Decimal(-1) if v < square else Decimal(0))
            else:
                v = v + square
            x = x + lr * m / (v.sqrt() + tau)
            parameters.append(float(x))
        return parameters


@pytest.mark.parametrize(("name", "rule"), [("adam", Adam(0.99)), ("yogi", Yogi(0.99)), ("adagrad", Adagrad())])
@pytest.mark.parametrize("tau", ["0.001", "0.6"])
def test_adaptive_optimizers_equal_the_papers_algorithm_without_bias_correction(name, rule, tau):
    parameters = path(AdaptiveOptimizer(rule, lr=0.1, beta1=0.9, tau=float(tau)))
    assert parameters == pytest.approx(exact(name, "0.1", "0.9", tau, "0.99"), abs=1e-6)


def test_momentum_equals_torchs_sgd_on_the_pseudo_gradient_from_the_first_round():
    w = torch.nn.Parameter(torch.tensor([1.0], dtype=torch.float64))
    sgd = torch.optim.SGD([w], lr=0.5, momentum=0.9)
    for delta, parameter in zip(DELTAS, path(Momentum(lr=0.5, momentum=0.9)), strict=True):
        w.grad = torch.tensor([-float(delta)], dtype=torch.float64)
        sgd.step()
        assert parameter == pytest.approx(w.item(), abs=1e-6)


def test_momentum_0_at_rate_1_is_fedavg_bit_for_bit():
    assert path(Momentum(lr=1.0, momentum=0.0)) == path(None)


def test_yogi_is_adagrad_with_other_rates_while_v_is_small():
    lr, beta2, tau = 0.1, 0.9, 1e-3
    scale = (1 - beta2) ** 0.5
    growing = ("0.1", "0.3", "0.6", "1.2")  # v stays below D^2
    yogi = path(AdaptiveOptimizer(Yogi(beta2), lr=lr, beta1=0.5, tau=tau), growing)
    adagrad = path(AdaptiveOptimizer(Adagrad(), lr=lr / scale, beta1=0.5, tau=tau / scale), growing)
    assert yogi == pytest.approx(adagrad, abs=1e-6)


@pytest.mark.parametrize(
    "optimizer", [Momentum(), AdaptiveOptimizer(Adam()), AdaptiveOptimizer(Yogi()), AdaptiveOptimizer(Adagrad())]
)
def test_buffers_do_not_pass_through_the_server_optimizer(optimizer):
    algorithm = FedAvg(optimizer=optimizer)
    groups = {"parameters": {"w": torch.tensor([0.5], dtype=torch.float64)}, "buffers": BUFFERS}
    buffers = algorithm.server(algorithm.init(X), Aggregate(groups, 3.0, 2, 2)).model.buffers
    assert buffers["var"].tolist() == [3.5]
    assert (int(buffers["count"]), buffers["count"].dtype) == (5, torch.int64)


@pytest.mark.parametrize(
    ("make", "key"),
    [
        (lambda: Momentum(lr=0.0), "lr"),
        (lambda: Momentum(momentum=1.0), "momentum"),
        (lambda: AdaptiveOptimizer(Adam(), lr=-1.0), "lr"),
        (lambda: AdaptiveOptimizer(Adam(), beta1=1.0), "beta1"),
        (lambda: AdaptiveOptimizer(Adam(), tau=0.0), "tau"),
        (lambda: Adam(beta2=1.5), "beta2"),
        (lambda: Yogi(beta2=-0.1), "beta2"),
        (lambda: FedAvg(lr=0.5, optimizer=Momentum()), "lr"),
    ],
)
def test_an_error_names_the_argument(make, key):
    with pytest.raises(ConfigError) as error:
        make()
    assert error.value.key == key


def test_server_optimizers_pickle():
    algorithm = FedAvg(optimizer=AdaptiveOptimizer(Yogi(0.9)))
    assert pickle.loads(pickle.dumps(algorithm)) == algorithm
