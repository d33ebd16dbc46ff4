"""ResNet-18 for small images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

from torch import Tensor, nn
from torchvision.models import resnet18

from fedlit.core.errors import raise_errors, require, require_choice
from fedlit.models.networks import image_shape


class ResNet18(nn.Module):
    """torchvision's ResNet-18 with a stem for small images.

    The stem is one 3x3 convolution with stride 1, without max-pooling. The network has 11,173,962 parameters on 3x32x32 with
    ten classes, for both norms; `batch` adds 9,600 running statistics and 20 counts as buffers. Clients with different
    classes have different batch statistics, and their average makes a poor model. So the default is group normalisation
    (Hsieh et al.), with two groups in each layer as in Reddi et al.'s ResNet-18.

    Source: He et al., Deep Residual Learning for Image Recognition, CVPR 2016, https://arxiv.org/abs/1512.03385; Hsieh et al.,
    The Non-IID Data Quagmire of Decentralized Machine Learning, ICML 2020, https://arxiv.org/abs/1910.00189; Reddi et al.,
    Adaptive Federated Optimization, ICLR 2021, https://arxiv.org/abs/2003.00295

    Args:
        shape: channels, height and width of one image; sides of at least 8, with `batch` of at least 9.
        classes: number of classes.
        norm: normalisation after each convolution.
        groups: number of groups of each layer's channels, with `group`; a divisor of 64.
    """

    def __init__(
        self, shape: Sequence[int], classes: int, norm: Literal["batch", "group"] = "group", groups: int = 2
    ) -> None:
        super().__init__()
        is_divisor = groups >= 1 and not 64 % groups
        why = "must divide 64, the channels of the first layers"
        raise_errors(
            require_choice("norm", norm, ["batch", "group"]),
            require(is_divisor, "groups", groups, why, "the literature uses 2"),
        )
        # three strides of 2 reduce 8 pixels to one, and batch statistics of one image would be those of one value
        channels, _, _ = image_shape(shape, min_side=9 if norm == "batch" else 8)
        layers: dict[str, Callable[[int], nn.Module]] = {
            "batch": nn.BatchNorm2d,
            "group": partial(nn.GroupNorm, groups),
        }
        self.network = resnet18(weights=None, num_classes=classes, norm_layer=layers[norm])
        self.network.conv1 = nn.Conv2d(channels, 64, 3, padding=1, bias=False)
        # the initialisation of torchvision's other convolutions
        nn.init.kaiming_normal_(self.network.conv1.weight, mode="fan_out", nonlinearity="relu")
        self.network.maxpool = nn.Identity()  # type: ignore[assignment]

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (n, classes) of images (n, channels, height, width)."""
        return self.network(x)
