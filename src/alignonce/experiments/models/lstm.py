"""A recurrent network that reads an image row by row."""

from torch import Tensor, nn


class RowLSTM(nn.Module):
    """An LSTM over the rows of an image, from top to bottom, and a linear layer on its last state.

    Args:
        row: pixels in a row, in all channels.
        outputs: classes.
        depth: LSTM layers.
        width: units in a layer.
    """

    def __init__(self, row: int, outputs: int, depth: int, width: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(row, width, depth, batch_first=True)
        self.head = nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, channels, height, width) to logits, (batch, outputs)."""
        states, _ = self.lstm(x.transpose(1, 2).flatten(2))
        return self.head(states[:, -1])
