"""Training steps of DCNv2 beside FuxiCTR's own base class, embeddings and optimiser, in one run.

39 tables of ROWS × 16, three cross layers beside 3 × 400, batch 4096 in all, ready in memory.
FuxiCTR is no dependency of ours: pip install --no-deps fuxictr==2.3.10 keras_preprocessing==1.1.2
polars==2.1.0 h5py==3.16.0 (its newest release; it runs with torch 2.13 and pandas 3.1). Its wheel
lacks the model, so DCNv2 is put together from its layers.

python benchmarks/against_fuxictr.py [--rows 100000] [--repeats 3] [--seconds 4]
"""

import argparse
import importlib.util
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402

from benchmarks.train_step import (  # noqa: E402
    BATCH,
    DIM,
    FIELDS,
    HIDDEN,
    MADE,
    engine,
    ids_of,
    labels_of,
    measure,
    show_rates,
)


def fuxictr(rows: int, zipf: bool) -> Callable[[int], None]:
    """Its training step, dense Adam over everything, as it trains by default."""
    from fuxictr.features import FeatureMap
    from fuxictr.pytorch.layers import CrossNetV2, FeatureEmbedding, MLP_Block
    from fuxictr.pytorch.models import BaseModel

    names = [f"C{i}" for i in range(FIELDS)]
    features = FeatureMap("made", tempfile.mkdtemp())
    features.labels = ["label"]
    features.num_fields = FIELDS
    features.default_emb_dim = DIM
    for name in names:
        features.features[name] = {
            "source": "",
            "type": "categorical",
            "padding_idx": 0,
            "vocab_size": rows,
        }

    class DCNv2(BaseModel):
        def __init__(self) -> None:
            super().__init__(features, metrics=["AUC"], model_root="", verbose=0)
            width = FIELDS * DIM
            self.embedding_layer = FeatureEmbedding(features, DIM)
            self.crossnet = CrossNetV2(width, 3)
            self.parallel_dnn = MLP_Block(
                input_dim=width, hidden_units=list(HIDDEN), hidden_activations="ReLU"
            )
            self.fc = torch.nn.Linear(width + HIDDEN[-1], 1)
            self.compile("adam", "binary_crossentropy", 1e-3)
            self.reset_parameters()
            self._max_gradient_norm = 10.0

        def forward(self, inputs: dict[str, Any]) -> dict[str, Any]:
            flat = self.embedding_layer(self.get_inputs(inputs), flatten_emb=True)
            both = torch.cat([self.crossnet(flat), self.parallel_dnn(flat)], dim=-1)
            return {"y_pred": self.output_activation(self.fc(both))}

    model = DCNv2()
    model.train()
    made = []
    for seed in range(MADE):
        ids = torch.from_numpy(ids_of(rows, zipf, seed))
        batch: dict[str, Any] = dict(zip(names, ids, strict=True))
        made.append({**batch, "label": labels_of(seed)})
    return lambda number: model.train_step(made[number % MADE])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0)
    args = parser.parse_args()
    if importlib.util.find_spec("fuxictr") is None:
        print("FuxiCTR is not installed; the first lines of this file say how.")
        return
    for ids in ("uniform", "zipf"):
        zipf = ids == "zipf"
        ours = partial(engine, args.rows, zipf, tower="dcnv2")
        cases: dict[str, tuple[Callable[[], Callable[[int], None]], int, int]] = {
            "FuxiCTR, dense Adam": (partial(fuxictr, args.rows, zipf), 1, 2),
            "ctrdist, Adagrad, one worker": (partial(ours, bf16=False), 1, 2),
            "ctrdist, bf16, one worker": (partial(ours, bf16=True), 1, 2),
            "ctrdist, bf16, two workers": (partial(ours, bf16=True), 2, 1),
        }
        rates: dict[str, list[float]] = {name: [] for name in cases}
        for _ in range(args.repeats):
            for name, case in cases.items():
                rates[name].append(measure(*case, args.seconds))
        print(f"\n{ids} ids, {FIELDS} tables of {args.rows:,} × {DIM}, batch {BATCH}, 2 threads")
        show_rates(rates)


if __name__ == "__main__":
    main()
