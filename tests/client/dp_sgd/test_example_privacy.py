"""Settings of example-level privacy: their values, and what they do not go together with."""

import math
from dataclasses import replace

import pytest
from private_fits import facts_of, samples, worker
from small import holdings

from fedlit.client.dp_sgd.accounting import ReleaseHistory, epsilon_of
from fedlit.client.dp_sgd.planning import bind_privacy, check_privacy
from fedlit.client.dp_sgd.settings import ExamplePrivacy
from fedlit.core.errors import ConfigError, ConfigErrors
from fedlit.data.loading import Loading

PRIVACY = ExamplePrivacy(noise_multiplier=1.0)


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        ({"clip": 0.0, "noise_multiplier": 1.0}, "clip"),
        ({"clip": math.inf, "noise_multiplier": 1.0}, "clip"),
        ({"noise_multiplier": -0.1}, "noise_multiplier"),
        ({"noise_multiplier": math.inf}, "noise_multiplier"),
        ({}, "epsilon"),
        ({"noise_multiplier": 1.0, "epsilon": 2.0}, "epsilon"),
        ({"epsilon": 0.0}, "epsilon"),
        ({"noise_multiplier": 1.0, "delta": 0.0}, "delta"),
        ({"noise_multiplier": 1.0, "delta": 1.0}, "delta"),
    ],
)
def test_values_out_of_range_are_refused(arguments, key):
    with pytest.raises((ConfigError, ConfigErrors)) as error:
        ExamplePrivacy(**arguments)
    assert [one.key for one in error.value.errors] == [key]


def found(privacy=PRIVACY, options=None, sizes=(100, 200), manual=False, **loading):
    """The errors of a setting by key."""
    facts = facts_of(sizes, manual_optimization=manual)
    return {error.key: error for error in privacy.check(facts, Loading(**loading), options or {})}


@pytest.mark.parametrize(
    ("setting", "key", "reason"),
    [
        ({"options": {"accumulate_grad_batches": 2}}, "trainer.accumulate_grad_batches", "several batches"),
        ({"options": {"gradient_clip_val": 0.5}}, "trainer.gradient_clip_val", "after the noise"),
        ({"options": {"precision": "16-mixed"}}, "trainer.precision", "scales the loss"),
        ({"options": {"precision": "bf16-true"}}, "trainer.precision", "bfloat16"),
        ({"options": {"precision": "16-true"}}, "trainer.precision", "float16"),
        ({"manual": True}, "model", "manual optimization"),
        ({"drop_last": True}, "data.drop_last", "drawn independently"),
        ({"num_workers": 2}, "data.num_workers", "new processes"),
    ],
)
def test_what_breaks_privacy_is_an_error(setting, key, reason):
    errors = found(**setting)
    assert errors.keys() == {key}
    assert not errors[key].warning
    assert reason in str(errors[key])


@pytest.mark.parametrize(
    ("setting", "key", "reason"),
    [
        ({"sizes": (100, 32, 31, 0)}, "data.batch_size", "2 of 4 clients"),
        ({"batch_size": "full"}, "data.batch_size", "2 of 2 clients"),
        ({"privacy": ExamplePrivacy(noise_multiplier=0.0)}, "privacy.noise_multiplier", "adds no noise"),
        ({"privacy": ExamplePrivacy(epsilon=math.inf)}, "privacy.epsilon", "adds no noise"),
        ({"privacy": ExamplePrivacy(noise_multiplier=1.0, delta=0.01)}, "privacy.delta", "1 / 200"),
    ],
)
def test_what_protects_little_is_a_warning(setting, key, reason):
    errors = found(**setting)
    assert errors.keys() == {key}
    assert errors[key].warning
    assert reason in str(errors[key])


def test_a_usual_setting_has_no_error_and_no_warning():
    assert found(options={"accumulate_grad_batches": 1, "precision": "bf16-mixed", "gradient_clip_val": None}) == {}


def test_the_rate_is_the_batch_size_by_the_examples():
    assert PRIVACY.sample_rate(50, 20) == 0.4  # not 1 / 3, as of three batches, and not 1 / 2, as of two full ones
    assert PRIVACY.sample_rate(20, 50) == PRIVACY.sample_rate(20, None) == 1.0


def test_a_target_gives_each_client_noise_that_spends_it_in_all_rounds():
    data = holdings(samples(60), [0] * 10 + [1] * 50, batch=5)
    one = worker(privacy={"epsilon": 3.0, "delta": 1e-4}, data=data, epochs=2)
    state = one.algorithm.init(one.replica.read())
    config = bind_privacy(one.trainer_config, one.algorithm, state, facts_of((10, 50), rounds=7))
    noises = []
    for client, steps in ((0, 4), (1, 20)):
        local, _ = replace(one, trainer_config=config).dry_run(client, state, {}, None, [])
        ((noise, rate, taken),) = local.private.history.releases
        assert (rate, taken) == (5 / data.population.size(client), steps)
        assert 2.97 < epsilon_of(ReleaseHistory(((noise, rate, 7 * steps),)), 1e-4) <= 3.0
        noises.append(noise)
    assert noises[0] != noises[1]


def test_a_federation_without_privacy_has_nothing_to_check():
    one = worker()
    assert check_privacy(one.trainer_config, one.replica, one.data, None) == []
