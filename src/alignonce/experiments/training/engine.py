"""Where and how a run is computed: device, precision, and the processes that share the work.

All of it is Lightning Fabric's, which also finds out whether `torchrun`, Slurm or another launcher has
started the processes, or starts them itself. Here is how Fabric is set up, and how a batch is dealt out.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeVar, cast

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning_fabric.strategies.ddp import DDPStrategy
from lightning_fabric.strategies.model_parallel import ModelParallelStrategy
from lightning_fabric.strategies.strategy import Strategy
from lightning_fabric.wrappers import _FabricModule
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from alignonce.distributed import keep_feedback_local, shard
from alignonce.experiments.config.devices import pick_device
from alignonce.experiments.config.run import TrainingConfig
from alignonce.experiments.training.state import model_state

_PRECISION: Any = {"32": "32-true", "bf16-mixed": "bf16-mixed", "16-mixed": "16-mixed"}
_GATHERED_IN = {"32": None, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
_T = TypeVar("_T")
_Config = TypeVar("_Config", bound=TrainingConfig)


class MicroBatch(NamedTuple):
    """A part of a batch that this process computes at once, and its weight in the batch's mean loss."""

    examples: Tensor
    weight: float
    is_last: bool

    def share_of(self, loss: Tensor) -> Tensor:
        """Weigh the mean loss of the part's examples.

        Args:
            loss: the mean loss.

        Returns:
            Its share in the batch's.
        """
        return loss if self.weight == 1 else loss * self.weight


def as_launched(config: _Config) -> _Config:
    """Take the number of processes from the launcher, where `torchrun` or Slurm's `srun` has started them.

    Args:
        config: of a run that this process is to take part in.

    Returns:
        The configuration, with `devices` and `num_nodes` as they are.

    Raises:
        ValueError: it asks for other numbers, or Slurm does not say how many there are on each node.
    """
    launcher, devices, nodes = _launched()
    asked = config.devices, config.num_nodes
    if launcher and asked not in ((1, 1), (devices, nodes)):
        raise ValueError(
            f"devices: {launcher} has started {devices} processes on each of {nodes} nodes, but devices "
            f"{asked[0]}, num-nodes {asked[1]} were asked for; leave both out"
        )
    return config.model_copy(update={"devices": devices, "num_nodes": nodes}) if launcher else config


def _launched() -> tuple[str, int, int]:
    """Who has started this process, how many on each machine, and on how many machines."""
    env = os.environ
    if TorchElasticEnvironment.detect():
        devices = int(env["LOCAL_WORLD_SIZE"])
        return "torchrun", devices, int(env["WORLD_SIZE"]) // devices
    # Within a job, but not by srun, there is one process, whatever the job could start.
    if "SLURM_STEP_NUM_TASKS" in env and SLURMEnvironment.detect():
        if int(env["SLURM_NTASKS"]) > 1 and "SLURM_NTASKS_PER_NODE" not in env:
            raise ValueError("devices: ask Slurm for --nodes and --ntasks-per-node in place of --ntasks")
        return "srun", int(env.get("SLURM_NTASKS_PER_NODE", 1)), int(env.get("SLURM_NNODES", 1))
    return "", 1, 1


class Engine:
    """Fabric as a configuration asks for it.

    With several processes, each runs the same program. What is learnt is to rounding what one process learns
    with the same configuration, as long as the network has no statistics over a batch, such as BatchNorm's.

    Args:
        config: the configuration of the run.

    Raises:
        ValueError: the configuration asks for what does not go together, or for a missing device.
    """

    def __init__(self, config: TrainingConfig) -> None:
        if config.compile and config.strategy == "fsdp":
            raise ValueError(
                "compile is not available with strategy fsdp, which shards feedback weights: leave one out"
            )
        self.config = config
        self.fabric = Fabric(
            accelerator=pick_device(config.device).type,
            devices=config.devices,
            num_nodes=config.num_nodes,
            strategy=self._strategy(),
            precision=_PRECISION[config.precision],
        )
        self.fabric.launch()
        self.device = self.fabric.device
        self.processes = self.fabric.world_size
        self.is_first = self.fabric.is_global_zero
        self.is_sharded = config.strategy == "fsdp"

    def _strategy(self) -> str | Strategy:
        processes = self.config.devices * self.config.num_nodes
        if self.config.strategy == "fsdp":
            return ModelParallelStrategy(self._shard, data_parallel_size=processes, tensor_parallel_size=1)
        if self.config.strategy == "ddp" or processes > 1:
            return DDPStrategy()
        return "auto"

    def _shard(self, model: nn.Module, mesh: DeviceMesh) -> nn.Module:
        model = model.to(self.fabric.device)
        return shard(model, mesh["data_parallel"], _GATHERED_IN[self.config.precision])

    def set_up(self, model: nn.Module) -> _FabricModule:
        """Move a network to its device, and spread it over the processes, in place.

        Args:
            model: the network, the same in each process.

        Returns:
            What the training loop calls in its place: compiled, in the precision asked for, and in step with
            the other processes.
        """
        if self.processes > 1 and not self.is_sharded:
            keep_feedback_local(model)
        # Compiling replaces nothing in the model: Fabric takes it out and compiles what it has made of it.
        # One program for each size of batch: with one for several sizes, made when a second is met, a resumed
        # run could compute its batches by another program than before.
        inner: Any = torch.compile(model, dynamic=False) if self.config.compile else model
        return self.fabric.setup_module(inner)

    def set_up_optimizer(self, optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
        """Let an optimiser take part; made after the network was set up.

        Args:
            optimizer: of the network's parameters.

        Returns:
            What the training loop calls in its place.
        """
        return cast(torch.optim.Optimizer, self.fabric.setup_optimizers(optimizer))

    def micro_batches(self, examples: Tensor) -> Iterator[MicroBatch]:
        """Deal a batch out: to the processes, and in the parts that a process computes one by one.

        Args:
            examples: numbers of the batch's examples, the same in each process.

        Yields:
            This process's parts. Over all parts of all processes, weights are shares in the batch, times the
            number of processes, since gradients are averaged over them.
        """
        if self.config.accumulate == 1 and self.processes == 1:
            yield MicroBatch(examples, 1.0, True)
            return
        pieces = [piece for piece in examples.tensor_split(self.config.accumulate) if len(piece)]
        for i, piece in enumerate(pieces):
            mine = piece[self.fabric.global_rank :: self.processes]
            weight = len(mine) * self.processes / len(examples)
            # All processes must take part in each exchange, also one that has nothing to say.
            yield MicroBatch(mine if len(mine) else examples[:1], weight, i == len(pieces) - 1)

    def backward(self, forward: _FabricModule, loss: Tensor, part: MicroBatch) -> None:
        """Add a part's share to the gradients.

        Args:
            forward: what `set_up` returned.
            loss: mean loss of the part's examples.
            part: the part.
        """
        # Processes exchange gradients once in a step, with the last part.
        with self.fabric.no_backward_sync(forward, enabled=not part.is_last):
            self.fabric.backward(part.share_of(loss))

    def whole(self, model: nn.Module, build: Callable[[], nn.Module]) -> nn.Module:
        """Gather a network that is spread over the processes, all of which must call this.

        Args:
            model: the network.
            build: makes one like it, on the CPU.

        Returns:
            The network itself, or a copy in each process if it is spread.
        """
        if not self.is_sharded:
            return model
        state, copy = model_state(model), build()
        copy.load_state_dict(state)
        return copy

    def clip(self, forward: _FabricModule, optimizer: torch.optim.Optimizer) -> None:
        """Shorten the gradient, if the configuration asks for it.

        Args:
            forward: what `set_up` returned.
            optimizer: as Fabric has set it up.
        """
        if self.config.clip is not None:
            self.fabric.clip_gradients(
                forward, optimizer, max_norm=self.config.clip, error_if_nonfinite=False
            )

    def mean(self, values: Tensor) -> Tensor:
        """Average over the processes; one process alone gets its values back.

        Args:
            values: any shape.

        Returns:
            The means.
        """
        if self.processes == 1:
            return values
        mean: Any = self.fabric.all_reduce(values, reduce_op="mean")
        return cast(Tensor, mean)

    def from_each(self, tensor: Tensor) -> list[Tensor]:
        """Collect a tensor of each process; all of them must call this.

        Args:
            tensor: of one shape in all of them.

        Returns:
            The tensors, in the order of the processes.
        """
        if self.processes == 1:
            return [tensor]
        # Not Fabric's all_gather, which stands on a function that PyTorch has given up.
        parts = [torch.empty_like(tensor, device=self.device) for _ in range(self.processes)]
        torch.distributed.all_gather(parts, tensor.to(self.device))
        return parts

    def any(self, flag: bool) -> bool:
        """Return whether something holds in any process; all of them must ask.

        Args:
            flag: whether it holds here.

        Returns:
            The same in each process.
        """
        return flag if self.processes == 1 else bool(self.mean(torch.tensor(float(flag), device=self.device)))

    def wait_for_all(self) -> None:
        """Wait until all processes have come here."""
        self.fabric.barrier()

    def from_first(self, value: _T) -> _T:
        """Hand a value of the first process to all.

        Args:
            value: the value; that of other processes does not count.

        Returns:
            The first process's.
        """
        return value if self.processes == 1 else self.fabric.broadcast(value)
