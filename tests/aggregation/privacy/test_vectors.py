"""Norms in float64, clipping factors, and the moments of the noise."""

import math

import numpy as np
import pytest
import torch

from fedlit.aggregation.privacy.vectors import CHUNK, MIN_CHUNKS, add_gaussian, clip_factor, exact_norm, gaussian


def test_a_norm_is_summed_in_float64_over_chunks():
    vector = torch.full((2 * CHUNK + 7,), 0.1)
    exact = math.sqrt(len(vector)) * float(np.float32(0.1))
    assert exact_norm(vector) == pytest.approx(exact, rel=1e-13)
    assert exact_norm(torch.zeros(0)) == 0


def test_squares_of_large_numbers_do_not_overflow():
    assert exact_norm(torch.tensor([3e38, 3e38])) == pytest.approx(3e38 * math.sqrt(2), rel=1e-6)


@pytest.mark.parametrize(("length", "factor"), [(5.0, 0.4), (2.0, 1.0), (1.0, 1.0), (0.0, 1.0)])
def test_a_long_vector_gets_the_norm_and_a_short_one_stays(length, factor):
    assert clip_factor(torch.tensor([0.6, 0.8], dtype=torch.float64) * length, 2.0) == pytest.approx(factor)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_vector_that_is_not_finite_stays_not_finite(bad):
    vector = torch.tensor([1.0, bad])
    assert not (vector.double() * clip_factor(vector, 1.0)).isfinite().all()


@pytest.mark.slow
def test_noise_has_the_moments_of_a_gaussian():
    count, std = 400_000, 3.0
    noise = gaussian(np.random.default_rng(1), count, std) / std
    assert noise.dtype == torch.float64
    assert abs(float(noise.mean())) <= 4 / math.sqrt(count)
    assert abs(float(noise.square().mean()) - 1) <= 4 * math.sqrt(2 / count)
    assert abs(float(noise.pow(4).mean()) - 3) <= 4 * math.sqrt(96 / count)


def test_noise_has_the_bits_of_float64():
    noise = gaussian(np.random.default_rng(1), 1000, 1.0)
    assert int((noise.float().double() == noise).sum()) < 5


def test_a_standard_deviation_of_0_draws_nothing():
    generator = np.random.default_rng(1)
    assert gaussian(generator, 3, 0.0).tolist() == [0.0] * 3
    assert generator.random() == np.random.default_rng(1).random()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_noise_is_added_in_chunks_as_in_one_piece(dtype):
    vector = torch.linspace(-1, 1, 2 * CHUNK + 3, dtype=dtype)
    before, whole = vector.clone(), gaussian(np.random.default_rng(5), len(vector), 3.0)
    noisy = add_gaussian(vector, np.random.default_rng(5), 3.0, factor=0.5)
    assert torch.equal(noisy, (whole + 0.5 * vector.double()).to(dtype))
    assert torch.equal(vector, before)
    assert torch.equal(add_gaussian(vector, np.random.default_rng(5), 0.0), vector)


def test_noise_does_not_depend_on_the_number_of_threads(monkeypatch):
    vector, results = torch.linspace(-1, 1, MIN_CHUNKS * CHUNK + 3), []
    for count in (1, 3):
        monkeypatch.setattr(torch, "get_num_threads", lambda count=count: count)
        results.append(add_gaussian(vector, np.random.default_rng(5), 3.0))
    assert torch.equal(*results)
    generator = np.random.default_rng(5)
    for part, noisy, source in zip(
        vector.split(CHUNK), results[0].split(CHUNK), [generator, *generator.spawn(MIN_CHUNKS)], strict=True
    ):
        assert torch.equal(noisy, (part.double() + 3 * torch.from_numpy(source.standard_normal(len(part)))).float())


def test_a_generator_that_is_used_again_gives_other_noise_in_every_chunk():
    generator, zeros = np.random.default_rng(5), torch.zeros(2 * CHUNK)
    first, second = (add_gaussian(zeros, generator, 1.0).split(CHUNK) for _ in range(2))
    assert len({float(chunk[0]) for chunk in (*first, *second)}) == 4
