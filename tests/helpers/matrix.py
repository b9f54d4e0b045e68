"""Every rule and feedback format with every kind of layer in every context: the cells, and docs/matrix.md.

python tests/helpers/matrix.py    # runs every cell and writes docs/matrix.md
"""

import copy
import io
import pickle
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import load_model, save_model
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap
from torch.optim.swa_utils import AveragedModel
from torch.utils.checkpoint import checkpoint

from alignonce import (
    FP8,
    Backpropagation,
    Dense,
    DirectFeedback,
    FeedbackFormat,
    Int4,
    Int8,
    KolenPollack,
    LearningRule,
    LowRank,
    PeriodicAlignment,
    RandomFeedback,
    SemiStructured,
    Sign,
    SignSymmetry,
    SoftAlignment,
    Sparse,
    WeightMirror,
    audit_weight_transport,
    evolve,
    set_learning_rule,
)

RULES: dict[str, LearningRule] = {
    "RandomFeedback": RandomFeedback(),
    "SoftAlignment": SoftAlignment(0.5),
    "SignSymmetry once": SignSymmetry(once=True),
    "SignSymmetry uniform": SignSymmetry("uniform"),
    "SignSymmetry fixed": SignSymmetry("fixed"),
    "SignSymmetry batch": SignSymmetry("batch"),
    "PeriodicAlignment": PeriodicAlignment(every=2, cosine=0.9),
    "KolenPollack": KolenPollack(),
    "WeightMirror": WeightMirror(every=2),
    "DirectFeedback": DirectFeedback(),
}

FORMATS: dict[str, FeedbackFormat] = {
    "Dense(bfloat16)": Dense(torch.bfloat16),
    "LowRank": LowRank(rank=1),
    "LowRank(bfloat16)": LowRank(rank=1, dtype=torch.bfloat16),
    "Int8": Int8(),
    "Int4": Int4(),
    "Sign": Sign(),
    "FP8": FP8(),
    "SemiStructured": SemiStructured(),
    "Sparse": Sparse(0.5),
}
"""All but dense, which is in RULES; under soft alignment, on the kinds that differ in how they use B."""


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, x, x, need_weights=False)[0]


class Recurrent(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)[0]


class Cell(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.cell(x, self.cell(x))


class Squared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bilinear = nn.Bilinear(4, 4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.bilinear(x, x)


class ResidualBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.norm(self.conv(x)) + x)


class TiedHead(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.middle = nn.Embedding(7, 4), nn.Linear(4, 4)
        self.head = nn.Linear(4, 7, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(torch.tanh(self.middle(self.embedding(tokens))))


def _between(layer: nn.Module, first: nn.Module, last: nn.Module) -> nn.Sequential:
    return nn.Sequential(first, nn.Tanh(), layer, nn.Tanh(), nn.Flatten(), last)


@dataclass(frozen=True)
class Kind:
    """A small model around one kind of layer, with layers before and after it, and a batch of inputs."""

    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    tokens: bool = False
    format: FeedbackFormat = Dense()  # noqa: RUF009 (a value without state)

    @property
    def tolerance(self) -> float:
        """How far gradients may differ where the same is computed in another way."""
        # Integer kernels round the error to 8 bits where they are at work, which under vmap they are not.
        rounded = isinstance(self.format, Int8 | Int4 | Sign) or "bfloat16" in repr(self.format)
        return 0.05 if rounded else 1e-4

    def inputs(self) -> Tensor:
        generator = torch.Generator().manual_seed(1)
        if self.tokens:
            return torch.randint(7, self.shape, generator=generator)
        return torch.randn(self.shape, generator=generator)

    def plain(self, seed: int = 0) -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return self.build()

    def model(self, rule: LearningRule, seed: int = 0) -> nn.Module:
        model = self.plain(seed)
        inputs = self.inputs() if isinstance(rule, DirectFeedback) else None
        set_learning_rule(model, rule, format=self.format, norms="fixed", inputs=inputs)
        return model


KINDS: dict[str, Kind] = {
    "Linear": Kind(lambda: _between(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)), (6, 4)),
    "Bilinear": Kind(lambda: _between(Squared(), nn.Linear(4, 4), nn.Linear(4, 3)), (6, 4)),
    "Conv1d": Kind(
        lambda: _between(nn.Conv1d(4, 4, 3, groups=2), nn.Conv1d(2, 4, 1), nn.Linear(16, 3)), (6, 2, 6)
    ),
    "Conv2d": Kind(
        lambda: _between(
            nn.Conv2d(4, 4, 3, padding="same", padding_mode="circular"), nn.Conv2d(2, 4, 1), nn.Linear(64, 3)
        ),
        (6, 2, 4, 4),
    ),
    "Conv3d": Kind(
        lambda: _between(nn.Conv3d(4, 2, 2), nn.Conv3d(2, 4, 1), nn.Linear(16, 3)), (6, 2, 3, 3, 3)
    ),
    "ConvTranspose": Kind(
        lambda: _between(nn.ConvTranspose2d(4, 2, 3, stride=2), nn.Conv2d(2, 4, 1), nn.Linear(50, 3)),
        (6, 2, 2, 2),
    ),
    "MultiheadAttention": Kind(lambda: _between(Attention(), nn.Linear(4, 4), nn.Linear(20, 3)), (6, 5, 4)),
    "LSTM": Kind(
        lambda: _between(Recurrent(nn.LSTM(4, 4, batch_first=True)), nn.Linear(4, 4), nn.Linear(12, 3)),
        (6, 3, 4),
    ),
    "GRU": Kind(
        lambda: _between(
            Recurrent(nn.GRU(4, 2, batch_first=True, bidirectional=True)), nn.Linear(4, 4), nn.Linear(12, 3)
        ),
        (6, 3, 4),
    ),
    "GRUCell": Kind(lambda: _between(Cell(), nn.Linear(4, 4), nn.Linear(4, 3)), (6, 4)),
    "BatchNorm residual block": Kind(
        lambda: _between(ResidualBlock(), nn.Conv2d(2, 4, 1), nn.Linear(36, 3)), (6, 2, 3, 3)
    ),
    "TransformerEncoderLayer": Kind(
        lambda: _between(
            nn.TransformerEncoderLayer(4, 2, 8, 0.0, batch_first=True), nn.Linear(4, 4), nn.Linear(20, 3)
        ),
        (6, 5, 4),
    ),
    "Embedding tied to head": Kind(TiedHead, (6,), tokens=True),
    "EmbeddingBag": Kind(
        lambda: nn.Sequential(nn.EmbeddingBag(7, 4), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 3)), (6, 5),
        tokens=True,
    ),
}  # fmt: skip


def loss(output: Tensor) -> Tensor:
    return output.float().sin().sum()


def gradients(model: nn.Module, x: Tensor, run: Callable[[Tensor], Tensor] | None = None) -> list[Tensor]:
    return list(torch.autograd.grad(loss((model if run is None else run)(x)), list(model.parameters())))


def close(ours: list[Tensor], expected: list[Tensor], tolerance: float = 1e-4) -> None:
    for a, e in zip(ours, expected, strict=True):
        torch.testing.assert_close(a, e, rtol=tolerance, atol=tolerance)


def train(model: nn.Module, x: Tensor, optimizer: torch.optim.Optimizer, steps: int = 3) -> None:
    for step in range(1, steps + 1):
        optimizer.zero_grad()
        loss(model(x)).backward()
        optimizer.step()
        evolve(model, step)


# -- contexts: each raises where a rule does not do in it what it does elsewhere --------------------------


def eager(kind: Kind, rule: LearningRule) -> None:
    """The audit finds no weight read backwards, and every parameter learns."""
    model, x = kind.model(rule), kind.inputs()
    report = audit_weight_transport(model, x, loss)
    if report.culprits:
        raise AssertionError(str(report))
    before = [p.detach().clone() for p in model.parameters()]
    train(model, x, torch.optim.SGD(model.parameters(), lr=0.1))
    # The bias of attention's keys adds one number to all scores of a query, which changes nothing.
    unchanged = [n for (n, p), b in zip(model.named_parameters(), before, strict=True) if torch.equal(p, b)]
    if unchanged:
        raise AssertionError(f"did not learn: {unchanged}")


def autocast_bf16(kind: Kind, rule: LearningRule) -> None:
    """Gradients point where float32's point."""
    model, x = kind.model(rule), kind.inputs()
    with torch.autocast("cpu", torch.bfloat16):
        ours = torch.cat([g.flatten() for g in gradients(model, x)])
    expected = torch.cat([g.flatten() for g in gradients(model, x)])
    if torch.cosine_similarity(ours, expected, dim=0) < 0.99:
        raise AssertionError("gradients under autocast point elsewhere")


def autocast_fp16_scaler(kind: Kind, rule: LearningRule) -> None:
    """A few steps under a gradient scaler change the weights and leave them finite."""
    model, x = kind.model(rule), kind.inputs()
    optimizer, scaler = (
        torch.optim.Adam(model.parameters(), lr=1e-3),
        torch.amp.GradScaler("cpu", init_scale=64.0),
    )
    before = [p.detach().clone() for p in model.parameters()]
    for step in range(1, 4):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.float16):
            value = loss(model(x))
        scaler.scale(value).backward()
        scaler.step(optimizer)
        scaler.update()
        evolve(model, step)
    if not all(p.isfinite().all() for p in model.parameters()):
        raise AssertionError("weights are not finite")
    if all(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True)):
        raise AssertionError("no step was taken")


def compiled(kind: Kind, rule: LearningRule) -> None:
    """One graph without breaks, with the gradients of eager mode."""
    model, x = kind.model(rule), kind.inputs()
    expected = gradients(model, x)
    torch.compiler.reset()
    with warnings.catch_warnings(), torch._dynamo.config.patch(allow_rnn=True):
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        close(
            gradients(model, x, torch.compile(model, fullgraph=True, backend="aot_eager")),
            expected,
            kind.tolerance,
        )


def vmap_over_models(kind: Kind, rule: LearningRule) -> None:
    """Three seeds stacked into one program have the gradients of each alone."""
    # In evaluation mode: torch cannot update BatchNorm's running statistics under vmap.
    models, x = [kind.model(rule, seed).eval() for seed in range(3)], kind.inputs()
    parameters, buffers = stack_module_state(models)
    base = models[0]

    def gradient_of(p: dict[str, Tensor], b: dict[str, Tensor]) -> dict[str, Tensor]:
        return torch.func.grad(lambda q: loss(functional_call(base, (q, b), (x,))))(p)

    stacked = vmap(gradient_of)(parameters, buffers)
    for index, model in enumerate(models):
        names = dict(model.named_parameters())
        close([stacked[n][index] for n in names], gradients(model, x), kind.tolerance)


def checkpointed(kind: Kind, rule: LearningRule) -> None:
    """Gradient checkpointing changes no gradient."""
    model, x = kind.model(rule), kind.inputs()
    for reentrant in (False, True):
        x_in = x if kind.tokens else x.clone().requires_grad_()
        if kind.tokens and reentrant:
            continue  # needs an input that takes a gradient
        model.zero_grad()
        loss(checkpoint(model, x_in, use_reentrant=reentrant)).backward()
        close([p.grad for p in model.parameters()], gradients(model, x))


def accumulated(kind: Kind, rule: LearningRule) -> None:
    """Gradients of two halves of a batch add up to those of the whole."""
    model, x = kind.model(rule).eval(), kind.inputs()
    halves = [gradients(model, half) for half in x.split(3)]
    close([a + b for a, b in zip(*halves, strict=True)], gradients(model, x), kind.tolerance)


def fused_and_foreach(kind: Kind, rule: LearningRule) -> None:
    """The forms of an optimiser lead to the same weights."""
    results = []
    for form in ({}, {"fused": True}, {"foreach": True}):
        model = kind.model(rule)
        train(model, kind.inputs(), torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, **form))
        results.append([p.detach() for p in model.parameters()])
    close(results[1], results[0], 1e-3)
    close(results[2], results[0], 1e-3)


def averaged_copy(kind: Kind, rule: LearningRule) -> None:
    """An averaged copy of the weights predicts and learns like a model of its own."""
    model, x = kind.model(rule), kind.inputs()
    average = AveragedModel(model)
    average.update_parameters(model)
    close(gradients(average.module, x), gradients(model, x))


def saved(kind: Kind, rule: LearningRule) -> None:
    """torch.save with weights_only and safetensors restore weights and feedback weights."""
    model, x = kind.model(rule), kind.inputs()
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    other = kind.model(rule, seed=9)
    other.load_state_dict(torch.load(file, weights_only=True))
    close(gradients(other, x), gradients(model, x), 0)
    path = Path(f"/dev/shm/alignonce-{id(model)}.safetensors")
    if not path.parent.exists():
        path = Path(path.name)
    try:
        save_model(model, str(path))
        third = kind.model(rule, seed=9)
        load_model(third, str(path))
    finally:
        path.unlink(missing_ok=True)
    close(gradients(third, x), gradients(model, x), 0)


def pickled(kind: Kind, rule: LearningRule) -> None:
    """A pickled model, as multiprocessing sends it, learns alike."""
    model, x = kind.model(rule), kind.inputs()
    close(gradients(pickle.loads(pickle.dumps(model)), x), gradients(model, x), 0)


def exported(kind: Kind, rule: LearningRule) -> None:
    """A trained model goes back to plain layers and is exported as one."""
    model, x = kind.model(rule), kind.inputs()
    train(model, x, torch.optim.SGD(model.parameters(), lr=0.1))
    plain = copy.deepcopy(model).eval()
    set_learning_rule(plain, Backpropagation())
    if any("feedback" in name for name in plain.state_dict()):
        raise AssertionError("feedback weights are left")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(plain, (x,))
    with torch.no_grad():
        close([program.module()(x)], [model.eval()(x)])


def meta_device(kind: Kind, rule: LearningRule) -> None:
    """On the meta device there is nothing to align with: a clear error, and after materialising it works."""
    with torch.device("meta"):
        model = kind.build()
    inputs = kind.inputs() if isinstance(rule, DirectFeedback) else None
    if inputs is None:
        try:
            set_learning_rule(model, rule, format=kind.format, norms="fixed")
        except ValueError as error:
            if "materialise it first" not in str(error):
                raise
        else:
            raise AssertionError("no error on the meta device")
    model.to_empty(device="cpu")
    if isinstance(model, TiedHead):  # torch's to_empty unties
        model.head.weight = model.embedding.weight
    model.load_state_dict(kind.plain().state_dict())
    set_learning_rule(model, rule, format=kind.format, norms="fixed", inputs=inputs)
    close(gradients(model, kind.inputs()), gradients(kind.model(rule), kind.inputs()), 0)


CONTEXTS: dict[str, Callable[[Kind, LearningRule], None]] = {
    "eager, audit": eager,
    "autocast bf16": autocast_bf16,
    "autocast fp16, scaler": autocast_fp16_scaler,
    "compile": compiled,
    "vmap": vmap_over_models,
    "checkpoint": checkpointed,
    "accumulation": accumulated,
    "fused, foreach": fused_and_foreach,
    "EMA copy": averaged_copy,
    "save": saved,
    "pickle": pickled,
    "export": exported,
    "meta": meta_device,
}


def reason_to_skip(rule: str, kind: str, context: str) -> str | None:
    """Why a cell does not run, for the table; None for all others."""
    if rule == "DirectFeedback" and kind == "Bilinear" and context.startswith("autocast"):
        return "the layer stays PyTorch's own, which refuses mixed dtypes under autocast on the CPU"
    return None


FORMAT_KINDS = [
    "Linear", "Bilinear", "Conv2d", "ConvTranspose", "MultiheadAttention", "LSTM", "Embedding tied to head",
]  # fmt: skip


def run_cell(way: str, kind: str, context: str) -> None:
    """Run a context with a rule of RULES, or with a format of FORMATS under soft alignment."""
    if way in FORMATS:
        CONTEXTS[context](replace(KINDS[kind], format=FORMATS[way]), RULES["SoftAlignment"])
    else:
        CONTEXTS[context](KINDS[kind], RULES[way])


def outcome(way: str, kind: str, context: str) -> str:
    """Run a cell: "yes", or why not."""
    reason = reason_to_skip(way, kind, context)
    if reason is None:
        try:
            run_cell(way, kind, context)
        except Exception as error:  # the table is to show every failure
            reason = f"FAILS: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
    return reason or "yes"


def table(ways: Iterable[str], kinds: Iterable[str], notes: list[str]) -> str:
    """Run the cells of these rules or formats with these kinds; the rows. Remarks are added to ``notes``."""
    kinds, rows = list(kinds), []
    for way in ways:
        cells = []
        for context in CONTEXTS:
            others = {kind: text for kind in kinds if (text := outcome(way, kind, context)) != "yes"}
            marks = []
            for kind, text in others.items():
                note = f"{kind}: {text}"
                if note not in notes:
                    notes.append(note)
                marks.append(f"[{notes.index(note) + 1}]")
            cells.append(f"{len(kinds) - len(others)} of {len(kinds)} " + " ".join(marks))
        rows.append(f"| {way} | " + " | ".join(cell.strip() for cell in cells) + " |")
    return "\n".join(rows)


def page() -> str:
    """Run every cell and make the page for the docs."""
    notes: list[str] = []
    rows, format_rows = table(RULES, KINDS, notes), table(FORMATS, FORMAT_KINDS, notes)
    meanings = "\n".join(f"- **{name}**: {function.__doc__}" for name, function in CONTEXTS.items())
    remarks = "\n".join(f"{i}. {note}" for i, note in enumerate(notes, 1)) or "None: every cell runs."
    return _PAGE.format(
        kinds=", ".join(KINDS), count=len(KINDS), head=" | ".join(CONTEXTS), rule="---|" * len(CONTEXTS),
        rows=rows, format_rows=format_rows, format_kinds=", ".join(FORMAT_KINDS),
        meanings=meanings, remarks=remarks,
    )  # fmt: skip


_PAGE = """# What works with what

Every learning rule with every kind of layer in every context, run by the code that tests it:
`python tests/helpers/matrix.py` writes this page, and `make test` runs the same cells. A cell counts the
kinds of layers, out of {count}, of which the statement under Contexts holds. Norm layers have
`norms="fixed"`.

| rule | {head} |
|---|{rule}
{rows}

## Feedback formats

The same contexts with each format under soft alignment, on the kinds of layers that use B in ways of their
own: {format_kinds}. Gradients are compared to those of the same format in plain eager
mode; `tests/formats/test_formats.py` holds those against the dense equivalent.

| format | {head} |
|---|{rule}
{format_rows}

## Kinds of layers

{kinds}.

## Contexts

{meanings}

DistributedDataParallel with two processes has a test of its own in `tests/distributed`, with every rule and
every format. CUDA graphs, and what differs on a GPU, are in `tests/gpu`, which needs one and has not been run
on one yet.

## Cells that do not run, and why

{remarks}
"""


def main() -> None:
    torch.set_num_threads(1)
    path = Path(__file__).parents[2] / "docs" / "matrix.md"
    path.write_text(page(), encoding="utf-8")
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
