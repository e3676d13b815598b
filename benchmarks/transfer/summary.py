"""
Write what the pairs say together.

`python benchmarks/transfer/summary.py` reads `results/` and writes `summary.md` there, and `headline.md`,
`variants.md` and `choices.md`, the tables that stand in the project's README and in the one beside this.

The question is the one somebody asks who has a target and a source: MeRLin in whichever of its two variants did better
on the validation rows, against all other methods. Both have a phase on the source first, then both losses or the
target's alone.
"""

import itertools
import json
import math
import statistics
import sys
from dataclasses import replace
from pathlib import Path

from merlin_hf.comparison.statistics import paired_difference
from merlin_hf.report.comparisons import Comparison, read_comparisons
from merlin_hf.report.ranks import mean_ranks
from merlin_hf.report.write import write_report
from merlin_hf.utils.files import write_text


HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from stored import markdown, unpacked  # noqa: E402


VARIANTS = ("merlin_source_first", "merlin_target_last")
WITHOUT_SOURCE_PHASE = ("merlin", "merlin_ft")
CHOSEN = "MeRLin, either variant"
CHOICE_COLUMNS = ("one of these, by validation rows", "MeRLin is better by", "pairs won by MeRLin")


def read(path: Path) -> tuple[Comparison, str]:
    """Results on one pair with one number of rows, and the label of the variant that its validation score chooses."""
    (comparison,), _ = read_comparisons([path])
    methods = {label: method for label, method in comparison.methods.items() if math.isfinite(method.mean)}
    needed = (*VARIANTS, *WITHOUT_SOURCE_PHASE, "finetune", "joint", "sequential")
    missing = [label for label in needed if label not in methods]
    if missing:
        raise SystemExit(f"{path} has no scores of {', '.join(missing)}: run all methods first.")
    chosen = choose(VARIANTS, validation_scores(path))
    return replace(comparison, pair=path.parts[-3], rows=int(path.parts[-2]), methods=methods), chosen


def validation_scores(path: Path) -> dict[str, float]:
    """The best score on rows set aside of each method that was searched."""
    found = {}
    for method in json.loads(path.read_text())["methods"]:
        scores = [
            trial["score"] for trial in method["trials"] if trial["score"] is not None
        ]  # none where training diverged
        if scores:
            found[method["label"]] = max(scores)
    return found


def choose(labels: tuple[str, ...], scores: dict[str, float]) -> str:
    """The method with the best validation score; of equally good ones, but for rounding, the first."""
    return max(labels, key=lambda label: round(scores.get(label, 0.0), 9))


def check_searches(paths: list[Path]) -> None:
    """
    Check that a method tried the same settings on all pairs of a kind and a number of rows.

    Raises:
        SystemExit: a method tried other settings, or on other draws, on one pair than on another of the same kind and
            number of rows: the results are of different versions of the search, and ranks on them do not belong
            together.
    """
    tried: dict[tuple, dict[str, list[str]]] = {}
    for path in paths:
        content = json.loads(path.read_text())
        kind = str(content["config"]["search"]["learning_rates"])  # those of texts and of images differ
        for method in content["methods"]:
            settings = [[trial["setting"], sorted(trial["scores"])] for trial in method["trials"]]
            if settings:
                of_method = tried.setdefault((path.parts[-2], kind, method["label"]), {})
                of_method.setdefault(json.dumps(settings, sort_keys=True), []).append(path.parts[-3])
    for (rows, _, label), searches in tried.items():
        if len(searches) > 1:
            pairs = "; ".join(f"{settings} on {', '.join(pairs)}" for settings, pairs in searches.items())
            raise SystemExit(
                f"With {rows} rows `{label}` did not try the same settings on all pairs: {pairs}. Run some anew."
            )


def standing_for_merlin(comparison: Comparison, variant: str) -> Comparison:
    """The comparison with one variant, under `CHOSEN`, in place of all of them."""
    left_out = (*VARIANTS, *WITHOUT_SOURCE_PHASE)
    kept = {label: method for label, method in comparison.methods.items() if label not in left_out}
    kept[CHOSEN] = comparison.methods[variant]  # with its own label, so that it can be named
    return replace(comparison, methods=kept)


def best_of_others(comparison: Comparison) -> str:
    """The method with the best test score, MeRLin left out."""
    return max((label for label in comparison.methods if label != CHOSEN), key=comparison.gain)


def beats(comparison: Comparison, label: str, other: str) -> bool:
    """Say if a method has more right rows than another; means of equal numbers may differ in the last bit."""
    return round(comparison.gain(label) - comparison.gain(other), 9) > 0


def difference(comparisons: list[Comparison], label: str) -> str:
    """Points of MeRLin over a method, averaged over comparisons, with the interval over them."""
    both = [[100 * comparison.gain(name) for comparison in comparisons] for name in (CHOSEN, label)]
    found = paired_difference(*both)
    interval = "" if found.low is None else f" [{found.low:+.1f}, {found.high:+.1f}]"
    return f"{found.mean:+.1f}{interval}"


def method_table(comparisons: list[Comparison]) -> str:
    """Ranks and differences; a method that is not in all comparisons has no rank."""
    ranks = mean_ranks(comparisons)
    unranked = {label for comparison in comparisons for label in comparison.methods} - set(ranks)
    rows = []
    for label in [*ranks, *sorted(unranked)]:
        took_part = [comparison for comparison in comparisons if label in comparison.methods]
        won = sum(beats(comparison, CHOSEN, label) for comparison in took_part)
        others = ("", "") if label == CHOSEN else (difference(took_part, label), f"{won} of {len(took_part)}")
        name = f"**{label}**" if label == CHOSEN else f"`{label}`"
        rows.append((name, f"{ranks[label]:.1f}" if label in ranks else "", str(len(took_part)), *others))
    return markdown(("method", "mean rank", "pairs", "MeRLin is better by", "pairs won by MeRLin"), rows)


def best_other(ranks: dict[str, float]) -> str:
    """Of the methods that are not MeRLin the one with the best mean rank."""
    return min((label for label in ranks if label != CHOSEN), key=ranks.__getitem__)


def with_rank(label: str, ranks: dict[str, float]) -> str:
    """A method's mean rank and its name."""
    return f"{ranks[label]:.1f} (`{label}`)"


def better_and_worse_than_merlin(comparisons: list[Comparison], variant: str) -> str:
    """On how many pairs a variant is better, and on how many worse, than both losses in every step."""
    better = sum(beats(comparison, variant, "merlin") for comparison in comparisons)
    worse = sum(beats(comparison, "merlin", variant) for comparison in comparisons)
    return f"{better}, {worse}"


def variant_table(comparisons: list[Comparison]) -> str:
    """A line for each variant: how it would stand if there were no other."""
    rows = []
    for variant in (*VARIANTS, *WITHOUT_SOURCE_PHASE):
        alone = [standing_for_merlin(comparison, variant) for comparison in comparisons]
        over = [difference(alone, label) for label in ("finetune", "joint", "sequential")]
        ranks = mean_ranks(alone)
        beside = "" if variant == "merlin" else better_and_worse_than_merlin(comparisons, variant)
        rows.append((f"`{variant}`", f"{ranks[CHOSEN]:.1f}", with_rank(best_other(ranks), ranks), *over, beside))
    over = ("over fine-tuning", "over joint", "over sequential")
    return markdown(("variant alone", "mean rank", "best other", *over, "better, worse than `merlin`"), rows)


def given_the_choice(comparisons: list[Comparison], scores: list[dict[str, float]]) -> list[tuple[str, str, str]]:
    """Return lines of MeRLin beside a choice, made in the same way, of the two hardest other methods or of all."""
    others = sorted(
        set.intersection(*(set(of_pair) & set(c.methods) for c, of_pair in zip(comparisons, scores, strict=True)))
        - {*VARIANTS, *WITHOUT_SOURCE_PHASE}
    )

    def gains(labels: tuple[str, ...]) -> list[tuple[float, float]]:
        return [
            (100 * one.gain(CHOSEN), 100 * one.gain(choose(labels, of_pair)))
            for one, of_pair in zip(comparisons, scores, strict=True)
        ]

    both_are_chosen = [
        labels
        for labels in itertools.combinations(others, 2)
        if {choose(labels, of_pair) for of_pair in scores} == set(labels)
    ]
    hardest = min(both_are_chosen, key=lambda labels: sum(own - other for own, other in gains(labels)), default=())
    named = {" or ".join(f"`{label}`" for label in hardest): hardest, "all": tuple(others)}
    rows = []
    for name, labels in ((name, labels) for name, labels in named.items() if labels):
        found = gains(labels)
        over = paired_difference(*zip(*found, strict=True))
        interval = "" if over.low is None else f" [{over.low:+.1f}, {over.high:+.1f}]"
        rows.append(
            (name, f"{over.mean:+.1f}{interval}", f"{sum(own > other for own, other in found)} of {len(found)}")
        )
    return rows


def pair_table(comparisons: list[Comparison]) -> str:
    """A line for each pair: MeRLin, fine-tuning, joint training and the best of all other methods."""
    rows = []
    for comparison in comparisons:
        best = best_of_others(comparison)
        methods = [comparison.methods[label] for label in (CHOSEN, "finetune", "joint", best)]
        shown = [f"{100 * method.mean:.1f} ± {100 * (method.spread or 0):.1f}" for method in methods]
        rows.append((comparison.pair, f"`{methods[0].label}`", *shown[:-1], f"{shown[-1]} (`{best}`)"))
    return markdown(("pair", "chosen", "MeRLin", "fine-tuning", "joint", "best other method"), rows)


def headline(comparisons_by_rows: dict[int, list[Comparison]]) -> str:
    """A line for each number of labelled rows: how MeRLin stands, the best of the others by rank beside it."""
    table = []
    for rows, comparisons in comparisons_by_rows.items():
        ranks = mean_ranks(comparisons)
        best = best_other(ranks)
        won = sum(beats(comparison, CHOSEN, best_of_others(comparison)) for comparison in comparisons)
        over = [difference(comparisons, label) for label in (best, "finetune", "joint")]
        of_all = f"{won} of {len(comparisons)}"
        ranked = (f"{ranks[CHOSEN]:.1f}", with_rank(best, ranks))
        table.append((f"{rows:,}", f"{len(comparisons)}", *ranked, *over, of_all))
    over = ("over the best other", "over fine-tuning", "over joint training")
    return markdown(
        ("labelled rows", "pairs", "mean rank", "best other by rank", *over, "better than all others on"), table
    )


def each_variant(comparisons_by_rows: dict[int, list[Comparison]]) -> str:
    """Return a line for each number of labelled rows: the mean rank of each variant alone, the best other method."""
    table = []
    for rows, comparisons in comparisons_by_rows.items():
        cells = []
        for variant in (*VARIANTS, *WITHOUT_SOURCE_PHASE):
            ranks = mean_ranks([standing_for_merlin(comparison, variant) for comparison in comparisons])
            cells.append(f"{ranks[CHOSEN]:.1f}; {with_rank(best_other(ranks), ranks)}")
        table.append(
            (f"{rows:,}", *cells, *(better_and_worse_than_merlin(comparisons, variant) for variant in VARIANTS))
        )
    named = [f"`{variant}`" for variant in (*VARIANTS, *WITHOUT_SOURCE_PHASE)]
    counted = [f"`{variant}`: better, worse than `merlin`" for variant in VARIANTS]
    return markdown(("labelled rows", *named, *counted), table)


def choices(chosen_by_rows: dict[int, list[Comparison]], scores_by_rows: dict[int, list[dict[str, float]]]) -> str:
    """A line for each number of labelled rows: MeRLin beside other methods of which one is chosen in the same way."""
    table = []
    for rows, comparisons in chosen_by_rows.items():
        table += [(f"{rows:,}", *cells) for cells in given_the_choice(comparisons, scores_by_rows[rows])]
    return markdown(("labelled rows", *CHOICE_COLUMNS), table)


def verdict(comparisons: list[Comparison]) -> str:
    """The three things that were to be shown, each with what was found."""
    ranks = mean_ranks(comparisons)
    best = next(iter(ranks))
    won = sum(beats(comparison, CHOSEN, best_of_others(comparison)) for comparison in comparisons)
    over = statistics.fmean(
        100 * (comparison.gain(CHOSEN) - comparison.gain("finetune")) for comparison in comparisons
    )
    return "\n".join(
        [
            f"- the best mean rank: **{'yes' if best == CHOSEN else 'no'}** ({ranks[CHOSEN]:.1f}"
            + ("" if best == CHOSEN else f"; `{best}` has {ranks[best]:.1f}")
            + ")",
            f"- at least 3 points over fine-tuning on average: **{'yes' if over >= 3 else 'no'}** "
            f"({difference(comparisons, 'finetune')})",
            "- better than the best other method of each pair on most pairs: "
            f"**{'yes' if 2 * won > len(comparisons) else 'no'}** ({won} of {len(comparisons)})",
        ]
    )


def main(results: Path = HERE / "results", output_dir: Path | None = None) -> None:
    """Write summary, headline, variants and choices as Markdown, by default into `results`, and print them."""
    with unpacked(results) as folder:
        paths = sorted(folder.glob("*/*/results.json"))
        if not paths:
            sys.exit(f"There are no results in {results}.")
        check_searches(paths)
        found = [read(path) for path in paths]
        validation = [validation_scores(path) for path in paths]
    parts = ["# What the pairs say together"]
    whole_by_rows, chosen_by_rows, scores_by_rows = {}, {}, {}
    for rows in sorted({comparison.rows for comparison, _ in found}):
        whole = [comparison for comparison, _ in found if comparison.rows == rows]
        of_rows = [standing_for_merlin(comparison, chosen) for comparison, chosen in found if comparison.rows == rows]
        scores = [one for one, (comparison, _) in zip(validation, found, strict=True) if comparison.rows == rows]
        whole_by_rows[rows], chosen_by_rows[rows], scores_by_rows[rows] = whole, of_rows, scores
        parts += [
            f"## {rows} labelled rows, {len(of_rows)} pairs",
            verdict(of_rows),
            method_table(of_rows),
            markdown(CHOICE_COLUMNS, given_the_choice(of_rows, scores)),
            variant_table(whole),
            pair_table(of_rows),
        ]
    parts.append(
        "MeRLin stands for the one of `merlin_source_first` and `merlin_target_last` with the better validation score "
        "on the pair; each has as many trials as any other method, so that MeRLin has twice as many to choose from. "
        "The second table gives the others the same choice: of two methods (of those that are both chosen somewhere, "
        "the ones that are hardest for MeRLin, by test scores) or of all, the one with the better validation score. "
        "`merlin` and `merlin_ft` have no phase on the source before, as in the paper. Intervals are 95 % over pairs. "
        "The best other method of a pair is picked by its test scores, which favours it. Times of runs are not "
        "compared here, as runs share a machine; see cost.md."
    )
    written = {
        "headline": headline(chosen_by_rows),
        "variants": each_variant(whole_by_rows),
        "choices": choices(chosen_by_rows, scores_by_rows),
        "summary": "\n\n".join(parts),
    }
    for name, text in written.items():
        write_text((output_dir or results) / f"{name}.md", text + "\n")
        print(text + "\n")


def report(results: Path = HERE / "results", output_dir: Path = HERE / "report") -> None:
    """Write what `merlin-hf report` says of the pairs."""
    with unpacked(results) as folder:
        write_report(read_comparisons([folder])[0], output_dir)


if __name__ == "__main__":
    main()
    report()
