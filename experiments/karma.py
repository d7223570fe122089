"""KARMA (arXiv 2603.22779): does an interest that must stay decodable find more than one that is trained to act alone?

Question:  a language model reads query and history and gives one vector, the interest. Trained to retrieve alone it forgets
           what it knew (semantic collapse). Do history-conditioned generation and embedding-conditioned reconstruction of the
           wanted item's text keep that, and does it help to retrieve?
Command:   `python -m data_gen.interests build LOGS_OR_CONVERTED --out INTERESTS`, then
           `unisc train experiments/karma.py --samples INTERESTS --model rec --size s --out DIR`; the ablation grid is
           `unisc sweep run sweeps/karma.py --preset laptop --out DIR`.
Cost:      see `experiments/LOG.md`; the language model is trained once for all runs on the same interests.
Expected:  the paper reports HR@200 +22.57 for the whole, +19.19 of it by reconstruction alone, and less collapsed attention.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Float32

from experiments import language_model
from unisc.config import Runtime
from unisc.data.interest_batches import InterestBatches, Lengths
from unisc.data.interests import Interests, load
from unisc.data.tower_batches import kept, wanted_counts
from unisc.errors import InputError
from unisc.models import karma
from unisc.models.decoder import Decoder
from unisc.models.karma import KarmaConfig, KarmaTrainee
from unisc.models.served import save_karma
from unisc.nn.frozen import freeze
from unisc.objectives.contrastive import Hard, info_nce
from unisc.objectives.language import next_token_loss
from unisc.train import loop
from unisc.train.encoder import EncoderResult, EncoderTrainConfig, train_encoder
from unisc.train.interests import context_of, encode_catalogue, popularity, retrieve, text_features
from unisc.train.semantics import SemanticsConfig, judge

VERSION = 1
"""Raised by hand whenever the same configuration would give other numbers."""

METRICS = ("eval/hr@200", "eval/gauc", "eval/semantics/sink_rate", "eval/semantics/token_accuracy")
FLOORS = ("popularity",)
CHUNK = 32
"""Positions whose logits exist at once."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """Which interests, by their manifest's fingerprint; `fraction` is the share of users trained on, lengths are cuts."""

    interests: str
    history_len: int
    query_len: int
    answer_len: int
    num_shown: int
    fraction: float = 1.0

    @property
    def lengths(self) -> Lengths:
        """The cuts of a batch."""
        return Lengths(query=self.query_len, history=self.history_len, shown=self.num_shown, answer=self.answer_len)


@dataclass(frozen=True, kw_only=True, slots=True)
class Objective:
    """L = L_act + gen L_gen + rec L_rec + vis L_vis; a weight of 0 leaves that part out. `frozen` holds the language model."""

    gen: float = 0.0
    rec: float = 0.0
    vis: float = 0.0
    frozen: bool = False
    temperature: float = 0.05

    def __post_init__(self) -> None:
        if min(self.gen, self.rec, self.vis) < 0:
            raise InputError(f"gen {self.gen}, rec {self.rec}, vis {self.vis}: give weights of at least 0")
        if not 0.01 <= self.temperature <= 1:
            raise InputError(f"temperature {self.temperature}: give a number from 0.01 to 1")


OBJECTIVES: Mapping[str, Objective] = MappingProxyType(
    {
        "act": Objective(),
        "gen": Objective(gen=0.1),
        "rec": Objective(rec=0.1),
        "both": Objective(gen=0.1, rec=0.1),
        "visual": Objective(gen=0.1, rec=0.1, vis=0.1),
        "frozen": Objective(frozen=True),
    }
)
"""The ablation: the action loss alone, with either regulariser, with both, with the picture, too; and the model held still."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """One run; everything its numbers depend on is stated here."""

    data: DataConfig
    language: language_model.Config
    model: KarmaConfig
    objective: Objective
    train: EncoderTrainConfig
    semantics: SemanticsConfig
    ks: tuple[int, ...] = (10, 50, 200, 1000)

    def __post_init__(self) -> None:
        if self.model.decoder != self.language.model:
            raise InputError("model.decoder: another than language.model; a decoder goes on from the one that was pretrained")
        if bool(self.model.visual_dim) < bool(self.objective.vis):
            raise InputError("objective.vis: the model has no head for pictures; give model.visual_dim, or vis 0")


def default(samples: Path, *, model: str = "rec", size: str = "s", seed: int = 0) -> Config:
    """Return the configuration of an objective by name and a decoder by size; `unisc.config.override` changes the rest.

    Raises:
      InputError: an unknown objective or size, or "visual" on items without pictures.
    """
    if model not in OBJECTIVES:
        raise InputError(f"model {model!r}: unknown; give one of {', '.join(OBJECTIVES)}")
    data = load(samples)
    pictures = 0 if data.catalogue.visual is None else data.catalogue.visual.shape[1]
    if model == "visual" and not pictures:
        raise InputError(f"{samples}: its items have no pictures; give another model than visual")
    language = language_model.default(samples, size=size, seed=0)  # one language model for all seeds of what is built on it
    dim = language.model.dim
    queries = data.train.query.lengths
    return Config(
        data=DataConfig(
            interests=data.fingerprint,
            history_len=20,
            query_len=int(np.quantile(queries, 0.99)) if len(queries) else 0,
            answer_len=int(np.quantile(data.catalogue.text.lengths, 0.99)),
            num_shown=4 if len(data.train.shown.values) else 0,
        ),
        language=language,
        model=KarmaConfig(
            decoder=language.model,
            feature_dim=dim + pictures,
            embed_dim=64,
            hidden_dim=2 * dim,
            visual_dim=pictures if model == "visual" else 0,
        ),
        objective=OBJECTIVES[model],
        train=EncoderTrainConfig(
            batch_size=1 << (min(256, data.train.num_examples).bit_length() - 1),
            learning_rate=3e-3,
            weight_decay=0.01,
            seed=seed,
            num_epochs=10,
        ),
        semantics=SemanticsConfig(),
    )


def run(config: Config, runtime: Runtime) -> Mapping[str, Any]:
    """Pretrain or find the language model, train the interest, retrieve from the whole catalogue, and measure collapse."""
    began = time.perf_counter()
    data = load(Path(runtime.data_dir), fingerprint=config.data.interests, needs_order=True)

    # 1. What the items are known by: frozen vectors of their texts by the language model, and of their pictures.
    language = language_model.pretrained(config.language, data, runtime)
    shared = shared_of(config, data, language)

    # 2. The model starts from the language model; what it can do untouched is what collapse is measured against.
    model = start(config, language)
    lengths = config.data.lengths
    before = judge(model, language, data, shared.features, lengths, config.semantics)

    # 3. The objective.
    trained = fit(config, data, model, shared, runtime)
    assert isinstance(trained.model, KarmaTrainee)

    # 4. Recall over the whole catalogue, order within what was shown, and the measures of collapse.
    items = encode_catalogue(trained.model.serve, shared.features)
    scored = {
        split: retrieve(trained.model.serve, items, data, examples, shared.features, lengths, ks=config.ks)
        for split, examples in (("test", data.test), ("validation", data.validation))
    }
    after = judge(trained.model, language, data, shared.features, lengths, config.semantics)
    np.savez_compressed(Path(runtime.work_dir) / "eval.npz", allow_pickle=False, **scored["test"].arrays, items=items)
    metrics = {f"eval/{name}": value for name, value in scored["test"].metrics.items()}
    metrics |= {f"eval/validation/{name}": value for name, value in scored["validation"].metrics.items()}
    metrics |= {f"eval/popularity/{name}": value for name, value in popularity(data, data.test, ks=config.ks).items()}
    metrics |= {f"eval/semantics/{name}": value for name, value in after.items()}
    metrics |= {f"eval/before/{name}": value for name, value in before.items()}
    if runtime.keep_model and not (served := Path(runtime.work_dir) / "karma").exists():
        save_karma(trained.model.serve, served, features=shared.features)
    flops = train_flops(config, trained.counts.num_examples)
    return trained.record(metrics, params=karma.num_params(config.model), train_flops=flops, began=began)


class Shared(NamedTuple):
    """What every step reads: frozen features of the I items, their pictures, and the log of each one's share of all wants."""

    features: Float32[np.ndarray, "I F"]
    visual: Float32[np.ndarray, "I P"]
    log_prob: Float32[np.ndarray, " I"]


def shared_of(config: Config, data: Interests, language: Decoder) -> Shared:
    """Return the catalogue as the steps read it; an item wanted in no train row counts as wanted once."""
    counts = np.maximum(wanted_counts(data, kept(data, config.data.fraction)), 1).astype(np.float64)
    features = [text_features(language, data.catalogue.text, max_len=config.language.max_len)]
    visual = np.zeros((data.catalogue.num_items, 0), np.float32)
    if data.catalogue.visual is not None:
        visual = np.array(data.catalogue.visual)
        features.append(visual)
    return Shared(np.concatenate(features, axis=1), visual, np.log(counts / counts.sum()).astype(np.float32))


def start(config: Config, language: Decoder) -> KarmaTrainee:
    """Build the model on the pretrained language model."""
    model = KarmaTrainee(config.model, rngs=nnx.Rngs(config.train.seed))
    nnx.update(model.serve.decoder, nnx.state(language))
    if config.objective.frozen:
        freeze(model.serve.decoder)
    return model


@dataclass(frozen=True, kw_only=True, slots=True)
class KarmaLoss:
    """The objective, `loss(model, rows, batch, shared)`."""

    objective: Objective

    def __call__(self, model: Any, rows: None, batch: Any, shared: Any) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        """Return the weighted sum of the parts, and the parts; of a KarmaTrainee on an InterestBatch, with Shared."""
        weights, serve = self.objective, model.serve
        features = shared.features
        context = context_of(batch, features)
        answer: Any = (batch.answer, batch.answer_mask) if weights.gen else ()
        read = serve.read(context, *answer)

        # L_act: the wanted item against what was shown beside it and left, and against what others wanted, corrected for how
        # often that is wanted (in-batch items are drawn by popularity).
        hard = Hard(serve.item(features[batch.shown]), batch.shown, batch.shown_mask) if batch.shown.shape[1] else None
        act = info_nce(
            read.interest,
            serve.item(features[batch.wanted]),
            batch.wanted,
            scale=1 / weights.temperature,
            hard=hard,
            log_prob=shared.log_prob[batch.wanted],
        )
        parts = {"act": jnp.mean(act)}
        real, vectors = batch.targets_mask.astype(jnp.float32), serve.decoder.output_vectors()

        # L_gen: the wanted item's text after the interest, the whole history in sight.
        if weights.gen:
            parts["gen"] = next_token_loss(read.answer, vectors, batch.targets, real, chunk=CHUNK).mean
        # L_rec: the same text by the same decoder, which sees the interest's vector and nothing else.
        if weights.rec:
            hidden = model.heads.reconstruct(serve.decoder, read.interest, batch.answer, batch.answer_mask)
            parts["rec"] = next_token_loss(hidden, vectors, batch.targets, real, chunk=CHUNK).mean
        # L_vis: the item's picture, as a frozen encoder has it.
        if weights.vis:
            foreseen = model.heads.picture(read.interest).astype(jnp.float32)
            parts["vis"] = jnp.mean(jnp.square(foreseen - shared.visual[batch.wanted].astype(jnp.float32)))
        total = parts["act"] + sum(getattr(weights, name) * value for name, value in parts.items() if name != "act")
        return total, parts


def fit(config: Config, data: Interests, model: KarmaTrainee, shared: Shared, runtime: Runtime) -> EncoderResult:
    """Train on the configured share of users."""
    batches = InterestBatches(
        data,
        batch_size=config.train.batch_size,
        seed=config.train.seed,
        num_epochs=config.train.num_epochs,
        lengths=config.data.lengths,
        fraction=config.data.fraction,
    )
    loss, training = KarmaLoss(objective=config.objective), loop.Runtime.of(runtime, part=(0.05, 0.85))
    return train_encoder(model, batches, config.train, loss=loss, shared=shared, runtime=training)


def train_flops(config: Config, num_examples: int) -> int:
    """Count the FLOPs of training on so many examples; a frozen decoder still passes gradients back."""
    weights, cuts = config.objective, config.data
    forward = karma.flops_per_example(
        config.model,
        query_len=cuts.query_len,
        history_len=cuts.history_len,
        answer_len=cuts.answer_len,
        num_shown=cuts.num_shown,
        has_gen=weights.gen > 0,
        has_rec=weights.rec > 0,
    )
    return 3 * num_examples * forward
