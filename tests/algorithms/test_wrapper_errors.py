"""Errors and warnings of personal layers around an inner algorithm."""

from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import composed, images
from test_composition import Net, client_once, federation
from test_personalization import facts

from fedlit.algorithms import Centralised, Ditto, FedAvg, FedRep, Momentum, PersonalLayers
from fedlit.client.module.replica import ModuleReplica
from fedlit.core.errors import ConfigError, ConfigErrors
from fedlit.data import Data, Iid
from fedlit.experiment.config.build import build_run
from fedlit.experiment.config.plain import to_plain
from fedlit.server.schedule import Schedule
from fedlit.server.setup import Federation

POOLED = "trains one client on all examples, so no layer of PersonalLayers can be personal"


def test_personal_layers_around_centralised_training_are_refused():
    with pytest.raises(ConfigError) as error:
        PersonalLayers(inner=Centralised())
    assert (error.value.key, error.value.value, error.value.problem) == ("inner", "Centralised", POOLED)


@dataclass(frozen=True)
class PooledOnceBound(FedAvg):
    """An algorithm that becomes pooled when it is bound to a module."""

    def bind(self, module, model):
        return Centralised()


def test_the_federation_refuses_a_pooled_inner_algorithm():
    data = Data("images", images(60), images(10, seed=1), (1, 8, 8), ("0", "1", "2"), images(10, seed=2))
    with pytest.raises(ConfigErrors) as error:
        Federation.of(Net, data, Iid(3), PersonalLayers(inner=PooledOnceBound()), Schedule(rounds=1))
    (only,) = error.value.errors
    assert (only.key, only.value, only.problem) == ("algorithm.inner", "Centralised", POOLED)


@pytest.mark.slow  # builds of a configuration
@pytest.mark.parametrize("outer", ["fedbn", "fedper", "fedrep", "local"])
@pytest.mark.parametrize("more", [[], ["model.norm=batch"]], ids=["no norm layer", "norm layers"])
def test_the_command_line_refuses_a_pooled_inner_algorithm_before_other_errors(outer, more):
    overrides = [f"algorithm={outer}", "algorithm@algorithm.inner=centralised", *more, "schedule.rounds=0"]
    with pytest.raises(ConfigErrors) as error:
        build_run(to_plain(composed("observers=none", *overrides)), Path("nowhere"), {})
    problems = {each.key: each.problem for each in error.value.errors}
    assert set(problems) == {"algorithm.inner", "schedule.rounds"}
    assert problems["algorithm.inner"].startswith("trains one client on all examples, so no layer of ")


def test_an_inner_object_that_is_no_algorithm_is_refused():
    with pytest.raises(ConfigError) as error:
        PersonalLayers(inner=Momentum())
    assert (error.value.key, error.value.value) == ("inner", "Momentum")
    assert error.value.hint == "give an instance of a subclass of fedlit.Algorithm"


@pytest.mark.parametrize(
    ("inner", "key", "text"),
    [
        (PersonalLayers(), "inner.layers", "the outer algorithm keeps that part of Net already"),
        (PersonalLayers(layers="none", names=["norm.*"]), "inner.names", "matches none of body.weight"),
    ],
)
def test_an_error_of_the_inner_algorithm_has_its_full_key(inner, key, text):
    module = Net()
    with pytest.raises(ConfigError) as error:
        PersonalLayers(inner=inner).bind(module, ModuleReplica(module).read())
    assert error.value.key == key
    assert text in error.value.problem


def test_each_warning_of_nested_personal_layers_comes_once():
    nested = PersonalLayers(inner=PersonalLayers(inner=Ditto(), layers="last"))
    keys = [error.key for error in nested.check(facts(has_client_tests=False, splits=("val", "test")))]
    assert keys == ["data.client_test_fraction", "data.val_fraction"]


def test_fedrep_around_an_algorithm_that_trains_a_part_is_refused():
    fed = federation(FedRep(inner=FedRep(layers="none", names=["norm.*"])))
    with pytest.raises(ConfigError) as error:
        client_once(fed, 0, 0, {})
    assert error.value.key == "algorithm.inner"
    assert "name all personal layers in one FedRep" in error.value.hint
