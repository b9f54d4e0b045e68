import math

import numpy as np
import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from alignonce import RandomFeedback, set_learning_rule
from alignonce.experiments.config.devices import pick_device
from alignonce.experiments.config.schedules import rate_factor
from alignonce.experiments.config.seeds import derived_seed
from alignonce.experiments.training.loop import evaluate, train
from helpers.small_runs import WatchedTask, made_data, made_images, small_config, without_time


def test_run_twice_measures_bitwise_the_same():
    config, data = small_config(rule="soft:0.5"), made_data()
    first, second = train(config, data), train(config, data)
    assert without_time(first.metrics) == without_time(second.metrics)
    states = first.model.state_dict(), second.model.state_dict()
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_rules_of_one_seed_see_the_same_batches_and_start_alike():
    batches = {}
    for rule in ("bp", "fa", "soft:0.5"):
        seen = []
        task = WatchedTask(made_images(), on_batch=lambda images, seen=seen: seen.append(images.clone()))
        result = train(small_config(rule=rule), task)
        batches[rule] = seen, result.metrics.series("step_loss")[1][0]
    for rule in ("fa", "soft:0.5"):
        assert len(batches[rule][0]) == len(batches["bp"][0])
        assert all(torch.equal(a, b) for a, b in zip(batches[rule][0], batches["bp"][0], strict=True))
        assert batches[rule][1] == batches["bp"][1]


def test_batches_differ_between_seeds_and_cover_each_epoch():
    sizes = []
    data = WatchedTask(made_images(train_size=70), on_batch=lambda images: sizes.append(len(images)))
    losses = [
        train(small_config(seed=seed, epochs=1), data).metrics.series("step_loss")[1] for seed in (0, 1)
    ]
    assert sizes == [32, 32, 6] * 2
    assert losses[0] != losses[1]


def test_alignment_of_one_keeps_up_with_backpropagation_at_first():
    data = made_data()
    start = [train(small_config(rule=r), data).metrics.series("step_loss")[1][:2] for r in ("bp", "soft:1")]
    assert start[0] == pytest.approx(start[1], rel=1e-6)


def test_global_random_state_is_untouched():
    torch.manual_seed(5)
    before, before_numpy = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    train(small_config(rule="fa", model="resnet", width=4, epochs=1), made_data())
    assert torch.equal(torch.get_rng_state(), before)
    assert (np.random.get_state()[1] == before_numpy).all()  # noqa: NPY002


@pytest.mark.parametrize("model", ["mlp", "resnet"])
@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_networks_learn_with_every_optimizer(model, optimizer):
    config = small_config(
        model=model, optimizer=optimizer, depth=1, width=8, epochs=4, learning_rate=0.01, weight_decay=1e-4
    )
    result = train(config, made_data())
    assert result.status == "done"
    assert result.metrics.last("test_accuracy") > 0.9
    assert result.metrics.last("train_loss") < result.metrics.series("train_loss")[1][0]


def test_measurements_say_where_in_training_they_were_made():
    result = train(small_config(rule="soft:0.5"), made_data())
    metrics = result.metrics
    assert metrics.series("step_loss")[0] == [step / 7 for step in range(1, 15)]
    assert metrics.series("train_accuracy")[0] == [1, 2]
    epochs, accuracies = metrics.series("test_accuracy")
    assert epochs[0] == 0
    assert epochs[-2:] == [1, 2]
    assert len([epoch for epoch in epochs if 0 < epoch < 1]) == 3
    assert all(0 <= value <= 1 for value in accuracies)
    assert metrics.layers("angle_deg") == ["net.hidden1", "net.hidden2", "net.output"]
    for layer in metrics.layers("angle_deg"):
        assert metrics.series("angle_deg", layer)[0] == epochs
        assert metrics.series("angle_deg", layer)[1][0] == pytest.approx(60, abs=1e-3)
    assert train(small_config(rule="bp"), made_data()).metrics.layers("angle_deg") == []


def test_reported_accuracies_are_those_of_the_returned_model():
    data = made_data()
    result = train(small_config(), data)
    logits = result.model.eval()(data.images.test_images / 255)
    accuracy = (logits.argmax(1) == data.images.test_labels).double().mean().item()
    assert result.metrics.last("test_accuracy") == accuracy
    loss = -torch.log_softmax(logits.double(), 1)[range(60), data.images.test_labels].mean().item()
    assert result.metrics.last("test_loss") == pytest.approx(loss, rel=1e-5)


def test_evaluation_in_parts_equals_the_whole_and_keeps_the_mode():
    data = made_data()
    model = train(small_config(model="resnet", width=4, epochs=1), data).model
    assert model.training
    whole = evaluate(model, data.images.test_images, data.images.test_labels)
    parts = evaluate(model, data.images.test_images, data.images.test_labels, at_once=7)
    assert parts == pytest.approx(whole, rel=1e-6)
    assert model.training
    evaluate(model.eval(), data.images.test_images, data.images.test_labels)
    assert not model.training


@pytest.mark.parametrize("check", [1, 3, 20, 1000])
def test_divergence_is_recorded_with_its_exact_step(check):
    data = made_data()
    # Independent reference: the plain loop, looked at in every step.
    losses = _losses_of_plain_loop(data, learning_rate=1e12)
    first_bad = next(i for i, loss in enumerate(losses, start=1) if not math.isfinite(loss))
    config = small_config(rule="fa", optimizer="sgd", learning_rate=1e12, epochs=3)
    result = train(config, data, steps_per_check=check)
    assert result.status == "diverged"
    assert result.step == first_bad
    recorded = result.metrics.series("step_loss")[1]
    assert len(recorded) == first_bad
    assert all(map(math.isfinite, recorded[:-1]))
    assert not math.isfinite(recorded[-1])


def _losses_of_plain_loop(data, learning_rate):
    config = small_config(rule="bp", optimizer="sgd", learning_rate=learning_rate)
    model = data.build_model(config)
    set_learning_rule(model, RandomFeedback(seed=derived_seed(0, "feedback")))
    optimizer = torch.optim.SGD(model.parameters(), lr=learning_rate, momentum=0.9)
    generator = torch.Generator().manual_seed(derived_seed(0, "batches"))
    losses = []
    for _ in range(3):
        for batch in torch.randperm(200, generator=generator).split(32):
            loss = torch.nn.functional.cross_entropy(
                model(data.images.train_images[batch] / 255), data.images.train_labels[batch]
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return losses


def test_divergence_in_the_very_last_step_is_found():
    steps = []

    @torch.no_grad()
    def break_the_last_time(optimizer, args, kwargs):
        steps.append(1)
        if len(steps) == 14:
            optimizer.param_groups[0]["params"][0].fill_(math.nan)

    handle = register_optimizer_step_post_hook(break_the_last_time)
    try:
        result = train(small_config(optimizer="sgd"), made_data())
    finally:
        handle.remove()
    assert (result.status, result.step) == ("diverged", 14)


def test_interrupt_keeps_what_was_measured():
    def interrupt(progress):
        if progress.step == 17:
            raise KeyboardInterrupt

    config = small_config(rule="fa", epochs=30)
    result = train(config, made_data(), interrupt, steps_per_check=1)
    assert result.status == "interrupted"
    assert result.step == 17
    whole = train(config, made_data())
    kept = without_time(result.metrics)
    assert len(result.metrics.series("step_loss")[1]) == result.step
    assert kept == without_time(whole.metrics)[: len(kept)]


def test_progress_reports_steps_and_test_accuracy():
    reports = []
    train(small_config(), made_data(), reports.append)
    assert [report.step for report in reports] == [7, 14]
    assert {report.total_steps for report in reports} == {14}
    assert all(0 <= report.test_accuracy <= 1 for report in reports)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_missing_gpu_is_said_plainly():
    with pytest.raises(ValueError, match="device cuda"):
        pick_device("cuda")
    assert pick_device("auto").type == "cpu"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("model", ["mlp", "resnet"])
def test_gpu_and_cpu_agree(model):
    results = [
        train(small_config(model=model, width=8, rule="soft:0.5", device=device), made_data())
        for device in ("cpu", "cuda")
    ]
    for metric in ("step_loss", "test_loss"):
        values = [result.metrics.series(metric)[1] for result in results]
        assert values[0] == pytest.approx(values[1], rel=1e-2, abs=1e-3)


def test_learning_rate_follows_warm_up_and_schedule():
    data = made_data()
    config = small_config(schedule="cosine", warmup=0.25, epochs=2, depth=1)
    rates = []

    def spy(optimizer, args, kwargs):
        rates.append(optimizer.param_groups[0]["lr"])

    handle = register_optimizer_step_pre_hook(spy)
    try:
        total = train(config, data).total_steps
    finally:
        handle.remove()
    warmup = int(0.25 * total)
    expected = [config.learning_rate * rate_factor("cosine", step, total, warmup) for step in range(total)]
    assert rates == pytest.approx(expected)
    assert rates[0] < rates[warmup] == config.learning_rate > rates[-1]
