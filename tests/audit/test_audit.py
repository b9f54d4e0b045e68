"""The audit finds every backward read of a forward weight, and nothing else."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from alignonce import (
    Backpropagation,
    LowRank,
    RandomFeedback,
    SoftAlignment,
    audit_weight_transport,
    set_learning_rule,
)

RULES = [RandomFeedback(), SoftAlignment(0.5), SoftAlignment(1.0)]


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))


def cnn(norm: bool = False) -> nn.Sequential:
    layers = [nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4) if norm else nn.Identity(), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(4, 4, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(16, 4))


def batch(model: nn.Module) -> Tensor:
    return torch.randn(3, 6) if isinstance(model[0], nn.Linear) else torch.randn(3, 2, 6, 6)


def loss(output: Tensor) -> Tensor:
    return F.cross_entropy(output, torch.tensor([0, 1, 2]))


class Culprit(nn.Module):
    """A linear layer written by hand, so that it transports its weight."""

    def __init__(self, width: int, how: str = "plain") -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(width, width))
        self.how = how

    def forward(self, x: Tensor) -> Tensor:
        weight = {
            "plain": lambda w: w,
            "copy": lambda w: w.clone(),
            "cast": lambda w: w.double().float(),
            "normalised": lambda w: w / w.norm(dim=1, keepdim=True) + torch.eye(w.shape[0]),
            "sign": torch.sign,
            "changed in part": lambda w: w.clone().index_add_(0, torch.zeros(1, dtype=int), x[:1]),
            "mask": lambda w: torch.where(w.detach() > 0, torch.ones(()), -torch.ones(())),
        }[self.how](self.weight)
        return x @ weight


@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize("make", [mlp, cnn])
def test_mlp_and_cnn_are_free_of_transport_under_fixed_feedback(make, rule) -> None:
    model = make()
    set_learning_rule(model, rule)
    report = audit_weight_transport(model, batch(model), loss)
    assert report.free_of_transport
    assert str(report).endswith("free of weight transport")
    assert len(report.rows) == len(list(model.parameters()))


@pytest.mark.parametrize("make", [mlp, cnn])
def test_backpropagation_transports_every_weight(make) -> None:
    model = make()
    report = audit_weight_transport(model, batch(model), loss)
    assert [row.parameter for row in report.culprits] == ["weight"] * 3
    assert not report.free_of_transport


def test_norm_layers_are_named() -> None:
    model = cnn(norm=True)
    set_learning_rule(model, SoftAlignment(0.5))
    report = audit_weight_transport(model, batch(model), loss)
    assert [(row.module, row.kind, row.parameter) for row in report.culprits] == [
        ("1", "BatchNorm2d", "weight")
    ]
    assert "weight transport through 1 of 8 parameters" in str(report)


@pytest.mark.parametrize("how", ["plain", "copy", "cast", "normalised", "sign", "mask", "changed in part"])
def test_planted_culprit_is_named_whatever_copy_of_its_weight_it_reads(how: str) -> None:
    model = mlp()
    model.insert(2, Culprit(8, how))
    set_learning_rule(model, SoftAlignment(0.5))
    report = audit_weight_transport(model, batch(model), loss)
    assert [(row.module, row.kind) for row in report.culprits] == [("2", "Culprit")]


def test_copies_that_autocast_makes_are_poisoned_too() -> None:
    model = mlp()
    with torch.autocast("cpu", torch.bfloat16):
        report = audit_weight_transport(model, batch(model), loss)
        assert [row.module for row in report.culprits] == ["0", "2", "4"]
        set_learning_rule(model, SoftAlignment(0.5))
        assert audit_weight_transport(model, batch(model), loss).free_of_transport


def test_a_culprit_behind_dead_units_is_still_found() -> None:
    model = nn.Sequential(nn.Linear(6, 8), Culprit(8), nn.Linear(8, 4))
    set_learning_rule(model, SoftAlignment(0.5))
    with torch.no_grad():
        model[2].feedback.zero_()  # no error reaches the culprit
    assert [r.module for r in audit_weight_transport(model, batch(model), loss).culprits] == ["1"]


def test_first_layer_is_audited_through_the_gradient_of_the_input() -> None:
    model = mlp()
    set_learning_rule(model, SoftAlignment(0.5), where=["2", "4"])
    culprits = audit_weight_transport(model, batch(model), loss).culprits
    assert [(row.module, row.changed) for row in culprits] == [("0", ("input 0",))]


def test_weight_decay_in_the_loss_is_local_and_no_transport() -> None:
    model = mlp()
    set_learning_rule(model, SoftAlignment(0.5))
    report = audit_weight_transport(
        model, batch(model), lambda out: loss(out) + model[2].weight.square().sum()
    )
    assert report.free_of_transport
    assert [row.module for row in report.rows if row.local] == ["2"]


def test_shared_module_and_integer_inputs_are_audited() -> None:
    shared = nn.Linear(8, 8)
    model = nn.Sequential(nn.Embedding(10, 8), shared, nn.ReLU(), shared, nn.Linear(8, 4))
    set_learning_rule(model, SoftAlignment(0.5))
    report = audit_weight_transport(model, torch.tensor([1, 2, 3]), loss)
    assert report.free_of_transport
    assert [row.module for row in report.rows] == ["0", "1", "1", "4", "4"]


def test_inputs_may_be_a_sequence_or_a_mapping() -> None:
    model = nn.Bilinear(3, 4, 4)
    a, b = torch.randn(3, 3), torch.randn(3, 4)
    assert not audit_weight_transport(model, (a, b), loss).free_of_transport
    set_learning_rule(model, RandomFeedback())
    assert audit_weight_transport(model, {"input1": a, "input2": b}, loss).free_of_transport
    assert not a.requires_grad


def test_model_gradients_buffers_and_random_state_are_left_as_they_were() -> None:
    model = nn.Sequential(cnn(norm=True), nn.Dropout(0.5))
    set_learning_rule(model, SoftAlignment(0.5))
    state = {k: v.clone() for k, v in model.state_dict().items()}
    x = batch(model[0])
    random = torch.get_rng_state()
    audit_weight_transport(model, x, loss)
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize(
    ("model", "bad_loss", "match"),
    [
        (nn.ReLU(), loss, "no parameters"),
        (mlp(), lambda out: out, r"scalar tensor, got a tensor of shape \(3, 4\)"),
        (mlp(), lambda out: 3.0, "scalar tensor, got float"),
        (mlp(), lambda out: out.sum() / 0, "must be finite"),
        (mlp(), lambda out: torch.zeros((), requires_grad=True), "does not depend on"),
    ],
)
def test_bad_input_gets_one_clear_error(model: nn.Module, bad_loss, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        audit_weight_transport(model, torch.randn(3, 6), bad_loss)


def batch_of_six() -> Tensor:
    return torch.randn(3, 6)


class Checkpointed(nn.Module):
    """Recomputes a part of itself in the backward pass: a module's forward, or a function without modules."""

    def __init__(self, inside: nn.Module, reentrant: bool = False, as_function: bool = False) -> None:
        super().__init__()
        self.first, self.inside, self.last = nn.Linear(6, 8), inside, nn.Linear(8, 4)
        self.reentrant, self.as_function = reentrant, as_function

    def forward(self, x: Tensor) -> Tensor:
        run = self.inside.forward if self.as_function else self.inside
        return self.last(
            checkpoint(lambda h: run(torch.tanh(h)), self.first(x), use_reentrant=self.reentrant)
        )


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("reentrant", [False, True])
def test_a_recomputation_reads_weights_and_is_no_transport(reentrant: bool, autocast: bool) -> None:
    model = Checkpointed(nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh()), reentrant)
    set_learning_rule(model, SoftAlignment(0.5))
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        assert audit_weight_transport(model, batch_of_six(), loss).free_of_transport
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("how", ["plain", "cast", "normalised", "mask"])
@pytest.mark.parametrize(("reentrant", "as_function"), [(False, False), (False, True), (True, False)])
def test_a_culprit_in_a_recomputation_is_found(reentrant: bool, as_function: bool, how: str) -> None:
    model = Checkpointed(Culprit(8, how), reentrant, as_function)
    set_learning_rule(model, SoftAlignment(0.5))
    culprits = audit_weight_transport(model, batch_of_six(), loss).culprits
    assert [(row.module, row.kind) for row in culprits] == [("inside", "Culprit")]
    assert culprits[0].changed == ("first.bias", "first.weight", "input 0")


class _EulerAdjoint(torch.autograd.Function):
    """dy/dt = f(y) by Euler's method, solved again backwards for its adjoint, as torchdiffeq does."""

    @staticmethod
    def forward(ctx, f: nn.Module, y: Tensor, *parameters: Tensor) -> Tensor:
        for _ in range(2):
            y = y + 0.1 * f(y)
        ctx.f, ctx.count = f, len(parameters)
        ctx.save_for_backward(y, *parameters)
        return y

    @staticmethod
    def backward(ctx, a: Tensor) -> tuple[Tensor | None, ...]:
        y, *parameters = ctx.saved_tensors
        state, sums = torch.cat([y, a]), [torch.zeros_like(p) for p in parameters]
        for _ in range(2):
            y, a = state.chunk(2)
            with torch.enable_grad():
                y = y.detach().requires_grad_()
                slope = ctx.f(y)
                da, *dp = torch.autograd.grad(slope, (y, *parameters), a)
            state = state + 0.1 * torch.cat([-slope.detach(), da])
            sums = [s + 0.1 * d for s, d in zip(sums, dp, strict=True)]
        return None, state.chunk(2)[1], *sums


class Flow(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.f = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8))
        self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(_EulerAdjoint.apply(self.f, self.first(x), *self.f.parameters()))


def test_an_adjoint_solver_runs_layers_backwards_in_time_and_is_no_transport() -> None:
    model = Flow()
    assert "f.0" in {row.module for row in audit_weight_transport(model, batch_of_six(), loss).culprits}
    set_learning_rule(model, SoftAlignment(0.5))
    assert audit_weight_transport(model, batch_of_six(), loss).free_of_transport


class _GradientsOn(torch.autograd.Function):
    """A linear map whose backward pass reads the weight while gradients are on."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(weight)
        return x @ weight

    @staticmethod
    def backward(ctx, g: Tensor) -> tuple[Tensor, None]:
        with torch.enable_grad():
            return g @ ctx.saved_tensors[0].t(), None


class _Hidden(torch.autograd.Function):
    """A linear map whose backward pass is computed where PyTorch does not see it."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor) -> Tensor:
        ctx.weight = weight.detach().numpy()  # the parameter's own memory
        return x @ weight

    @staticmethod
    def backward(ctx, g: Tensor) -> tuple[Tensor, None]:
        return torch.from_numpy(g.numpy() @ ctx.weight.T), None


class _Checked(torch.autograd.Function):
    """A linear map whose backward pass insists on finite numbers."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(weight)
        return x @ weight

    @staticmethod
    def backward(ctx, g: Tensor) -> tuple[Tensor, None]:
        assert ctx.saved_tensors[0].isfinite().all()
        return g @ ctx.saved_tensors[0].t(), None


@pytest.mark.parametrize("function", [_GradientsOn, _Hidden, _Checked])
def test_a_culprit_that_hides_is_found(function: type[torch.autograd.Function]) -> None:
    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(8, 8))

        def forward(self, x: Tensor) -> Tensor:
            return function.apply(x, self.weight)

    model = nn.Sequential(nn.Linear(6, 8), Layer(), nn.LayerNorm(8), nn.Linear(8, 4))
    set_learning_rule(model, SoftAlignment(0.5))
    assert [r.module for r in audit_weight_transport(model, batch_of_six(), loss).culprits] == ["1", "2"]


class Queries(nn.Module):
    """Learnt queries, which attend to the data, and positions, which go through a layer of their own."""

    def __init__(self, packed: bool, bare: bool = False) -> None:
        super().__init__()
        self.queries, self.positions = nn.Parameter(torch.randn(5, 8)), nn.Parameter(torch.randn(3, 8))
        self.q, self.k, self.v = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.attention = nn.MultiheadAttention(8, 2) if packed else None
        self.embed, self.of_position, self.last = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 4)
        self.bare = bare

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x) + self.of_position(self.positions)
        if self.attention is not None:
            return self.last(self.attention(self.queries, x, x)[0])[:3]
        q = self.queries if self.bare else self.q(self.queries)
        return self.last(torch.softmax(q @ self.k(x).t(), -1) @ self.v(x))[:3]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("autocast", [False, True])
def test_a_learnt_query_is_a_signal_once_it_has_gone_through_a_layer(packed: bool, autocast: bool) -> None:
    model = Queries(packed)
    set_learning_rule(model, SoftAlignment(0.5))
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        assert audit_weight_transport(model, batch_of_six(), loss).free_of_transport


def test_a_table_of_constant_positions_that_goes_through_layers_is_a_signal() -> None:
    class Positions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("table", torch.randn(3, 2))
            self.bias = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 4))
            self.last = nn.Linear(6, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(x) + 16 * torch.sigmoid(self.bias(self.table))

    model = Positions()
    set_learning_rule(model, SoftAlignment(0.5))
    assert audit_weight_transport(model, batch_of_six(), loss).free_of_transport


def test_a_layer_that_parametrises_a_weight_makes_no_signal_of_it() -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 4))
    nn.utils.parametrize.register_parametrization(model[2], "weight", nn.LayerNorm(8))
    set_learning_rule(model, SoftAlignment(0.5), where=["0", "4"])
    culprits = audit_weight_transport(model, batch_of_six(), loss).culprits
    assert {"original", "weight", "bias"} == {row.parameter for row in culprits}


def test_a_bare_parameter_that_is_multiplied_with_a_signal_is_a_weight() -> None:
    model = Queries(packed=False, bare=True)
    set_learning_rule(model, SoftAlignment(0.5))
    report = audit_weight_transport(model, batch_of_six(), loss)
    assert [row.parameter for row in report.culprits] == ["queries"]


def test_the_layers_of_learnt_queries_are_culprits_under_backpropagation() -> None:
    culprits = audit_weight_transport(Queries(packed=False), batch_of_six(), loss).culprits
    assert [f"{r.module}.{r.parameter}" for r in culprits] == [
        f"{name}.weight" for name in ("q", "k", "v", "embed", "of_position", "last")
    ]


def test_culprits_are_found_in_a_few_backward_passes() -> None:
    passes = []
    norms = [nn.Sequential(nn.Linear(6, 6), nn.LayerNorm(6)) for _ in range(20)]
    model = nn.Sequential(*norms, nn.Linear(6, 4))
    set_learning_rule(model, SoftAlignment(0.5))

    def counted(output: Tensor) -> Tensor:
        output.register_hook(lambda _: passes.append(1))
        return loss(output)

    assert len(audit_weight_transport(model, batch_of_six(), counted).culprits) == 20
    assert len(passes) <= 4


@pytest.mark.parametrize("backend", ["eager", "aot_eager", "inductor"])
def test_what_is_compiled_is_audited(backend: str) -> None:
    model, x = mlp(), batch_of_six()
    set_learning_rule(model, SoftAlignment(0.5))
    compiled = torch.compile(model, backend=backend)
    assert audit_weight_transport(compiled, x, loss).free_of_transport
    set_learning_rule(model, Backpropagation(), where="2")
    culprits = audit_weight_transport(torch.compile(model, backend=backend), x, loss).culprits
    assert [row.module for row in culprits] == ["2"]


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("way", ["the model", "a part"])
def test_code_that_was_compiled_before_a_change_is_not_free_of_transport(backend: str, way: str) -> None:
    model, x, targets = mlp(), batch_of_six(), torch.tensor([0, 1, 2])
    set_learning_rule(model, SoftAlignment(0.5))
    given = torch.compile(model, backend=backend)
    if way == "a part":
        given = nn.Sequential(nn.Linear(6, 6), given)
        set_learning_rule(given[0], SoftAlignment(0.5))
    loss(given(x)).backward()
    # PyTorch does not look whether compiled code has had a hook since.
    model[0].register_forward_hook(lambda layer, args, output: output.detach())
    report = audit_weight_transport(given, x, lambda out: F.cross_entropy(out, targets))
    assert not report.culprits
    assert not report.free_of_transport
    assert "0.weight" in str(report.compiled_otherwise)
    assert "call torch.compiler.reset()" in str(report)
    torch.compiler.reset()
    assert not audit_weight_transport(given, x, loss).compiled_otherwise


def test_compiled_code_that_reads_weights_is_found_where_feedback_weights_equal_them() -> None:
    class Switched(nn.Module):
        """Computes as a layer does when run as it is, and as backpropagation when compiled."""

        def __init__(self, layer: nn.Module) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, x: Tensor) -> Tensor:
            if torch.compiler.is_compiling():
                return F.linear(x, self.layer.weight, self.layer.bias)
            return self.layer(x)

    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), Switched(nn.Linear(8, 4)))
    set_learning_rule(model, SoftAlignment(1.0))
    report = audit_weight_transport(torch.compile(model, backend="aot_eager"), batch_of_six(), loss)
    assert report.compiled_otherwise == ("0.weight", "0.bias")


def test_compiled_code_with_random_numbers_of_its_own_is_no_verdict() -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.5), nn.Linear(8, 4))
    set_learning_rule(model, SoftAlignment(0.5))
    x = batch_of_six()
    assert audit_weight_transport(torch.compile(model, backend="aot_eager"), x, loss).free_of_transport
    with pytest.raises(ValueError, match="draws random numbers"):
        audit_weight_transport(torch.compile(model), x, loss)


def test_a_model_in_distributed_data_parallel_is_audited_as_it_is_and_trains_on() -> None:
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 4))
        set_learning_rule(model, SoftAlignment(0.5))
        wrapped = nn.parallel.DistributedDataParallel(model)
        for _ in range(2):
            culprits = audit_weight_transport(wrapped, batch_of_six(), loss).culprits
            assert [(row.module, row.kind) for row in culprits] == [("1", "BatchNorm1d")]
            loss(wrapped(batch_of_six())).backward()
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize("training", [True, False])
def test_a_model_may_set_requires_grad_of_what_it_computes(training: bool) -> None:
    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.frozen, self.first, self.last = nn.Linear(6, 6), nn.Linear(6, 8), nn.Linear(8, 4)
            self.frozen.requires_grad_(False)

        def forward(self, x: Tensor) -> Tensor:
            x = self.frozen(x[:, None])
            if self.training:
                x.requires_grad = True
            x.requires_grad_(False)
            return self.last(torch.tanh(self.first(x))).squeeze(1)

    model = Encoder().train(training)
    set_learning_rule(model, SoftAlignment(0.5), where=["first", "last"])
    report = audit_weight_transport(model, batch_of_six(), loss)
    assert [row.module for row in report.culprits] == ["frozen"]
    x = batch_of_six().requires_grad_()
    set_learning_rule(model, SoftAlignment(0.5), format=LowRank(rank=1), inputs=x)
    set_learning_rule(model, SoftAlignment(0.5), format="auto", inputs=x)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", ["Wav2Vec2", "Hubert"])
def test_speech_encoders_are_audited_and_fitted(name: str, training: bool) -> None:
    transformers = pytest.importorskip("transformers")
    config = getattr(transformers, f"{name}Config")(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, conv_dim=(8, 8),
        conv_stride=(5, 4), conv_kernel=(10, 8), num_conv_pos_embeddings=8, num_feat_extract_layers=2,
        num_conv_pos_embedding_groups=2, vocab_size=10, mask_time_prob=0.0, layerdrop=0.0,
    )  # fmt: skip
    torch.manual_seed(0)
    model = getattr(transformers, f"{name}Model")(config).train(training)
    model.feature_projection.requires_grad_(False)
    x = torch.randn(2, 800, requires_grad=True)
    for format in (LowRank(rank=2), "auto"):
        set_learning_rule(
            model, SoftAlignment(0.5), format=format, inputs=x, unconvertible="exact", norms="fixed"
        )
    report = audit_weight_transport(
        model, x.detach(), lambda output: output.last_hidden_state.square().mean()
    )
    # Only its convolution for positions, which is parametrised, is exact.
    assert {row.kind for row in report.culprits} <= {"ParametrizationList"}
