import pytest
import torch

from alignonce.experiments.config.run import RunConfig
from alignonce.experiments.tasks import ImageClassification
from alignonce.experiments.tasks.images import as_pixels
from alignonce.experiments.training.loop import train
from helpers.small_runs import WatchedTask, made_data, made_images, small_config


def test_loss_and_score_are_those_of_the_numbered_examples():
    data = made_images()
    task = ImageClassification(data)
    model = task.build_model(small_config())
    examples = torch.tensor([5, 3, 180])
    loss, scores = task.loss(model, task.batch(examples))
    logits = model(as_pixels(data.train_images))[examples].double()
    labels = data.train_labels[examples]
    torch.testing.assert_close(loss.double(), -torch.log_softmax(logits, 1)[range(3), labels].mean())
    assert int(scores["accuracy"]) == int((logits.argmax(1) == labels).sum())


class Broken(torch.nn.Module):
    def forward(self, x):
        raise RuntimeError("broken")


@pytest.mark.parametrize("fails", [False, True], ids=["succeeds", "fails"])
def test_testing_leaves_each_part_in_its_own_mode(fails):
    task = made_data()
    model = task.build_model(small_config(hidden_norm="batch"))
    frozen = next(m for m in model.modules() if isinstance(m, torch.nn.BatchNorm1d)).eval()
    if fails:
        model = torch.nn.Sequential(model, Broken())
        with pytest.raises(RuntimeError, match="broken"):
            task.evaluate(model)
    else:
        task.evaluate(model)
    assert [m for m in model.modules() if not m.training] == [frozen]
    assert torch.is_grad_enabled()


def seen_images(**changes):
    """What the network of a run is shown in training, in order."""
    seen = []
    task = WatchedTask(made_images(), on_batch=lambda images: seen.append(images.clone()))
    train(small_config(epochs=1, **changes), task)
    return torch.cat(seen)


def test_augmented_images_depend_on_the_seed_and_never_on_the_rule():
    plain, first, other = (
        seen_images(augment=augment, rule=rule)
        for augment, rule in (("none", "bp"), ("shift", "bp"), ("shift", "soft:0.5"))
    )
    assert torch.equal(first, other)
    changed = (first != plain).flatten(1).any(1).float().mean()
    assert changed > 0.5  # of 9 shifts, one is none
    assert not torch.equal(first, seen_images(augment="shift-mirror", rule="bp"))


def test_test_images_are_never_augmented():
    task = ImageClassification(made_images(), "shift-mirror")
    model = task.build_model(small_config())
    assert task.evaluate(model) == ImageClassification(made_images()).evaluate(model)


def test_other_tasks_have_nothing_to_augment():
    with pytest.raises(ValueError, match="augment must be none with task tabular, got shift"):
        RunConfig(task="tabular", augment="shift")
