import random
from contextlib import suppress
from itertools import product

import numpy as np
import pytest
import torch

from fedlit.core.streams import Purpose, bit_stream, seeded, sequence, spare_normal_kept, stream, torch_stream


def test_a_stream_with_the_same_key_has_the_same_numbers():
    assert stream(7, Purpose.COHORT, 3).integers(2**63) == stream(7, Purpose.COHORT, 3).integers(2**63)
    assert torch.equal(
        torch.randn(5, generator=torch_stream(7, Purpose.LOADER, 3, 2)),
        torch.randn(5, generator=torch_stream(7, Purpose.LOADER, 3, 2)),
    )


def test_a_seed_of_numpy_has_the_same_numbers():
    assert stream(np.int64(7), Purpose.COHORT, 3).integers(2**63) == stream(7, Purpose.COHORT, 3).integers(2**63)
    with pytest.raises(TypeError):
        stream(7.0, Purpose.COHORT)


def test_every_part_of_the_key_gives_another_stream():
    draws = {
        int(make(seed, purpose, r, c, k).integers(2**63))
        for make in (stream, bit_stream)
        for seed, purpose, r, c, k in product((0, 1, 2**40), (Purpose.INIT, Purpose.MODEL), (0, 1), (0, 1), (0, 1))
    }
    assert len(draws) == 2 * 3 * 2 * 2 * 2 * 2
    assert bit_stream(7, Purpose.COHORT, 3).integers(2**63) == bit_stream(7, Purpose.COHORT, 3).integers(2**63)


@pytest.mark.parametrize("seed", [0, 1, 42, 2**32 - 1, 2**32, 2**64 + 3, 2**128 - 1, 2**128, 2**160 + 7])
@pytest.mark.parametrize("key", [(0, 0, 0), (3, 17, 1), (2**32 - 1, 5, 2**31), (3, 2**32, 0), (3, 17, 2**70)])
def test_a_sequence_has_the_numbers_of_numpys_own_with_the_key_as_spawn_key(seed, key):
    ours, numpys = sequence(seed, Purpose.LOADER, *key), np.random.SeedSequence(seed, spawn_key=(Purpose.LOADER, *key))
    for one, other in ((ours, numpys), (ours.spawn(2)[1], numpys.spawn(2)[1])):
        assert one.generate_state(4).tolist() == other.generate_state(4).tolist()
    assert torch_stream(seed, Purpose.LOADER, *key).initial_seed() == int(numpys.generate_state(1, np.uint64)[0])


@pytest.mark.parametrize("key", [(-1, 0, 0, 0), (5, -1, 0, 0), (5, 0, -1, 0), (5, 0, 0, -1)])
def test_negative_keys_are_refused(key):
    seed, *rest = key
    with pytest.raises(ValueError, match="non-negative"):
        sequence(seed, Purpose.LOADER, *rest)


def test_the_numbers_of_a_purpose_never_change():
    assert [purpose.name for purpose in Purpose] == [
        "INIT",
        "SPLIT",
        "PARTITION",
        "COHORT",
        "LOADER",
        "MODEL",
        "EVALUATION",
        "NOISE",
        "DATA",
        "FAULTS",
        "CLOCK",
        "CHANNEL",
        "SUM_NOISE",
        "COMMON",
        "BROADCAST",
        "EXAMPLE_NOISE",
        "PROJECTION",
    ]
    assert stream(42, Purpose.COHORT, 1).integers(1000, size=3).tolist() == [225, 284, 124]


def draw():
    return torch.rand(1).item(), np.random.rand(), random.random()  # the point is the global generators


@pytest.mark.parametrize("depth", [2, 3, 4])
def test_blocks_within_blocks_leave_the_numbers_of_the_outer_ones(depth):
    def draws(level):
        with seeded(level, Purpose.MODEL):
            first = np.random.random()
            inner = draws(level + 1) if level < depth else []
            return [(first, np.random.random()), *inner]

    assert draws(1) == [alone(level) for level in range(1, depth + 1)]


def alone(level):
    with seeded(level, Purpose.MODEL):
        return np.random.random(), np.random.random()


def test_seeded_seeds_all_three_generators_and_restores_them():
    torch.manual_seed(1)
    np.random.seed(1)
    random.seed(1)
    expected = draw()
    torch.manual_seed(1)
    np.random.seed(1)
    random.seed(1)
    with seeded(5, Purpose.MODEL, 1, 2):
        first = draw()
    assert draw() == expected
    with seeded(5, Purpose.MODEL, 1, 2):
        assert draw() == first
    with seeded(5, Purpose.MODEL, 1, 3):
        assert all(a != b for a, b in zip(draw(), first, strict=True))


def draw_pairs():
    """Draw an odd number of normal ones: NumPy keeps the second one of the last pair for the next call."""
    return np.random.randn(3).tolist()


def test_the_spare_normal_number_of_numpy_is_restored():
    np.random.seed(1)
    expected = [draw_pairs(), draw_pairs(), draw_pairs()]
    for raises in (False, True):
        np.random.seed(1)
        drawn = [draw_pairs()]
        with suppress(SystemExit), spare_normal_kept():
            for client in (2, 3):
                with seeded(5, Purpose.MODEL, 1, client):
                    draw_pairs()
                    if raises:
                        raise SystemExit
        drawn.append(draw_pairs())
        with seeded(5, Purpose.MODEL):
            draw_pairs()
        assert [*drawn, draw_pairs()] == expected


def test_the_spare_normal_number_is_not_restored_if_code_between_two_fits_draws_numbers():
    """Else it would be drawn twice."""
    np.random.seed(1)
    first = draw_pairs()
    with spare_normal_kept():
        with seeded(5, Purpose.MODEL, 1, 2):
            draw_pairs()
        between = draw_pairs()
    assert len({*first, *between, *draw_pairs()}) == 9


def test_code_between_two_fits_of_a_job_continues_the_outer_streams():
    for generator in (torch.manual_seed, np.random.seed, random.seed):
        generator(1)
    expected = [draw() for _ in range(3)]
    for generator in (torch.manual_seed, np.random.seed, random.seed):
        generator(1)
    drawn = [draw()]
    with spare_normal_kept():
        for client in (2, 3):
            with seeded(5, Purpose.MODEL, 1, client):
                draw()
                np.random.seed(9)
            drawn.append(draw())
    assert drawn == expected


def test_a_stream_inside_another_one_leaves_it():
    with seeded(5, Purpose.MODEL, 1, 2):
        outer = [draw(), draw()]
    with seeded(5, Purpose.MODEL, 1, 3):
        inner = draw()
    with seeded(5, Purpose.MODEL, 1, 2):
        first = draw()
        with seeded(5, Purpose.MODEL, 1, 3):
            assert draw() == inner
        assert [first, draw()] == outer


def test_the_bits_of_numpys_global_generator_are_the_users_own_again():
    own = np.random.PCG64(1)
    before = np.random.get_bit_generator()
    np.random.set_bit_generator(own)
    try:
        with spare_normal_kept(), seeded(5, Purpose.MODEL, 1, 2):
            assert np.random.get_bit_generator() is not own
            first = np.random.rand()
        assert np.random.get_bit_generator() is own
        assert np.random.rand() == np.random.Generator(np.random.PCG64(1)).random()
    finally:
        np.random.set_bit_generator(before)
    with seeded(5, Purpose.MODEL, 1, 2):
        assert np.random.rand() == first


def test_seeding_queues_no_calls_in_torch():
    queued = getattr(torch.cuda, "_queued_calls", None)
    before = len(queued) if queued is not None else 0
    for _ in range(3):
        with seeded(5, Purpose.MODEL):
            pass
    assert len(queued) - before <= (3 if torch.cuda.is_available() else 0)


def test_a_stream_without_round_client_and_key_has_the_zeros():
    for make in (sequence, stream, torch_stream):
        assert state_of(make(3, Purpose.SPLIT)) == state_of(make(3, Purpose.SPLIT, 0, 0, 0))


def state_of(source):
    """What identifies a seed sequence or a generator."""
    if isinstance(source, np.random.SeedSequence):
        return source.pool.tolist()
    return source.initial_seed() if isinstance(source, torch.Generator) else source.bit_generator.state


def test_seeds_of_torch_have_64_bits():
    """With 32 bits two of 100,000 streams would share a seed with a probability of 0.7."""
    drawn = [torch_stream(seed, Purpose.LOADER).initial_seed() for seed in range(8)]
    for seed in range(8):
        with seeded(seed, Purpose.MODEL):
            drawn.append(torch.initial_seed())
    assert sum(word >= 2**32 for word in drawn) >= 15
