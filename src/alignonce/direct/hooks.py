"""Hooks that cut the inputs of modules off, and join them to outputs.

Within a call of the model all that was cut before is remembered, and the trace at conversion says which of it
an output depends on. Past the model's own call (``model.forward(x)``, ``decode(encode(x))``) cuts stay in the
graph, as nodes that let no error through, and the join reads there what its output depends on.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch._compile import _disable_dynamo  # torch.compiler.disable imports the compiler at once
from torch.utils._pytree import tree_map_only

from alignonce.direct.labels import differentiable_tensors
from alignonce.direct.matrices import Action, fits
from alignonce.direct.nodes import CutInput, Join, Mark, cuts_behind
from alignonce.layers.modes import Switch, runs_exactly
from alignonce.rules.base import LearningRule

__all__ = ["Begin", "Cut", "End", "JoinAtOutput", "Refuse", "Routes", "State"]

_REMEDY = "call set_learning_rule again with inputs= that run the model as in training"

Routes = dict[int, tuple[tuple[int, str, Action], ...]]
"""By place of an input: the number of each output that depends on it, the buffer of B, how it acts."""


_Tapped = tuple[Tensor, Tensor, Action, str]
"""B, the input that was cut, how B acts, the module's name."""


class State(Switch):
    """What the hooks of one model share."""

    def __init__(self, rule: LearningRule, outputs: int, hidden: frozenset[int], once: bool) -> None:
        self.rule = rule
        self.hidden = hidden
        self.once = once
        self.running = False
        """Whether a call of the model goes on, in which what was tapped can be counted on."""
        self.marks = False
        """Whether the last forward pass left marks in the graph."""
        self.tapped: list[list[_Tapped]] = [[] for _ in range(outputs)]
        self.joined: set[int] = set()
        self.reached: set[str] = set()
        """Modules whose inputs an output was joined to; counts with several outputs."""

    def is_off(self) -> bool:
        """Return whether this forward pass is backpropagation's, or takes no gradients."""
        return runs_exactly(self) or not torch.is_grad_enabled()

    def clear(self) -> None:
        """Forget what was tapped."""
        for tapped in self.tapped:
            tapped.clear()
        self.joined.clear()
        self.reached.clear()


class Begin:
    """A forward pass of the model begins: what one before left behind does not count."""

    def __init__(self, state: State) -> None:
        self.state = state

    def __call__(self, module: nn.Module, args: Any) -> None:
        """Forget an earlier pass."""
        self.state.running = self.state.once
        self.state.marks = False
        self.state.clear()


class End:
    """A forward pass ends, also by an error: everything that was tapped must have been joined."""

    def __init__(self, state: State) -> None:
        self.state = state

    def __call__(self, module: nn.Module, args: Any, output: Any) -> None:
        """Refuse what was left without an error to come."""
        state = self.state
        state.running = False
        if not any(state.tapped):
            return
        left = [name for tapped in state.tapped for *_, name in tapped]
        names = ", ".join(dict.fromkeys(repr(name) for name in left if name not in state.reached))
        state.clear()
        if names and output is not None:
            raise RuntimeError(
                f"direct feedback: {names} ran after the output layer, or the output layer did not run; "
                f"{_REMEDY}, and run what is not for training under torch.no_grad()"
            )


class Cut:
    """Cut a module's inputs off, and remember them for the outputs' errors."""

    def __init__(self, state: State, name: str, routes: Routes) -> None:
        self.state = state
        self.name = name
        self.routes = routes

    def __call__(self, module: nn.Module, args: Any, kwargs: Any) -> Any:
        """Return arguments that are cut off."""
        if self.state.is_off():
            return None
        if not self.state.running:
            return _cut_in_the_graph(self, module, args, kwargs)
        done: dict[int, Tensor] = {}
        tapped = self.state.tapped

        def cut(x: Tensor) -> Tensor:
            if not x.is_floating_point():
                return x
            if id(x) in done:  # one tensor given twice (query and key) is one input
                return done[id(x)]
            if x.requires_grad:
                for output, buffer, action in self.routes.get(len(done)) or self.routes_of(len(done)):
                    tapped[output].append((getattr(module, buffer), x, action, self.name))
            done[id(x)] = x.detach()
            return done[id(x)]

        return tree_map_only(Tensor, cut, (args, kwargs))

    def routes_of(self, index: int) -> tuple[tuple[int, str, Action], ...]:
        """What is known of an input by its place."""
        routes = self.routes.get(index)
        if routes is None:
            raise RuntimeError(
                f"direct feedback: input {index} of {self.name!r} is to receive an error, and was not when "
                f"the rule was set: {_REMEDY}"
            )
        return routes


@_disable_dynamo
def _cut_in_the_graph(cut: Cut, module: nn.Module, args: Any, kwargs: Any) -> Any:
    """Cut past the model's own call, or in a model whose outputs have to be looked up in the graph."""
    state = cut.state
    recomputing = _recomputing(cut.name)
    if not recomputing:
        _refuse_transforms(cut.name)
        state.marks = True
    done: dict[int, Tensor] = {}
    for index, x in enumerate(differentiable_tensors((args, kwargs))):
        if not x.requires_grad:
            continue
        if state.marks:  # in a recomputation too: a layer saves more where its input has a graph
            routes = cut.routes_of(index)
            feedback = {output: (getattr(module, buffer), action) for output, buffer, action in routes}
            done[id(x)] = Mark.apply(x, CutInput(state, cut.name, x, feedback, joined=recomputing))
        else:
            done[id(x)] = x.detach()
    return tree_map_only(Tensor, lambda x: done.get(id(x), x), (args, kwargs))


def _recomputing(name: str) -> bool:
    """Return whether a checkpoint runs this part of a forward pass again: there, the joins exist already."""
    if torch._C._current_graph_task_id() == -1:
        return False
    if type(torch._C._current_autograd_node()).__name__ == "CheckpointFunctionBackward":
        raise RuntimeError(
            f"direct feedback: {name!r} is in a reentrant checkpoint, in which no graph says what the output "
            "depends on: use checkpoint(..., use_reentrant=False)"
        )
    return True


def _refuse_transforms(name: str) -> None:
    if torch._C._functorch.peek_interpreter_stack() is not None:
        raise RuntimeError(
            f"direct feedback: {name!r} runs under a transform of torch.func past the model's own call, "
            "where no graph says what the output depends on: call the model itself, functional_call(model, "
            "...)"
        )


class JoinAtOutput:
    """Join the tapped inputs to the outputs of a layer, by the place of each among its tensors."""

    def __init__(self, state: State, name: str, numbers: dict[int, int]) -> None:
        self.state = state
        self.name = name
        self.numbers = numbers

    def __call__(self, module: nn.Module, args: Any, output: Any) -> Any:
        """Return the joined output."""
        if not self.state.running:
            return None if self.state.is_off() else _join_in_the_graph(self, output)
        if isinstance(output, Tensor):
            return self.join(output, self.numbers[0])
        joined = {id(x): self.join(x, number) for x, number in self.tensors(output)}
        return tree_map_only(Tensor, lambda x: joined.get(id(x), x), output)

    def tensors(self, output: Any) -> list[tuple[Tensor, int]]:
        """The tensors of what the layer returns that are outputs, and their numbers."""
        found = differentiable_tensors(output)
        return [(found[place], number) for place, number in self.numbers.items() if place < len(found)]

    def join(self, output: Tensor, number: int) -> Tensor:
        """Give an output's error to what was tapped so far and it depends on."""
        state = self.state
        tapped = state.tapped[number]
        if not tapped:
            return output
        if number in state.joined:
            raise RuntimeError(
                f"direct feedback: the output layer {self.name!r} ran twice in one forward pass, and once "
                f"when the rule was set: {_REMEDY}"
            )
        state.joined.add(number)
        state.tapped[number] = []
        if len(state.tapped) > 1:
            names = [name for *_, name in tapped]
            state.reached.update(names)
            self._refuse_repeated(tapped)
        return _join(output, state, number, tapped)

    def _refuse_repeated(self, tapped: list[_Tapped]) -> None:
        seen: set[str] = set()
        for feedback, _, _, name in tapped:
            key = f"{name}/{id(feedback)}"
            if key in seen:
                raise RuntimeError(
                    f"direct feedback: {name!r} ran twice before the output {self.name!r}, and once when "
                    f"the rule was set: {_REMEDY}"
                )
            seen.add(key)


@_disable_dynamo
def _join_in_the_graph(hook: JoinAtOutput, output: Any) -> Any:
    if _recomputing(hook.name):
        return None
    joined = {}
    for x, number in hook.tensors(output):
        tapped: list[_Tapped] = []
        for cut in cuts_behind(x.grad_fn, hook.state):
            cut.joined = True
            if number not in cut.feedback:
                raise RuntimeError(
                    f"direct feedback: the output {hook.name!r} depends on {cut.name!r}, and did not when "
                    f"the rule was set: {_REMEDY}"
                )
            feedback, action = cut.feedback[number]
            tapped.append((feedback, cut.x, action, cut.name))
        if tapped:
            joined[id(x)] = _join(x, hook.state, number, tapped)
    return tree_map_only(Tensor, lambda x: joined.get(id(x), x), output)


def _join(output: Tensor, state: State, number: int, tapped: list[_Tapped]) -> Tensor:
    feedbacks, inputs, actions, _ = zip(*tapped, strict=True)
    size = output.numel()
    for feedback, x, action, name in tapped:
        if not fits(size, feedback, action, x):
            raise ValueError(
                f"direct feedback: the input of {name!r} has shape {tuple(x.shape)} and the output "
                f"{tuple(output.shape)}: other sizes than the batch that set_learning_rule was given"
            )
    # What lies behind a last output belongs to an earlier forward pass.
    end = None if torch.compiler.is_compiling() or number in state.hidden else state
    # The compiler refuses one tensor given twice, as of a layer that runs twice.
    tensors = [*feedbacks, *inputs]
    tensors = [t.view_as(t) if any(t is u for u in tensors[:i]) else t for i, t in enumerate(tensors)]
    if not torch.compiler.is_compiling() and torch._C._autograd._top_saved_tensors_default_hooks(False):
        # A checkpoint around the output layer must not count on B: in its recomputation nothing is joined.
        with torch.autograd.graph.saved_tensors_hooks(_same, _same):
            return Join.apply(output, end, actions, *tensors)
    return Join.apply(output, end, actions, *tensors)


def _same(x: Tensor) -> Tensor:
    return x


class Refuse:
    """On a layer that did not run when the rule was set: no B belongs to it."""

    def __init__(self, state: State, name: str) -> None:
        self.state = state
        self.name = name

    def __call__(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        """Raise if an error would pass."""
        if self.state.is_off() or not any(x.requires_grad for x in differentiable_tensors((args, kwargs))):
            return
        if not self.state.running and not torch.compiler.is_compiling():
            _recomputing(self.name)
        raise RuntimeError(
            f"direct feedback: {self.name!r} did not run, or ran without gradients, when the rule was set: "
            f"{_REMEDY}"
        )
