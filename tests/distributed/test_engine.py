"""DDP and FSDP2 on two processes learn as one process does, and send no more than they must."""

import math
import os
import signal
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from alignonce import (
    PeriodicAlignment,
    alignment,
    audit_weight_transport,
    evolve,
    exact_gradients,
    set_learning_rule,
)
from alignonce.experiments.runs.folder import RunFolder
from alignonce.experiments.runs.train_into import train_and_save
from alignonce.experiments.tasks.images import as_pixels
from alignonce.experiments.training.engine import Engine
from alignonce.experiments.training.loop import build_optimizer, train
from alignonce.formats.base import gathered
from helpers.small_runs import made_data, small_config, without_time
from helpers.two_processes import Sent, run_in_two_processes

pytestmark = pytest.mark.distributed

RULES = [
    {"rule": "bp"},
    {"rule": "fa"},
    {"rule": "soft:0.5"},
    {"rule": "soft:0.5", "format": "low-rank:1/8"},
    {"rule": "soft:0.5", "format": "bf16"},
]
# By SGD: where errors cancel (equal magnitudes, biases of keys), Adam makes whole steps of rounding.
EVOLVING = [
    {"rule": rule, "optimizer": "sgd", "learning_rate": 0.05}
    for rule in ("kp", "mirror", "soft-mirror:0.5", "periodic:2", "usf", "frsf")
]
VIT = [
    {"rule": rule, "model": "vit", "width": 8, "depth": 1, "optimizer": "sgd", "learning_rate": 0.05}
    for rule in ("fa", "kp")
]
STRATEGIES = ("ddp", "fsdp")


def config_of(**changes):
    return small_config(**({"width": 63, "epochs": 1} | changes))


def spread(config, strategy):
    return config.model_copy(update={"devices": 2, "strategy": strategy})


def built(config):
    data = made_data()
    return data.build_model(config)


def size(tensors):
    return sum(t.numel() * t.element_size() for t in tensors)


def learn_alike(rank):
    data = made_data()
    for changes in [
        *RULES, *EVOLVING, {"rule": "dfa"}, *VIT,
        {"rule": "fa", "accumulate": 3, "clip": 0.5}, {"rule": "fa", "batch_size": 199},
    ]:  # fmt: skip
        one = train(config_of(**changes), data)
        for strategy in STRATEGIES:
            two = train(spread(config_of(**changes), strategy), data)
            assert two.status == "done"
            assert len(without_time(two.metrics)) == len(without_time(one.metrics))
            for ours, theirs in zip(without_time(two.metrics), without_time(one.metrics), strict=True):
                assert ours[:4] == theirs[:4]
                assert math.isclose(ours.value, theirs.value, rel_tol=1e-4, abs_tol=1e-5), (
                    changes,
                    strategy,
                    ours,
                    theirs,
                )
            state = one.model.state_dict()
            for name, value in two.model.state_dict().items():
                assert torch.allclose(value, state[name], atol=1e-4), (strategy, changes, name)


def learn_alike_in_mixed_precision(rank):
    data = made_data()
    for changes in RULES:
        config = config_of(precision="bf16-mixed", **changes)
        one = train(config, data).metrics.series("step_loss")[1]
        for strategy in STRATEGIES:
            two = train(spread(config, strategy), data).metrics.series("step_loss")[1]
            assert two == pytest.approx(one, rel=0.02, abs=0.02), (strategy, changes)


def audits(rank):
    data = made_data()
    x, labels = as_pixels(data.images.train_images[:8]), data.images.train_labels[:8]
    for changes in [*RULES, {"rule": "kp"}, {"rule": "dfa"}]:
        for strategy in STRATEGIES:
            config = spread(config_of(**changes), strategy)
            engine, model = Engine(config), built(config)
            forward = engine.set_up(model)
            report = audit_weight_transport(model, x, lambda y: F.cross_entropy(y, labels))
            assert report.free_of_transport == (config.rule != "bp"), f"{changes} {strategy}: {report}"
            # It left the network as it was: exact gradients are backpropagation's, and it goes on learning.
            with exact_gradients(model):
                F.cross_entropy(forward(x), labels).backward()
            plain = built(config_of(rule="bp"))
            F.cross_entropy(plain(x), labels).backward()
            for p, q in zip(model.parameters(), plain.parameters(), strict=True):
                grad = p.grad.full_tensor() if strategy == "fsdp" else p.grad
                assert torch.allclose(grad, q.grad, atol=1e-6), f"{changes} {strategy}"
            optimizer = build_optimizer(model, config)
            F.cross_entropy(forward(x), labels).backward()
            optimizer.step()
            evolve(model, 1)
            assert alignment(model).keys() == alignment(built(config)).keys()


def count_what_is_sent(rank):
    data = made_data()
    batch = as_pixels(data.images.train_images[rank::2]), data.images.train_labels[rank::2]

    def a_step(config):
        engine, model = Engine(config), built(config)
        with Sent() as at_start:
            forward = engine.set_up(model)
        with Sent() as in_step:
            for _ in range(3):  # DDP arranges its buckets in the second step
                in_step.bytes.clear()
                engine.fabric.backward(F.cross_entropy(forward(batch[0]), batch[1]))
        return at_start, in_step.bytes, model

    plain = built(config_of(rule="bp"))
    weights = size(plain.parameters())
    for changes in RULES:
        config = config_of(**changes)
        # DDP: gradients, the two numbers that pixels are normalised by, and nothing else; feedback weights
        # not even at the start.
        at_start, in_step, _ = a_step(spread(config, "ddp"))
        shared = size(plain.buffers())
        assert in_step == {"allreduce": weights, "broadcast": shared}
        # A few bytes more are the shapes of the weights.
        assert weights + shared <= at_start.bytes["broadcast"] < weights + shared + 500
    # FSDP2: of each weight a process lacks the other's half, once forwards and once backwards.
    layers = {name: layer for name, layer in plain.named_modules() if isinstance(layer, torch.nn.Linear)}
    matrices = size(layer.weight for layer in layers.values())
    _, bp, _ = a_step(spread(config_of(rule="bp"), "fsdp"))
    _, dense, model = a_step(spread(config_of(rule="soft:0.5"), "fsdp"))
    _, low, low_model = a_step(spread(config_of(rule="soft:0.5", format="sign"), "fsdp"))
    padding = 0.06  # a row more in one process than in the other
    assert bp["gather"] == pytest.approx(weights, rel=padding)
    # B in place of W, but not for the first layer, which sends no error on.
    first = size([layers["net.hidden1"].weight])
    assert dense["gather"] == pytest.approx(weights / 2 + (matrices - first) / 2, rel=padding)
    assert low["gather"] == pytest.approx(weights / 2, rel=padding)
    assert bp["scatter"] == dense["scatter"] == low["scatter"] == pytest.approx(weights / 2, rel=padding)
    # What a process holds: half of W and of a dense B; all of a compressed one, which is smaller.
    half = size(p.to_local() for p in model.parameters())
    assert half == pytest.approx(weights / 2, rel=padding)
    dense_b = [b.to_local() for n, b in model.named_buffers() if n.endswith("feedback")]
    assert len(dense_b) == 3
    assert size(dense_b) == pytest.approx(matrices / 2, rel=padding)
    # Rules that change B do so where its rows are, at no cost but a dense B's.
    for changes in EVOLVING:
        _, in_step, model = a_step(spread(config_of(**changes), "fsdp"))
        assert in_step == dense, changes
        with Sent() as evolving:
            evolve(model, 10)  # time for each of them
        assert evolving.bytes == {}, changes
    signs = size(b for n, b in low_model.named_buffers() if ".feedback." in n)
    assert signs < matrices / 16


def resume_elsewhere(rank, folder):
    data = made_data()
    config = config_of(rule="soft:0.5", epochs=6)
    whole = train(config, data)

    def stop(progress):
        if progress.step == 21:
            os.kill(os.getpid(), signal.SIGTERM)

    def points(changed):
        return RunFolder(folder / strategy).resume_points(changed, data)

    def goes_on(result, what):
        assert result.status == "done", what
        for metric in ("step_loss", "test_loss", "train_accuracy"):
            ours, theirs = result.metrics.series(metric)[1], whole.metrics.series(metric)[1]
            assert ours == pytest.approx(theirs, rel=1e-3, abs=1e-4), (*what, metric)

    # The order of the examples and all states go on. A point is written at the end of step 40 or so; the
    # ones that finish a run write none, so that each of them goes on from that point.
    for strategy in STRATEGIES:
        (folder / strategy).mkdir(parents=True, exist_ok=True)
        many, other = (spread(config, name) for name in (strategy, *set(STRATEGIES) - {strategy}))
        first = train(many, data, stop, resume=points(many))
        assert first.status == "interrupted", first.status
        Engine(many).wait_for_all()  # the first process writes
        goes_on(train(many, data, resume=points(many)), (strategy, "two to two"))
        goes_on(train(other, data, resume=points(other)), (strategy, "to the other strategy"))
        if rank == 0:
            goes_on(train(config, data, resume=points(config)), (strategy, "two to one"))
        Engine(many).wait_for_all()
    (folder / "one").mkdir(parents=True, exist_ok=True)
    strategy = "one"
    if rank == 0:
        assert train(config, data, stop, resume=points(config)).status == "interrupted"
    for name in STRATEGIES:
        many = spread(config, name)
        Engine(many).wait_for_all()
        goes_on(train(many, data, resume=points(many)), ("one to two", name))
    # Each process normalises over its own part of the batch: another number of them learns something else.
    norms = spread(config_of(rule="fa", model="resnet", width=4, epochs=6), "ddp")
    strategy = "norms"
    (folder / strategy).mkdir(parents=True, exist_ok=True)
    assert train(norms, data, stop, resume=points(norms)).status == "interrupted"
    Engine(norms).wait_for_all()  # the first process writes
    alone = norms.model_copy(update={"devices": 1, "strategy": "auto"})
    with pytest.raises(ValueError, match="the run was on 2 processes, now there are 1"):
        train(alone, data, resume=points(alone))


def save_once(rank, folder):
    data = made_data()
    for strategy in STRATEGIES:
        config = spread(config_of(rule="soft:0.5", checkpoints=3), strategy)
        record = train_and_save(config, data, RunFolder(folder / strategy), engine=Engine(config))
        assert record.summary.status == "done"
        assert RunFolder(folder / strategy).checkpoint_steps() == [0, 4, 7]
        assert (
            RunFolder(folder / strategy).load_model().state_dict().keys() == built(config).state_dict().keys()
        )
    with pytest.raises(ValueError, match="changes each feedback weight as a whole"):
        train(spread(config_of(rule="brsf"), "fsdp"), data)


def aligns_again_by_rows(rank):
    # Cosine and norm are sums over the rows of all processes; "periodic" as a text has cosine 1 only.
    rule, engines = PeriodicAlignment(every=1, cosine=0.3), []
    for config in (config_of(rule="bp"), spread(config_of(rule="bp"), "fsdp")):
        model = built(config)
        set_learning_rule(model, rule)
        Engine(config).set_up(model)
        with torch.no_grad():
            for weight in model.parameters():
                weight.copy_(weight.sin() + 0.1 * weight.cos())
        evolve(model, 1)
        engines.append(model)
        assert list(alignment(model).values()) == pytest.approx([0.3] * 3, abs=1e-5)
    for one, two in zip(engines[0].buffers(), engines[1].buffers(), strict=True):
        assert torch.allclose(gathered(two), one, atol=1e-6)


def forgetting_to_evolve_is_an_error(rank):
    config = spread(config_of(rule="kp"), "fsdp")
    engine, model = Engine(config), built(config)
    forward = engine.set_up(model)
    optimizer = build_optimizer(model, config)
    x = as_pixels(made_data().images.train_images[:8])
    forward(x).sum().backward()
    optimizer.step()
    with pytest.raises(RuntimeError, match=r"call alignonce\.evolve"):
        optimizer.step()


def everything(rank: int, folder: Path) -> None:
    learn_alike(rank)
    learn_alike_in_mixed_precision(rank)
    audits(rank)
    count_what_is_sent(rank)
    resume_elsewhere(rank, folder)
    save_once(rank, folder / "saved")
    aligns_again_by_rows(rank)
    forgetting_to_evolve_is_an_error(rank)


def test_two_processes_do_what_one_does(tmp_path):
    run_in_two_processes(everything, tmp_path)
