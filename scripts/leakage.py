"""Gradient inversion of what a server sees: an attack on batches of 1 and 8 digits, and a picture.

    python scripts/leakage.py [--out docs/leakage.png] [--steps 100] [--restarts 2]

The attack is that of Zhu, Liu, Han, "Deep Leakage from Gradients", NeurIPS 2019, https://arxiv.org/abs/1906.08935: it searches
images and labels whose gradient is the observed one, by L-BFGS. The client takes one step of gradient descent, so its update
shows its gradient. The server knows the model, the learning rate and the size of the batch. It sees:

    plain        the update as float32 numbers
    topk         one tenth of its numbers (`compression=topk`)
    local noise  the update clipped to its own norm, with noise of one tenth of it in each number (`privacy=local`)
    masked       the update under secure aggregation, quantised and masked (`encryption=secagg`)
    sum          the sum of ten clients, which secure aggregation shows; the attack searches the batches of all ten

A reconstruction is scored by the peak signal-to-noise ratio of the first client's images, each matched with its most similar
reconstruction. More than 20 dB shows the digit. Two values to compare with are printed: that of a blind guess, the mean image
of the data; and that of the best of as many other digits as the attack on the sum reconstructs.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from sklearn.datasets import load_digits
from torch import Tensor, nn

from fedlit.aggregation import Channel
from fedlit.aggregation.compression import TopK
from fedlit.aggregation.privacy import LocalDP
from fedlit.aggregation.secure.protocol.client import advertise_keys, mask_vector, share_keys
from fedlit.aggregation.secure.protocol.graph import make_neighbourhoods, make_thresholds
from fedlit.aggregation.secure.protocol.server import SecureAggregationServer
from fedlit.aggregation.secure.protocol.setting import ProtocolSetting
from fedlit.aggregation.secure.quantizer import EXTRA, RingQuantizer
from fedlit.core.tensors import Layout

CLIENTS = 10
CLASSES = 10


def make_model() -> nn.Module:
    """A small network with smooth activations, as the paper's attack needs."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 12, 5, padding=2, stride=1),
        nn.Sigmoid(),
        nn.Conv2d(12, 12, 5, padding=2, stride=2),
        nn.Sigmoid(),
        nn.Flatten(),
        nn.Linear(12 * 4 * 4, CLASSES),
    )
    for parameter in model.parameters():
        nn.init.uniform_(parameter, -0.5, 0.5)
    return model


def gradient(model: nn.Module, images: Tensor, labels: Tensor, *, keep_graph: bool = False) -> Tensor:
    """The gradient of the mean loss as one vector; labels are probabilities."""
    loss = nn.functional.cross_entropy(model(images), labels)
    parts = torch.autograd.grad(loss, list(model.parameters()), create_graph=keep_graph)
    return torch.cat([part.reshape(-1) for part in parts])


def through(channel: Channel, update: Tensor) -> Tensor:
    """The update of one client as the server decodes it."""
    layout = Layout((("parameters", "all", (len(update),)),))
    states = channel.init(layout)
    facts = {"round": 0, "client": 0, "seed": 0, "states": states, "own": {}}
    message, _ = channel.encode(layout, update.clone(), 1.0, **facts)
    return channel.decode(layout, message).vector.float()


def masked(updates: list[Tensor]) -> Tensor:
    """The masked update of the first client, read as the number that it would stand for without a mask."""
    size, quantizer = len(updates[0]), RingQuantizer(float(max(u.abs().max() for u in updates)), 20, 32)
    setting = ProtocolSetting(0, 0, size + EXTRA, 32, make_thresholds(len(updates), None, None))
    neighbourhoods = make_neighbourhoods(range(len(updates)), None, np.random.default_rng(0))
    server, secrets = SecureAggregationServer(setting, neighbourhoods), {}
    for client in server.requests():
        secrets[client], reply = advertise_keys(client, setting)
        server.receive(client, reply)
    server.close()
    for client, request in server.requests().items():
        secrets[client], reply = share_keys(secrets[client], setting, request)
        server.receive(client, reply)
    server.close()
    integers = quantizer.quantize(updates[0].numpy(), 1, np.random.default_rng(0))
    _, vector = mask_vector(secrets[0], setting, server.requests()[0], integers)
    return torch.from_numpy(quantizer.dequantize(quantizer.signed(vector))[0]).float()


def search(model: nn.Module, observed: Tensor, count: int, steps: int, seed: int) -> tuple[Tensor, float]:
    """Search images whose gradient is an observed one, from a random start.

    Returns:
        The images, shape (count, 1, 8, 8), and the relative squared distance of the gradients.
    """
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(count, 1, 8, 8, generator=generator).requires_grad_()
    labels = torch.randn(count, CLASSES, generator=generator).requires_grad_()
    optimizer = torch.optim.LBFGS([images, labels], max_iter=20, history_size=50, line_search_fn="strong_wolfe")
    scale, distance = float(observed.square().sum()), float("inf")

    def closure() -> Tensor:
        optimizer.zero_grad()
        difference = gradient(model, images, labels.softmax(-1), keep_graph=True) - observed
        loss = difference.square().sum() / scale
        loss.backward()
        return loss

    for _ in range(steps):
        distance = float(optimizer.step(closure).detach())
        if not np.isfinite(distance) or distance < 1e-9:
            break
    return images.detach(), distance


def invert(model: nn.Module, observed: Tensor, count: int, steps: int, restarts: int) -> Tensor:
    """The images of the best of some searches, shape (count, 1, 8, 8)."""
    found = [search(model, observed, count, steps, seed) for seed in range(restarts)]
    return min(found, key=lambda pair: pair[1] if np.isfinite(pair[1]) else float("inf"))[0]


def match(truth: Tensor, found: Tensor) -> tuple[Tensor, float]:
    """Match each image with a different reconstruction.

    Returns:
        The reconstructions in the order of the images, and the peak signal-to-noise ratio in dB.
    """
    found = found.clamp(0, 1)
    errors = (truth[:, None] - found[None]).square().mean(dim=(2, 3, 4))
    rows, columns = linear_sum_assignment(errors.numpy())
    return found[columns], -10 * float(np.log10(max(float(errors[rows, columns].mean()), 1e-12)))


def views(gradients: list[Tensor]) -> dict[str, Tensor]:
    """What the server sees of the first client, or of the sum, as a gradient."""
    own = gradients[0]
    noise = LocalDP(clip=float(own.norm()), noise_multiplier=0.1)
    return {
        "plain": through(Channel(), own),
        "topk": through(Channel.of([TopK(0.1)]), own),
        "local noise": through(Channel.of([noise]), own),
        "masked": masked(gradients),
        "sum": torch.stack(gradients).mean(0),
    }


def draw(rows: dict[int, dict[str, tuple[Tensor, float]]], path: Path) -> None:
    """Draw the reconstructions: a row for each view, a block for each size of a batch."""
    sizes, names = list(rows), list(next(iter(rows.values())))
    figure, axes = plt.subplots(len(names), sum(sizes), figsize=(0.9 * sum(sizes) + 2.4, 0.95 * len(names) + 0.5))
    for column, size in zip(np.cumsum([0, *sizes[:-1]]), sizes, strict=True):
        for row, name in enumerate(names):
            images, score = rows[size][name]
            for index in range(size):
                axis = axes[row, column + index]
                axis.imshow(images[index, 0], cmap="gray", vmin=0, vmax=1)
                axis.set_xticks([])
                axis.set_yticks([])
            label = f"{name}\n{score:.0f} dB" if np.isfinite(score) else name
            axes[row, column].set_ylabel(label, rotation=0, ha="right", va="center", fontsize=8)
    figure.suptitle(
        "images of one client, reconstructed from what the server sees: a batch of 1, and a batch of 8", fontsize=9
    )
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    """Attack each view, print the scores, draw the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("leakage.png"))
    parser.add_argument("--steps", type=int, default=100, help="steps of L-BFGS, each of at most 20 evaluations")
    parser.add_argument("--restarts", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(1)
    data, targets = load_digits(return_X_y=True)
    images = torch.from_numpy(data).float().reshape(-1, 1, 8, 8) / 16
    labels = nn.functional.one_hot(torch.from_numpy(targets), CLASSES).float()
    model, rows = make_model(), {}
    for size in (1, 8):
        batches = [slice(client * size, (client + 1) * size) for client in range(CLIENTS)]
        gradients = [gradient(model, images[batch], labels[batch]).detach() for batch in batches]
        truth = images[batches[0]]
        blind: Callable[[], Tensor] = images.mean(0, keepdim=True).expand(size, 1, 8, 8).clone
        rows[size] = {"truth": (truth, float("inf"))}
        others = images[1000 : 1000 + size * CLIENTS]
        print(f"batch of {size}: a blind guess has {match(truth, blind())[1]:.1f} dB")
        print(
            f"  the best {size} of {len(others)} other digits have {match(truth, others)[1]:.1f} dB: compare them with the sum"
        )
        for name, observed in views(gradients).items():
            count = size * CLIENTS if name == "sum" else size
            rows[size][name] = match(truth, invert(model, observed, count, options.steps, options.restarts))
            print(f"  {name:<12} {rows[size][name][1]:6.1f} dB", flush=True)
    draw(rows, options.out)


if __name__ == "__main__":
    main()
