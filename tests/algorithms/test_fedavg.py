"""FedAvg with a fake fit: exact numbers, computed by hand."""

import pickle

import pytest
import torch

from fedlit.algorithms import FedAvg
from fedlit.core.errors import ConfigError
from fedlit.core.messages import Aggregate
from fedlit.core.model import FitResult, Model

X = Model({"w": torch.tensor([1.0, 2.0])}, {"mean": torch.tensor([0.0]), "count": torch.tensor(4)})


class FakeLocal:
    """Local training that moves w by a number and stores its terms."""

    def __init__(self, move, examples, steps=5):
        self.move, self.examples, self.steps, self.terms = move, examples, steps, None

    def fit(self, model, *terms):
        self.terms = terms
        moved = model.add(
            {
                "parameters": {"w": torch.tensor(self.move)},
                "buffers": {"mean": torch.tensor([1.0]), "count": torch.tensor(self.steps)},
            }
        )
        return FitResult(moved, self.steps, self.examples, {})


def averaged(algorithm, *locals):
    state = algorithm.init(X)
    updates = [algorithm.client(local, state.shared, {}) for local in locals]
    total = sum(update.weight for update in updates)
    groups = {
        group: {name: sum(u.weight / total * u.groups[group][name].double() for u in updates) for name in tensors}
        for group, tensors in updates[0].groups.items()
    }
    return algorithm.server(state, Aggregate(groups, total, len(updates), len(updates))).model


def test_clients_are_weighted_by_their_examples():
    model = averaged(FedAvg(), FakeLocal([1.0, 0.0], 30), FakeLocal([0.0, 4.0], 10))
    assert model.parameters["w"].tolist() == [1.75, 3.0]


def test_uniform_weights_are_equal():
    model = averaged(FedAvg(weights="uniform"), FakeLocal([1.0, 0.0], 30), FakeLocal([0.0, 4.0], 10))
    assert model.parameters["w"].tolist() == [1.5, 4.0]


def test_the_servers_learning_rate_acts_on_parameters_only():
    model = averaged(FedAvg(lr=0.5), FakeLocal([1.0, 0.0], 30, steps=3), FakeLocal([0.0, 4.0], 10, steps=3))
    assert model.parameters["w"].tolist() == [1.375, 2.5]
    assert model.buffers["mean"].tolist() == [1.0]
    assert model.buffers["count"] == 7


def test_integer_buffers_move_by_the_rounded_mean():
    model = averaged(
        FedAvg(),
        FakeLocal([0.0, 0.0], 1, steps=3),
        FakeLocal([0.0, 0.0], 1, steps=6),
        FakeLocal([0.0, 0.0], 1, steps=6),
    )
    assert model.buffers["count"] == 9
    assert model.buffers["count"].dtype == torch.int64


def test_server_buffers_are_not_sent_and_do_not_change():
    algorithm = FedAvg(buffers="server")
    assert set(algorithm.client(FakeLocal([1.0, 1.0], 1), algorithm.init(X).shared, {}).groups) == {"parameters"}
    assert averaged(algorithm, FakeLocal([1.0, 1.0], 1)).buffers == X.buffers


@pytest.mark.parametrize("weights", ["examples", "uniform"])
def test_a_client_without_a_step_has_weight_0(weights):
    assert FedAvg(weights=weights).client(FakeLocal([0.0, 0.0], 10, steps=0), FedAvg().init(X).shared, {}).weight == 0


def test_fedprox_adds_one_term_around_the_global_model_and_none_for_mu_0():
    local = FakeLocal([0.0, 0.0], 1)
    FedAvg(proximal=0.1).client(local, FedAvg().init(X).shared, {})
    (term,) = local.terms
    assert (term.mu, term.center, term.offset) == (0.1, X.parameters, None)
    FedAvg(proximal=0.0).client(local, FedAvg().init(X).shared, {})
    assert local.terms == ()


@pytest.mark.parametrize(
    ("key", "value"),
    [("weights", "exmaples"), ("buffers", "none"), ("lr", 0.0), ("proximal", -1.0), ("proximal", float("inf"))],
)
def test_an_error_names_the_argument(key, value):
    with pytest.raises(ConfigError) as error:
        FedAvg(**{key: value})
    assert error.value.key == key


def test_fedavg_pickles():
    assert pickle.loads(pickle.dumps(FedAvg(proximal=0.5))) == FedAvg(proximal=0.5)
