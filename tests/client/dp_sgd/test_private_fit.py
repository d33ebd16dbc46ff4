"""Fits by DP-SGD: the private gradient, the noise, the batches, and what is left afterwards."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from private_fits import HUGE, Tiny, fit, initial, moved, samples, worker
from small import holdings, images
from torch import nn

from fedlit.core.model import GradientTerm
from fedlit.models import Classifier

PLAIN = {"clip": HUGE, "noise_multiplier": 0.0}


class Flat(Tiny):
    """A module of 10,100 parameters whose gradient is 0."""

    def __init__(self):
        super().__init__(nn.Linear(4, 2020), lr=1.0)

    def training_step(self, batch, batch_idx):
        return (0 * self.net(batch[0])).mean()


def test_without_clip_and_noise_the_whole_shard_gives_the_plain_step():
    plain, private = worker(batch="full", epochs=3), worker(privacy=PLAIN, batch="full", epochs=3)
    expected, (result, _) = fit(plain)[0], fit(private)
    assert result.steps == expected.steps == 3
    for name, tensor in expected.model.parameters.items():
        assert torch.allclose(result.model.parameters[name], tensor, atol=1e-6, rtol=0)


@pytest.mark.parametrize("norm", ["none", "group"])
def test_the_tutorials_network_takes_the_plain_step(norm):
    """Its memory is channels-last, for which Opacus 1.6 alone computes wrong gradients of convolutions."""
    model = {"network": "fedlit.models.SimpleCNN", "shape": [1, 8, 8], "classes": 3, "norm": norm, "dropout": 0.0}
    module = Classifier(optimizer={"name": "sgd", "lr": 0.5}, **model)
    results = []
    for privacy in (None, PLAIN):
        one = worker(module, privacy, data=holdings(images(12), batch="full"))
        one.replica.first = one.replica.read() if not results else results[0][0]
        results.append((one.replica.first, fit(one)[0].model.parameters))
    for name, tensor in results[0][1].items():
        assert torch.allclose(results[1][1][name], tensor, atol=1e-5, rtol=0), name


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_an_example_whose_gradient_is_not_finite_counts_as_zeros(bad):
    """The others' sum is divided by the expected size as before, so the client does not fail because of one example."""
    data = samples(20)
    data.x[7] = bad
    small = worker(privacy={"clip": 0.1, "noise_multiplier": 0.0}, batch="full", data=holdings(data, batch="full"))
    result, _ = fit(small)
    total, module = torch.zeros(4 * 5 + 5 + 18, dtype=torch.float64), Tiny()
    for index in set(range(20)) - {7}:
        x, y = data.x[index], data.y[index]
        gradients = torch.autograd.grad(F.cross_entropy(module.net(x[None]), y[None]), list(module.parameters()))
        gradient = torch.cat([part.double().flatten() for part in gradients])
        total += gradient * min(1.0, 0.1 / gradient.norm())
    assert torch.allclose(moved(small, result), -0.5 * total / 20, atol=1e-6)
    assert result.metrics["privacy/clipped_fraction"] == 1.0


def test_a_step_is_the_clipped_sum_divided_by_the_expected_size():
    small = worker(privacy={"clip": 0.1, "noise_multiplier": 0.0}, batch="full")
    result, _ = fit(small)
    total, data = torch.zeros(small.replica.module.net[0].weight.numel() + 5 + 18, dtype=torch.float64), samples(20)
    module = Tiny()
    for x, y in zip(data.x, data.y, strict=True):
        gradients = torch.autograd.grad(F.cross_entropy(module.net(x[None]), y[None]), list(module.parameters()))
        gradient = torch.cat([part.double().flatten() for part in gradients])
        total += gradient * min(1.0, 0.1 / gradient.norm())
    assert torch.allclose(moved(small, result), -0.5 * total / 20, atol=1e-6)


@pytest.mark.parametrize("added", [1, 7])
def test_one_example_changes_the_sum_by_at_most_the_clip(added):
    def total(count):
        one = worker(
            privacy={"clip": 0.3, "noise_multiplier": 0.0},
            data=holdings(samples(20), [0] * count + [1] * (20 - count)),
            batch="full",
        )
        result, _ = fit(one)
        return moved(one, result) * count / -0.5

    assert 0.29 < (total(added + 1) - total(added)).norm() <= 0.3 * (1 + 1e-5)


def test_the_noise_has_the_stated_standard_deviation():
    noisy = worker(Flat(), {"clip": 3.0, "noise_multiplier": 2.0}, batch=10)
    result, _ = fit(noisy, epochs=1)
    noise, expected = moved(noisy, result), 2.0 * 3.0 / 10 * math.sqrt(2)  # two steps of expected size 10
    count = len(noise)
    assert abs(float(noise.std()) - expected) < 4 * expected / math.sqrt(2 * count)
    assert abs(float(noise.mean())) < 4 * expected / math.sqrt(count)
    kurtosis = float((noise**4).mean() / (noise**2).mean() ** 2)
    assert abs(kurtosis - 3) < 4 * math.sqrt(24 / count)


def test_much_noise_drowns_the_examples():
    """The LightningModule is not wrapped: its layers are private where training_step calls them."""
    loud, other = (
        worker(privacy={"noise_multiplier": 1000.0}, data=holdings(samples(20, seed), batch=5)) for seed in (0, 1)
    )
    (first, _), (second, _) = fit(loud), fit(other)
    noise = moved(loud, first)
    assert noise.norm() > 50
    assert (noise - moved(other, second)).norm() < 0.05 * noise.norm()


def test_noise_differs_in_each_step_round_client_and_fit_and_is_the_same_again():
    data = holdings(samples(20), [0] * 10 + [1] * 10, batch="full")
    one = worker(Flat(), {"noise_multiplier": 1.0}, data=data)
    keys = [{}, {"round": 1}, {"client": 1}, {"key": 1}]
    results = []
    for key in keys:
        result, local = fit(one, **key)
        model = result.model if result is not None else local.results[0].model
        results.append(moved(one, replace(result, model=model)))
    steps, _ = fit(replace(one, trainer_config=replace(one.trainer_config, epochs=2)))
    results.append(moved(one, steps) - results[0])  # the second step
    for index, left in enumerate(results):
        for right in results[index + 1 :]:
            assert abs(float(torch.corrcoef(torch.stack([left, right]))[0, 1])) < 0.05
    assert torch.equal(moved(one, fit(one)[0]), results[0])


def test_an_empty_batch_is_a_step_of_noise_alone():
    data = holdings(samples(3), batch=1)
    seen = []

    class Sees(Tiny):
        def training_step(self, batch, batch_idx):
            seen.append(len(batch[0]))
            return super().training_step(batch, batch_idx)

    quiet = worker(Sees(), {"noise_multiplier": 1.0}, data=data, epochs=20)
    result, local = fit(quiet)
    assert result.steps == 60
    assert local.private.history.releases == ((1.0, 1 / 3, 60),)
    assert 0 not in seen
    assert 10 < 60 - len(seen) < 30  # (2/3)^3 of 60 are empty on average
    assert moved(quiet, result).isfinite().all()


def test_a_fit_of_empty_batches_alone_moves_by_its_noise():
    data = holdings(samples(3), batch=1)
    quiet = worker(Flat(), {"noise_multiplier": 1.0}, data=data, steps=1)
    rounds = [round for round in range(20) if "privacy/clipped_fraction" not in fit(quiet, round=round)[0].metrics]
    assert rounds
    result, local = fit(quiet, round=rounds[0])
    assert local.private.history.releases == ((1.0, 1 / 3, 1),)
    assert abs(float(moved(quiet, result).std()) - 1.0) < 0.05


def test_no_trace_is_left_after_a_fit_and_a_second_fit_works():
    one = worker(privacy={"noise_multiplier": 1.0})
    module = one.replica.module
    before = traces(module)
    first, _ = fit(one)
    assert traces(module) == before
    second, _ = fit(one)
    assert first.model.equals(second.model)


def traces(module):
    """Everything that Opacus could leave on a module."""
    hooks = {
        name: [len(getattr(part, kind)) for kind in ("_forward_hooks", "_backward_hooks", "_forward_pre_hooks")]
        for name, part in module.named_modules()
    }
    attributes = {name: sorted(vars(part)) for name, part in module.named_modules()}
    return hooks, attributes, {name: vars(p) for name, p in module.named_parameters()}


def test_no_trace_is_left_after_a_failed_fit():
    class Fails(Tiny):
        is_broken = True

        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            if self.is_broken and batch_idx == 2:
                raise ZeroDivisionError
            return loss

    one = worker(Fails(), {"noise_multiplier": 1.0})
    before = traces(one.replica.module)
    with pytest.raises(ZeroDivisionError):
        fit(one)
    assert traces(one.replica.module)[0] == before[0]
    assert traces(one.replica.module)[2] == before[2]
    type(one.replica.module).is_broken = False
    assert fit(one)[0].model.equals(fit(worker(privacy={"noise_multiplier": 1.0}))[0].model)


def test_terms_are_added_after_the_noise_and_are_not_clipped():
    tiny_clip = worker(privacy={"clip": 1e-6, "noise_multiplier": 0.0}, batch="full")
    offset = {name: torch.full_like(p, 7.0) for name, p in initial(tiny_clip).parameters.items()}
    result, _ = fit(tiny_clip, GradientTerm(offset=offset))
    assert torch.allclose(moved(tiny_clip, result), torch.tensor(-0.5 * 7.0).double(), atol=1e-5)


def test_a_proximal_term_without_clip_and_noise_gives_the_plain_steps():
    plain, private = worker(batch="full", epochs=3), worker(privacy=PLAIN, batch="full", epochs=3)
    center = {name: p + 1 for name, p in initial(plain).parameters.items()}
    results = [fit(one, GradientTerm(mu=0.3, center=center))[0] for one in (plain, private)]
    for name, tensor in results[0].model.parameters.items():
        assert torch.allclose(results[1].model.parameters[name], tensor, atol=1e-6, rtol=0)
    assert results[0].displacement == results[1].displacement


def test_a_client_smaller_than_a_batch_uses_every_example_in_every_step():
    one = worker(privacy={"noise_multiplier": 1.0}, batch=50, epochs=2)
    result, local = fit(one)
    assert result.steps == 2
    assert local.private.history.releases == ((1.0, 1.0, 2),)


def test_frozen_parameters_and_unused_ones_stay_as_they_are():
    class Unused(Tiny):
        def __init__(self):
            super().__init__()
            self.unused = nn.Linear(2, 2)

    one = worker(Unused(), {"noise_multiplier": 1.0})
    result, _ = fit(one, only={"net.0.weight", "unused.weight"})
    start = initial(one).parameters
    changed = {name for name, p in result.model.parameters.items() if not torch.equal(p, start[name])}
    assert changed == {
        "net.0.weight",
        "unused.weight",
    }  # an unused one gets noise: whether it is used may depend on examples


def test_what_the_module_logs_stays_with_the_client():
    metrics = [fit(worker(privacy={"noise_multiplier": 1.0, "clip": clip}))[0].metrics for clip in (1e-3, 1.3, HUGE)]
    assert all(one.keys() == {"privacy/clipped_fraction", "privacy/signal_to_noise"} for one in metrics)
    fractions = [one["privacy/clipped_fraction"] for one in metrics]
    assert fractions[0] == 1.0 > fractions[1] > 0.0 == fractions[2]


def test_signal_to_noise_is_that_of_the_clipped_sum_and_the_noise():
    """One example in each step, which is always clipped: the signal is the clip."""
    setting = {"data": holdings(samples(1), batch="full"), "epochs": 3}
    loud, none = (fit(worker(privacy={"noise_multiplier": noise, "clip": 0.1}, **setting))[0] for noise in (2.0, 0.0))
    assert loud.metrics["privacy/signal_to_noise"] == pytest.approx(1 / (2 * math.sqrt(43)), rel=1e-4)
    assert none.metrics == {"privacy/clipped_fraction": 1.0}


def test_limits_on_batches_and_steps_keep_the_sizes_in_step():
    for options, work, steps in (({"limit_train_batches": 3}, {"epochs": 2}, 6), ({}, {"steps": 5}, 5)):
        result, local = fit(worker(privacy={"noise_multiplier": 1.0}, options=options, **work))
        assert result.steps == steps
        assert local.private.history.releases == ((1.0, 0.25, steps),)


def test_bfloat16_gradients_are_clipped_in_float32():
    one = worker(
        privacy={"clip": 0.3, "noise_multiplier": 0.0},
        options={"precision": "bf16-mixed"},
        data=holdings(samples(1), batch="full"),
    )
    result, _ = fit(one)
    assert abs(float(moved(one, result).norm()) / 0.5 - 0.3) < 1e-5


def test_an_optimizer_never_sees_the_loss():
    losses = []

    class Curious(torch.optim.SGD):
        def step(self, closure=None):
            losses.append(float(super().step(closure)))
            return

    class Uses(Tiny):
        def configure_optimizers(self):
            return Curious(self.parameters(), lr=0.1)

    fit(worker(Uses(), {"noise_multiplier": 1.0}))
    assert losses
    assert all(math.isnan(loss) for loss in losses)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_draws_its_noise_itself_and_the_same_again():
    results = []
    for _ in range(2):
        noisy = worker(Flat(), {"clip": 3.0, "noise_multiplier": 2.0}, options={"accelerator": "gpu"}, batch="full")
        results.append(moved(noisy, fit(noisy)[0]))
    assert torch.equal(*results)
    assert abs(float(results[0].std()) - 2.0 * 3.0 / 20) < 4 * 0.3 / math.sqrt(2 * len(results[0]))
