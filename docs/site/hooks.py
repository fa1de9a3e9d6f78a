"""What the site takes from outside of docs/: the READMEs, the modules of the package, the demo's figures.

MkDocs calls the functions by their names. Links to files of the repository that are no pages lead to
copies of these files.
"""

from __future__ import annotations

import ast
import posixpath
import re
from pathlib import Path

from mkdocs.structure.files import File

REPOSITORY = Path(__file__).parents[2]
PAGES = {
    "README.md": "index.md",
    "config/README.md": "config.md",
    "profiles/README.md": "profiles.md",
    "results/README.md": "results.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
}
_LINK = re.compile(r"(\]\()(?!https?:|mailto:|#)([^)#\s]+)(#[^)\s]*)?(\))")
_CODE = re.compile(r"```.*?```", re.DOTALL)


def on_files(files, config):
    """Add what is not below docs/."""
    for source, page in PAGES.items():
        text = (REPOSITORY / source).read_text(encoding="utf-8")
        _add(files, config, page, _with_links(text, source, page, files, config))
    _add(files, config, "api.md", _api())
    _add(files, config, "gallery.md", _gallery(files, config))
    return files


def on_page_markdown(markdown, page, config, files):
    """Mend the links of the pages below docs/."""
    source = page.file.src_uri
    if source in PAGES.values() or source in ("api.md", "gallery.md"):
        return markdown
    return _with_links(markdown, f"docs/{source}", source, files, config)


def _add(files, config, uri: str, content: str | bytes) -> None:
    if files.get_file_from_path(uri) is None:
        files.append(File.generated(config, uri, content=content))


def _with_links(text: str, source: str, page: str, files, config) -> str:
    """Point the links of a file of the repository to where the site has their targets."""

    def mend(found: re.Match) -> str:
        before, target, anchor, after = found.groups()
        place = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        if place in PAGES:
            uri = PAGES[place]
        elif place.startswith("docs/"):
            uri = place.removeprefix("docs/")
        elif (REPOSITORY / place).is_file():
            uri = f"files/{place}"
            _add(files, config, uri, (REPOSITORY / place).read_bytes())
        else:
            return found.group(0)
        relative = posixpath.relpath(uri, posixpath.dirname(page) or ".")
        return f"{before}{relative}{anchor or ''}{after}"

    parts, end = [], 0
    for code in _CODE.finditer(text):
        parts += [_LINK.sub(mend, text[end : code.start()]), code.group(0)]
        end = code.end()
    return "".join([*parts, _LINK.sub(mend, text[end:])])


def _api() -> str:
    """Every public module of the package with its docstrings."""
    package = REPOSITORY / "scripts" / "nmfbench"
    parts = ["# API\n\nWhat jobs and notebooks import, module by module.\n"]
    for path in sorted(package.rglob("*.py")):
        names = path.relative_to(package.parent).with_suffix("").parts
        if any(part.startswith("_") and part != "__init__" for part in names) or names[-1] == "__main__":
            continue
        if not (path.parent / "__init__.py").is_file():
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        shown = (ast.FunctionDef, ast.ClassDef)
        public = [node for node in tree.body if isinstance(node, shown) and not node.name.startswith("_")]
        if public:
            module = ".".join(part for part in names if part != "__init__")
            parts.append(f"\n::: {module}\n")
    return "".join(parts)


def _gallery(files, config) -> str:
    """Figures of the demo where it ran, and those of docs/figures."""
    parts = ["# Gallery\n"]
    demo = REPOSITORY / "results" / "demo" / "figures"
    made = sorted(demo.rglob("*.png"))
    if made:
        parts.append("\nEvery figure of `make demo`, a small simulated atlas.\n")
    else:
        parts.append("\nThe figures of the demo stand here where `make demo` ran before `make docs`.\n")
    for path in made:
        name = path.relative_to(demo).as_posix()
        _add(files, config, f"gallery/{name}", path.read_bytes())
        parts.append(f"\n## {name.removesuffix('.png')}\n\n![{name}](gallery/{name})\n")
    for path in sorted((REPOSITORY / "docs" / "figures").glob("*.png")):
        parts.append(f"\n## {path.stem}\n\n![{path.stem}](figures/{path.name})\n")
    return "".join(parts)
