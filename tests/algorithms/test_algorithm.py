"""The joint `Algorithm`: its methods, and the wrappers that must forward them."""

import importlib
import pkgutil
import re
from dataclasses import fields, is_dataclass
from inspect import isabstract

import pytest
import torch
from test_personalization import facts

import fedlit
import fedlit.algorithms
from fedlit.aggregation import Aggregator, Codec, Stage
from fedlit.aggregation.channel.exact import ExactParts
from fedlit.algorithms import (
    FedRep,
    PersonalLayers,
)
from fedlit.algorithms.algorithm import Algorithm, Local, NoExamples
from fedlit.algorithms.personalization.partial import PersonalLocal
from fedlit.client.trainer import LocalTrainer
from fedlit.core.errors import ConfigError
from fedlit.core.messages import Aggregate, ServerState, Shared, Update
from fedlit.core.model import Model
from fedlit.data.protocols import Partitioner
from fedlit.executors.auto import Auto
from fedlit.executors.executor import Executor
from fedlit.experiment.observers.observer import Observer
from fedlit.server.checkpoint.checkpointer import Checkpointer
from fedlit.server.sampling.sampler import Sampler
from fedlit.simulation.client_faults import Fault

JOINTS = (Algorithm, Aggregator, Stage, Codec, Partitioner, Executor, Observer, Checkpointer, Sampler, Fault)


def public(joint):
    """Names of the public methods and properties of a joint."""
    return {name for name in vars(joint) if not name.startswith("_")}


def subclasses(cls):
    """All subclasses of a class, in any depth."""
    direct = set(cls.__subclasses__())
    return direct.union(*map(subclasses, direct))


def test_the_abstract_methods_are_init_client_server_and_model():
    assert isabstract(Algorithm)
    assert Algorithm.__abstractmethods__ == {"init", "client", "server", "model"}


def test_the_default_methods_are_those_that_the_design_names():
    defaults = public(Algorithm) - Algorithm.__abstractmethods__
    assert defaults == {"check", "bind", "personal_model", "metrics", "personalized", "pooled", "weighting"}
    algorithm = fake(calls := [])
    assert list(Algorithm.check(algorithm, facts())) == []
    assert Algorithm.bind(algorithm, torch.nn.Linear(1, 1), MODEL) is algorithm
    assert Algorithm.metrics(algorithm, ServerState(0, Shared(MODEL))) == {}
    assert not Algorithm.personalized.fget(algorithm)
    assert not Algorithm.pooled.fget(algorithm)
    assert Algorithm.weighting.fget(algorithm) == "unknown"
    assert Algorithm.personal_model(algorithm, NoExamples(), Shared(MODEL), {}) is MODEL
    assert calls == ["model"]


@pytest.mark.parametrize("name", sorted(public(Algorithm)))
def test_every_method_has_a_docstring(name):
    assert vars(Algorithm)[name].__doc__


@pytest.mark.parametrize(
    ("joint", "wrapper"),
    [
        (Algorithm, PersonalLayers),
        (Algorithm, FedRep),
        (Local, PersonalLocal),
        (Local, NoExamples),
        (Local, LocalTrainer),
        (Executor, Auto),
        (Codec, ExactParts),
    ],
)
def test_a_wrapper_overrides_every_public_method(joint, wrapper):
    names = public(joint)
    assert names
    attributes = {name for each in wrapper.__mro__ if each not in (joint, object) for name in vars(each)}
    attributes |= {field.name for field in fields(wrapper)}
    assert names - attributes == set()


def test_no_other_class_of_the_package_wraps_a_joint_of_its_own_kind():
    for module in pkgutil.walk_packages(fedlit.__path__, "fedlit."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    wrappers = {
        cls.__name__
        for joint in JOINTS
        for cls in subclasses(joint)
        if cls.__module__.startswith("fedlit.") and is_dataclass(cls)
        if any(re.search(rf"\b{joint.__name__}\b", str(field.type)) for field in fields(cls))
    }
    assert wrappers == {"PersonalLayers", "FedRep", "ExactParts"}


MODEL = Model({"w": torch.zeros(1), "own": torch.zeros(1)}, {})


def fake(calls):
    """An algorithm that appends the name of each called method to `calls`."""

    class Fake(Algorithm):
        def init(self, model):
            calls.append("init")
            return ServerState(0, Shared(model))

        def client(self, local, shared, client_state):
            calls.append("client")
            return Update({}, 1.0)

        def server(self, state, aggregate):
            calls.append("server")
            return state

        def model(self, shared):
            calls.append("model")
            return shared.model

        def check(self, facts):
            calls.append("check")
            return [ConfigError("key", "value", "is the inner algorithm's error")]

        def bind(self, module, model):
            calls.append("bind")
            return self

        def personal_model(self, local, shared, client_state):
            calls.append("personal_model")
            return shared.model

        def metrics(self, state):
            calls.append("metrics")
            return {"inner/metric": 1.0}

        @property
        def pooled(self):
            calls.append("pooled")
            return False

        @property
        def weighting(self):
            calls.append("weighting")
            return "equal"

    return Fake()


STATE = ServerState(0, Shared(Model({"w": torch.zeros(1)}, {})))
CALLS = {
    "init": lambda wrapper: wrapper.init(MODEL),
    "client": lambda wrapper: wrapper.client(NoExamples(), STATE.shared, {}),
    "server": lambda wrapper: wrapper.server(STATE, Aggregate({}, 1.0, 1, 1)),
    "model": lambda wrapper: wrapper.model(STATE.shared),
    "check": lambda wrapper: [error.key for error in wrapper.check(facts())] == ["key"] or pytest.fail("lost an error"),
    "weighting": lambda wrapper: wrapper.weighting == "equal" or pytest.fail("lost the weighting"),
    "bind": lambda wrapper: wrapper.bind(torch.nn.Linear(1, 1), MODEL),
    "personal_model": lambda wrapper: wrapper.personal_model(NoExamples(), STATE.shared, {}),
    "metrics": lambda wrapper: wrapper.metrics(STATE)["inner/metric"],
    "pooled": lambda wrapper: wrapper.pooled,
}
NOT_FORWARDED = {"personalized"}
"""Properties that a wrapper of personal layers sets itself."""


def test_each_public_method_of_algorithm_is_forwarded_or_set_by_the_wrapper():
    assert set(CALLS) | NOT_FORWARDED == public(Algorithm)


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("wrapper", [PersonalLayers, FedRep])
def test_personal_layers_forward_each_method_to_the_inner_algorithm(wrapper, name):
    calls = []
    bound = wrapper(inner=fake(calls), layers="none", names=["own"], initial=MODEL, personal_names=frozenset({"own"}))
    calls.clear()
    CALLS[name](bound)
    assert name in calls
    assert bound.personalized
