"""Files that are damaged, hostile or about different things: left out by name, refused, or written as text."""

import base64
import hashlib
import json
import math
import os
from html.parser import HTMLParser

import pytest

from merlin_hf.report import read_comparisons, write_report
from merlin_hf.report.comparisons import read_result_files
from merlin_hf.utils.validation import ConfigError
from tests.cli.conftest import run  # noqa: F401
from tests.report.support import report_run, write_results
from tests.report.test_comparisons import cells, section
from tests.report.test_run_report import HISTORY, write_state


SCORES = {"merlin": [0.7, 0.8], "joint": [0.5, 0.6]}


def change(path, **values):
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def of_method(**values):
    def damage(path):
        methods = json.loads(path.read_text())["methods"]
        methods[0].update(values)
        change(path, methods=methods)

    return damage


def without(key):
    def damage(path):
        content = json.loads(path.read_text())
        del content[key]
        path.write_text(json.dumps(content))

    return damage


def replaced(content):
    return lambda path: path.write_bytes(content)


def pipe(path):
    path.unlink()
    os.mkfifo(path)


def folder(path):
    path.unlink()
    path.mkdir()


def linked(target):
    def damage(path):
        path.unlink()
        path.symlink_to(target)

    return damage


DAMAGES = {
    **{f"no {key}": without(key) for key in ("metric", "lower_is_better", "reference", "data", "methods", "config")},
    **{
        f"accuracy {score!r}": of_method(scores={"0": score})
        for score in ("x", 5.0, -1, 1e308, 10**400, math.nan, True, [])
    },
    "no scores": of_method(scores={}),
    "scores in a list": of_method(scores=[0.5]),
    "a seed that is text": of_method(scores={"x": 0.5}),
    "another mean": of_method(mean=0.9),
    "a mean of text": of_method(mean="0.9"),
    "no label": of_method(label=None),
    "a label twice": of_method(label="joint"),
    "another status": of_method(status="fine"),
    "seconds of text": of_method(runs={"0": {"train_seconds": "long"}}),
    "endless seconds": of_method(runs={"0": {"train_seconds": math.inf}}),
    "seconds of another seed": of_method(runs={"7": {"train_seconds": 1.0}}),
    "another score in its run": of_method(runs={"0": {"train_seconds": 1.0, "metrics": {"accuracy": 0.1}}}),
    "the lower the better": lambda path: change(path, lower_is_better=True),
    "methods in a mapping": lambda path: change(path, methods={}),
    "no methods": lambda path: change(path, methods=[]),
    "many methods": lambda path: change(path, methods=[{"label": f"{n}", "status": "failed"} for n in range(5000)]),
    "a method of text": lambda path: change(path, methods=["merlin"]),
    "data of text": lambda path: change(path, data="x"),
    "no rows": lambda path: change(path, data={"target": {"path": "t", "train_rows": None}}),
    "endless rows": lambda path: change(path, data={"target": {"path": "t", "train_rows": 1e308}}),
    "no target": lambda path: change(path, config={"model": "m"}),
    "a path in a list": lambda path: change(path, config={"model": "m", "target": {"path": ["t"]}}),
    "no model": lambda path: change(path, config={"target": {"path": "t"}}),
    "an environment of text": lambda path: change(path, environment="here"),
    **{f"content {content[:9]!r}": replaced(content) for content in (b"", b"{", b"null", b"\xff\xfe", b"[" * 10**5)},
    "a pipe": pipe,
    "a folder": folder,
    "a link to itself": linked("results.json"),
    "a link to nothing": linked("nothing"),
    "a link to a device": linked("/dev/zero"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_file_is_left_out_and_named(tmp_path, name):
    write_results(tmp_path / "runs" / "good", "s", {"path": "good"}, 50, SCORES)
    path = write_results(tmp_path / "runs" / "bad", "s", {"path": "bad"}, 50, SCORES)
    DAMAGES[name](path)
    found = read_result_files([tmp_path / "runs"])
    assert list(found.damaged) == ["runs/bad/results.json"] and found.others == []
    assert [comparison.pair for comparison in found.comparisons] == ["s → good"]
    with pytest.raises(ConfigError, match="'runs/bad/results.json' cannot be used: "):
        read_comparisons([tmp_path / "runs"])


@pytest.mark.slow
def test_one_of_many_is_counted_and_the_exit_status_says_so(tmp_path, run):  # noqa: F811
    for number in range(20):
        path = write_results(tmp_path / "runs" / f"{number:02}", "s", {"path": f"t{number}"}, 50, SCORES)
    path.write_text("{")
    status, shown, said = run("report", tmp_path / "runs", "--output_dir", tmp_path / "out")
    assert status == 1 and shown == (tmp_path / "out" / "results.md").read_text()
    assert "## s → t18" in shown and "1 file could not be used" in section(shown, "Left out")
    assert "- `runs/19/results.json`: it is not JSON" in shown
    assert (
        "runs/19/results.json is left out: it is not JSON" in said and "1 of what was given could not be used" in said
    )
    result = json.loads((tmp_path / "out" / "report.json").read_text())
    assert list(result["damaged"]) == ["runs/19/results.json"] and len(result["comparisons"]) == 19
    status, shown, said = run("report", path.parent)
    assert status == 2 and shown == "" and "19/results.json" in said and "Traceback" not in said


@pytest.mark.slow
def test_more_panels_than_a_figure_takes(tmp_path):
    for number in range(70):
        write_results(tmp_path / "runs" / f"{number}", None, {"path": f"t{number}"}, 50, {"merlin": [0.5]})
    write_report(read_comparisons([tmp_path / "runs"])[0], tmp_path / "out")
    assert (tmp_path / "out" / "cost.png").stat().st_size > 0


# Names


HOSTILE = [
    "<svg onload=alert(1)>",
    "![p](http://evil.example/x.gif)",
    "[x](javascript:alert(1))",
    "a\n\n# Forged",
    "$x$ | \x1b[31m",
    "_x",
]


def test_names_are_text(tmp_path):
    from markdown_it import MarkdownIt

    scores = {label: [0.5, 0.6] for label in HOSTILE}
    scores["failed"] = "x\n\n# Forged\n\n<script>alert(1)</script> in /home/somebody/secret/file.py"
    for number, name in enumerate(HOSTILE):
        environment = {name: name}
        target = {"path": name, "name": name}
        write_results(tmp_path / "in" / f"{number}", name, target, 50, scores, reference=name, environment=environment)
    text = write_report(read_comparisons([tmp_path / "in"])[0], tmp_path / "out")
    tokens = MarkdownIt("commonmark", {"html": True}).enable("table").parse(text.split("\n", 1)[1])
    inline = [child for token in tokens for child in token.children or ()]
    assert not {"html_block", "html_inline"} & {token.type for token in [*tokens, *inline]}
    links = [child.attrs["href"] for child in inline if child.type == "link_open"]
    assert links and all(link in ("learning_curves.svg", "cost.svg") for link in links)
    assert all(
        child.attrs["src"].endswith(".png") and "://" not in child.attrs["src"]
        for child in inline
        if child.type == "image"
    )
    headings = [tokens[place + 1].content for place, token in enumerate(tokens) if token.type == "heading_open"]
    assert not any(heading.startswith("Forged") for heading in headings)
    assert "\x1b" not in text and "somebody" not in text and "file.py" in text


class Tags(HTMLParser):
    """Tags with their attributes, the text outside of style and script, and the policy of the page."""

    def __init__(self, page):
        super().__init__()
        self.found, self.text = [], ""
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += "" if self.found[-1:] and self.found[-1][0] in ("style", "script") else data


def test_a_page_of_hostile_names(tmp_path, run):  # noqa: F811
    scores = {label: [0.5 + 0.01 * place, 0.6] for place, label in enumerate(HOSTILE)}
    scores["failed"] = "</td></table><script>alert(1)</script> in /home/somebody/secret/file.py"
    name = '"><script src=http://evil.example/x.js></script>'
    for number, (rows, given) in enumerate([(50, name), (100, name), (50, "</title><b>")]):
        folder, target = tmp_path / "in" / f"{number}", {"path": given, "name": given}
        write_results(folder, given, target, rows, scores, reference=HOSTILE[0], environment={name: name})
    run_folder = write_state(tmp_path / "<b>run", HISTORY)
    status, shown, _ = run("report", tmp_path / "in", run_folder, "--html", tmp_path / "new" / "page.html")
    page = (tmp_path / "new" / "page.html").read_text()
    tags = Tags(page)
    assert status == 0 and "# Results" in shown
    known = {
        "html",
        "head",
        "meta",
        "title",
        "style",
        "body",
        "h1",
        "h2",
        "h3",
        "p",
        "ul",
        "li",
        "code",
        "div",
        "table",
    }
    known |= {"thead", "tbody", "tr", "th", "td", "button", "strong", "figure", "figcaption", "img", "script"}
    assert {tag for tag, _ in tags.found} <= known
    names = {name for _, attributes in tags.found for name in attributes}
    assert names == {"lang", "charset", "name", "content", "http-equiv", "class", "scope", "alt", "src"}
    sources = [attributes["src"] for _, attributes in tags.found if "src" in attributes]
    assert len(sources) == 3 and all(source.startswith("data:image/svg+xml;base64,") for source in sources)
    assert sum(tag == "script" for tag, _ in tags.found) == 1 and "url(" not in page and "@import" not in page
    for label in HOSTILE[:3]:
        assert label in tags.text, "as text"
    assert "<script>alert(1)</script> in file.py" in tags.text and "somebody" not in page and "\x1b" not in page
    (policy,) = [found["content"] for tag, found in tags.found if "http-equiv" in found]
    script, style = page.split("<script>")[1].split("</script>")[0], page.split("<style>")[1].split("</style>")[0]
    for content in (script, style):
        assert f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'" in policy
    assert policy.startswith("default-src 'none'; img-src data:;") and "unsafe" not in policy


def test_a_page_that_cannot_be_written(tmp_path, run):  # noqa: F811
    write_results(tmp_path / "in", "s", {"path": "t"}, 50, SCORES)
    (tmp_path / "page.html").mkdir()
    (tmp_path / "file").touch()
    for page in (tmp_path / "page.html", tmp_path / "file" / "page.html"):
        status, shown, said = run("report", tmp_path / "in", "--html", page)
        assert status == 2 and shown == "" and "`html=" in said and str(page.parent) in said


def test_no_path_of_the_machine_is_in_a_report(tmp_path, run):  # noqa: F811
    target = {"path": "/home/somebody/data/mine.csv"}
    write_results(
        tmp_path / "in", "C:\\Users\\somebody\\source", target, 50, {**SCORES, "bss": "no /home/somebody/model/x"}
    )
    status, shown, _ = run("report", tmp_path / "in")
    assert status == 0 and "somebody" not in shown and str(tmp_path) not in shown
    assert "## source → mine.csv" in shown and "bss is not applicable: no x" in shown


# Classes


def with_classes(folder, classes, method="merlin", rows=50, **target):
    path = write_results(folder, None, {"path": "/data/mine.csv"}, rows, {method: [0.5, 0.6]})
    data = json.loads(path.read_text())["data"]
    data["target"].update(classes=classes, **target)
    change(path, data=data)


def test_data_sets_of_one_name_that_share_some_classes_are_refused(tmp_path):
    with_classes(tmp_path / "a", ["no", "yes"])
    with_classes(tmp_path / "b", ["yes", "maybe"], method="joint")
    with pytest.raises(ConfigError, match=r"a/results.json.*b/results.json.*mine.csv.*\[no, yes\] and \[maybe, yes\]"):
        read_comparisons([tmp_path])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"classes": ["no", "yes"]}, {"classes": ["cat", "dog"]}),
        ({"classes": ["no", "yes"], "columns": ["text"]}, {"classes": ["no", "yes"], "columns": ["title"]}),
        ({"classes": ["no", "yes"], "pool_rows": 100}, {"classes": ["no", "yes"], "pool_rows": 90}),
        ({"classes": ["no", "yes"]}, {"classes": None}),
    ],
)
def test_other_data_of_one_name_has_a_table_of_its_own(tmp_path, one, other):
    with_classes(tmp_path / "a", **one)
    with_classes(tmp_path / "b", **other, method="joint")
    found, _ = read_comparisons([tmp_path])
    assert [set(comparison.methods) for comparison in found] == [{"merlin"}, {"joint"}]
    assert found[0].pair != found[1].pair


def test_the_order_of_classes_does_not_matter(tmp_path):
    with_classes(tmp_path / "a", ["no", "yes"])
    with_classes(tmp_path / "b", ["yes", "no"], method="joint")
    (comparison,), _ = read_comparisons([tmp_path])
    assert set(comparison.methods) == {"merlin", "joint"}


# Training runs


def with_entry(**values):
    return json.dumps({"log_history": [*HISTORY, {"step": 3, **values}]}).encode()


STATES = {
    **{
        f"content {content[:9]!r}": content
        for content in (b"", b"{", b"[]", b"{}", b"\xff", b'{"log_history": 3}', b'{"log_history": [3]}')
    },
    **{f"step {step!r}": with_entry(step=step) for step in ("x", None, -1, 1.5, 10**30, 10**400, True, [])},
    "an endless number": with_entry(loss=10**400),
}


@pytest.mark.parametrize("name", STATES)
def test_a_damaged_state_is_named(tmp_path, run, name):  # noqa: F811
    bad, good = write_state(tmp_path / "bad", HISTORY), write_state(tmp_path / "good", HISTORY)
    (bad / "trainer_state.json").write_bytes(STATES[name])
    status, shown, said = run("report", bad)
    assert status == 2 and shown == "" and "trainer_state.json" in said and "is not a state of a Trainer" in said
    status, shown, said = run("report", bad, good, "--json")
    assert status == 1 and [found["run"] for found in json.loads(shown)["runs"]] == ["good"]
    assert list(json.loads(shown)["damaged"]) == [str(bad)] and "trainer_state.json" in said
    assert "1 file could not be used" in run("report", bad, good)[1]


@pytest.mark.parametrize("damage", [pipe, folder, linked("trainer_state.json"), linked("/dev/zero")])
def test_a_state_that_is_no_file_is_named(tmp_path, run, damage):  # noqa: F811
    bad = write_state(tmp_path / "bad", HISTORY)
    damage(bad / "trainer_state.json")
    status, shown, said = run("report", bad)
    assert status == 2 and shown == "" and "trainer_state.json" in said and "Traceback" not in said


@pytest.mark.parametrize(
    "content", [b"{", b"[]", b"\xff", b"[" * 10**5, json.dumps({f"eval_{n}": 1.0 for n in range(5000)}).encode()]
)
def test_damaged_results_are_named(tmp_path, run, content):  # noqa: F811
    bad = write_state(tmp_path / "bad", HISTORY)
    (bad / "all_results.json").write_bytes(content)
    status, shown, said = run("report", bad)
    assert status == 2 and shown == "" and "all_results.json" in said and "evaluate again" in said


def test_numbers_that_are_not_finite_and_many_metrics(tmp_path):
    many = {f"eval_{number}_accuracy": 0.5 for number in range(3000)}
    odd = {
        "loss": math.nan,
        "source_loss": math.inf,
        "meta_loss": 1e308,
        "rho": -1e308,
        "eval_loss": "x",
        "eval_f1": True,
    }
    history = [*HISTORY, {"step": 3, "epoch": 1.5, **odd}, {"step": 2**53, "epoch": 2.0, **many}]
    text = report_run(write_state(tmp_path / "run", history), tmp_path / "out")
    assert "nan" in text and (tmp_path / "out" / "training_curves.png").stat().st_size > 0
    assert max(len(row) for row in cells(section(text, "Course of training"))) < 50
    assert "<b>" not in report_run(write_state(tmp_path / "<b>run</b>", HISTORY))


@pytest.mark.parametrize("name", ["under a file", "results.md", "report.json"])
def test_an_output_dir_that_cannot_be_written_to(tmp_path, run, name):  # noqa: F811
    write_results(tmp_path / "in", "s", {"path": "t"}, 50, SCORES)
    target = tmp_path / "out"
    if name == "under a file":
        target.touch()
        target = target / "o"
    else:
        (target / name).mkdir(parents=True)
    status, shown, said = run("report", tmp_path / "in", "--output_dir", target)
    assert status == 2 and shown == "" and "`output_dir=" in said and str(target) in said
