"""Links to files of the repository that are no pages: checked, and on the site named only."""

import logging
import os.path
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page

_LINK = re.compile(r"\[([^\]\n]+)\]\((?!\w+:|#|/)([^)\s#]+)(?:#[^)\s]*)?\)")

logger = logging.getLogger(f"mkdocs.hooks.{__name__}")


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn `[text](../path)` that leaves the docs into text and path."""
    docs = Path(config.docs_dir)
    here = docs / Path(page.file.src_uri).parent

    def name(link: re.Match[str]) -> str:
        text, target = link[1], Path(os.path.normpath(here / link[2]))
        if target.is_relative_to(docs):
            return link[0]
        if not target.exists():
            logger.warning("%s links to %s, which is not there", page.file.src_uri, link[2])
        path = os.path.relpath(target, docs.parent)
        return f"`{path}`" if text.strip("`") == path else f"{text} (`{path}`)"

    return _LINK.sub(name, markdown)
