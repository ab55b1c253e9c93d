"""Writes the colours of code, light and dark, while the documentation is built: nothing is fetched from elsewhere."""

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from pygments.formatters import HtmlFormatter

PLACE = "css/code.css"
STYLES = {"": "default", '[data-bs-theme="dark"] ': "github-dark"}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Let every page use the colours."""
    config.extra_css.append(PLACE)
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add them."""
    files.append(File.generated(config, PLACE, content="\n".join(_rules())))
    return files


def _rules() -> list[str]:
    return [
        rule
        for scope, style in STYLES.items()
        for rule in HtmlFormatter(style=style).get_style_defs(f"{scope}.highlight").splitlines()
        if " .highlight ." in f" {rule}" and "background" not in rule
    ]
