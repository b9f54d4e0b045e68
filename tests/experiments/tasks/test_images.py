import torch
from small_runs import made_data, small_config

from alignonce.experiments.tasks import ImageClassification
from alignonce.experiments.tasks.images import as_pixels
from alignonce.experiments.training import train


def test_task_and_its_data_train_alike():
    data, config = made_data(), small_config(epochs=1)
    states = [train(config, given).model.state_dict() for given in (data, ImageClassification(data))]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_loss_and_score_are_those_of_the_numbered_examples():
    data = made_data()
    task = ImageClassification(data)
    model = task.build_model(small_config())
    examples = torch.tensor([5, 3, 180])
    loss, scores = task.loss(model, task.batch(examples))
    logits = model(as_pixels(data.train_images))[examples].double()
    labels = data.train_labels[examples]
    torch.testing.assert_close(loss.double(), -torch.log_softmax(logits, 1)[range(3), labels].mean())
    assert int(scores["accuracy"]) == int((logits.argmax(1) == labels).sum())
