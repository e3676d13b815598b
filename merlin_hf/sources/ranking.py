"""
Rank candidate sources for a target, before any training.

LEEP asks whether the pretrained features already solve the target the way they solve the source, and cannot see what a
source would teach the backbone. That is what the alignment asks, of the first step: where a head on the pretrained
features learns nothing of the source, its gradient is noise as well, and `warnings` says so.

Where a candidate or the target has labels that are real numbers, LEEP is not defined, and the order is by the
alignment alone; so it is where a sentence encoder reads pairs of texts in one and single texts in the other.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from statistics import mean
from typing import Any

import torch
from torch import Tensor

from ..comparison.config import SourceConfig, check_seeds
from ..data.rows import Rows, overlap
from ..transfer.seeding import derived_generator
from ..transfer.shared_labels import match_labels
from ..utils.validation import check_fields
from .data import check_fit, check_halves, draw, load, read_data_sets, source_names
from .features import Backbone, Encoded
from .gradients import meta_gradient, source_gradient
from .head import fit_source_head, held_out_accuracy
from .measures import gradient_alignment, leep
from .results import SourceRanking, SourceScore, rank
from .settings import DEFAULT_MODELS, RankingSettings


# Random halves that a meta gradient is the mean of: they cost one small solve each, a meta gradient a pass through the
# backbone.
HALVES = 8


def rank_sources(
    target: str | Mapping[str, Any] | SourceConfig,
    candidates: Sequence[str | Mapping[str, Any] | SourceConfig] | Mapping[str, Any],
    model: str | None = None,
    *,
    columns: Mapping[str, Mapping[str, Any]] | None = None,
    progress: Callable[[str], None] | None = None,
    **settings: Any,
) -> SourceRanking:
    """
    Rank data sets by how much they promise as the source of a target.

    On features of the pretrained backbone, which stays as it is, a source head is fit. Two numbers are taken, higher
    for a better source: whether a gradient step on the source would lower MeRLin's meta loss on the target
    ([`~merlin_hf.sources.measures.gradient_alignment`]), and how well the source's predicted classes tell the target's
    labels ([`~merlin_hf.sources.measures.leep`]). The order is by the mean of both ranks, then by the alignment.

    Args:
        target (`str`, mapping or [`~merlin_hf.comparison.config.SourceConfig`]): `path[:config][@split]`, or with the
            keys `path`, `name`, `split`, `text_columns`, `image_column`, `label_column`, `problem_type`.
        candidates (list of the same, or a mapping of names to them): the sources.
        model (`str`, *optional*): a name on the Hub or a folder; BERT-base for texts and ViT-base for images if not
            given.
        columns (mapping, *optional*): from names of data sets as given to their `text_columns`, `image_column`,
            `label_column` and `problem_type`.
        progress (`Callable[[str], None]`, *optional*): gets a line for each candidate and seed.
        settings: `target_rows`, `source_rows`, `seeds` and the other fields of
            [`~merlin_hf.sources.settings.RankingSettings`].

    Returns:
        [`SourceRanking`]: the candidates, best first.

    Raises:
        ConfigError: an argument cannot be used, or data sets and model do not fit together; the message names it.
        FileNotFoundError: `MERLIN_DATA_ROOT` is not a folder.

    Example:
    ```python
    >>> from merlin_hf.sources import rank_sources

    >>> ranking = rank_sources("reviews.csv", ["stanfordnlp/sst2", "nyu-mll/glue:cola"])
    ```
    """
    chosen = RankingSettings(model or "", **check_fields(settings, RankingSettings, ""))
    target_name, target_section, sections = read_data_sets(target, candidates, columns or {})
    target_pool = load(target_section, "target")
    pools = {name: load(section, "candidates") for name, section in sections.items()}
    check_fit(target_pool, pools)
    chosen.model = chosen.model or DEFAULT_MODELS[target_pool.kind]
    ranking = SourceRanking(target_name, settings=vars(chosen))
    for (name, pool), source_name in zip(pools.items(), source_names(candidates, sections), strict=True):
        labels = pool.task.labels
        is_alike = match_labels(labels.names, target_pool.task.labels.names) is not None
        score = SourceScore(name, len(pool), labels.num_labels, has_target_labels=is_alike, source_name=source_name)
        ranking.sources.append(score)
    _measure_all(ranking, target_pool, pools, chosen, progress or (lambda text: None))
    ranking.warnings = _warnings(ranking, target_pool, pools)
    ranking.sources = rank(ranking.sources)
    return ranking


def _measure_all(
    ranking: SourceRanking,
    target_pool: Rows,
    pools: Mapping[str, Rows],
    settings: RankingSettings,
    say: Callable[[str], None],
) -> None:
    """Measure the target and each candidate, for each seed, and fill in the ranking."""
    backbone = Backbone(settings, target_pool.task.labels, target_pool.kind)
    for seed in check_seeds(settings.seeds, "seeds"):
        start = time.perf_counter()
        drawn = draw(target_pool, settings.target_rows, "target_rows", "target", seed)
        check_halves(drawn)
        target = backbone.encode(drawn)
        metas = meta_gradients(target, settings.num_splits, seed)
        ranking.target_rows = len(drawn)
        for name, value in of_no_source(target.labels).items():
            ranking.baselines.setdefault(name, []).append(value)
        ranking.target_seconds += time.perf_counter() - start
        for score in ranking.sources:
            start = time.perf_counter()
            source = backbone.encode(draw(pools[score.name], settings.source_rows, "source_rows", "source", seed))
            measure(score, target, metas, source)
            seconds = time.perf_counter() - start
            score.seconds += seconds
            say(f"{score.name}, seed {seed}: alignment {score.values['alignment'][-1]:+.3f}, {seconds:.0f} s")


def meta_gradients(target: Encoded, num_splits: int, seed: int) -> list[list[Tensor]]:
    """Return `num_splits` gradients of the meta loss in the parameters, each the mean over `HALVES` halves."""
    at_features = [
        meta_gradient(
            target.features,
            target.labels,
            target.num_labels,
            HALVES,
            derived_generator("meta_gradient", seed, number),
        )
        for number in range(num_splits)
    ]
    return target.pull_back(at_features)


def measure(score: SourceScore, target: Encoded, metas: list[list[Tensor]], source: Encoded) -> None:
    """Measure one draw of a candidate's rows, and add the numbers to its score."""
    score.rows = len(source)
    head = fit_source_head(source.features, source.labels, source.num_labels)
    source_has_classes, target_has_classes = (not rows.labels.is_floating_point() for rows in (source, target))
    if source_has_classes:
        score.head_accuracy.append(held_out_accuracy(source.features, source.labels, source.num_labels))
        score.largest_class.append(float(source.labels.bincount().max() / len(source)))
    # A sentence encoder gives pairs of texts more features than single texts, and the head reads one kind.
    if source_has_classes and target_has_classes and source.features.shape[1] == target.features.shape[1]:
        probabilities = torch.softmax(head(target.features).double(), dim=-1)
        score.values["leep"].append(leep(probabilities, target.labels))
    at_features = source_gradient(source.features, source.labels, head)
    found = gradient_alignment(source.pull_back([at_features])[0], metas)
    score.values["alignment"].append(found.cosine)
    score.contributions.append(found.contributions)
    score.inner_products.append(found.inner_product)


def of_no_source(labels: Tensor) -> dict[str, float]:
    """Return what each measure is for a source that says nothing about these labels of the target."""
    found = {"alignment": 0.0}
    if not labels.is_floating_point():
        found["leep"] = leep(torch.ones(len(labels), 1), labels.cpu())
    return found


def _warnings(ranking: SourceRanking, target: Rows, pools: Mapping[str, Rows]) -> list[str]:
    found = []
    for name, pool in pools.items():
        shared = overlap(target, pool)
        if shared:
            found.append(f"{shared} of {len(target)} rows of {ranking.target} stand in {name} as well.")
    for score in ranking.sources:
        if score.head_is_at_chance:
            found.append(
                f"On the pretrained features a head hardly learns {score.name} from {score.rows} rows: it is right on "
                f"{mean(score.head_accuracy):.3f} of those held out, its largest class is "
                f"{mean(score.largest_class):.3f}. What is said of this source is mostly noise, which is not to say "
                "that it does not help when the backbone is trained."
            )
    return found
