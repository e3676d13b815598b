"""A ranking of sources as a table."""

from typing import Any

from ..utils.files import short_path, short_paths
from ..utils.markdown import visible
from ..utils.tables import plain_table, show_table
from .results import MEASURES, SourceRanking, SourceScore


HEADINGS = ("source", "mean rank", *MEASURES.values(), "rows", "classes", "seconds")
DECIMALS = {"alignment": 3, "leep": 4}


def table(ranking: SourceRanking, with_mix: bool = False) -> str:
    """Return the table with its legend, and with weights for a mix, as plain text, the same in every terminal."""
    return "\n".join([plain_table(HEADINGS, rows(ranking)), *_below(ranking, with_mix)]) + "\n"


def show(ranking: SourceRanking, stream: Any, with_mix: bool = False) -> None:
    """Print what [`table`] returns: with rich in a terminal where it is installed, plain elsewhere."""
    show_table(HEADINGS, rows(ranking), stream)
    stream.write("\n".join(["", *_below(ranking, with_mix)]) + "\n")


def _below(ranking: SourceRanking, with_mix: bool) -> list[str]:
    return [*legend(ranking), *(["", *mix_lines(ranking)] if with_mix else [])]


def mix_lines(ranking: SourceRanking) -> list[str]:
    """Return the option `source_mix` as it can be pasted, after lines that say where its weights are from."""
    mix = ranking.mix
    if not mix:
        return ["No source has an alignment above 0: there are no weights for a mix."]
    names = {score.source_name: score.name for score in ranking.sources}
    given = ", ".join(f"{name} ({visible(short_path(names[name]))})" for name in mix)
    left_out = [visible(short_path(name)) for source, name in names.items() if source not in mix]
    lines = [f"For training on several sources, which you call {given}:"]
    if left_out:
        lines.append(f"Left out, with an alignment of 0 or less: {', '.join(left_out)}.")
    lines.append(
        "Weights are in proportion to the alignment, which says what a first small step does. It is a heuristic: "
        "compare it with `source_mix: equal`, and with each source left out."
    )
    return [*lines, f"source_mix: {','.join(f'{name}={weight:.2g}' for name, weight in mix.items())}"]


def rows(ranking: SourceRanking) -> list[list[str]]:
    """Return the cells of each source; names are without folders of this machine where they stay different."""
    short = [short_path(score.name) for score in ranking.sources]
    return [
        [
            short[place] if short.count(short[place]) == 1 else score.name,
            f"{score.mean_rank:.2f}",
            *(_measured(score, name) for name in MEASURES),
            str(score.rows),
            str(score.num_labels) if score.num_labels > 1 else "real",
            f"{score.seconds:.0f}",
        ]
        for place, score in enumerate(ranking.sources)
    ]


def _measured(score: SourceScore, name: str) -> str:
    mean, spread = score.mean(name), score.spread(name)
    if mean is None:
        return "-"
    text = f"{mean:+.{DECIMALS[name]}f}"
    text += f" ± {spread:.{DECIMALS[name]}f}" if spread is not None else ""
    return text + (f" ({score.ranks[name]:g})" if name in score.ranks else "")


def legend(ranking: SourceRanking) -> list[str]:
    """Return lines that explain the numbers and their limits."""
    seeds = ranking.settings["seeds"]
    spread = (
        f"over {len(seeds)} draws of rows"
        if len(seeds) > 1
        else "of the alignment over splits of the same rows (one seed)"
    )
    lines = [
        f"Target: {visible(short_path(ranking.target))}, {ranking.target_rows} rows, "
        f"{ranking.target_seconds:.0f} s. Higher is better; ranks in brackets; ± is the sample standard deviation "
        f"{spread}.",
        "alignment: cosine of the source's gradient with that of the target's meta loss; where it is not clearly "
        "above 0, a first step on the source does not lower that loss. LEEP: how well a head of the source's, on the "
        "pretrained features, tells the target's labels; blind to what the source would teach the backbone.",
    ]
    nothing = ", ".join(f"{MEASURES[name]} {ranking.baseline(name):+.{DECIMALS[name]}f}" for name in ranking.measures)
    lines.append(f"A source that says nothing has {nothing}.")
    left_out = [label for name, label in MEASURES.items() if name not in ranking.measures]
    if left_out:
        lines.append(
            "Not ranked by "
            + ", ".join(left_out)
            + ": it is not defined for labels that are real numbers, or between pairs of texts and single texts of a "
            "sentence encoder."
        )
    same = [row[0] for row, score in zip(rows(ranking), ranking.sources, strict=True) if score.has_target_labels]
    if same:
        lines.append(
            f"With the labels of the target, so that `zero_shot` and `pooled` can use them: {', '.join(same)}."
        )
    return lines + [f"Warning: {visible(short_paths(warning))}" for warning in ranking.warnings]
