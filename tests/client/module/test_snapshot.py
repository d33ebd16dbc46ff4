"""A module's attributes before each fit: restored, or reported."""

import itertools
import random
import threading
from collections import Counter, OrderedDict, defaultdict, deque
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import Quadratic
from torch import nn

from fedlit.client.module.replica import ModuleReplica


class Slots:
    __slots__ = ("count", "later", "values")

    def __init__(self):
        self.count, self.values = 1, [1]


@dataclass
class Helper:
    count: int = 1
    inner: SimpleNamespace = field(default_factory=lambda: SimpleNamespace(history=deque([1], maxlen=3)))


@dataclass(frozen=True)
class Frozen:
    helper: Helper = field(default_factory=Helper)


class OwnList(list):
    count = 1


class Callable:
    def __init__(self):
        self.count = 1

    def __call__(self):
        self.count += 1

    def method(self):
        self.count += 1


def counter():
    count, history = 1, [1]

    def increment():
        nonlocal count
        count += 1
        history.append(count)
        return count, history

    return increment


def default_argument():
    def append(value, values=[], *, more={}):  # noqa: B006
        values.append(value)
        more[value] = value
        return list(values), dict(more)

    return append


def grow_helper(helper):
    helper.count += 1
    helper.new = 1
    helper.inner.history.append(2)


def fill(values):
    values[:] = [7]


def set_slots(slots):
    slots.count, slots.later = 5, 6
    slots.values.append(2)


def train(layer):
    with torch.no_grad():
        layer.weight += 1
    layer.extra = 1


CASES = {
    "object": (Helper, grow_helper, lambda h: (h.count, list(h.inner.history), list(vars(h)))),
    "object in a frozen object": (
        Frozen,
        lambda f: grow_helper(f.helper),
        lambda f: (f.helper.count, list(vars(f.helper))),
    ),
    "objects in containers": (
        lambda: [{"a": (Helper(),)}],
        lambda v: grow_helper(v[0]["a"][0]),
        lambda v: v[0]["a"][0].count,
    ),
    "slots": (Slots, set_slots, lambda s: (s.count, s.values, hasattr(s, "later"))),
    "closure": (counter, lambda f: f(), lambda f: [cell.cell_contents for cell in f.__closure__]),
    "default arguments": (default_argument, lambda f: f(3), lambda f: (f.__defaults__, f.__kwdefaults__)),
    "bound method": (lambda: Callable().method, lambda f: f(), lambda f: f.__self__.count),
    "callable object": (Callable, lambda f: f(), lambda f: f.count),
    "partial": (lambda: partial(fill, [1]), lambda f: f(), lambda f: f.args),
    "bytearray": (lambda: bytearray(b"ab"), lambda v: v.extend(b"c"), bytes),
    "counter": (lambda: Counter("ab"), lambda v: v.update("bc"), dict),
    "ordered": (lambda: OrderedDict(a=1, b=2), lambda v: (v.move_to_end("a"), v.pop("b")), lambda v: list(v.items())),
    "default": (lambda: defaultdict(list), lambda v: v["a"].append(1), dict),
    "list of a class": (
        lambda: OwnList([1]),
        lambda v: (v.append(2), setattr(v, "count", 2)),
        lambda v: (list(v), v.count),
    ),
    "objects in an array": (
        lambda: np.array([Helper(), None], dtype=object),
        lambda v: grow_helper(v[0]),
        lambda v: v[0].count,
    ),
    "python generator": (lambda: random.Random(1), lambda g: g.random(), lambda g: g.getstate()),
    "old numpy generator": (lambda: np.random.RandomState(1), lambda g: g.rand(), lambda g: g.get_state()[1].tolist()),
    "numpy generator": (lambda: np.random.default_rng(1), lambda g: g.random(), lambda g: g.bit_generator.state),
    "torch generator": (
        lambda: torch.Generator().manual_seed(1),
        lambda g: torch.rand(1, generator=g),
        lambda g: g.get_state().tolist(),
    ),
    "module that is not registered": (
        lambda: SimpleNamespace(layer=nn.Linear(1, 1)),
        lambda v: train(v.layer),
        lambda v: (v.layer.weight.item(), hasattr(v.layer, "extra")),
    ),
    "optimizer": (
        lambda: torch.optim.SGD([torch.zeros(1)], lr=0.1),
        lambda o: o.param_groups[0].update(lr=0.5),
        lambda o: o.param_groups[0]["lr"],
    ),
}
"""Makes a value, changes it, and shows its content."""


@pytest.mark.parametrize("name", CASES)
def test_state_of_any_object_is_restored(name):
    make, change, show = CASES[name]
    module = Quadratic()
    module.helper = value = make()
    expected = deepcopy(show(value))
    replica = ModuleReplica(module)
    for _ in range(2):
        change(value)
        assert show(value) != expected
        replica.load(replica.read())
        assert module.helper is value
        assert show(value) == expected
    assert replica.unrestored_changes() == {}


def numbers():
    count = 0
    while True:
        count += 1
        yield count


@pytest.mark.parametrize(
    "make", [lambda: itertools.count(1), lambda: iter([1, 2, 3]), lambda: itertools.cycle([1, 2]), numbers]
)
def test_an_iterator_that_advances_is_reported_by_its_path(make):
    module = Quadratic()
    module.helper = SimpleNamespace(steps=[make()])
    replica = ModuleReplica(module)
    replica.load(replica.read())
    assert replica.unrestored_changes() == {}
    next(module.helper.steps[0])
    replica.load(replica.read())
    assert replica.unrestored_changes() == {"helper.steps[0]": module.helper.steps[0]}


def test_objects_that_refer_to_each_other_and_to_the_module_are_captured_once():
    module = Quadratic()
    module.helper = Helper()
    module.helper.owner, module.helper.self = module, module.helper
    replica = ModuleReplica(module)
    grow_helper(module.helper)
    replica.load(replica.read())
    assert module.helper.count == 1
    assert module.helper.owner is module


def test_threads_files_and_compiled_functions_are_left_as_they_are(tmp_path):
    module = Quadratic()
    module.lock, module.compiled = threading.Lock(), torch.compile(lambda x: x + 1, backend="eager")
    with (tmp_path / "log").open("w") as file:
        module.file = file
        replica = ModuleReplica(module)
        assert module.lock.acquire()
        file.write("x")
        assert module.compiled(torch.ones(1)).item() == 2.0
        replica.load(replica.read())
        assert module.lock.locked()
        assert replica.unrestored_changes() == {}
