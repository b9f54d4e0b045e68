"""DistributedDataParallel with two processes learns as one process does on the whole batch."""

import socket
from dataclasses import replace

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel

from alignonce import DirectFeedback, alignment, audit_weight_transport, evolve
from helpers.matrix import FORMATS, KINDS, RULES, loss

STEPS = 3


def train(model: torch.nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(1, STEPS + 1):
        optimizer.zero_grad()
        (loss(model(x)) / len(x)).backward()
        optimizer.step()
        evolve(model, step)
    return [p.detach().clone() for p in model.parameters()] + [b.clone() for b in model.buffers()]


def worker(rank: int, port: int, failures: "mp.Queue[str]") -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", world_size=2, rank=rank)
    ways = [(name, rule, KINDS["Linear"]) for name, rule in RULES.items()]
    formats = {name: replace(KINDS["Linear"], format=format) for name, format in FORMATS.items()}
    ways += [(name, RULES["SoftAlignment"], kind) for name, kind in formats.items()]
    for rule_name, rule, kind in ways:
        x = kind.inputs()
        expected = train(kind.model(rule), x)
        # Each process has a model of its own; feedback weights agree because their seed does.
        model = DistributedDataParallel(kind.model(rule), broadcast_buffers=False)
        for a, e in zip(train(model, x.chunk(2)[rank]), expected, strict=True):
            if not torch.allclose(a.float(), e.float(), atol=1e-5):
                failures.put(
                    f"{rule_name}, process {rank}: differs by {(a.float() - e.float()).abs().max():.2g}"
                )
                break
        report = audit_weight_transport(model, x, loss)
        if report.culprits:
            failures.put(f"{rule_name}, process {rank}: {report}")
        if not isinstance(rule, DirectFeedback) and not alignment(model):
            failures.put(f"{rule_name}, process {rank}: the wrapped model has no feedback weights")
    dist.destroy_process_group()


def test_two_processes_learn_as_one_under_every_rule_and_format() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = mp.get_context("spawn")
    failures = context.Queue()
    mp.spawn(worker, (port, failures), nprocs=2)
    found = []
    while not failures.empty():
        found.append(failures.get())
    assert not found
