import torch

from alignonce.experiments.config.run import RunConfig
from alignonce.experiments.data import load_data
from alignonce.experiments.models import RowLSTM
from alignonce.experiments.tasks import ImageClassification
from alignonce.experiments.training.loop import train


def test_rows_are_read_from_top_to_bottom():
    model = RowLSTM(row=6, outputs=3, depth=1, width=5)
    image = torch.rand(1, 2, 4, 3, generator=torch.Generator().manual_seed(0))
    rows = [torch.cat([image[0, 0, i], image[0, 1, i]]) for i in range(4)]
    states, _ = model.lstm(torch.stack(rows)[None])
    torch.testing.assert_close(model(image), model.head(states[:, -1]))


def test_recurrent_network_learns_without_weight_transport():
    config = RunConfig(
        data="digits", model="lstm", width=32, rule="soft:0.5", epochs=8, learning_rate=0.01, batch_size=64,
        device="cpu",
    )  # fmt: skip
    result = train(config, ImageClassification(load_data("digits")))
    assert result.metrics.last("test_accuracy") > 0.8
    assert result.metrics.layers("cosine") == ["net.lstm.weight_ih_l0", "net.lstm.weight_hh_l0", "net.head"]
