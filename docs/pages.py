"""
Pages of the site that are made when it is built, and links from `docs/` to the rest of the repository.

Nothing here needs mkdocs: `hooks.py` hands the results to it, and the tests check links with the same code. In a page
of `docs/`:

- a relative link may go to any file of the repository, as it would on a forge: the site gets a page or a copy of that
  file;
- `<!-- table: FILE -->` stands for the content of a generated table;
- the README of a benchmark is a page of the results;
- an image whose file has not been made is a broken link.
"""

import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path


ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PACKAGE = "merlin_hf"
FOLDER = "repository"  # of the site, for what lies outside of docs/
IMAGES = (".png", ".svg", ".jpg")
LANGUAGES = {".py": "python", ".yaml": "yaml", ".json": "json", ".txt": "text", ".toml": "toml", ".sh": "bash"}
ALSO = ("CONTRIBUTING.md", "CHANGELOG.md", "examples/README.md")  # named in mkdocs.yml
# Folders of benchmarks/ in the order of their pages; others follow by name.
RESULTS = ("compare", "transfer", "ablations", "semisynthetic", "sources", "theory", "speed", "heads")

UNSEARCHED = "---\nsearch:\n  exclude: true\n---\n\n"
LOW_IN_SEARCH = "---\nsearch:\n  boost: 0.5\n---\n\n"

LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\[\]]*\])*)\]\(([^()\s]+)\)")
FENCE = re.compile(r"^ *(`{3,}|~{3,})")
MARKER = re.compile(r"^<!-- table: (\S+) -->$", re.MULTILINE)
DIRECTIVE = re.compile(r"^::: (\S+)$", re.MULTILINE)
ANCHOR = re.compile(r"^\[\]\(\)\{ #(\S+) \}$", re.MULTILINE)


class BrokenLink(LookupError):
    """A link to a file that is not there."""


# Links


def outside_code(text: str, change: Callable[[str], str]) -> str:
    """The text with each part outside of fenced blocks changed."""
    parts, prose, fence = [], [], None
    for line in text.splitlines(keepends=True):
        found = FENCE.match(line)
        if fence is None and not found:
            prose.append(line)
            continue
        if fence is None:
            parts.append(change("".join(prose)))
            prose, fence = [], found[1]
        elif found and found[1].startswith(fence) and line.strip() == found[1]:
            fence = None
        parts.append(line)
    return "".join([*parts, change("".join(prose))])


def links(text: str) -> Iterator[str]:
    """Targets of the relative links in a page, outside of code."""
    found = []

    def collect(part: str) -> str:
        found.extend(match[3] for match in LINK.finditer(re.sub(r"`[^`]*`", "``", part)))
        return part

    outside_code(text, collect)
    yield from (target for target in found if not re.match(r"[a-z]+:", target))


def rewrite(text: str, path: Path, uri: str) -> tuple[str, set[Path]]:
    """
    A page of the repository with its links as the site has them.

    Args:
        text: Markdown.
        path: the file that the links start from.
        uri: where the page is in the site, such as `methods/merlin.md`.

    Returns:
        The text, and the files outside of docs/ that it links to.

    Raises:
        BrokenLink: a file is not there.
    """
    found = set()

    def change(match: re.Match) -> str:
        target, _, anchor = match[3].partition("#")
        if not target or re.match(r"[a-z]+:", match[3]):
            return match[0]
        file = Path(os.path.normpath(path.parent / target))
        if file.is_relative_to(DOCS) and file.relative_to(DOCS).as_posix() in written_pages():
            to = file.relative_to(DOCS).as_posix()
        else:
            if not file.exists() or not file.is_relative_to(ROOT):
                raise BrokenLink(f"{path.relative_to(ROOT)} links to {match[3]}, which is not there.")
            if not file.is_relative_to(DOCS):
                file = file / "README.md" if (file / "README.md").is_file() else file
                found.add(file)
            to = site_path(file)
        to = os.path.relpath(to, os.path.dirname(uri) or ".") + (f"#{anchor}" if anchor else "")
        return f"{match[1]}[{match[2]}]({to})"

    return outside_code(text, lambda part: LINK.sub(change, part)), found


def site_path(path: Path) -> str:
    """Where a file or a folder of the repository is in the site."""
    if path.is_relative_to(DOCS):
        return path.relative_to(DOCS).as_posix()
    if path in benchmarks():
        return f"results/{path.parent.name}.md"
    within = f"{FOLDER}/{path.relative_to(ROOT).as_posix()}"
    if path.is_dir():
        return f"{within}/index.md"
    return within if path.suffix == ".md" or path.suffix in IMAGES else f"{within}.md"


# Pages


def written_pages() -> dict[str, Callable[[], str]]:
    """Pages that have no file, by where they are, and what makes them."""
    return {"results/index.md": results, "glossary.md": glossary}


def documented() -> set[str]:
    """Names of the package that a reference may lead to: those of directives, and of anchors in the methods' pages."""
    texts = [path.read_text(encoding="utf-8") for path in (*DOCS.glob("api/*.md"), *DOCS.glob("methods/*.md"))]
    return {name for text in texts for name in (*DIRECTIVE.findall(text), *ANCHOR.findall(text))}


def source_pages() -> dict[str, str]:
    """The pages in docs/, and those that are written, with their markers replaced; links are as in the repository."""
    found = {
        path.relative_to(DOCS).as_posix(): path.read_text(encoding="utf-8") for path in sorted(DOCS.rglob("*.md"))
    }
    found = {uri: expand(text) for uri, text in found.items()}
    return {uri: write() for uri, write in written_pages().items() if uri not in found} | found


def all_files() -> tuple[dict[str, str], dict[str, Path]]:
    """
    The whole site.

    Returns:
        Pages by where they are in it, and the images that they show.

    Raises:
        BrokenLink: a page links to a file that is not there.
    """
    pages, images, waiting = {}, {}, {*benchmarks(), *(ROOT / name for name in ALSO)}
    for uri, text in source_pages().items():
        pages[uri], found = rewrite(text, DOCS / uri, uri)
        waiting |= found
    while waiting:
        path = waiting.pop()
        uri = site_path(path)
        if uri in pages or uri in images:
            continue
        if path.suffix in IMAGES:
            images[uri] = path
            continue
        text, found = rewrite(file_page(path), path, uri)
        # People look for what the site says, not for files.
        pages[uri] = (LOW_IN_SEARCH if path in benchmarks() else UNSEARCHED) + text
        waiting |= found
    return pages, images


def file_page(path: Path) -> str:
    """A file of the repository as a page."""
    name = path.relative_to(ROOT).as_posix()
    if path.is_dir():
        files = sorted(child.name + "/" * child.is_dir() for child in path.iterdir() if child.name[0] not in "._")
        return f"# {name}\n\n" + "".join(f"- `{file}`\n" for file in files)
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        return expand(text)
    if path.suffix == ".ipynb":
        return notebook(text)
    return f"# {name}\n\n````{LANGUAGES.get(path.suffix, 'text')}\n{text}````\n"


def notebook(text: str) -> str:
    """Return a notebook's cells, with what they printed and showed."""
    parts = []
    for cell in json.loads(text)["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
        else:
            language = "yaml" if source.startswith("%%writefile") else "python"
            parts += [f"```{language}\n{source}\n```", *map(shown, cell["outputs"])]
    return "\n\n".join(parts) + "\n"


def shown(output: dict) -> str:
    """Return what a cell printed or showed: a figure, a table, Markdown or text."""
    data = {kind: "".join(value) for kind, value in output.get("data", {"text/plain": output.get("text")}).items()}
    if "image/png" in data:
        return f'<img alt="Drawn by the code above" src="data:image/png;base64,{data["image/png"].strip()}">'
    if "text/html" in data:
        table = re.search(r"<table.*</table>", data["text/html"], re.DOTALL)[0]
        return re.sub(r' (?:border|class|style)="[^"]*"', "", table)
    return data.get("text/markdown") or f"````{{.text .output}}\n{data['text/plain'].rstrip()}\n````"


# What stands for a marker, and pages that are written


def expand(text: str) -> str:
    """A page with tables in the place of its markers."""
    return MARKER.sub(lambda match: (ROOT / match[1]).read_text(encoding="utf-8").strip(), text)


def glossary() -> str:
    """The terms of CONTRIBUTING.md."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    terms = re.search(r"^## Terms\n+(.*?)(?=^## )", text, re.DOTALL | re.MULTILINE)[1]
    return f"# Glossary\n\n{terms}"


def benchmarks() -> list[Path]:
    """The READMEs of the benchmarks in the order of their pages."""
    found = sorted((ROOT / "benchmarks").glob("*/README.md"))
    order = {name: place for place, name in enumerate(RESULTS)}
    return sorted(found, key=lambda path: order.get(path.parent.name, len(order)))


def results() -> str:
    """The question and the answer of each benchmark."""
    parts = [
        "# Results",
        "Each page has a question, its answer, a figure or a table, and the command and the protocol.",
    ]
    for path in benchmarks():
        text = path.read_text(encoding="utf-8")
        title = re.search(r"^# (.+)", text, re.MULTILINE)[1]
        question, answer = re.search(
            r"(\*\*Question\.\*\* .+?)\n\n(\*\*Answer\.\*\* .+?)\n\n", text, re.DOTALL
        ).groups()
        link = os.path.relpath(path, DOCS / "results")
        parts += [f"## [{title}]({link})", question, relinked(answer, path.parent)]
    return "\n\n".join(parts) + "\n"


def relinked(text: str, folder: Path) -> str:
    """A text of a file in `folder` with its links as those of the summary."""
    to = os.path.relpath(folder, DOCS / "results")
    return re.sub(r"\]\((?![a-z]+:|#)", f"]({to}/", text)
