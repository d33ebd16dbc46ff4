"""ResNet-18 for small images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

from torch import Tensor, nn
from torchvision.models import resnet18

from fedlit.core.errors import raise_errors, require, require_choice
from fedlit.models.networks import image


class ResNet18(nn.Module):
    """torchvision's ResNet-18 for small images: the stem is one 3x3 convolution with stride 1, without max-pooling.

    11,173,962 parameters on 3x32x32 with ten classes, whichever the norm; `batch` adds 9,600 running statistics and 20 counts
    as buffers, `group` none. Clients that see different classes have different batch statistics, and these do not average
    well; hence group normalisation by default (Hsieh et al.), with the two groups in each layer of Reddi et al.'s ResNet-18.

    Source: He et al., Deep Residual Learning for Image Recognition, CVPR 2016, https://arxiv.org/abs/1512.03385; Hsieh et al.,
    The Non-IID Data Quagmire of Decentralized Machine Learning, ICML 2020, https://arxiv.org/abs/1910.00189; Reddi et al.,
    Adaptive Federated Optimization, ICLR 2021, https://arxiv.org/abs/2003.00295

    Args:
        shape: of one image: channels, height, width; sides of at least 8, with `batch` of at least 9.
        classes: number of classes.
        norm: after each convolution; `batch` brings running statistics, `group` none.
        groups: number of them in each layer's channels, with `group`; a divisor of 64.
    """

    def __init__(
        self, shape: Sequence[int], classes: int, norm: Literal["batch", "group"] = "group", groups: int = 2
    ) -> None:
        super().__init__()
        divides = groups >= 1 and not 64 % groups
        why = "must divide 64, the channels of the first layers"
        raise_errors(
            require_choice("norm", norm, ["batch", "group"]),
            require(divides, "groups", groups, why, "the literature takes 2"),
        )
        # three strides of 2 leave one pixel of 8: batch statistics of a batch of one image would be those of one value
        channels, _, _ = image(shape, least=9 if norm == "batch" else 8)
        layers: dict[str, Callable[[int], nn.Module]] = {
            "batch": nn.BatchNorm2d,
            "group": partial(nn.GroupNorm, groups),
        }
        self.network = resnet18(weights=None, num_classes=classes, norm_layer=layers[norm])
        self.network.conv1 = nn.Conv2d(channels, 64, 3, padding=1, bias=False)
        # as torchvision's other convolutions
        nn.init.kaiming_normal_(self.network.conv1.weight, mode="fan_out", nonlinearity="relu")
        self.network.maxpool = nn.Identity()  # type: ignore[assignment]

    def forward(self, x: Tensor) -> Tensor:
        """Logits (n, classes) of images (n, channels, height, width)."""
        return self.network(x)
