import numpy as np
import pytest
import torch

from fedlit.core.errors import ConfigError
from fedlit.data import Classes, Dirichlet, DirichletClient, Iid, Natural, Noise, Quantity, Shards, TensorSamples
from fedlit.data.partitioners.dirichlet import apportion, dirichlet, ensure_min_samples, log_dirichlet, normalize

LABELS = np.random.default_rng(0).integers(0, 10, 5000)
EQUAL = np.repeat(np.arange(10), 200)
TARGETS = np.random.default_rng(1).normal(size=5000)


class Unlabelled:
    """Samples without labels."""

    def __len__(self):
        return 5000

    def labels(self, index=None):
        return None


def samples_of(labels):
    return TensorSamples(torch.zeros(len(labels)), torch.from_numpy(labels))


def rng(seed=0):
    return np.random.default_rng(seed)


def owner_of(population):
    """Return the owner of each sample; -1 for no owner."""
    owner = np.full(population.samples, -1)
    owner[population.index] = np.repeat(np.arange(len(population)), population.sizes)
    return owner


def owners(partition, labels, generator):
    population = partition(samples_of(labels), generator)
    owner = owner_of(population)
    assert (len(owner), len(population)) == (len(labels), partition.num_clients)
    assert owner.min() >= 0  # one place for each sample, and none is empty: no sample is lost or owned twice
    return owner


def table(partition, labels, seed):
    """Return the samples by client and class, shape (clients, classes)."""
    clients, classes = partition.num_clients, int(labels.max()) + 1
    owner = owners(partition, labels, rng(seed))
    return np.bincount(owner * classes + labels, minlength=clients * classes).reshape(clients, classes)


def near(values, expected, slack=0.0):
    """Return True if the mean is within four standard errors."""
    return abs(values.mean() - expected) < 4 * values.std() / len(values) ** 0.5 + slack


ALL = [
    Iid(7),
    Dirichlet(7, 0.5),
    Dirichlet(7, 0.5, balanced=True, min_samples=300),
    DirichletClient(7, 0.5),
    DirichletClient(7, 5.0, "total"),
    Shards(7),
    Classes(7),
    Quantity(7, 0.5),
    Quantity(7, 0.1, min_samples=100),
    Noise(7, 0.3),
]


@pytest.mark.parametrize("partition", ALL, ids=str)
def test_every_sample_has_one_owner_and_the_generator_decides(partition):
    owner = owners(partition, LABELS, rng(1))
    assert np.array_equal(owner, owners(partition, LABELS, rng(1)))
    assert not np.array_equal(owner, owners(partition, LABELS, rng(2)))


def by_alpha(alpha):
    return [
        Dirichlet(7, alpha),
        Dirichlet(7, alpha, balanced=True, min_samples=50),
        DirichletClient(7, alpha),
        DirichletClient(7, alpha, "total"),
        Quantity(7, alpha, min_samples=3),
    ]


@pytest.mark.parametrize("alpha", [5e-324, 1e-300, 1e-6, 1e6, 1e300])
@pytest.mark.parametrize("number", range(5))
def test_partitioners_end_for_any_alpha(alpha, number):
    partition = by_alpha(alpha)[number]
    assert not np.array_equal(owners(partition, LABELS, rng(1)), owners(partition, LABELS, rng(2)))


@pytest.mark.parametrize(
    "partition",
    [
        Dirichlet(1000, 0.5),
        Dirichlet(1000, 0.1, balanced=True, min_samples=900),
        DirichletClient(1000, 0.5),
        DirichletClient(1000, 1e-6, "total"),
        Shards(1000),
        Classes(1000),
        Quantity(1000, 0.1, min_samples=1000),
        Noise(1000, 1.0),
    ],
    ids=str,
)
def test_a_million_samples_all_go_to_one_of_a_thousand_clients(partition):
    owners(partition, rng().integers(0, 100, 1_000_000), rng())


def test_iid_shards_differ_by_at_most_one_sample_and_have_the_same_labels():
    owner = owners(Iid(7), LABELS, rng())
    assert sorted(set(np.bincount(owner))) == [714, 715]
    assert abs((LABELS[owner == 0] == 3).mean() - (LABELS == 3).mean()) < 0.05


@pytest.mark.slow
@pytest.mark.parametrize("alpha", [0.1, 0.5, 5.0])
def test_dirichlet_shares_have_the_expected_sum_of_squares(alpha):
    """E sum p_k^2 = (alpha + 1) / (n alpha + 1) for n clients."""
    labels = np.repeat(np.arange(4000), 200)
    squares = ((table(Dirichlet(10, alpha), labels, 3) / 200) ** 2).sum(0)
    assert near(squares, (alpha + 1) / (10 * alpha + 1), 0.001)


@pytest.mark.slow  # a thousand partitions
@pytest.mark.parametrize(
    ("balanced", "shares", "sizes"),
    # (alpha + 1) / (n alpha + 1) and 1 / n + (that - 1 / n) / classes; measured in 30,000 partitions with masked shares
    [(False, 0.25, 0.115), (True, 0.284, 0.1065)],
)
def test_the_two_rules_have_different_expected_sums_of_squares(balanced, shares, sizes):
    tables = np.stack([table(Dirichlet(10, 0.5, balanced), EQUAL, seed) for seed in range(500)])
    assert near(((tables / 200) ** 2).sum(1).mean(1), shares, 0.002)
    assert near(((tables.sum(2) / 2000) ** 2).sum(1), sizes, 0.0005)


def test_balanced_shares_have_the_law_of_masked_shares():
    """NIID-Bench's masked shares have the law of fewer clients' shares."""
    masked, fewer = rng(1).dirichlet([0.5] * 10, 20_000)[:, :4], rng(2).dirichlet([0.5] * 4, 20_000)
    for power in (2, 3):
        moments = ((masked / masked.sum(1, keepdims=True)) ** power).sum(1)
        assert near(moments, (fewer**power).sum(1).mean(), 0.005)


@pytest.mark.parametrize("alpha", [1e-300, 0.1, 0.5, 5.0])
def test_balanced_clients_exceed_their_share_by_less_than_one_class(alpha):
    for seed in range(50):
        counts = table(Dirichlet(10, alpha, balanced=True), EQUAL, seed)
        last = np.array([row[np.flatnonzero(row)[-1]] if row.any() else 0 for row in counts])
        assert (counts.sum(1) - last < 200).all()  # the client was not full when it got its last class
        assert counts.sum(1).max() < 200 + 200


@pytest.mark.parametrize("alpha", [5e-324, 1e-300, 1e-12, 0.01, 1.0, 50.0, 1e12, 1e300])
def test_shares_are_a_distribution_for_any_alpha(alpha):
    for size in (1, 2, 100):
        shares = dirichlet(alpha, size, rng())
        assert shares.sum() == pytest.approx(1)
        assert (shares >= 0).all()
    assert (dirichlet(alpha, 100, rng()).max() > 0.999) == (alpha < 1e-3)


@pytest.mark.parametrize("scale", [1e-6, 0.5, 20.0])
def test_shares_of_unequal_concentrations_have_the_expected_means(scale):
    alpha = scale * np.array([0.7, 0.2, 0.1])
    generator = rng(4)
    shares = np.stack([normalize(log_dirichlet(alpha, generator)) for _ in range(4000)])
    for column, expected in zip(shares.T, (0.7, 0.2, 0.1), strict=True):
        assert near(column, expected)


def test_counts_sum_to_the_total_and_are_near_their_shares():
    for seed in range(50):
        shares, total = dirichlet(0.3, 17, rng(seed)), int(rng(seed).integers(0, 1000))
        counts = apportion(shares, total)
        assert counts.sum() == total
        assert (np.abs(counts - shares * total) <= 1).all()
        assert (counts >= 0).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("partition", "alpha"),
    [
        (DirichletClient(4000, 0.1), 0.1),
        (DirichletClient(4000, 0.5), 0.5),
        (DirichletClient(4000, 5.0), 5.0),
        (DirichletClient(4000, 1.0, "total"), 0.1),
        (DirichletClient(4000, 5.0, "total"), 0.5),
    ],
    ids=str,
)
def test_a_clients_mix_has_the_expected_sum_of_squares(partition, alpha):
    """The sum of a mix's squared shares has its expectation.

    E sum_c q_c^2 = (alpha + 1) / (C alpha + 1) with alpha for each class, and m draws add (1 - that) / m.

    Only the first thousand of four thousand clients count: no class is exhausted before they have drawn.
    """
    counts = table(partition, np.repeat(np.arange(10), 20_000), 5)
    expected = (alpha + 1) / (10 * alpha + 1)
    assert set(counts.sum(1)) == {50}
    assert near(((counts[:1000] / 50) ** 2).sum(1), expected + (1 - expected) / 50)


@pytest.mark.slow
def test_the_total_concentration_follows_the_classes_of_the_data():
    labels = np.repeat([0, 1, 2], [70_000, 20_000, 10_000])
    for scale in (1e-6, 2.0):
        means = table(DirichletClient(2000, scale, "total"), labels, 6)[:500] / 50
        assert near(means[:, 0], 0.7)
        assert near(means[:, 2], 0.1)
    assert near(table(DirichletClient(2000, 2.0), labels, 6)[:100, 2] / 50, 1 / 3)


def test_clients_with_a_class_mix_have_equal_sizes():
    sizes = table(DirichletClient(7, 1e-6), LABELS, 1).sum(1)
    assert sorted(set(sizes)) == [714, 715]
    assert (table(DirichletClient(10, 1e-6), EQUAL, 1)[0] > 0).sum() == 1


def test_shards_have_equal_size_and_one_class_if_classes_divide():
    counts = table(Shards(10), EQUAL, 1)
    assert set(counts.sum(1)) == {200}
    assert set(counts.ravel()) <= {0, 100, 200}
    counts = table(Shards(5, 4), LABELS, 1)  # 20 shards of 250 samples; 9 of them hold two classes
    assert set(counts.sum(1)) == {1000}
    assert (counts > 0).sum() <= 20 + 9


@pytest.mark.parametrize(
    ("clients", "classes_per_client"), [(10, 1), (10, 2), (7, 3), (3, 4), (5, 10), (23, 2), (1, 10)]
)
def test_each_client_has_the_given_number_of_classes_and_each_class_an_owner(clients, classes_per_client):
    for seed in range(20):
        counts = table(Classes(clients, classes_per_client), LABELS, seed)
        assert ((counts > 0).sum(1) == classes_per_client).all()
        assert all(counts[client, client % 10] > 0 for client in range(clients))
        for column in counts.T:
            assert np.ptp(column[column > 0]) <= 1


@pytest.mark.parametrize(
    ("partition", "allowed"), [(Classes(4), "3 to 10"), (Classes(3, 3), "4 to 10"), (Classes(3, 11), "4")]
)
def test_too_few_or_too_many_classes_a_client_are_refused(partition, allowed):
    with pytest.raises(ConfigError, match=f"must be {allowed}") as error:
        owners(partition, LABELS, rng())
    assert error.value.key == "classes_per_client"


@pytest.mark.slow
@pytest.mark.parametrize("alpha", [0.1, 0.5, 5.0])
def test_sizes_have_the_expected_sum_of_squares(alpha):
    generator, samples, squares = rng(7), samples_of(EQUAL), []
    for _ in range(2000):
        sizes = Quantity(10, alpha)(samples, generator).sizes
        squares.append(((sizes / 2000) ** 2).sum())
    assert near(np.array(squares), (alpha + 1) / (10 * alpha + 1), 0.001)


def test_quantity_skew_does_not_depend_on_classes():
    counts = table(Quantity(3, 5.0), LABELS, 1)
    assert np.abs(counts / counts.sum(1, keepdims=True) - np.bincount(LABELS) / 5000).max() < 0.05


def test_noise_grows_evenly_from_zero():
    population = Noise(5, 0.4)(samples_of(LABELS), rng())
    assert population.noise == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])
    assert set(population.sizes) == {1000}
    assert Noise(1, 0.4)(samples_of(LABELS), rng()).noise.tolist() == [0.0]


@pytest.mark.parametrize(
    "make",
    [
        lambda m: Dirichlet(10, 0.01, min_samples=m),
        lambda m: Dirichlet(10, 0.01, True, m),
        lambda m: Quantity(10, 0.1, m),
    ],
)
@pytest.mark.parametrize("min_samples", [2, 40, 500])
def test_each_client_gets_min_samples_and_moved_samples_are_counted(make, min_samples):
    before, after = make(0)(samples_of(LABELS), rng(1)), make(min_samples)(samples_of(LABELS), rng(1))
    assert after.sizes.min() == min_samples
    assert before.moved_samples == 0
    assert after.moved_samples == np.maximum(min_samples - before.sizes, 0).sum() > 0
    assert (owner_of(before) != owner_of(after)).sum() == after.moved_samples
    assert sorted(after.index) == list(range(5000))


def test_samples_leave_the_largest_one_at_a_time():
    for seed in range(200):
        clients, min_samples = int(rng(seed).integers(1, 9)), int(rng(seed).integers(0, 6))
        owner = rng(seed).choice(clients, 60, p=dirichlet(0.3, clients, rng(seed)))
        expected = np.bincount(owner, minlength=clients)
        while expected.min() < min_samples:
            expected[expected.argmax()] -= 1
            expected[expected.argmin()] += 1
        original = owner.copy()
        assert ensure_min_samples(owner, clients, min_samples, rng()).sizes.tolist() == expected.tolist()
        assert np.array_equal(owner, original)


def test_moved_samples_and_their_new_owners_are_random():
    owner = np.repeat([0, 1], [50, 0])
    remaining = [ensure_min_samples(owner, 3, 10, rng(seed)).shard(0).tolist() for seed in (1, 2)]
    assert remaining[0] != remaining[1]
    mixed = ensure_min_samples(np.repeat([0, 1], [50, 50]), 4, 10, rng(1))
    assert all(0 < (mixed.shard(client) < 50).sum() < 10 for client in (2, 3))


@pytest.mark.parametrize(
    "partition",
    [Dirichlet(10, 0.5, min_samples=501), DirichletClient(10, 0.5, min_samples=501), Quantity(10, 0.5, 501)],
)
def test_min_samples_above_the_mean_size_is_refused(partition):
    with pytest.raises(ConfigError, match="must be at most 500: there are 5000 samples for 10 clients") as error:
        owners(partition, LABELS, rng())
    assert error.value.key == "min_samples"


def test_floating_point_targets_are_divided_by_quantile():
    counts = table(Dirichlet(5, 0.1), TARGETS.argsort().argsort() // 500, 3)
    owner = owners(Dirichlet(5, 0.1), TARGETS, rng(3))
    for client in range(5):  # the tenths serve as classes
        assert (
            np.bincount(TARGETS.argsort().argsort()[owner == client] // 500, minlength=10).tolist()
            == counts[client].tolist()
        )
    two = np.repeat([0.0, 1.0], 50)  # equal targets are one class for any bins
    assert np.array_equal(owners(Dirichlet(5, 0.1), two, rng()), owners(Dirichlet(5, 0.1), two.astype(int), rng()))
    assert len(set(owners(Dirichlet(50, 1e-9, bins=1), TARGETS, rng()))) == 1


def test_floating_point_targets_allow_shards_and_no_classes():
    owner = owners(Shards(5, 1), TARGETS, rng())
    assert sorted(np.ptp(np.sort(TARGETS).reshape(5, -1), 1)) == sorted(np.ptp(TARGETS[owner == k]) for k in range(5))
    for partition in (DirichletClient(5, 0.5), Classes(5)):
        with pytest.raises(
            ConfigError, match="classes, but the labels are floating point; use partition=dirichlet, which bins"
        ):
            owners(partition, TARGETS, rng())


@pytest.mark.parametrize("partition", [Dirichlet(5, 0.5), DirichletClient(5, 0.5), Shards(5), Classes(5)], ids=str)
@pytest.mark.parametrize("samples", [Unlabelled(), samples_of(np.zeros((8, 2), dtype=np.int64))], ids=["none", "two"])
def test_without_a_label_for_each_sample_the_error_names_other_partitions(partition, samples):
    with pytest.raises(ConfigError, match="use partition=iid, quantity or natural"):
        partition(samples, rng())


@pytest.mark.parametrize("partition", [Iid(5), Quantity(5, 0.5), Noise(5, 0.5)], ids=str)
def test_partitioners_without_classes_need_no_labels(partition):
    assert sorted(partition(Unlabelled(), rng()).index) == list(range(5000))


@pytest.mark.parametrize(
    ("make", "key"),
    [
        *((lambda kind=kind: kind(0, 0.5), "num_clients") for kind in (Dirichlet, DirichletClient, Quantity, Noise)),
        *((lambda kind=kind: kind(-1), "num_clients") for kind in (Iid, Shards, Classes)),
        *(
            (lambda kind=kind, alpha=alpha: kind(3, alpha), "alpha")
            for kind in (Dirichlet, DirichletClient, Quantity)
            for alpha in (0.0, -1.0, float("nan"), float("inf"))
        ),
        *(
            (lambda kind=kind: kind(3, 0.5, min_samples=-1), "min_samples")
            for kind in (Dirichlet, DirichletClient, Quantity)
        ),
        (lambda: Dirichlet(3, 0.5, bins=0), "bins"),
        (lambda: DirichletClient(3, 0.5, "classes"), "concentration"),
        (lambda: Shards(3, 0), "shards_per_client"),
        (lambda: Classes(3, 0), "classes_per_client"),
        *((lambda sigma=sigma: Noise(3, sigma), "sigma") for sigma in (-0.1, float("nan"), float("inf"))),
        (lambda: Shards(300, 20)(samples_of(LABELS), rng()), "shards_per_client"),
    ],
)
def test_wrong_values_are_named(make, key):
    with pytest.raises(ConfigError) as error:
        make()
    assert error.value.key == key


def test_the_natural_partition_has_the_owners_of_the_data():
    samples = TensorSamples(torch.zeros(4), torch.zeros(4), owner=np.array([1, 0, 1, 2]), clients=4)
    population = Natural()(samples, rng())
    assert [population.shard(client).tolist() for client in range(4)] == [[1], [0, 2], [3], []]
    with pytest.raises(ConfigError, match="needs data that names the owner of each sample"):
        Natural()(TensorSamples(torch.zeros(4), torch.zeros(4)), rng())
