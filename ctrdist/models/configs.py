"""Settings of the models: apart from the models and free of torch, so that `--help` is quick."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from ctrdist.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class DLFConfig:
    """Dynamic Low-Order-Aware Fusion (Wang et al., SIGIR 2025, arXiv:2505.19182).

    The rows of the paper's Table 3, in the paper form (jobs/configs/studies/*_dlf_ablation.yaml):

    - "w/o gate" is `gate: plain`: the residual stays, ungated.
    - "w/o RLI" is `low_order_block: false` with `gate: plain`: the paper counts the control of the
      residual to RLI, and discusses this row as one that has no gate either.
    - "w/o NAF" is `fusion: concat`. The paper says that the streams are then fused in the last
      layer only; here their tokens are concatenated in each.
    """

    form: Literal["paper", "code"] = "paper"
    """paper: equations (5)-(16), with attention fusion and gate; code: what the authors' repository
    computes. The code form has none of the switches marked (paper): it refuses all their values but
    the defaults, which have no effect there."""
    embedding_dim: int = 16
    """D, width of field embeddings and tokens."""
    num_layers: int = 3
    """L, stacked interaction layers, 1 to 12; the paper tests 2 to 12, best 8."""
    tokens_per_block: int = 16
    """m, tokens that each block gives."""
    rank: int = 24
    """k, columns of W in the factorisation-machine blocks."""
    hidden_dim: int = 512
    """Width of the hidden layer in the factorisation-machine blocks and in the code form's head."""
    dropout: float = 0.0
    """Probability, in the hidden layers."""
    batch_norm: bool = True
    """Batch normalisation in the hidden layers: always on in the authors' code, not mentioned in
    the paper."""
    low_order_block: bool = True
    """(paper) The block that interacts with the field embeddings (5)."""
    fusion: Literal["naf", "attention_pool", "gate_pool", "mlp", "concat"] = "naf"
    """(paper) How the blocks' outputs become one, as compared in Figure 3. naf: (10)-(14).
    Reconstructed, as the paper only names the others: attention_pool is naf without attention
    within a block; gate_pool weighs the blocks, by a softmax for each token and dimension; mlp is a
    network with one hidden layer over all tokens; concat passes the blocks' outputs on."""
    attention_layers: int = 2
    """(paper) How often naf and attention_pool are repeated on their own output, 1 to 4. With naf
    also 0, the end of that scale, where concat is left. No effect on other fusions."""
    attention_heads: int = 2
    """(paper) Heads of each attention; must divide embedding_dim."""
    fusion_output: Literal["concat", "sum"] = "concat"
    """(paper) How fused tokens join the blocks' own in (15): concat gives 6m tokens, sum 3m (4m and
    2m without the low-order block). With fusion: concat there are 3m (2m) and nothing to join."""
    gate: Literal["max", "sigmoid", "none", "plain"] = "max"
    """(paper) Residual of (9): max(ε, W E) ⊙ E, sigmoid(W E) ⊙ E, no residual at all (none), or E
    without a gate (plain)."""

    def __post_init__(self) -> None:
        for name in (
            "embedding_dim",
            "tokens_per_block",
            "rank",
            "hidden_dim",
            "attention_heads",
        ):
            if getattr(self, name) < 1:
                raise ConfigError(f"DLF: {name} is {getattr(self, name)}; give at least 1.")
        for name, least, most in (("num_layers", 1, 12), ("attention_layers", 0, 4)):
            if not least <= getattr(self, name) <= most:
                raise ConfigError(f"DLF: {name} is {getattr(self, name)}; give {least} to {most}.")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"DLF: dropout is {self.dropout}; give at least 0 and less than 1.")
        if self.form == "code":
            self._refuse_paper_switches()
        else:
            self._check_fusion()

    @property
    def fusion_rounds(self) -> int:
        """How often fusion is applied, to its own output; 0 leaves only the blocks' outputs."""
        if self.form == "code" or self.fusion == "concat":
            return 0
        return self.attention_layers if self.fusion in ("naf", "attention_pool") else 1

    @property
    def has_attention(self) -> bool:
        """Whether any attention is computed."""
        return self.fusion in ("naf", "attention_pool") and self.fusion_rounds > 0

    def _check_fusion(self) -> None:
        if self.fusion == "attention_pool" and self.attention_layers == 0:
            raise ConfigError(
                "DLF: fusion: attention_pool has nothing to pool by with attention_layers: 0; "
                "set attention_layers to 1 to 4, or fusion: concat."
            )
        if self.fusion_rounds == 0 and self.fusion_output == "sum":
            none = "attention_layers: 0" if self.fusion == "naf" else "fusion: concat"
            raise ConfigError(
                f"DLF: fusion_output: sum has no fused tokens to add with {none}; "
                "leave fusion_output out, or choose a fusion that computes some: "
                "naf (with attention_layers 1 to 4), attention_pool, gate_pool or mlp."
            )
        if self.has_attention and self.embedding_dim % self.attention_heads:
            divisors = [
                str(h) for h in range(1, self.embedding_dim + 1) if self.embedding_dim % h == 0
            ]
            raise ConfigError(
                f"DLF: attention_heads {self.attention_heads} does not divide embedding_dim "
                f"{self.embedding_dim}; set attention_heads to one of {', '.join(divisors)}, "
                "or change embedding_dim."
            )

    def _refuse_paper_switches(self) -> None:
        names = (
            "low_order_block",
            "fusion",
            "attention_layers",
            "attention_heads",
            "fusion_output",
            "gate",
        )
        fields = type(self).__dataclass_fields__
        given = [name for name in names if getattr(self, name) != fields[name].default]
        if given:
            settings = ", ".join(f"{name}: {getattr(self, name)}" for name in given)
            raise ConfigError(
                f"DLF: {settings} cannot be set with form: code, which has no such part; "
                f"leave {', '.join(given)} out, or set form: paper."
            )


@dataclass(frozen=True, kw_only=True)
class TF4CTRConfig:
    """Twin Focus Framework for CTR (Li et al., arXiv:2405.03167v4): two encoders of each row.

    The paper's model has an MLP for each encoder; `simple` fm, lr, cin and cross are its DeepFM,
    Wide&Deep, xDeepFM and DCN. Its loss is `loss.name: twin_focus`; TF loss alone, on two MLPs over
    one embedding (its DualMLP), is `selection: share` with `fusion: wsf`.
    """

    two_encoders: ClassVar[bool] = True
    """Output.aux has the encoders' logits."""

    selection: Literal["ser", "gm", "mmoe", "share"] = "ser"
    """How a row's embeddings are laid before the encoders: tables of their own (ser), of half the
    width for the simple one; a gate (gm); two experts mixed by two gates (mmoe); both see the same
    (share)."""
    fusion: Literal["wsf", "vf", "cf", "moef", "sum"] = "wsf"
    """How two encoders give one logit: weighted sum, vote, one layer over both representations,
    mixture of two such layers, or plain sum."""
    simple: Literal["mlp", "fm", "lr", "cin", "cross"] = "mlp"
    """The simple encoder. fm, lr and cin add tables of width 1, and lr reads nothing else: it wants
    selection: share."""
    embedding_dim: int = 16
    """d, width of field embeddings."""
    simple_hidden_dims: tuple[int, ...] = (400, 400)
    """Widths of the simple encoder's layers; only with simple: mlp."""
    complex_hidden_dims: tuple[int, ...] = (400, 400, 400)
    """Widths of the complex encoder's layers, an MLP."""
    cin_maps: tuple[int, ...] = (64, 64)
    """Feature maps of each layer of the compressed interaction network; only with simple: cin."""
    cin_out_dim: int = 400
    """Width of its output; only with simple: cin."""
    cross_layers: int = 3
    """Layers of the cross network; only with simple: cross."""
    selection_sizes: Literal["paper", "code"] = "paper"
    """Hidden layers of gates and experts, only with selection: gm or mmoe. With n fields, paper:
    gates [400, 100] and experts [400, 200]; code: gates [nd/4] and experts [nd/2], normalised and
    rectified at the output as well."""
    vote_temperature: float = 0.8
    """τ of the vote; only with fusion: vf."""
    dropout: float = 0.2
    """Probability, in the hidden layers of encoders, gates and experts."""
    batch_norm: bool = True
    """Batch normalisation there."""

    def __post_init__(self) -> None:
        least = 2 if self.selection == "ser" else 1
        if self.embedding_dim < least:
            raise ConfigError(
                f"TF4CTR: embedding_dim is {self.embedding_dim}; give at least {least}"
                f"{', for selection: ser halves it' if least > 1 else ''}."
            )
        for name in ("simple_hidden_dims", "complex_hidden_dims", "cin_maps"):
            widths = getattr(self, name)
            if not widths or min(widths) < 1:
                raise ConfigError(
                    f"TF4CTR: {name} is {list(widths)}; give the width of at least one layer, "
                    "each at least 1."
                )
        for name in ("cin_out_dim", "cross_layers"):
            if getattr(self, name) < 1:
                raise ConfigError(f"TF4CTR: {name} is {getattr(self, name)}; give at least 1.")
        if not 0 <= self.dropout < 1:
            raise ConfigError(
                f"TF4CTR: dropout is {self.dropout}; give at least 0 and less than 1."
            )
        if not 0 < self.vote_temperature < float("inf"):
            raise ConfigError(
                f"TF4CTR: vote_temperature is {self.vote_temperature}; give a number above 0."
            )
        if self.simple == "lr" and self.selection != "share":
            raise ConfigError(
                f"TF4CTR: selection {self.selection} cannot be set with simple: lr, which reads "
                "tables of its own and no embeddings that could be selected; set selection: share, "
                "or another simple encoder."
            )
        self._refuse_without_effect()

    def _refuse_without_effect(self) -> None:
        fields = type(self).__dataclass_fields__
        for name, key, values in (
            ("simple_hidden_dims", "simple", ("mlp",)),
            ("cin_maps", "simple", ("cin",)),
            ("cin_out_dim", "simple", ("cin",)),
            ("cross_layers", "simple", ("cross",)),
            ("selection_sizes", "selection", ("gm", "mmoe")),
            ("vote_temperature", "fusion", ("vf",)),
        ):
            default = fields[name].default
            if getattr(self, key) not in values and getattr(self, name) != default:
                raise ConfigError(
                    f"TF4CTR: {name}: {getattr(self, name)} has no effect with "
                    f"{key}: {getattr(self, key)}; leave it at {default}, "
                    f"or set {key}: {' or '.join(values)}."
                )


@dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """A plain transformer over the field embeddings: the baseline of DEA-R."""

    embedding_dim: int = 16
    """D, width of field embeddings and tokens."""
    num_layers: int = 2
    """N, transformer layers; each attends, then applies its feed-forward network."""
    attention_heads: int = 2
    """H, heads of each attention; must divide embedding_dim."""
    feed_forward_factor: int = 4
    """Hidden width of the feed-forward networks over embedding_dim."""
    hidden_dims: tuple[int, ...] = (400, 400)
    """Hidden widths of the head over all tokens; empty: one linear map."""
    dropout: float = 0.0
    """Probability, on what each attention and feed-forward network adds, and in the head."""
    batch_norm: bool = True
    """Batch normalisation in the head."""

    _model = "transformer"

    def __post_init__(self) -> None:
        for name in ("embedding_dim", "num_layers", "attention_heads", "feed_forward_factor"):
            self._require(getattr(self, name) >= 1, name, "give at least 1")
        self._require(all(w >= 1 for w in self.hidden_dims), "hidden_dims", "give widths from 1")
        self._require(0 <= self.dropout < 1, "dropout", "give at least 0 and less than 1")
        if self.embedding_dim % self.attention_heads:
            divisors = ", ".join(
                str(h) for h in range(1, self.embedding_dim + 1) if self.embedding_dim % h == 0
            )
            raise ConfigError(
                f"{self._model}: attention_heads {self.attention_heads} does not divide "
                f"embedding_dim {self.embedding_dim}; set attention_heads to one of {divisors}, "
                "or change embedding_dim."
            )

    def _require(self, met: bool, name: str, remedy: str) -> None:
        if not met:
            raise ConfigError(f"{self._model}: {name} is {getattr(self, name)}; {remedy}.")


@dataclass(frozen=True, kw_only=True)
class DualAttentionConfig(TransformerConfig):
    """DEA-R: a reconstruction of Dual Enhanced Attention (Wen et al., 2025, arXiv:2503.11233).

    The method section of the paper could not be obtained, so all formulas and sizes are ours, made
    to fit its abstract. Results are those of DEA-R, never of the authors' model. Ablations: `combo:
    false` and `filter: none` leave one of the two mechanisms out; both together are the plain
    transformer, exactly.
    """

    combo: bool = True
    """Combo-ID attention: scores read from codebooks at hashed pairs of ids. Pairs are those of the
    single-valued categorical fields: numeric fields have no id (preprocess with --numeric_as bucket
    or both to pair them), multi-valued ones several."""
    codebooks: int = 2
    """K, codebooks with a hash function each; a learned gate weighs them. Their settings have no
    effect without combo."""
    codebook_rows: int = 100_000
    """s, rows of each codebook. They are tables named codebook/0 and so on: sharded, saved and
    updated like those of the fields."""
    codebook_dim: int = 16
    """d_c, width of the codebooks; a multiple of 4."""
    codebook_init_std: float = 0.01
    """Codebooks start as N(0, std²)."""
    shuffle_pairs: bool = False
    """A control: the hash also takes the row's index, so that a pair of ids has another codeword in
    each row. Capacity stays, and nothing can be memorised about pairs."""
    recompute_lookups: bool = False
    """Look the codebooks up again in backward instead of keeping their rows since forward: memory
    for the rows of one codebook, not of K, and twice the lookups."""
    filter: Literal[
        "hard", "soft", "straight_through", "information_abundance", "top_rho", "none"
    ] = "hard"
    """Collapse-avoiding attention: what happens to attention below a learned threshold of the
    query. hard: scaled down softly while training, dropped in evaluation; soft: softly in both;
    straight_through: dropped in both, with the soft gradient; information_abundance: hard, and
    scaled by the information abundance of both fields' tables, measured after each epoch; top_rho:
    no threshold, only the share rho of the keys stays; none: plain attention."""
    temperature: float = 0.05
    """T of the soft threshold, in units of 1 / number of fields. No effect with top_rho and
    none."""
    frequency: bool = True
    """Whether the threshold sees how often the field's id is in the training rows; the data set
    must have its vocabulary/ folder. No effect with top_rho and none."""
    rho: float = 0.5
    """Share of the fields that top_rho keeps, rounded up."""
    fusion: Literal["gated_balance", "weighted_sum", "multiply"] = "gated_balance"
    """How the two attentions become one: a learned gate per pair, one learned weight per head, or
    their product, normalised. No effect without combo."""
    fusion_dim: int = 4
    """Hidden width of the network that is the gate of gated_balance."""

    _model = "dual_attention (DEA-R)"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("codebooks", "codebook_rows", "fusion_dim"):
            self._require(getattr(self, name) >= 1, name, "give at least 1")
        self._require(
            self.codebook_rows < 2**31, "codebook_rows", "give less than 2^31, or more codebooks"
        )
        self._require(
            self.codebook_dim >= 4 and self.codebook_dim % 4 == 0,
            "codebook_dim",
            "give a multiple of 4, which is what the tables' kernels read at once",
        )
        self._require(self.codebook_init_std > 0, "codebook_init_std", "give more than 0")
        self._require(self.temperature > 0, "temperature", "give more than 0")
        self._require(0 < self.rho <= 1, "rho", "give more than 0 and at most 1")
        # Sizes of what is switched off are no mistake: an ablation leaves the rest of a preset as
        # it is. These would pass for another experiment than the one that runs.
        self._refuse_without_effect(
            not self.combo, ("shuffle_pairs", "recompute_lookups"), "combo: false"
        )
        self._refuse_without_effect(self.filter != "top_rho", ("rho",), f"filter: {self.filter}")

    @property
    def has_threshold(self) -> bool:
        """Whether the filter compares attention with a learned threshold."""
        return self.filter not in ("top_rho", "none")

    def _refuse_without_effect(self, without: bool, names: tuple[str, ...], cause: str) -> None:
        fields = type(self).__dataclass_fields__
        given = [n for n in names if without and getattr(self, n) != fields[n].default]
        if given:
            settings = ", ".join(f"{name}: {getattr(self, name)}" for name in given)
            raise ConfigError(
                f"{self._model}: {settings} would have no effect with {cause}; leave "
                f"{', '.join(given)} out, or change {cause.partition(':')[0]}."
            )
