"""A recurrent network that predicts the next character of a text."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from fedlit.core.errors import ConfigError, raise_errors, require_positive


class CharLSTM(nn.Module):
    """LEAF's network for Shakespeare: an embedding, LSTM layers and a dense layer.

    The defaults are an embedding of 8 values and two LSTM layers of 256 units. The dense layer reads the last output of the
    last LSTM layer. The network has 819,920 parameters with LEAF's 80 characters: 2,048 more than TensorFlow's, since torch's
    LSTM has a second, redundant bias vector in each layer. As in LEAF, it predicts only the character after the text; McMahan
    et al. and Reddi et al. predict the character after each character.

    Source: McMahan et al., Communication-Efficient Learning of Deep Networks from Decentralized Data, AISTATS 2017, section 3,
    https://arxiv.org/abs/1602.05629; Caldas et al., LEAF: A Benchmark for Federated Settings, 2018,
    https://arxiv.org/abs/1812.01097; Reddi et al., Adaptive Federated Optimization, ICLR 2021, https://arxiv.org/abs/2003.00295

    Args:
        shape: length of one text, as a list of one number. LEAF's is 80.
        classes: size of the vocabulary.
        embedding: number of values in the embedding of a character.
        hidden: number of units of each LSTM layer.
        layers: number of LSTM layers.
    """

    def __init__(
        self, shape: Sequence[int], classes: int, embedding: int = 8, hidden: int = 256, layers: int = 2
    ) -> None:
        super().__init__()
        if len(shape) != 1 or shape[0] < 1:
            raise ConfigError(
                "shape",
                list(shape),
                "must be the length of a text",
                "use data of character ids, such as data=shakespeare",
            )
        raise_errors(
            require_positive("embedding", embedding),
            require_positive("hidden", hidden),
            require_positive("layers", layers),
        )
        self.embedding = nn.Embedding(classes, embedding)
        self.lstm = nn.LSTM(embedding, hidden, layers, batch_first=True)
        self.output = nn.Linear(hidden, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (n, classes) of the next character.

        Args:
            x: texts as character ids, integers below `classes`, shape (n, length).
        """
        outputs, _ = self.lstm(self.embedding(x))
        return self.output(outputs[:, -1])
