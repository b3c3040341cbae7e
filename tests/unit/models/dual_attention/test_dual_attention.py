"""What must hold for DEA-R and the transformer whatever their equations are."""

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from ctrdist.batch import Batch
from ctrdist.losses.objective import log_loss_sum
from ctrdist.models.ctr import CTRModel
from ctrdist.models.dual_attention.settings import DualAttentionConfig, TransformerConfig
from ctrdist.models.dual_attention.tower import DualAttention
from ctrdist.models.dual_attention.transformer import Transformer
from tests.unit.models.dual_attention.test_pairs import batch_of, schema_of

SMALL: dict[str, Any] = {"embedding_dim": 8, "num_layers": 2, "hidden_dims": (16,)}
MODELS: list[dict[str, Any]] = [
    {"filter": "hard"},
    {"filter": "soft", "fusion": "weighted_sum"},
    {"filter": "straight_through", "fusion": "multiply"},
    {"filter": "information_abundance", "codebooks": 1},
    {"filter": "top_rho", "codebooks": 3},
    {"filter": "none", "shuffle_pairs": True},
    {"filter": "hard", "frequency": False, "recompute_lookups": True},
    {"filter": "soft", "combo": False},
    {"filter": "none", "combo": False},
]
SCHEMA = schema_of(4, numeric=1, multi=True)


def build(settings: dict[str, Any], seed: int = 1, **sizes: Any) -> CTRModel:
    """A whole model, its tables on the CPU."""
    given = {**SMALL, **sizes, **settings}
    if given.get("combo", True):
        given |= {"codebook_rows": 200, "codebook_dim": 4}
    torch.manual_seed(seed)
    tower = DualAttention(DualAttentionConfig(**given), SCHEMA.num_fields)
    model = CTRModel(SCHEMA, tower)
    model.tables.to_empty(device="cpu")
    if model.pairs is not None:
        model.pairs.codebooks.to_empty(device="cpu")
    for name, weight in model.named_parameters():
        if name.startswith("tables.") or ".codebooks." in name:
            torch.nn.init.normal_(weight, std=0.5)
    if model.frequency is not None:
        ends = [[9] * 10 + [5] * 10 + [2] * 236] * len(SCHEMA.categorical)
        model.frequency.fill(ends, mean=1.0, std=0.5, of_all=3.0)
    return model


def batch(size: int = 32) -> Batch:
    torch.manual_seed(7)
    return batch_of(SCHEMA, size)[0]


def part(whole: Batch, rows: range) -> Batch:
    """Some rows of a batch."""
    index = torch.tensor(list(rows))
    lists = [jagged.to_dense() for jagged in whole.sparse.to_dict().values()]
    chosen = [[ids[r] for r in rows] for ids in lists]
    sparse = type(whole.sparse)(
        whole.sparse.keys(),
        torch.cat([ids for field in chosen for ids in field]),
        lengths=torch.tensor([len(ids) for field in chosen for ids in field], dtype=torch.int32),
        stride=len(rows),
    )
    return Batch(
        numeric_BK=whole.numeric_BK[index],
        sparse=sparse,
        label_B=whole.label_B[index],
        row_B=whole.row_B[index],
        global_size=len(rows),
    )


@pytest.mark.parametrize("settings", MODELS, ids=str)
def test_gradients_reach_every_parameter(settings: dict[str, Any]) -> None:
    model = build(settings, batch_norm=False)
    (model(batch()).logits_B * torch.randn(32)).sum().backward()
    unreached = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert not unreached


@pytest.mark.parametrize("settings", MODELS, ids=str)
def test_rows_do_not_depend_on_their_batch_in_eval(settings: dict[str, Any]) -> None:
    model = build(settings).eval()
    whole = batch()
    expected = model(whole).logits_B
    for cuts in ([0, 1, 32], [0, 7, 20, 32]):
        rows = [range(a, b) for a, b in pairwise(cuts)]
        parts = torch.cat([model(part(whole, r)).logits_B for r in rows])
        torch.testing.assert_close(parts, expected, rtol=1e-4, atol=1e-5)


def overfit(logits: Any, parameters: list[Tensor]) -> float:
    label = (torch.rand(256) < 0.5).float()
    optimizer = torch.optim.Adam(parameters, lr=0.01)
    for _ in range(60):
        optimizer.zero_grad()
        loss = log_loss_sum(logits(), label) / 256
        loss.backward()
        optimizer.step()
    return loss.item()


@pytest.mark.parametrize("settings", [MODELS[0], MODELS[1], MODELS[4]], ids=str)
def test_overfits_random_labels(settings: dict[str, Any]) -> None:
    model, rows = build(settings, hidden_dims=(64,), embedding_dim=16), batch(256)
    assert overfit(lambda: model(rows).logits_B, list(model.parameters())) < 0.1


def test_the_transformer_overfits_random_labels() -> None:
    torch.manual_seed(1)
    model = Transformer(TransformerConfig(hidden_dims=(64,)), 6)
    tokens = torch.nn.Parameter(torch.randn(256, 6, 16))
    assert overfit(lambda: model({"tokens": tokens}).logits_B, [tokens, *model.parameters()]) < 0.05


def test_codebooks_alone_can_learn_what_pairs_say() -> None:
    """The label is a random function of one pair; shuffled addresses cannot know it."""
    torch.manual_seed(3)
    train, test = batch_of(SCHEMA, 2000)[0], batch_of(SCHEMA, 2000)[0]
    secret = torch.randn(9, 9)

    def learn(shuffled: bool) -> float:
        model = build({"filter": "none", "shuffle_pairs": shuffled}, num_layers=1)
        assert model.pairs is not None
        memory = model.pairs
        optimizer = torch.optim.Adam(memory.parameters(), lr=0.05)
        for rows in [train] * 60:
            loss = (scores(memory, rows) - label(rows)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            return float((scores(memory, test) - label(test)).square().mean())

    def scores(memory: Any, rows: Batch) -> Tensor:
        tokens = torch.zeros(len(rows.label_B), SCHEMA.num_fields, 8)
        return memory(rows, tokens)[:, 0, 1, 3]  # fields C0 and C1, behind a numeric and a list

    def label(rows: Batch) -> Tensor:
        ids = rows.sparse.to_dict()
        return secret[ids["C0"].values().long(), ids["C1"].values().long()]

    assert learn(False) < 0.1 < 0.8 < learn(True)


@pytest.mark.parametrize("settings", MODELS, ids=str)
def test_runs_under_bfloat16_autocast(settings: dict[str, Any]) -> None:
    model, rows = build(settings, batch_norm=False), batch()
    expected = model(rows).logits_B
    with torch.autocast("cpu", torch.bfloat16):
        out = model(rows).logits_B
    assert out.dtype == torch.float32
    assert (out - expected).norm() / expected.norm() < 0.15
    out.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("settings", [MODELS[i] for i in (0, 2, 3, 4, 8)], ids=str)
def test_the_tower_traces_as_one_graph(settings: dict[str, Any]) -> None:
    model, rows = build(settings), batch()
    emb = {name: value.detach() for name, value in model.embed(rows).items()}
    torch._dynamo.reset()  # the limit of compilations is of all models of one class together
    # the tracer without code generation, which would take minutes
    compiled = torch.compile(model.tower, backend="eager", fullgraph=True)
    # compiled, softmax is torch's own
    torch.testing.assert_close(compiled(emb).logits_B, model.tower(emb).logits_B)


def test_dropout_acts_in_training_only() -> None:
    model, rows = build({}, dropout=0.5), batch()
    assert not torch.equal(model(rows).logits_B, model(rows).logits_B)
    model.eval()
    assert torch.equal(model(rows).logits_B, model(rows).logits_B)


def test_what_is_asked_of_the_model_follows_from_the_settings() -> None:
    assert build({}).pairs is not None and build({}).frequency is not None
    assert build({"frequency": False}).frequency is None
    assert build({"filter": "top_rho"}).frequency is None
    model = build({"combo": False, "filter": "none"})
    assert model.pairs is None and model.codebooks == [] and model.frequency is None
    assert [t.name for t in build({"codebooks": 3}).codebooks] == [
        f"codebook/{k}" for k in range(3)
    ]
