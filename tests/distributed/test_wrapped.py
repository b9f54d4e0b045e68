"""What PyTorch spreads over processes in other ways: FSDP1, and the optimiser's state."""

import re

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.distributed.fsdp.wrap import ModuleWrapPolicy
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.nn.parallel import DistributedDataParallel

from alignonce import (
    Backpropagation,
    Dense,
    Int8,
    KolenPollack,
    LearningRule,
    SignSymmetry,
    SoftAlignment,
    alignment,
    evolve,
    evolve_after,
    exact_gradients,
    set_learning_rule,
)
from helpers.two_processes import run_in_two_processes

pytestmark = pytest.mark.distributed

STEPS = 3


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 8))
        self.middle = nn.Conv1d(8, 4, 1)
        self.last = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.middle(self.first(x)[..., None]).flatten(1))


def network(rule: LearningRule, **options) -> Network:
    model = Network()
    set_learning_rule(model, rule, **options)
    return model


def batch(number: int) -> Tensor:
    return torch.randn(8, 6, generator=torch.Generator().manual_seed(number))


def learn(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor) -> None:
    optimizer.zero_grad()
    model(x).square().mean().backward()
    optimizer.step()


def fsdp1(model: nn.Module, use_orig_params: bool) -> FullyShardedDataParallel:
    return FullyShardedDataParallel(
        model,
        use_orig_params=use_orig_params,
        auto_wrap_policy=ModuleWrapPolicy({nn.Sequential}),
        device_id=torch.device("cpu"),
    )


def fixed_rules_learn_alike_under_fsdp1(rank: int) -> None:
    for format in (Dense(), Dense(torch.bfloat16), Int8()):
        for use_orig_params in (True, False):
            alone = network(SoftAlignment(0.5), format=format)
            model = fsdp1(network(SoftAlignment(0.5), format=format), use_orig_params)
            one, two = (torch.optim.SGD(m.parameters(), lr=0.1) for m in (alone, model))
            for number in range(1, STEPS + 1):
                learn(alone, one, batch(number))
                evolve(model, number)  # nothing evolves, so that there is nothing to refuse
                learn(model, two, batch(number).chunk(2)[rank])
            torch.testing.assert_close(model(batch(0)), alone(batch(0)))
            with exact_gradients(model):
                model(batch(0)).sum().backward()


def evolving_rules_are_refused_under_fsdp1(rank: int) -> None:
    refused = re.escape("wrapped by FullyShardedDataParallel (FSDP1)")
    for rule in (KolenPollack(), SignSymmetry()):
        for use_orig_params in (True, False):
            model = fsdp1(network(rule), use_orig_params)
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            with pytest.raises(RuntimeError, match=refused):
                evolve(model, 1)
            with pytest.raises(RuntimeError, match=refused):
                evolve_after(optimizer, model)
            with pytest.raises(RuntimeError, match=f"{refused}|evolve_after"):  # noqa: PT012
                for number in range(2):
                    learn(model, optimizer, batch(number))


def a_rule_is_not_set_or_measured_under_fsdp1(rank: int) -> None:
    for use_orig_params in (True, False):
        for model in (fsdp1(Network(), use_orig_params), fsdp1(network(SoftAlignment()), use_orig_params)):
            for rule in (SoftAlignment(), KolenPollack(), Backpropagation()):
                with pytest.raises(RuntimeError, match=r"by FSDP2 with alignonce\.distributed\.shard"):
                    set_learning_rule(model, rule)
            with pytest.raises(RuntimeError, match="FSDP1"):
                alignment(model)


def a_sharded_optimiser_steps_once(rank: int) -> None:
    for once in (True, False):
        alone = network(KolenPollack(0.01))
        model = DistributedDataParallel(network(KolenPollack(0.01)))
        one = torch.optim.SGD(alone.parameters(), lr=0.1)
        two = ZeroRedundancyOptimizer(model.parameters(), torch.optim.SGD, lr=0.1)
        if once:
            evolve_after(one, alone)
            evolve_after(two, model)
        for number in range(1, STEPS + 1):
            learn(alone, one, batch(number))
            learn(model, two, batch(number).chunk(2)[rank])
            if not once:
                evolve(alone, number)
                evolve(model, number)
        for a, b in zip(alone.state_dict().values(), model.module.state_dict().values(), strict=True):
            torch.testing.assert_close(a, b)


def everything(rank: int) -> None:
    dist.init_process_group("gloo", world_size=2, rank=rank)
    fixed_rules_learn_alike_under_fsdp1(rank)
    evolving_rules_are_refused_under_fsdp1(rank)
    a_rule_is_not_set_or_measured_under_fsdp1(rank)
    a_sharded_optimiser_steps_once(rank)
    dist.barrier()  # none goes while another is at work
    dist.destroy_process_group()


def test_two_processes_learn_as_one_or_are_refused() -> None:
    run_in_two_processes(everything)
