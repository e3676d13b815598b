"""Draw a ranking of sources."""

from pathlib import Path

from ..utils.figures import new_figure, tidy, write_figure
from ..utils.files import short_path
from ..utils.markdown import figure_text
from .results import MEASURES, SourceRanking


def save_figure(ranking: SourceRanking, path: Path) -> None:
    """
    Draw bars for each measure, the best source on top.

    They begin at what a source that says nothing would have, and have one standard deviation over seeds; the alignment
    has a dot for each meta gradient of each seed.
    """
    scores = ranking.sources[::-1]
    measures = [name for name in MEASURES if any(score.values[name] for score in scores)]
    figure = new_figure(1.5 + 2.4 * len(measures), 1.4 + 0.4 * len(scores))
    all_axes = figure.subplots(1, len(measures), sharey=True, squeeze=False)[0]
    for axes, name in zip(all_axes, measures, strict=True):
        baseline = ranking.baseline(name)
        for place, score in enumerate(scores):
            mean = score.mean(name)
            if mean is None:
                continue
            color = "#c44e52" if score.ranks.get(name) == 1 else "#4c72b0"
            gain = mean - baseline
            axes.barh(
                place, gain, left=baseline, xerr=score.spread(name), color=color, alpha=0.8, capsize=3, height=0.6
            )
            if name == "alignment":
                dots = [value for of_seed in score.contributions for value in of_seed]
                axes.plot(dots, [place] * len(dots), "o", color="black", alpha=0.4, markersize=3, markeredgewidth=0)
        axes.set_title(MEASURES[name], fontsize="medium")
        axes.axvline(baseline, color="black", linewidth=0.8)
        axes.tick_params(axis="x", labelsize="small")
        axes.locator_params(axis="x", nbins=4)
        tidy(axes, grid="x")
    all_axes[0].set_yticks(range(len(scores)), [figure_text(short_path(score.name)) for score in scores])
    figure.supxlabel(
        f"sources for {figure_text(short_path(ranking.target))}; higher is better, the line is a source that says "
        "nothing",
        fontsize="small",
    )
    write_figure(figure, path)
