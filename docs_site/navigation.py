"""Completes the site's menu: decisions by number, and pages that mkdocs.yml doesn't place."""

from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """List what is there, so that a new page is in the menu without further ado."""
    folder = Path(config.docs_dir)
    pages = {path.relative_to(folder).as_posix() for path in folder.rglob("*.md")}
    nav: list[Any] = config.nav or []
    decisions = sorted(page for page in pages if page.startswith("decisions/"))
    rest = sorted(pages - set(_placed(nav)) - set(decisions) - {"README.md"})
    if rest:
        nav.append({"More": rest})
    nav.append({"Decisions": decisions})
    config.nav = nav
    return config


def _placed(nav: Any) -> list[str]:
    if isinstance(nav, str):
        return [nav]
    entries = nav.values() if isinstance(nav, dict) else nav
    return [page for entry in entries for page in _placed(entry)]
