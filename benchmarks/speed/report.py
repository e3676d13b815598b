"""Tables of what run.py measured, and whether the budgets hold.."""

from __future__ import annotations

import statistics
from pathlib import Path

from measure import quartiles, ratios


# Most that a ratio may be; the head's part of a step as a share. Of closed form over unrolled: half.
TIME_OVER_JOINT, TIME_OVER_BARE, MEMORY_OVER_JOINT, HEAD_SHARE, OVER_UNROLLED = 1.03, 1.08, 1.03, 0.01, 0.5
OURS = ("merlin", "merlin, fixed rho")
CLOSED_FORM = "closed form"


def verdict(value: dict[str, float], limit: float) -> str:
    """Say whether a ratio stays within a limit; "unclear" where the limit lies between its quartiles."""
    if value["upper"] <= limit:
        return "yes"
    return "no" if value["lower"] > limit else "unclear"


def exact(value: float) -> dict[str, float]:
    """A number without spread."""
    return {**quartiles([value]), "fastest": value, "work": value}


def compared(one: dict, other: dict) -> dict[str, float]:
    """Ratio of times with quartiles, of the fastest times, and of the processor's work."""
    return {**ratios(one["times"], other["times"]), "work": ratios(one["work"], other["work"])["median"]}


def budgets(results: dict) -> list[dict]:
    """
    Every budget: what is compared, the limit, the value with quartiles, and the verdict.

    The time of a step is a median of ratios of neighbouring turns. Memory is exact on a CPU.
    """
    found = []

    def add(name: str, limit: float, value: dict[str, float]) -> None:
        found.append({"name": name, "limit": limit, **value, "holds": verdict(value, limit)})

    step = next((row for row in results.get("steps", ()) if row["label"] == results["budget_case"]), None)
    if step is not None:
        methods = step["methods"]
        for ours in OURS:
            for other, limit in (("joint", TIME_OVER_JOINT), ("bare loop", TIME_OVER_BARE)):
                add(f"time, {ours} / {other}", limit, compared(methods[ours], methods[other]))
            memory = methods[ours]["mebibytes"] / methods["joint"]["mebibytes"]
            add(f"memory, {ours} / joint", MEMORY_OVER_JOINT, exact(memory))
        for row in results.get("parts", ()):
            seconds = statistics.median(methods["merlin"]["times"])
            part = row["methods"]["fit and gradient"]["times"]
            share = ratios(part, [seconds] * len(part))
            share["fastest"] = min(part) / min(methods["merlin"]["times"])
            work = [statistics.median(of["work"]) for of in (row["methods"]["fit and gradient"], methods["merlin"])]
            share["work"] = work[0] / work[1]
            add(f"head's fit and gradient / step, {row['label']}", HEAD_SHARE, share)
    for row in results.get("heads", ())[:1]:
        ours = row["methods"][CLOSED_FORM]
        for name, other in row["methods"].items():
            if name != CLOSED_FORM:
                add(f"time, closed form / 5 steps by {name}, {row['label']}", OVER_UNROLLED, compared(ours, other))
                memory = ours["mebibytes"] / other["mebibytes"]
                add(f"memory, closed form / 5 steps by {name}, {row['label']}", 1.0, exact(memory))
    return found


def spread(value: dict[str, float], digits: int = 3) -> str:
    """Median with quartiles, or one number where there is no spread."""
    median, lower, upper = (f"{value[name]:.{digits}f}" for name in ("median", "lower", "upper"))
    return median if value["lower"] == value["upper"] else f"{median} ({lower}-{upper})"


def digits(value: dict[str, float], *names: str) -> list[str]:
    return [f"{value[name]:.4f}" for name in names]


def milliseconds(times: list[float]) -> str:
    return f"{statistics.median(times) * 1e3:.4g}"


def table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def budget_section(results: dict) -> str:
    rows = [
        [entry["name"], f"{entry['limit']:g}", spread(entry, 4), *digits(entry, "fastest", "work"), entry["holds"]]
        for entry in budgets(results)
    ]
    missing = "".join(f"\n\n{name}: {reason}." for name, reason in results["missing"].items())
    title = f"## Budgets\n\n{results['budget_case']}\n\n"
    return (
        title + table(["", "at most", "measured (quartiles)", "of fastest times", "of work", "holds"], rows) + missing
    )


def step_section(steps: list[dict]) -> str:
    names = list(steps[0]["methods"])
    times = [
        [row["label"], *[milliseconds(row["methods"][name]["times"]) for name in names], row["load_average"]]
        for row in steps
    ]
    pairs = [
        ("merlin", "joint"), ("merlin, fixed rho", "joint"), ("joint, again", "joint"), ("merlin", "Trainer"),
        ("merlin", "bare loop"), ("merlin, fixed rho", "bare loop"),
    ]  # fmt: skip
    times_compared = [
        [row["label"], *[spread(compared(row["methods"][a], row["methods"][b])) for a, b in pairs]] for row in steps
    ]
    work = [
        [row["label"], *[f"{compared(row['methods'][a], row['methods'][b])['work']:.3f}" for a, b in pairs]]
        for row in steps
    ]
    limits = {"joint": f", budget {TIME_OVER_JOINT}", "bare loop": f", budget {TIME_OVER_BARE}"}
    heads = [f"{a} / {b}" + (limits.get(b, "") if a in OURS else "") for a, b in pairs]
    memory = []
    for row in steps:
        peaks = [row["methods"][name]["mebibytes"] for name in names]
        ratio = row["methods"]["merlin"]["mebibytes"] / row["methods"]["joint"]["mebibytes"]
        held = row["methods"]["merlin"]["held_mebibytes"]
        memory.append([row["label"], *[f"{peak:.1f}" for peak in peaks], f"{held:.1f}", f"{ratio:.3f}"])
    between = [
        [row["label"], *[milliseconds(row["methods"][name]["between"]) for name in names if name != "bare loop"]]
        for row in steps
    ]
    return "\n\n".join(
        [
            "## Time of a step\n\nMedian, ms.",
            table(["", *names, "load"], times),
            "Ratios of neighbouring turns, median (quartiles). `joint, again / joint` are two equal things.",
            table(["", *heads], times_compared),
            "The same of the processor's work, whatever else had a share of it: median.",
            table(["", *heads], work),
            "Between two steps, ms: loading a batch of each task from memory, and what the trainer does outside a "
            "step.",
            table(["", *[name for name in names if name != "bare loop"]], between),
            "## Peak memory of a step\n\nMiB over what stays between steps (trained weights and the optimizer's "
            "state: `held`).",
            table(["", *names, "held (merlin)", f"merlin / joint, budget {MEMORY_OVER_JOINT}"], memory),
        ]
    )


def unrolled_section(rows: list[dict], title: str) -> str:
    names = list(rows[0]["methods"])
    peers = [name for name in names if name != CLOSED_FORM]
    times, memory, errors = [], [], []
    for row in rows:
        methods = row["methods"]
        against = [compared(methods[CLOSED_FORM], methods[name]) for name in peers]
        times.append(
            [row["label"], *[milliseconds(methods[name]["times"]) for name in names], *map(spread, against)]
            + [f"{value['work']:.3f}" for value in against]
        )
        memory.append([row["label"], *[f"{methods[name]['mebibytes']:.2f}" for name in names]])
        if "gradient_error" in methods[CLOSED_FORM]:
            errors.append([row["label"], *[f"{methods[name]['gradient_error']:.1e}" for name in names]])
    sections = [
        f"## {title}\n\nMedian, ms, and ratios of neighbouring turns.",
        table(["", *names, *[f"{CLOSED_FORM} / {name}{of}" for of in ("", ", work") for name in peers]], times),
        "Peak memory, MiB.",
        table(["", *names], memory),
    ]
    if errors:
        sections += ["Relative error of the gradient in the features.", table(["", *names], errors)]
    return "\n\n".join(sections)


def part_section(parts: list[dict]) -> str:
    names = list(parts[0]["methods"])
    body = [[row["label"], *[milliseconds(row["methods"][name]["times"]) for name in names]] for row in parts]
    return "## After the backbone\n\nMedian, ms.\n\n" + table(["", *names], body)


def forward_section(rows: list[dict]) -> str:
    body = []
    for row in rows:
        two, one = row["methods"]["two forwards"], row["methods"]["one forward"]
        memory = two["mebibytes"] / one["mebibytes"]
        value = compared(two, one)
        times = [milliseconds(two["times"]), milliseconds(one["times"]), spread(value), f"{value['work']:.3f}"]
        body.append([row["label"], *times, f"{memory:.3f}"])
    header = ["", "two forwards, ms", "one forward, ms", "time, two / one", "work, two / one", "memory, two / one"]
    return "## One forward or two\n\nForward and backward of the model alone.\n\n" + table(header, body)


def scaling_section(result: dict) -> str:
    body = []
    for name in ("merlin", "joint"):
        one, two = (
            statistics.median(launch[name] for launch in result["launches"] if launch["processes"] == processes)
            for processes in (1, 2)
        )
        body.append([name, f"{one:.1f}", f"{two:.1f}", f"{two / one:.2f}"])
    header = ["rows per second", "one process", "two", "factor"]
    return f"## Processes\n\n{result['label']} in each process of one thread, over gloo.\n\n" + table(header, body)


def write_table(results: dict, path: Path) -> None:
    """All sections that were run."""
    where = results["environment"]
    about = ", ".join(f"{name} {value}" for name, value in where.items())
    sections = [f"# Speed\n\n{about}; {results['minutes']} minutes.", budget_section(results)]
    if "steps" in results:
        sections.append(step_section(results["steps"]))
    if "heads" in results:
        title = "A head from five steps: fit, meta loss and gradient in the features"
        sections.append(unrolled_section(results["heads"], title))
    if "unrolled_steps" in results:
        title = "A head from five steps: a whole training step in a plain loop"
        sections.append(unrolled_section(results["unrolled_steps"], title))
    if "parts" in results:
        sections.append(part_section(results["parts"]))
    if "forwards" in results:
        sections.append(forward_section(results["forwards"]))
    if "scaling" in results:
        sections.append(scaling_section(results["scaling"][0]))
    path.write_text("\n\n".join(sections) + "\n")
