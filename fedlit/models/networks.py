"""Networks from inputs of a given shape to logits (n, classes)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from fedlit.core.errors import ConfigError, raise_errors, require_choice

Norm = Literal["none", "batch", "group"]


def image_shape(shape: Sequence[int], min_side: int) -> tuple[int, int, int]:
    """Check the shape of an image.

    Returns:
        Channels, height and width.

    Raises:
        ConfigError: if the shape has not three numbers, or height or width is below `min_side`.
    """
    if len(shape) != 3 or min(shape[1:]) < min_side:
        why = f"must be channels, height and width, with sides of at least {min_side}"
        hint = "use images of another size (data=image_folder has data.size) or another model"
        if len(shape) == 1:
            hint = "model=char_lstm reads texts; model=mlp and model=logistic read tables of features"
        raise ConfigError("shape", list(shape), why, hint)
    channels, height, width = shape
    return channels, height, width


class SimpleCNN(nn.Module):
    """The tutorial's CNN: two convolutions and two dense layers.

    Two 3x3 convolutions (32 and 64 channels), each with ReLU and 2x2 max-pooling, then 128 units with dropout. 545,098
    parameters on 3x32x32 with ten classes. Weights and images are channels-last in memory, which is a fifth faster.

    Args:
        shape: channels, height and width of one image; sides of at least 4.
        classes: number of classes.
        norm: normalisation after each convolution; `batch` has running statistics as buffers, `group` (8 groups) has none.
        dropout: probability of dropping one of the 128 units.
    """

    def __init__(self, shape: Sequence[int], classes: int, norm: Norm = "none", dropout: float = 0.5) -> None:
        super().__init__()
        channels, height, width = image_shape(shape, min_side=4)
        if not 0 <= dropout < 1:
            raise ConfigError("dropout", dropout, "must be at least 0 and below 1")
        self.features = nn.Sequential(*_block(channels, 32, norm), *_block(32, 64, norm))
        self.classifier = nn.Sequential(
            nn.Flatten(),
            nn.Linear(64 * (height // 4) * (width // 4), 128),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(128, classes),
        )
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (n, classes) of images (n, channels, height, width)."""
        return self.classifier(self.features(x.contiguous(memory_format=torch.channels_last)))


def _block(before: int, after: int, norm: Norm) -> list[nn.Module]:
    return [nn.Conv2d(before, after, 3, padding=1), *_norm(norm, after), nn.ReLU(), nn.MaxPool2d(2)]


def _norm(norm: Norm, channels: int) -> list[nn.Module]:
    raise_errors(require_choice("norm", norm, ["none", "batch", "group"]))
    return {"none": [], "batch": [nn.BatchNorm2d(channels)], "group": [nn.GroupNorm(8, channels)]}[norm]


class McMahanCNN(nn.Module):
    """McMahan et al.'s CNN: two convolutions and two dense layers.

    Two 5x5 convolutions (32 and 64 channels), each with ReLU and 2x2 max-pooling, then 512 units with ReLU. 1,663,370
    parameters on 1x28x28 with ten classes. Weights and images are channels-last in memory, as in SimpleCNN.

    Source: McMahan et al., Communication-Efficient Learning of Deep Networks from Decentralized Data, AISTATS 2017, section 3,
    https://arxiv.org/abs/1602.05629

    Args:
        shape: channels, height and width of one image; sides of at least 4.
        classes: number of classes.
    """

    def __init__(self, shape: Sequence[int], classes: int) -> None:
        super().__init__()
        channels, height, width = image_shape(shape, min_side=4)
        self.features = nn.Sequential(
            nn.Conv2d(channels, 32, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.classifier = nn.Sequential(
            nn.Flatten(),
            nn.Linear(64 * (height // 4) * (width // 4), 512),
            nn.ReLU(),
            nn.Linear(512, classes),
        )
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (n, classes) of images (n, channels, height, width)."""
        return self.classifier(self.features(x.contiguous(memory_format=torch.channels_last)))


class LeNet(nn.Module):
    """NIID-Bench's CNN: LeNet-5 with ReLU and max-pooling.

    Two 5x5 convolutions without padding (6 and 16 channels), each with ReLU and 2x2 max-pooling, then 120 and 84 units.
    44,426 parameters on 1x28x28 and 62,006 on 3x32x32, with ten classes. Weights and images are channels-last in memory, as
    in SimpleCNN.

    Source: Li, Diao, Chen and He, Federated Learning on Non-IID Data Silos: An Experimental Study, ICDE 2022,
    https://arxiv.org/abs/2102.02079

    Args:
        shape: channels, height and width of one image; sides of at least 16.
        classes: number of classes.
    """

    def __init__(self, shape: Sequence[int], classes: int) -> None:
        super().__init__()
        channels, height, width = image_shape(shape, min_side=16)
        sides = [((side - 4) // 2 - 4) // 2 for side in (height, width)]  # a 5x5 convolution takes 4 pixels off a side
        self.features = nn.Sequential(
            nn.Conv2d(channels, 6, 5),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(6, 16, 5),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.classifier = nn.Sequential(
            nn.Flatten(),
            nn.Linear(16 * math.prod(sides), 120),
            nn.ReLU(),
            nn.Linear(120, 84),
            nn.ReLU(),
            nn.Linear(84, classes),
        )
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (n, classes) of images (n, channels, height, width)."""
        return self.classifier(self.features(x.contiguous(memory_format=torch.channels_last)))


class MLP(nn.Module):
    """Hidden layers with ReLU; the default is McMahan et al.'s 2NN.

    The 2NN has two hidden layers of 200 units: 199,210 parameters on 28x28 with ten classes.

    Args:
        shape: shape of one input.
        classes: number of classes.
        hidden: number of units of each hidden layer.
    """

    def __init__(self, shape: Sequence[int], classes: int, hidden: Sequence[int] = (200, 200)) -> None:
        super().__init__()
        if any(units < 1 for units in hidden):
            raise ConfigError("hidden", list(hidden), "must be whole numbers of at least 1")
        widths = [math.prod(shape), *hidden]
        layers = [layer for pair in pairwise(widths) for layer in (nn.Linear(*pair), nn.ReLU())]
        self.layers = nn.Sequential(nn.Flatten(), *layers, nn.Linear(widths[-1], classes))

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (n, classes)."""
        return self.layers(x)


class Logistic(nn.Module):
    """Logistic regression; two classes have one logit, that of class 1.

    Args:
        shape: shape of one input.
        classes: number of classes.
    """

    def __init__(self, shape: Sequence[int], classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(math.prod(shape), 1 if classes == 2 else classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (n, classes), or (n, 1) with two classes."""
        return self.linear(x.flatten(1))
