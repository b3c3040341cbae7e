"""Diagnostics of a run: gradient norms, classes of rows, information abundance, attention.

Weights are the same without them. Values stay on the device until they are recorded. All ranks take
part in the same order, as some numbers are sums over their rows. Checkpoints do not hold them:
after a restart within an epoch, only the steps since then are recorded.
"""

# B rows of this worker, F fields, L layers, C = 6 cells: 2 labels × 3 classes

import math
import statistics
from collections.abc import Mapping
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from ctrdist.batch import GATE_MEAN, Output
from ctrdist.config.experiment import DiagnosticsConfig
from ctrdist.distributed.process_group import sum_over_ranks
from ctrdist.metrics.histogram import ScoreHistogram
from ctrdist.models.tables import table_of
from ctrdist.strict_json import to_text
from ctrdist.tracking import RunTracker
from ctrdist.tracking.plots import (
    abundance_figure,
    attention_figure,
    classes_figure,
    steps_figure,
)
from ctrdist.training.build import Engine
from ctrdist.training.loop.evaluate import evaluation_loader
from ctrdist.training.loop.state import Progress
from ctrdist.training.observe.abundance import abundances, shares_of_most
from ctrdist.training.observe.messages import Evaluation, Start
from ctrdist.training.observe.observers import Observer, Stepped, draw, tolerated

WELL, POORLY = 0.6, 0.2
"""A row is well classified if the probability of its own label is at least WELL, poorly classified
if at least POORLY, else misclassified: section II-B of TF4CTR (arXiv:2405.03167v4), which states it
for positives. Its figure 11 has 0.3 for POORLY."""
COLLAPSED = 0.25
"""A table that uses less than this share of its dimensions counts as collapsed. The bound is ours:
arXiv:2310.04400, which defines information abundance, calls it low or high without one."""
CLASSES = ("well_classified", "poorly_classified", "misclassified")
_CELLS = [f"{label}_{name}" for label in ("negatives", "positives") for name in CLASSES]
_TOP_PAIRS = 50
"""Pairs of fields in attention_mass.json."""


class RowClasses:
    """Counts rows by label and class, on the device of the logits."""

    def __init__(self, device: torch.device) -> None:
        self._cell_C1 = torch.arange(len(_CELLS), device=device).unsqueeze(1)
        self._count_C = torch.zeros(len(_CELLS), dtype=torch.int64, device=device)

    def add(self, logits_B: Tensor, label_B: Tensor) -> None:
        """logits_B: (B,) log-odds of a click; label_B: (B,) 0 or 1, on any device."""
        logits_B = logits_B.detach()
        positive_B = label_B.to(logits_B.device, non_blocking=True) > 0.5
        own_B = torch.where(positive_B, logits_B, -logits_B)  # log-odds of the row's own label
        cell_B = 3 * positive_B.long() + (own_B < _log_odds(WELL)) + (own_B < _log_odds(POORLY))
        self._count_C += (cell_B == self._cell_C1).sum(1)

    def take(self) -> dict[str, float]:
        """Shares of the classes among all ranks' positives and negatives; resets the counts.

        Every rank calls it. A label without rows is left out.
        """
        counts = sum_over_ranks(self._count_C).tolist()
        self._count_C = torch.zeros_like(self._count_C)
        rows = [sum(counts[:3])] * 3 + [sum(counts[3:])] * 3
        return {c: n / of for c, n, of in zip(_CELLS, counts, rows, strict=True) if of}


class Diagnostics(Observer):
    """Measures a run as :class:`ctrdist.config.experiment.DiagnosticsConfig` says."""

    on_all_ranks = True

    def __init__(self, config: DiagnosticsConfig, tracker: RunTracker | None) -> None:
        """Measures nothing before `on_start`. Rank 0 has the tracker, open until after `on_end`."""
        self._config, self._tracker = config, tracker
        self._armed = False
        """True if the next step is measured."""
        self._squares: dict[str, Tensor] = {}
        """Group → () Σ of the squares of this rank's gradients of what was looked up."""
        self._norms: dict[str, Tensor] = {}
        """Part → () norm of its gradient."""
        self._gate_L: Tensor | None = None
        """(L,) Σ of the gates over this rank's rows."""
        self._rows = 0

    def on_start(self, engine: Engine, event: Start) -> None:
        """Prepares to measure the engine."""
        self._engine, self._epoch_steps = engine, event.steps_per_epoch
        self._train = RowClasses(engine.world.device)
        self._evaluated = RowClasses(engine.world.device)
        self._parts = parameters_by_part(engine)
        self._arm(event.resumed_step, event.steps_per_epoch)

    def on_step(self, event: Stepped) -> None:
        """Records a measured step, and decides if the next one is measured."""
        if self._armed:
            self._log(self._measured(), event.progress.step)
        self._arm(event.progress.step, event.steps_left or self._epoch_steps)

    def on_epoch_end(self, progress: Progress, epoch: int) -> None:
        """Records classes of the epoch's measured rows, and how much of the tables is used."""
        shares = self._train.take()
        metrics = {f"classes/train_{name}": share for name, share in shares.items()}
        used = list(shares_of_most(self._engine, self._abundances()).values())
        if used:
            metrics |= {
                "tables/least_used": min(used),
                "tables/median_used": statistics.median(used),
                "tables/collapsed": sum(share < COLLAPSED for share in used),
            }
        self._log(metrics, epoch + 1)

    def on_evaluate(self, event: Evaluation, step: int, histogram: ScoreHistogram | None) -> None:
        """Records classes of the split's rows."""
        shares = self._evaluated.take()
        metrics = {f"classes/{event.split}_{name}": share for name, share in shares.items()}
        self._log(metrics, event.epoch + 1 if event.split == "valid" else 0)

    def on_end(self, summary: dict[str, Any]) -> None:
        """Measures tables and attention of the best checkpoint, now loaded; draws all figures."""
        engine = self._engine
        found = self._abundances()
        share = shares_of_most(engine, found)
        table = _csv(found, share)
        if len(dict(engine.tower.groups)) == 1:  # type: ignore[arg-type]
            share = {table.partition("/")[2]: value for table, value in share.items()}
        if share:
            low = sorted((t for t in share if share[t] < COLLAPSED), key=share.__getitem__)
            summary["collapsed_tables"] = {"below": COLLAPSED, "tables": low, "of": len(share)}
        mass_LFF = attention_mass(engine, self._config.attention_rows)
        if self._tracker is None:
            return
        name = engine.experiment.run_name
        if share:
            draw(self._tracker, "abundance", abundance_figure, share, COLLAPSED, name)
            self._tracker.log_artifact_text("tables.csv", table)
        if mass_LFF is not None:
            self._record_attention(self._tracker, mass_LFF, name)
        self._draw_history(self._tracker, name)

    def _log(self, metrics: Mapping[str, float], step: int) -> None:
        """Records on rank 0; a failure is rank 0's alone and must not leave the ranks apart."""
        if self._tracker is not None:
            with tolerated("the record of diagnostics"):
                self._tracker.log_metrics(metrics, step)

    def _arm(self, step: int, steps_left: int) -> None:
        """Decides if the step after `step` is measured; steps_left counts it."""
        every = self._config.every_steps
        self._armed = every > 0 and ((step + 1) % every == 0 or steps_left == 1)
        self._squares, self._norms, self._gate_L, self._rows = {}, {}, None, 0

    def on_output(self, output: Output, label_B: Tensor) -> None:
        """Counts rows by class; sums gates."""
        if not torch.is_grad_enabled():
            self._evaluated.add(output.logits_B, label_B)
        elif self._armed:
            self._train.add(output.logits_B, label_B)
            if GATE_MEAN in output.aux:
                rows = label_B.numel()
                gate_L = rows * output.aux[GATE_MEAN].detach().double()
                self._gate_L = gate_L if self._gate_L is None else self._gate_L + gate_L
                self._rows += rows

    def on_lookup(self, emb: Mapping[str, Tensor]) -> None:
        """Asks for the norms of the gradients of what was looked up."""
        if self._armed:
            for group, looked_up in emb.items():
                if looked_up.requires_grad:
                    looked_up.register_hook(partial(self._keep_square, group))

    def _keep_square(self, group: str, grad: Tensor) -> None:
        norm = torch.linalg.vector_norm(grad.detach(), dtype=torch.float32)
        self._squares[group] = norm.double().square()

    def on_gradients(self) -> None:
        """Takes the norms of the parts' gradients, which are equal on all ranks by now."""
        if self._armed and self._tracker is not None:
            for part, parameters in self._parts.items():
                grads = [p.grad for p in parameters if p.grad is not None]
                if grads:
                    self._norms[part] = get_total_norm(grads)

    def _measured(self) -> dict[str, float]:
        """Metrics of this step; the norms of parts on rank 0 alone."""
        world = self._engine.world
        groups = sorted(self._squares)
        gate_L = torch.empty(0) if self._gate_L is None else self._gate_L
        sums = [torch.stack([self._squares[g] for g in groups])] if groups else []
        rows = torch.tensor([float(self._rows)], dtype=torch.float64)
        own = torch.cat([part.to(world.device).double() for part in (*sums, gate_L, rows)])
        *sums_over_all, rows_of_all = sum_over_ranks(own).tolist()
        # each rank's loss is multiplied by their number, as gradients are averaged over the ranks
        metrics = {
            f"grad_norm/looked_up_{group}": math.sqrt(square) / world.size
            for group, square in zip(groups, sums_over_all, strict=False)
        }
        for layer, gate in enumerate(sums_over_all[len(groups) :], start=1):
            metrics[f"gate/layer_{layer}"] = gate / rows_of_all
        if self._norms:
            norms = torch.stack(list(self._norms.values())).tolist()
            metrics |= {f"grad_norm/{p}": n for p, n in zip(self._norms, norms, strict=True)}
        return metrics

    def _abundances(self) -> dict[str, float]:
        rows = self._config.abundance_rows
        return abundances(self._engine, rows) if rows else {}

    def _record_attention(self, tracker: RunTracker, mass_LFF: Tensor, name: str) -> None:
        schema = self._engine.dataset.schema
        fields = [*schema.numeric, *(field.name for field in schema.categorical)]
        text = to_text(top_pairs(mass_LFF, fields), indent=1, ensure_ascii=False)
        tracker.log_artifact_text("attention_mass.json", text + "\n")
        draw(tracker, "attention_mass", attention_figure, mass_LFF.mean(0).numpy(), fields, name)

    def _draw_history(self, tracker: RunTracker, name: str) -> None:
        history = tracker.metric_history("grad_norm/", "gate/", "classes/")
        for prefix, figure, label in (
            ("grad_norm/", "gradient_norms", "gradient norm"),
            ("gate/", "gates", "mean gate"),
        ):
            lines = {n.removeprefix(prefix): p for n, p in history.items() if n.startswith(prefix)}
            if lines:
                make = partial(steps_figure, logarithmic=figure == "gradient_norms")
                draw(tracker, figure, make, lines, label, name)
        if any(metric.endswith(CLASSES) for metric in history):
            draw(tracker, "classes", classes_figure, history, name)


def parameters_by_part(engine: Engine) -> dict[str, list[nn.Parameter]]:
    """The dense weights by part of the model, in the order of the weights.

    A weight of the tower belongs to the first of the tower's `parts` that has a pattern for its
    name, else to the tower's child that holds it. Any other weight belongs to the model's child.
    """
    declared: Mapping[str, tuple[str, ...]] = getattr(engine.tower, "parts", {})
    inside = {id(p): name for name, p in engine.tower.named_parameters()}
    parts: dict[str, list[nn.Parameter]] = {}
    for full_name, parameter in engine.model.named_parameters():
        if table_of(full_name) is not None:
            continue
        name = inside.get(id(parameter), full_name)
        matching = (
            part
            for part, patterns in declared.items()
            if id(parameter) in inside and any(fnmatchcase(name, p) for p in patterns)
        )
        parts.setdefault(next(matching, name.partition(".")[0]), []).append(parameter)
    return parts


@torch.no_grad()
def attention_mass(engine: Engine, rows: int) -> Tensor | None:
    """Mean attention over the first rows of valid, in whole steps of evaluation.

    Every rank calls it. The result is (L, F, F) float64 on the CPU, the same on all ranks; None if
    the tower has no `attention_mass`, the data set no valid split, or rows is 0.
    """
    measure = getattr(engine.tower, "attention_mass", None)
    valid = engine.dataset.manifest.splits.get("valid")
    world = engine.world
    if measure is None or rows == 0 or valid is None or valid.rows < world.size:
        return None
    training = engine.model.training
    engine.model.eval()
    total_LFF, seen = torch.zeros((), dtype=torch.float64, device=world.device), 0
    for batch in evaluation_loader(engine, "valid"):
        batch = batch.to(world.device)
        with engine.autocast():
            mass_LFF = measure(engine.model.module.embed(batch))
        total_LFF = total_LFF + batch.label_B.numel() * mass_LFF.double()
        seen += batch.global_size
        if seen >= rows:
            break
    engine.model.train(training)
    return (sum_over_ranks(total_LFF) / seen).cpu()


def top_pairs(mass_LFF: Tensor, fields: list[str]) -> dict[str, Any]:
    """The pairs of F fields with the most of mass_LFF, (L, F, F) mean attention; JSON-ready."""
    mean_FF = mass_LFF.mean(0)
    count = len(fields)
    order = torch.argsort(mean_FF.flatten(), descending=True, stable=True).tolist()
    pairs = [divmod(index, count) for index in order if index % (count + 1)]  # not the diagonal
    return {
        "uniform": 1 / count,
        "to_itself": dict(zip(fields, mean_FF.diagonal().tolist(), strict=True)),
        "pairs": [
            {
                "from": fields[i],
                "to": fields[j],
                "attention": float(mean_FF[i, j]),
                "by_layer": mass_LFF[:, i, j].tolist(),
            }
            for i, j in pairs[:_TOP_PAIRS]
        ],
    }


def _csv(found: Mapping[str, float], share: Mapping[str, float]) -> str:
    """Information abundance of each table, and its share of the most that it can be."""
    order = sorted(found, key=lambda table: share[table])
    lines = [f"{table},{found[table]:.6g},{share[table]:.6g}" for table in order]
    return "\n".join(["table,information_abundance,share_of_most", *lines, ""])


def _log_odds(probability: float) -> float:
    return math.log(probability / (1 - probability))
