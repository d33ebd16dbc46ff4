"""The synthetic(alpha, beta) data of FedProx, generated on demand.

A million clients need no memory.

Li, Sahu, Zaheer, Sanjabi, Talwalkar, Smith, "Federated Optimization in Heterogeneous Networks", MLSys 2020, section 5.1,
https://arxiv.org/abs/1812.06127: client k has u_k ~ N(0, alpha), B_k ~ N(0, beta), W_k and b_k ~ N(u_k, 1),
v_k ~ N(B_k, 1), inputs x ~ N(v_k, diag(j^-1.2)) and the class argmax(W_k x + b_k). As in the authors' program, alpha and
beta are standard deviations. By this rule u_k adds the same to the score of every class, so alpha changes no label. The
clients' models differ by the rest of W_k and b_k, for any alpha.

Li, Sanjabi, Beirami, Smith, "Fair Resource Allocation in Federated Learning", ICLR 2020, https://arxiv.org/abs/1905.10497, mix
such clients with clients that are alike.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from fedlit.core.errors import raise_errors, require, require_at_least
from fedlit.core.streams import Purpose, stream
from fedlit.data.population import Population
from fedlit.data.samples import Data, TensorBatches, TensorSamples

MAX_TEST_CLIENTS = 200


def synthetic(
    clients: int = 100,
    samples: int | None = None,
    alpha: float = 1.0,
    beta: float = 1.0,
    iid: bool = False,
    dimension: int = 60,
    classes: int = 10,
    test_samples: int = 2000,
    val_samples: int = 1000,
    seed: int = 0,
) -> Data:
    """Return FedProx's synthetic data; use it with `partition=natural`.

    Args:
        clients: number of clients, >= 1.
        samples: number of samples of each client; None draws the numbers as in the paper: floor(lognormal(4, 2)) + 50.
        alpha: standard deviation of the mean of a client's weights, >= 0; it changes no label: see the module's text.
        beta: standard deviation of the mean of a client's inputs, >= 0.
        iid: True gives all clients one model, and inputs around 0.
        dimension: number of features of an input.
        classes: number of classes.
        test_samples: number of new samples of all clients, drawn from at most 200 clients.
        val_samples: the same for the validation set.
        seed: seed of the data; data.seed=${seed} makes it the experiment's.

    Raises:
        ConfigError: if an argument is out of range.
    """
    rule, hint = "must be a number of at least 0", "1 is the paper's most uneven setting"
    raise_errors(
        require_at_least("clients", clients),
        require_at_least("samples", 1 if samples is None else samples),
        require_at_least("dimension", dimension),
        require_at_least("test_samples", test_samples, 0),
        require_at_least("val_samples", val_samples, 0),
        require_at_least("seed", seed, 0),
        require(0 <= alpha < float("inf"), "alpha", alpha, rule, hint),
        require(0 <= beta < float("inf"), "beta", beta, rule, hint),
        require_at_least("classes", classes, 2),
    )
    offsets = (
        _lognormal_offsets(clients, 2, seed) if samples is None else np.arange(0, (clients + 1) * samples, samples)
    )
    train = SyntheticSamples(offsets, alpha, beta, clients if iid else 0, dimension, classes, seed)
    test, val = (
        train.fresh_samples(count, key) if count else None for key, count in ((1, test_samples), (2, val_samples))
    )
    names = tuple(str(label) for label in range(classes))
    return Data(f"synthetic({alpha:g}, {beta:g})", train, test, (dimension,), names, val)


def synthetic_hybrid(clients: int = 100, test_samples: int = 2000, seed: int = 0) -> Data:
    """Return the synthetic data of q-FFL; use it with `partition=natural`.

    The first half of the clients are those of `synthetic(iid=True)`, and the others those of `synthetic(alpha=1, beta=1)`. A
    client has floor(lognormal(4, 1)) + 50 samples, as in the authors' program.

    Args:
        clients: number of clients, >= 1.
        test_samples: number of new samples of all clients, drawn from at most 200 clients.
        seed: seed of the data; data.seed=${seed} makes it the experiment's.

    Raises:
        ConfigError: if an argument is out of range.
    """
    raise_errors(
        require_at_least("clients", clients),
        require_at_least("test_samples", test_samples, 0),
        require_at_least("seed", seed, 0),
    )
    train = SyntheticSamples(_lognormal_offsets(clients, 1, seed), 1.0, 1.0, clients // 2, 60, 10, seed)
    test = train.fresh_samples(test_samples, 1) if test_samples else None
    return Data("hybrid synthetic", train, test, (60,), tuple(str(label) for label in range(10)))


def _lognormal_offsets(clients: int, sigma: float, seed: int) -> np.ndarray:
    """Draw the clients' numbers of samples.

    Returns:
        The number of each client's first sample, and the number of samples, shape (clients + 1,).
    """
    sizes = np.minimum(stream(seed, Purpose.DATA, 1).lognormal(4, sigma, clients), 1e6).astype(np.int64) + 50
    return np.concatenate([[0], np.cumsum(sizes)])


@dataclass(frozen=True)
class SyntheticSamples:
    """Samples that are generated on demand: see `synthetic`.

    Args:
        offsets: number of each client's first sample, and the number of samples, shape (clients + 1,).
        alike: number of first clients that share one model, and have inputs around 0.
        alpha, beta, dimension, classes, seed: as in `synthetic`.
        device: device of the batches; None for the CPU.
    """

    offsets: np.ndarray
    alpha: float
    beta: float
    alike: int
    dimension: int
    classes: int
    seed: int
    device: torch.device | None = None

    def __len__(self) -> int:
        return int(self.offsets[-1])

    def natural(self) -> Population:
        """Return the population in which each client owns its samples in order."""
        return Population(range(len(self)), self.offsets)

    def labels(self, index: np.ndarray | None = None) -> np.ndarray | None:
        """Return the classes of the samples in `index`; None generates all samples."""
        return self._rows(np.arange(len(self)) if index is None else index).labels()

    def subset(self, index: np.ndarray) -> TensorSamples:
        """Return the samples in `index` as tensors, with their owners."""
        owner = np.searchsorted(self.offsets, index, side="right") - 1
        return replace(self._rows(index), owner=owner, clients=len(self.offsets) - 1)

    def to(self, device: torch.device) -> SyntheticSamples:
        """Return samples with batches on a device."""
        return replace(self, device=device)

    def batches(
        self,
        index: np.ndarray | None,
        size: int | None,
        generator: torch.Generator | None = None,
        drop_last: bool = False,
    ) -> TensorBatches:
        """Return batches of the samples in `index`: see `protocols.Samples`."""
        rows = self._rows(np.arange(len(self)) if index is None else index)
        rows = rows if self.device is None else rows.to(self.device)
        return rows.batches(None, size, generator, drop_last)

    def fresh_samples(self, count: int, key: int) -> TensorSamples:
        """Return `count` held-out samples, in equal parts from some clients."""
        clients = np.linspace(0, len(self.offsets) - 2, min(len(self.offsets) - 1, MAX_TEST_CLIENTS, count)).astype(int)
        numbers = np.diff(np.linspace(0, count, len(clients) + 1).astype(int))
        parts = [self._draw(int(client), int(number), key) for client, number in zip(clients, numbers, strict=True)]
        x, y = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        return TensorSamples(torch.from_numpy(x), torch.from_numpy(y))

    def _rows(self, index: np.ndarray) -> TensorSamples:
        """Return the samples in `index`; each client in it is generated once."""
        clients = np.searchsorted(self.offsets, index, side="right") - 1
        x = np.empty((len(index), self.dimension), dtype=np.float32)
        y = np.empty(len(index), dtype=np.int64)
        for client in np.unique(clients):
            rows = np.flatnonzero(clients == client) if clients[0] != clients[-1] else slice(None)
            begin = self.offsets[client]
            inputs, labels = self._draw(int(client), int(self.offsets[client + 1] - begin))
            x[rows], y[rows] = inputs[index[rows] - begin], labels[index[rows] - begin]
        return TensorSamples(torch.from_numpy(x), torch.from_numpy(y))

    def _draw(self, client: int, count: int, key: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Draw samples of a client; each key gives other samples.

        Returns:
            Inputs, shape (count, dimension), and classes, shape (count,).
        """
        is_alike = client < self.alike
        model = stream(self.seed, Purpose.DATA, 2, 0 if is_alike else client)
        u, big_b = (0.0, 0.0) if is_alike else (model.normal(0, self.alpha), model.normal(0, self.beta))
        weight, bias = model.normal(u, 1, (self.dimension, self.classes)), model.normal(u, 1, self.classes)
        center = 0.0 if is_alike else model.normal(big_b, 1, self.dimension)
        spread = np.arange(1, self.dimension + 1) ** -0.6  # the root of j^-1.2
        draws = stream(self.seed, Purpose.DATA, 3, client, key)
        x = (center + spread * draws.normal(size=(count, self.dimension))).astype(np.float32)
        return x, (x @ weight + bias).argmax(1)
