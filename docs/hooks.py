"""Hooks of mkdocs for the site: pages that are made of other files, references, and checks of what was built."""

import logging
import re
import shutil
import subprocess
import sys
from html import unescape
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page


sys.path.insert(0, str(Path(__file__).parent))

import pages  # noqa: E402
import references  # noqa: E402
from latex2mathml.converter import convert  # noqa: E402


logger = logging.getLogger("mkdocs.plugins.hooks")
# What a browser fetches by itself.
FETCHED = re.compile(
    r"""<(?:script|img|iframe|source)\b[^>]*?\bsrc=["']?([^"'\s>]+)|<link\b[^>]*?\brel=["']?(?:stylesheet|preload|preconnect|icon)\b[^>]*?\bhref=["']?([^"'\s>]+)|<link\b[^>]*?\bhref=["']?([^"'\s>]+)[^>]*?\brel=["']?(?:stylesheet|preload|preconnect|icon)\b"""
)

# What people search for, and the page that must come first.
FIRST_FOUND = {
    "install": "install.html",
    "rho": "howto/options.html",
    "learning rate": "howto/options.html",
    "log loss": "howto/probabilities.html",
    "out of memory": "troubleshooting.html",
    "overfitting": "troubleshooting.html",
    "checkpoint": "troubleshooting.html",
    "GPU": "troubleshooting.html",
}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Put in the pages and images that are not in docs/."""
    try:
        texts, images = pages.all_files()
    except pages.BrokenLink as error:
        logger.warning("%s", error)
        return files
    for uri, text in texts.items():
        if uri in files.src_uris:
            files.remove(files.src_uris[uri])
        files.append(File.generated(config, uri, content=text))
    for uri, path in images.items():
        files.append(File.generated(config, uri, abs_src_path=str(path)))
    return files


# Formulas as pymdownx.arithmatex marks them.
FORMULA = re.compile(r'<(div|span) class="arithmatex">\\[\[(](.*?)\\[\])]</\1>', re.DOTALL)


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Formulas as MathML, which browsers draw by themselves."""

    def change(match: re.Match) -> str:
        return convert(unescape(match[2]), display="block" if match[1] == "div" else "inline")

    return FORMULA.sub(change, html)


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """References to the package as links."""

    def resolve(name: str) -> str | None:
        if name.split(".")[0] != pages.PACKAGE:
            return None
        owner = name.rpartition(".")[0]
        return name if {name, owner} & references.rendered() else ""

    return pages.outside_code(markdown, lambda part: references.linked(part, resolve, page.file.src_uri))


def on_post_build(config: MkDocsConfig) -> None:
    """Check what pages fetch and, where node is installed, what the search finds."""
    check_fetched(config)
    if shutil.which("node"):
        check_search(config)


def check_fetched(config: MkDocsConfig) -> None:
    """Whatever a page fetches must be in the site, which works without a network."""
    for path in sorted(Path(config.site_dir).rglob("*.html")):
        for match in FETCHED.finditer(path.read_text(encoding="utf-8")):
            address = next(filter(None, match.groups()))
            is_here = not re.match(r"[a-z]+:|//", address) and (path.parent / address.lstrip("/")).exists()
            if not is_here and not address.startswith("data:") and path.name != "404.html":
                logger.warning("%s fetches %s, which is not in the site", path.relative_to(config.site_dir), address)


def check_search(config: MkDocsConfig) -> None:
    """The search finds the right page first."""
    command = ["node", str(Path(__file__).parent / "check_search.mjs"), config.site_dir, *FIRST_FOUND]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    for (query, page), first in zip(FIRST_FOUND.items(), found, strict=True):
        if page != first:
            logger.warning("The search for %r finds %r first, not %r", query, first, page)
