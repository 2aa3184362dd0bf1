"""What the site holds beside docs/*.md: files of the repository that pages link to, and pages the program writes.

Pages link as they must on a code host (`../CHANGELOG.md`, `../examples/x.toml`); `on_page_markdown` rewrites what
leads out of docs/ to the copy in the site.
"""

import os
import posixpath
import re
import sys
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
sys.path.insert(0, os.fspath(ROOT))  # the program documents itself, wherever mkdocs is started

from docs.tools import reference  # noqa: E402

OUTSIDE = ("CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "examples/*")
"""Files outside docs/ that are part of the site, at the same path."""
RENAMED = {"README.md": "index.md"}
"""Files whose place in the site is taken by a page of docs/."""
LINK = re.compile(r"\]\(([^)#:\s]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the files outside docs/ and the pages written from the program."""
    for pattern in OUTSIDE:
        for path in sorted(ROOT.glob(pattern)):
            files.append(File.generated(config, path.relative_to(ROOT).as_posix(), abs_src_path=os.fspath(path)))
    for name, text in reference.pages().items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links of a page, made to lead to where their targets lie in the site."""
    home = posixpath.dirname(page.file.src_uri)
    in_docs = not any(Path(page.file.src_uri).match(pattern) for pattern in OUTSIDE)
    folder = posixpath.join("docs", home) if in_docs else home

    def moved(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(folder, match[1]))
        target = RENAMED.get(target, target.removeprefix("docs/"))
        return f"]({posixpath.relpath(target, home or '.')}{match[2] or ''})"

    return LINK.sub(moved, markdown)
