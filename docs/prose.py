"""
Check the English of what users read: `python docs/prose.py` prints what to mend, and fails if there is anything.

It counts words of sentences and numbers of paragraphs, and looks for phrases. Code, formulas and quoted messages are
left out. Of tables, errors, warnings and `--help` only phrases are checked. `--count` prints words and mean sentence
of each page.
"""

import argparse
import ast
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path


ROOT = Path(__file__).resolve().parents[1]
LONGEST = 25  # words of a sentence
NUMBERS = 2  # of a paragraph
README_WORDS, README_LINES = 1000, 150  # outside of code
README_MEAN = 17  # words of a sentence

# Patterns, and what to write in their place.
PHRASES = {
    r"t(?:old|ells?|elling)\b(?: \w+){0,3} apart": "differ, significant, no significant difference",
    r"level with": "no significant difference from",
    r"(?<!there )(?:is|are|was|were) no (?!better\b|worse\b|longer\b|more\b|less\b)\w+": "is not a",
    r"(?:all|none|nothing|everything|one|any) but (?:for )?|but for": "except",
    r"nobody(?: else)?'s": "private, not published",
    r"judge[sd]?|judging": "score, evaluate, choose",
    r"dear(?:er|est)?": "slow, expensive",
    r"(?:a|its|the|target's|source's) say": "weight",
    r"says? (?:nothing )?of|goes against": "report, negative results",
    r"as far as": "if, as long as",
    r"anew": "again",
    r"puts? right": "fix",
    r"makes? away with": "remove",
    r"(?:comes?|came) out|come to nothing": "result",
    r"is told|are told": "is reported, a warning says",
    r"in whatever|whichever way": "in any",
    r"(?:is|are|has|have) to be": "must be",
    r"(?<!are )all the same|of its own accord|by and by": "leave out",
    r"(?:there|here|where)(?:of|in|by|upon)|thereafter": "of it, in it, by it",
    r"utili[sz]\w+|leverag\w+|in order to": "use, to",
}
# A history that a reader has not seen.
HISTORY = {
    r"earlier (?:results?|versions?|releases?|defaults?)": "what holds now",
    r"(?:was|were) once|(?<!be )(?<!is )(?<!are )(?<!was )(?<!were )used to (?:be|have|do)": "what holds now",
    r"no longer|any longer": "does not",
    r"(?:before|until|since) (?:this|that) (?:version|change|release)|git show|what changed": "what holds now",
    r"today's|nowadays|as of now|so far measured|measured so far": "what holds, without a date",
    r"(?:old|former|previous) (?:default|version|behaviou?r|results?|rule)": "what holds now",
    r"has been (?:renamed|removed|added|moved|changed)": "what holds now",
}
CODE = re.compile(r"^ *(`{3,}).*?^ *\1 *$", re.DOTALL | re.MULTILINE)
# A heading names a thing, asks a question or tells what to do.
CLAUSE = re.compile(r"(?:What|Which|Who|How (?:many|much)|Where|When|That)\b(?! to )(?!.*\?$)")
# Words of the glossary's last column that mean something else in these places.
ALLOWED = r"upstream issue|for instance|sample standard deviation|finite sample"
SHORT = re.compile(r"\b(e\.g|i\.e|etc|et al|vs|cf|no|approx)\.(?=\s)", re.IGNORECASE)
# Digits that count or measure; not those of names (SST-2), versions, years, formulas (2/3) and references.
NUMBER = re.compile(r"(?<![\w.\-/=])(?<!= )(?<!arXiv )[-+±−]?\d+(?:[.,]\d+)*(?:\s?%)?(?![\w/]|\.\d|-\w)")
VERSION = re.compile(r"\b(?:Python|torch|PyTorch|transformers|CUDA|version|Section|Table|Figure)s? \d[\d.]*\+?")
YEAR = re.compile(r"\b(?:19|20)\d\d\b")
INTERVAL = re.compile(r"\[[-+−]?[\d.]+, [-+−]?[\d.]+\]|\([01], [01][)\]]|\b[\d.,]+ ?(?:±|to|and|or|of) ?[\d.,]+")


def pages() -> dict[str, str]:
    """Return the Markdown that users read, by its path."""
    files = [ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
    files += [path for name in ("docs", "examples", "benchmarks") for path in (ROOT / name).rglob("*.md")]
    files = [path for path in files if not path.is_relative_to(ROOT / "benchmarks") or path.name == "README.md"]
    found = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in files}
    for path in (ROOT / "examples").rglob("*.ipynb"):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        texts = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"]
        found[path.relative_to(ROOT).as_posix()] = "\n\n".join(texts)
    return dict(sorted(found.items()))


def blocks(text: str) -> Iterator[tuple[str, str]]:
    """Yield the kind of each heading, paragraph, item of a list and row of a table, and its text in one line."""
    text = re.sub(r"\A---\n.*?^---$", "", text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"<!--.*?-->", "\n\n", text, flags=re.DOTALL)
    text = CODE.sub("\n\n", text)
    text = re.sub(r"^\$\$.*?^\$\$$", "\n\n", text, flags=re.DOTALL | re.MULTILINE)
    for part in re.split(r"\n\s*\n|\n(?=\s*(?:[-*]|\d+\.)\s)|\n(?=[|#>])|(?<=\|)\n", f"\n{text}"):
        line = " ".join(part.split())
        if not line or line.startswith((">", ":::", "![", "[![", "[]()")):
            continue
        kind = "heading" if line.startswith("#") else "row" if line.startswith("|") else "paragraph"
        yield kind, plain(line)


def plain(text: str) -> str:
    """Return a line without Markdown; code and formulas are one word."""
    text = re.sub(r"``.+?``|`[^`]*`", "CODE", text)
    text = re.sub(r"!?\[((?:[^\[\]]|\[[^\]]*\])*)\]\([^)]*\)|\[((?:[^\[\]])*)\]\[[^\]]*\]", r"\1\2", text)
    text = re.sub(r"\[(CODE)\]|<[^>]+>|\$[^$]+\$", r"\1", text)
    text = re.sub(r"^(?:#+|[-*]|\d+\.)\s+", "", text)
    return re.sub(r"\*+|(?<!\w)_|_(?!\w)|\\", "", text).strip()


def messages() -> Iterator[tuple[str, str]]:
    """Yield the place and the text of each error, warning and line of `--help` in the package."""
    for path in sorted((ROOT / "merlin_hf").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            texts = []
            if isinstance(node, ast.Raise) and node.exc is not None:
                texts = [node.exc]
            elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") in ("warning", "warning_once", "warn"):
                texts = node.args
            elif isinstance(node, ast.Call):
                texts = [keyword.value for keyword in node.keywords if keyword.arg == "help"]
            elif isinstance(node, ast.Dict):
                pairs = zip(node.keys, node.values, strict=True)
                texts = [value for key, value in pairs if isinstance(key, ast.Constant) and key.value == "help"]
            for text in texts:
                yield f"{path.relative_to(ROOT).as_posix()}:{text.lineno}", plain(string(text))


def string(node: ast.AST) -> str:
    """Return the texts in an expression; a value that is filled in is one word."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ""
    if isinstance(node, ast.FormattedValue):
        return "CODE"
    joined = "" if isinstance(node, ast.JoinedStr) else " "
    return joined.join(filter(None, map(string, ast.iter_child_nodes(node))))


def sentences(paragraph: str) -> list[str]:
    """Return the sentences of a paragraph; links in a row are sentences."""
    text = SHORT.sub(lambda match: match[0].replace(".", "․"), paragraph)
    return [part.strip() for part in re.split(r"(?<=[.!?])[\"”')]*\s+|\s+·\s+", text) if re.search(r"\w", part)]


def count(sentence: str) -> int:
    """Return the number of words of a sentence."""
    return sum(bool(re.search(r"\w", word)) for word in sentence.split())


def numbers(paragraph: str) -> list[str]:
    """Return the numbers that a reader has to keep in mind; an interval or a range is one."""
    text = YEAR.sub("", VERSION.sub("", paragraph))
    return INTERVAL.findall(text) + NUMBER.findall(INTERVAL.sub("", text))


def glossary() -> dict[str, str]:
    """Return the words that the glossary replaces, and its terms."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").split("\n## Terms\n")[1].split("\n## ")[0]
    rows = [[cell.strip() for cell in line.split("|")[1:4]] for line in text.splitlines() if line.startswith("| ")]
    return {
        rf"{word}s?": term for term, _, words in rows[1:] for word in words.split(", ") if word and "-" * 3 not in word
    }


def phrases(text: str, refused: dict[str, str]) -> Iterator[str]:
    """Yield the refused phrases in a text, each with a better one and the text."""
    for pattern, better in refused.items():
        for match in re.finditer(rf"\b(?:{pattern})(?!\w)", re.sub(ALLOWED, "", text), re.IGNORECASE):
            yield f'"{match[0]}", better: {better}: {text}'


def faults(name: str, text: str) -> Iterator[str]:
    """Yield what is to be mended on a page, each with its sentence."""
    is_users = name != "CONTRIBUTING.md" and not name.startswith("benchmarks/")
    refused = PHRASES | glossary() | (HISTORY if name != "CONTRIBUTING.md" else {})
    is_glossary = False
    for kind, line in blocks(text):
        if kind == "heading":
            is_glossary = line == "Terms"
            if CLAUSE.match(line):
                yield f"a heading that is a clause: {line}"
        if not is_glossary:
            yield from phrases(line, refused)
        if kind != "paragraph":
            continue
        for sentence in sentences(line):
            if count(sentence) > LONGEST:
                yield f"{count(sentence)} words: {sentence}"
        if is_users and len(numbers(line)) > NUMBERS:
            yield f"{len(numbers(line))} numbers {numbers(line)}: {line}"
    if name == "README.md":
        words, mean = size(text)
        lines = len(CODE.sub("", text).splitlines())
        if words > README_WORDS or mean >= README_MEAN or lines > README_LINES:
            yield f"{words} words, {mean:.1f} a sentence, {lines} lines"


def size(text: str) -> tuple[int, float]:
    """Return the words of a page's paragraphs, and of its mean sentence."""
    found = [count(one) for kind, line in blocks(text) if kind == "paragraph" for one in sentences(line)]
    return sum(found), sum(found) / max(len(found), 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", action="store_true", help="print the words and the mean sentence of each page")
    if parser.parse_args().count:
        for name, text in pages().items():
            words, mean = size(text)
            print(f"{name}: {words} words, {mean:.1f} a sentence")
        return
    found = [f"{name}: {fault}" for name, text in pages().items() for fault in faults(name, text)]
    found += [f"{place}: {fault}" for place, text in messages() for fault in phrases(text, PHRASES)]
    sys.exit("\n".join(found) or None)


if __name__ == "__main__":
    main()
