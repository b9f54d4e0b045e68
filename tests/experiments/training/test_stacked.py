import pytest
import torch
from torch.nn import functional as F

from alignonce import alignment
from alignonce.experiments.training.stacked import StackedNetworks
from helpers.small_runs import made_data, small_config


@pytest.fixture
def task():
    return made_data()


def networks_of(task, rules, **changes):
    return [
        task.build_model(small_config(rule=rule, seed=seed, **changes)) for seed, rule in enumerate(rules)
    ]


@pytest.mark.parametrize("calls", [1, 20], ids=["traced", "untraced"])
def test_gradients_are_those_of_each_network_on_its_own_batch(task, calls):
    networks = networks_of(task, ["fa", "soft:0.5", "soft:1"])
    stacked = StackedNetworks(networks, task.loss, calls)
    for size in (8, 5):
        examples = torch.randperm(200, generator=torch.Generator().manual_seed(size))[: 3 * size].view(
            3, size
        )
        losses, scores = stacked.learn(task.batch(examples))
        for i, network in enumerate(networks):
            network.zero_grad()
            images, labels = task.batch(examples[i])
            logits = network(images)
            loss = F.cross_entropy(logits, labels)
            loss.backward()
            assert float(losses[i]) == pytest.approx(loss.item(), rel=1e-6)
            assert int(scores["accuracy"][i]) == int((logits.argmax(1) == labels).sum())
            for stack, weight in zip(stacked.weights, network.parameters(), strict=True):
                torch.testing.assert_close(stack.grad[i], weight.grad, rtol=1e-5, atol=1e-7)


def test_tracing_counts_no_batch_for_running_statistics(task):
    networks = networks_of(task, ["fa", "fa"], model="resnet", depth=1, width=4)
    stacked = StackedNetworks(networks, task.loss, 2)
    for batches, size in enumerate((8, 8, 8, 5), start=1):  # traced in the second
        stacked.learn(task.batch(torch.arange(2 * size).view(2, size)))
        counts = [value for name, value in stacked.network(0).named_buffers() if name.endswith("tracked")]
        assert counts
        assert all(int(count) == batches for count in counts)


def test_tests_leave_networks_as_they_are(task):
    networks = networks_of(task, ["fa", "fa"], model="resnet", depth=1, width=4)
    stacked = StackedNetworks(networks, task.loss)
    before = [value.clone() for value in networks[0].state_dict().values()]
    losses, scores = stacked.test(task.batch(torch.arange(20)))
    assert losses.shape == scores["accuracy"].shape == (2,)
    assert all(
        torch.equal(a, b) for a, b in zip(before, stacked.network(0).state_dict().values(), strict=True)
    )
    assert networks[0].training


def test_cosines_are_those_of_each_network(task):
    networks = networks_of(task, ["fa", "soft:0.5", "soft:-1"])
    cosines = StackedNetworks(networks, task.loss).cosines()
    for i, network in enumerate(networks):
        assert {layer: values[i] for layer, values in cosines.items()} == pytest.approx(alignment(network))
    assert StackedNetworks(networks_of(task, ["bp", "bp"]), task.loss).cosines() == {}


def test_networks_keep_their_values_until_they_are_asked_for(task):
    networks = networks_of(task, ["fa", "fa"])
    stacked = StackedNetworks(networks, task.loss)
    before = networks[1].get_parameter("net.output.weight").detach().clone()
    with torch.no_grad():
        for weight in stacked.weights:
            weight.add_(1)
    assert torch.equal(networks[1].get_parameter("net.output.weight"), before)
    assert stacked.network(1) is networks[1]
    assert torch.equal(networks[1].get_parameter("net.output.weight"), before + 1)
