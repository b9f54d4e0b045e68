"""Evolution follows what optimisers do: any number of them, wrapped ones, and steps that were none."""

import copy
import itertools
import pickle
from collections import OrderedDict

import pytest
import torch
from torch import Tensor, nn

from alignonce import (
    Backpropagation,
    KolenPollack,
    LearningRule,
    PeriodicAlignment,
    SignSymmetry,
    SoftAlignment,
    WeightMirror,
    evolve,
    evolve_after,
    feedback_weights,
    set_learning_rule,
)

RULES = [
    KolenPollack(0.01),
    SignSymmetry("batch"),
    PeriodicAlignment(every=2, cosine=0.9),
    WeightMirror(every=2),
]
STEPS = 5


class SAM(torch.optim.Optimizer):
    """Sharpness-aware minimisation, as its common implementation goes (github.com/davda54/sam)."""

    def __init__(self, params, base, rho=0.05, **kwargs) -> None:
        super().__init__(params, dict(rho=rho, **kwargs))
        self.base_optimizer = base(self.param_groups, **kwargs)
        self.param_groups = self.base_optimizer.param_groups
        self.defaults.update(self.base_optimizer.defaults)

    @torch.no_grad()
    def first_step(self) -> None:
        parameters = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        norm = torch.stack([p.grad.norm() for p in parameters]).norm()
        for p in parameters:
            self.state[p]["old_p"] = p.data.clone()
            p.add_(p.grad, alpha=0.05 / (float(norm) + 1e-12))
        self.zero_grad()

    @torch.no_grad()
    def second_step(self) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.data = self.state[p]["old_p"]
        self.base_optimizer.step()
        self.zero_grad()

    @torch.no_grad()
    def step(self, closure) -> None:
        self.first_step()
        torch.enable_grad()(closure)()
        self.second_step()


class Lookahead(torch.optim.Optimizer):
    """Slow weights that follow those of another optimiser every second step."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        super().__init__(optimizer.param_groups, {})
        self._begin(optimizer)

    def _begin(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer, self.param_groups = optimizer, optimizer.param_groups
        self.slow = [p.detach().clone() for group in self.param_groups for p in group["params"]]
        self.count = 0

    @torch.no_grad()
    def step(self, closure=None) -> None:
        look_ahead(self)


class UnhookedLookahead(torch.optim.Optimizer):
    """One that leaves out its base's constructor, as most implementations do.

    Its step runs no hooks before the first ``zero_grad``.
    """

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self._optimizer_step_pre_hooks = OrderedDict()
        self._optimizer_step_post_hooks = OrderedDict()
        Lookahead._begin(self, optimizer)
        self.defaults = optimizer.defaults

    @torch.no_grad()
    def step(self, closure=None) -> None:
        look_ahead(self)


def look_ahead(optimizer) -> None:
    optimizer.optimizer.step()
    optimizer.count += 1
    if optimizer.count % 2 == 0:
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        for slow, p in zip(optimizer.slow, parameters, strict=True):
            p.copy_(slow.lerp_(p, 0.5))


class Wrapper:
    """An optimiser's wrapper that is none itself, like those of training frameworks."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer
        self.zero_grad = optimizer.zero_grad

    def step(self, closure=None) -> None:
        self.optimizer.step(closure)


class Adam(torch.optim.Adam):
    """A subclass whose step calls that of its base, which has hooks of its own."""

    def step(self, closure=None) -> None:
        super().step(closure)


OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05),
    "a subclass": lambda p: Adam(p, lr=0.01),
    "sam": lambda p: SAM(p, torch.optim.SGD, lr=0.05),
    "lookahead": lambda p: Lookahead(torch.optim.SGD(p, lr=0.05)),
    "lookahead without hooks": lambda p: UnhookedLookahead(torch.optim.SGD(p, lr=0.05)),
    "a wrapper": lambda p: Wrapper(torch.optim.SGD(p, lr=0.05)),
    "lookahead of sam": lambda p: Wrapper(SAM(p, torch.optim.SGD, lr=0.05)),
    "lbfgs": lambda p: torch.optim.LBFGS(p, lr=0.05, max_iter=2),
}


def mlp() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 3)).double()


def batch(number: int) -> Tensor:
    return torch.randn(4, 6, generator=torch.Generator().manual_seed(number), dtype=torch.float64)


def learn(model: nn.Module, optimizer, number: int) -> None:
    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = model(batch(number)).square().sum()
        loss.backward()
        return loss

    closure()
    optimizer.step(closure)


def state(model: nn.Module) -> list[Tensor]:
    return [value.clone() for value in model.state_dict().values()]


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_evolve_after_once_is_evolve_after_each_step(name: str, rule: LearningRule) -> None:
    ends = []
    for once in (True, False):
        model = mlp()
        set_learning_rule(model, rule)
        optimizer = OPTIMIZERS[name](model.parameters())
        evolution = evolve_after(optimizer, model) if once else None
        for number in range(1, STEPS + 1):
            learn(model, optimizer, number)
            if evolution is None:
                evolve(model, number)
        if evolution is not None:
            assert evolution.steps == STEPS
        ends.append(state(model))
    assert same(*ends)


def test_sam_in_its_two_parts_counts_once() -> None:
    ends = []
    for once in (True, False):
        model = mlp()
        set_learning_rule(model, KolenPollack(0.01))
        optimizer = SAM(model.parameters(), torch.optim.SGD, lr=0.05)
        if once:
            evolve_after(optimizer, model)
        for number in range(1, STEPS + 1):
            for part in (optimizer.first_step, optimizer.second_step):
                model(batch(number)).square().sum().backward()
                part()
            if not once:
                evolve(model, number)
        ends.append(state(model))
    assert same(*ends)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_kolen_pollack_takes_the_whole_step_of_a_wrapped_optimiser(name: str) -> None:
    """B - W shrinks by the decay only if B takes all that the outermost step does to W."""
    model = mlp()
    set_learning_rule(model, KolenPollack(0.1))
    before = [(w - b).detach() for _, w, b in feedback_weights(model)]
    optimizer = OPTIMIZERS[name](model.parameters())
    evolve_after(optimizer, model)
    for number in range(1, STEPS + 1):
        learn(model, optimizer, number)
    for start, (_, w, b) in zip(before, feedback_weights(model), strict=True):
        torch.testing.assert_close(w - b, start * 0.9**STEPS)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_forgetting_to_evolve_is_an_error_at_the_second_step_of_a_wrapped_optimiser(name: str) -> None:
    model = mlp()
    set_learning_rule(model, SignSymmetry())
    optimizer = OPTIMIZERS[name](model.parameters())
    learn(model, optimizer, 1)
    before = state(model)
    with pytest.raises(RuntimeError, match=r"evolve\(model, step\) after each .*evolve_after"):
        learn(model, optimizer, 2)
    assert name in ("sam", "lookahead of sam") or same(state(model), before)
    evolve(model, 1)
    learn(model, optimizer, 2)


def test_a_step_that_raises_and_is_made_again_counts_once() -> None:
    class Fails(torch.optim.SGD):
        failing = True

        def step(self, closure=None) -> None:
            if self.failing:
                self.failing = False
                raise torch.OutOfMemoryError
            super().step()

    model = mlp()
    set_learning_rule(model, KolenPollack(0.1))
    inner = Fails(model.parameters(), lr=0.1)
    optimizer = Lookahead(inner)
    evolution = evolve_after(optimizer, model)
    for number in range(1, 4):
        inner.failing = True
        with pytest.raises(torch.OutOfMemoryError):
            learn(model, optimizer, number)
        learn(model, optimizer, number)
        assert evolution.steps == number


def test_several_optimisers_each_evolve_the_weights_that_they_have() -> None:
    model, together = mlp(), mlp()
    for m in (model, together):
        set_learning_rule(m, KolenPollack(0.01))
    optimizers = [torch.optim.SGD(layer.parameters(), lr=0.05) for layer in (model[0], model[2])]
    for optimizer in optimizers:
        evolve_after(optimizer, model)
    one = torch.optim.SGD(together.parameters(), lr=0.05)
    for number in range(1, STEPS + 1):
        model.zero_grad()
        model(batch(number)).square().sum().backward()
        for optimizer in optimizers:
            optimizer.step()
        learn(together, one, number)
        evolve(together, number)
    assert same(state(model), state(together))


def test_an_optimiser_for_each_parameter_that_steps_in_the_backward_pass() -> None:
    model, together = mlp(), mlp()
    for m in (model, together):
        set_learning_rule(m, KolenPollack(0.01))
    for p in model.parameters():
        optimizer = torch.optim.SGD([p], lr=0.05)
        evolve_after(optimizer, model)

        def step(p: Tensor, optimizer: torch.optim.Optimizer = optimizer) -> None:
            optimizer.step()
            optimizer.zero_grad()

        p.register_post_accumulate_grad_hook(step)
    one = torch.optim.SGD(together.parameters(), lr=0.05)
    for number in range(1, STEPS + 1):
        model(batch(number)).square().sum().backward()
        learn(together, one, number)
        evolve(together, number)
    assert same(state(model), state(together))


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_a_resumed_run_goes_on_with_the_number_of_its_steps(rule: LearningRule) -> None:
    model = mlp()
    set_learning_rule(model, rule)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    evolution = evolve_after(optimizer, model)
    for number in range(1, 8):
        if number == 4:
            saved, steps = copy.deepcopy(model.state_dict()), evolution.steps
        learn(model, optimizer, number)
    resumed = mlp()
    set_learning_rule(resumed, rule)
    resumed.load_state_dict(saved)
    optimizer = torch.optim.SGD(resumed.parameters(), lr=0.05)
    assert evolve_after(optimizer, resumed, start=steps).steps == 3
    for number in range(4, 8):
        learn(resumed, optimizer, number)
    assert same(state(model), state(resumed))


def test_a_removed_evolution_leaves_it_to_evolve_again() -> None:
    for make in OPTIMIZERS.values():
        model = mlp()
        set_learning_rule(model, SignSymmetry())
        optimizer = make(model.parameters())
        evolution = evolve_after(optimizer, model)
        learn(model, optimizer, 1)
        evolution.remove()
        evolution.remove()
        assert "step" not in vars(optimizer)
        learn(model, optimizer, 2)
        with pytest.raises(RuntimeError, match="evolve_after"):
            learn(model, optimizer, 3)


def test_evolve_after_follows_the_rule_that_the_model_has_at_each_step() -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    evolve_after(optimizer, model)
    for number, rule in enumerate((Backpropagation(), SoftAlignment(), *RULES), start=1):
        set_learning_rule(model, rule)
        learn(model, optimizer, number)
        learn(model, optimizer, number)


def test_an_optimiser_with_an_evolution_can_be_copied_and_saved() -> None:
    model = mlp()
    set_learning_rule(model, KolenPollack())
    optimizer = torch.optim.Adam(model.parameters())
    evolve_after(optimizer, model)
    learn(model, optimizer, 1)
    pickle.loads(pickle.dumps((model, optimizer)))
    copy.deepcopy((model, optimizer))


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        (lambda m: (object(), m), TypeError, "must be a torch.optim.Optimizer or wrap one, got object"),
        (lambda m: (torch.optim.SGD(mlp().parameters()), m), ValueError, "none of the model's parameters"),
        (lambda m: (torch.optim.SGD(m.parameters()), "m"), TypeError, "model must be a torch.nn.Module"),
    ],
)
def test_wrong_arguments_get_one_clear_error(arguments, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        evolve_after(*arguments(mlp()))


@pytest.mark.parametrize("start", [-1, 1.5, "2", None, True])
def test_the_start_is_a_number_of_steps(start: object) -> None:
    model = mlp()
    with pytest.raises(ValueError, match="start must be an integer, 0 or more"):
        evolve_after(torch.optim.SGD(model.parameters()), model, start=start)


# -- steps that were none ---------------------------------------------------------------------------------


def untouched(model: nn.Module, part: str, steps: "itertools.count[int]", step) -> None:
    """``step(number)`` three times leaves the weights of one layer, and their B, as they are."""
    before = [value.clone() for name, value in model.state_dict().items() if name.startswith(part)]
    for number in itertools.islice(steps, 3):
        step(number)
    after = [value for name, value in model.state_dict().items() if name.startswith(part)]
    assert same(before, after)


@pytest.mark.parametrize("once", [True, False])
@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize("way", ["frozen", "no gradient", "another optimiser's", "nobody's"])
def test_a_weight_that_made_no_step_stays_and_so_does_its_feedback(
    way: str, rule: LearningRule, once: bool
) -> None:
    model = mlp()
    set_learning_rule(model, rule)
    parameters = list(model.parameters())
    if way == "frozen":
        model[0].requires_grad_(False)
    if way == "nobody's":
        parameters = list(model[2].parameters())
    optimizer = torch.optim.SGD(parameters, lr=0.05, momentum=0.9)
    others = torch.optim.SGD(model[0].parameters()) if way == "another optimiser's" else None
    if once:
        evolve_after(optimizer, model)

    def step(number: int) -> None:
        model.zero_grad()
        model(batch(number)).square().sum().backward()
        if way == "no gradient" or others is not None:
            model[0].weight.grad = model[0].bias.grad = None
        optimizer.step()
        if not once:
            evolve(model, number)

    untouched(model, "0.", itertools.count(1), step)


@pytest.mark.parametrize("once", [True, False])
@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("rule", RULES, ids=str)
def test_a_step_that_a_gradient_scaler_skips_is_no_step(rule: LearningRule, fused: bool, once: bool) -> None:
    model = mlp().float()
    set_learning_rule(model, rule)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    evolution = evolve_after(optimizer, model) if once else None

    def step(number: int, factor: float = float("inf")) -> None:
        optimizer.zero_grad()
        scaler.scale((model(batch(number).float()) * factor).square().sum()).backward()
        scaler.step(optimizer)
        scaler.update()
        if not once:
            evolve(model, number)

    untouched(model, "", itertools.count(1), step)
    step(4, 1.0)
    assert evolution is None or evolution.steps == 1
    untouched(model, "", itertools.count(5), step)


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_an_optimiser_that_reports_nothing_evolves_what_it_has_changed(rule: LearningRule) -> None:
    model, reporting = mlp(), mlp()
    for m in (model, reporting):
        set_learning_rule(m, rule)
    optimizer = torch.optim.SGD(reporting[2].parameters(), lr=0.05)
    for number in range(1, STEPS + 1):
        model.zero_grad()
        model(batch(number)).square().sum().backward()
        for p in model[2].parameters():
            p.data -= 0.05 * p.grad
        evolve(model, number)
        evolve(model, number)
        learn(reporting, optimizer, number)
        evolve(reporting, number)
    for a, b in zip(state(model), state(reporting), strict=True):
        torch.testing.assert_close(a, b)
    assert torch.equal(model[0].feedback, reporting[0].feedback)
