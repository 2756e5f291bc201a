"""The pages are complete and true: what can be typed, set, raised or become is in docs/reference, taken from the code itself."""

from __future__ import annotations

import importlib
import inspect
import json
import re
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, cast
from urllib.parse import unquote

import msgspec
import pytest

import hindscan
from hindscan import api, config, errors
from hindscan.cli.app import COMMANDS, build_app
from hindscan.runs.run import FINAL, MOVES
from hindscan.web.api import build_api

if TYPE_CHECKING:
    from hindscan.web.desk import Desk


def sections(page: Path, level: int = 2) -> dict[str, str]:
    """Return the text under each heading of a level, by the heading's text without backquotes."""
    parts = re.split(rf"^{'#' * level} +(.+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {title.strip().replace("`", ""): text for title, text in zip(parts[1::2], parts[2::2], strict=True)}


def every_error() -> list[type[errors.HindscanError]]:
    return [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, errors.HindscanError)]


def drawn_parents(tree: str) -> dict[str, str | None]:
    """Read the parent of each name off a tree drawn with box characters."""
    parents: dict[str, str | None] = {}
    above: list[tuple[int, str]] = []
    for line in tree.splitlines():
        found = re.match(r"^(\s*[│├└─ ]*)([A-Z][A-Za-z]+)\b", line)
        if found is None or (not above and found[2] != "HindscanError"):
            continue
        depth = len(found[1])
        above = [(column, name) for column, name in above if column < depth]
        parents[found[2]] = above[-1][1] if above else None
        above.append((depth, found[2]))
    return parents


def test_the_tree_of_errors_is_drawn_as_it_is() -> None:
    real = {
        kind.__name__: kind.__base__.__name__ if kind is not errors.HindscanError else None for kind in every_error()
    }
    assert drawn_parents(errors.__doc__ or "") == real


def test_every_error_is_exported_and_documented_with_exit_code_status_and_retry(root) -> None:
    assert sorted(errors.__all__) == sorted(kind.__name__ for kind in every_error())
    rows = {
        cells[0].strip("` "): [cell.strip() for cell in cells[1:]]
        for line in (root / "docs/reference/errors.md").read_text().splitlines()
        if line.startswith("| `") and (cells := line.strip("|").split("|"))
    }
    facts = {
        kind.__name__: [str(kind.exit_code), str(kind.status), "yes" if kind.retryable else "no"]
        for kind in every_error()
    }
    assert {name: row[:3] for name, row in rows.items()} == facts
    assert [name for name, row in rows.items() if len(row[3].split()) < 5] == []


def options_of(command: str) -> set[str]:
    """Return the long options of a command as cyclopts will accept them."""
    app = build_app()[command]
    return {
        name
        for argument in app.assemble_argument_collection(parse_docstring=False)
        if argument.parse
        for name in argument.names
        if name.startswith("--") and not name.startswith("--no-")
    }


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_is_documented_with_its_options(command, root) -> None:
    text = sections(root / "docs/reference/commands.md").get(f"hindscan {command}")
    assert text is not None, f"docs/reference/commands.md needs a heading '## hindscan {command}'"
    # What every command has stands once, at the top of the page.
    common = {"--json", "--project"}
    positional = {name for name in options_of(command) if re.search(rf"\b{name[2:].replace('-', '_').upper()}\b", text)}
    missing = {name for name in options_of(command) - common - positional if not re.search(rf"{name}\b", text)}
    assert missing == set()


def test_no_command_is_documented_that_does_not_exist(root) -> None:
    titles = sections(root / "docs/reference/commands.md")
    named = {title.removeprefix("hindscan ") for title in titles if title.startswith("hindscan ")}
    assert named <= set(COMMANDS)


def settings() -> dict[str, type[msgspec.Struct]]:
    """Return the class of each fixed table of the project file."""
    kinds = {section: getattr(config, str(kind), None) for section, kind in config.Project.__annotations__.items()}
    return {section: kind for section, kind in kinds.items() if kind is not None and kind.__name__.endswith("Settings")}


def test_the_settings_are_found() -> None:
    assert {"store", "compute", "serve", "jobs"} <= set(settings())


def test_every_setting_is_documented_with_its_default(root) -> None:
    page = sections(root / "docs/reference/settings.md")
    faults = []
    for section, kind in settings().items():
        text = page.get(f"[{section}]", "")
        names = [field.encode_name for field in msgspec.structs.fields(kind)]
        for name in names:
            row = re.search(rf"^\| `{name}` \| `([^`]*)` \| .{{10,}}$", text, re.MULTILINE)
            default = getattr(kind(), name)
            if row is None:
                faults.append(f"[{section}] {name} has no row")
            elif row[1] != (str(default) if default is None else json.dumps(default)):  # as TOML has it
                faults.append(f"[{section}] {name}: default {default!r}, documented as {row[1]}")
        documented = re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)
        faults += [f"[{section}] {name} is no setting" for name in documented if name not in names]
    assert faults == []


def test_every_state_and_every_legal_move_is_documented(root) -> None:
    page = (root / "docs/reference/runs.md").read_text()
    rows = {
        found[1]: set(re.findall(r"`(\w+)`", found[2]))
        for found in re.finditer(r"^\| `(\w+)` \| ([^|]*) \|", page, re.MULTILINE)
    }
    assert rows == {state: set(targets) for state, targets in MOVES.items()}
    assert all(f"`{state}`" in page for state in FINAL)


def links(page: Path) -> list[str]:
    text = re.sub(r"^(```|~~~).*?^\1", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"`[^`\n]*`", "", text)
    return re.findall(r"\[[^\]]*\]\(([^)\s]+)\)", text)


def anchors(page: Path) -> set[str]:
    titles = re.findall(r"^#+ +(.+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_links_between_pages_resolve(tracked, root) -> None:
    faults = []
    for page in tracked:
        if page.suffix != ".md":
            continue
        for link in links(page):
            path, _, anchor = unquote(link).partition("#")
            if re.match(r"[a-z]+:", link):
                continue
            target = (page.parent / path).resolve() if path else page
            if not target.exists():
                faults.append(f"{page.relative_to(root)}: {link}")
            elif anchor and target.suffix == ".md" and anchor not in anchors(target):
                faults.append(f"{page.relative_to(root)}: {link}: no such heading")
    assert faults == []


def test_files_that_pages_name_are_there(tracked, root) -> None:
    """A path in backquotes that begins with a folder of the project must exist."""
    folders = "src|docs|tests|jobs|notebooks|benchmarks|data"
    faults = []
    for page in tracked:
        # The design is the contract of what will be; the change log speaks of what was.
        if page.suffix != ".md" or page.name in {"design.md", "CHANGELOG.md"}:
            continue
        paths = re.findall(rf"`((?:{folders})/[\w./-]*\w\.\w+)`", page.read_text())
        faults += [f"{page.relative_to(root)}: {named}" for named in paths if not (root / named).exists()]
    assert faults == []


def test_decisions_are_numbered_in_order_and_half_a_page(root) -> None:
    pages = sorted((root / "docs/decisions").glob("*.md"))
    assert [page.name[:4] for page in pages] == [f"{number:04d}" for number in range(1, len(pages) + 1)]
    for page in pages:
        text = page.read_text()
        assert all(f"**{part}.**" in text for part in ("Context", "Choice", "Price")), page.name
        assert len(text.split()) < 400, page.name


def test_every_reference_page_is_reachable_from_the_first(root) -> None:
    folder = root / "docs/reference"
    linked = set(links(folder / "README.md"))
    assert {page.name for page in folder.glob("*.md")} - {"README.md"} <= linked


def test_every_name_of_the_python_interface_is_documented(root) -> None:
    names = [name for name in getattr(hindscan, "__all__", ()) if name != "__version__"]
    page = root / "docs/reference/python.md"
    if names:
        text = page.read_text()
        assert [name for name in names if not re.search(rf"\bhs\.{name}\b", text)] == []


@pytest.mark.parametrize("name", ["job", "simulation", "run", "runs", "backtest", "leaktest"])
def test_every_option_of_what_python_can_ask_for_is_documented(root, name: str) -> None:
    text = "".join((root / "docs/reference" / page).read_text() for page in ("python.md", "simulations.md"))
    function = {"run": api.run, "runs": api.runs}.get(name) or getattr(hindscan, name)
    named = [one for one in inspect.signature(function).parameters.values() if one.kind is not one.POSITIONAL_ONLY]
    assert [one.name for one in named if not re.search(rf"`[^`]*\b{one.name}\b", text)] == []


def test_every_path_of_the_api_is_documented_and_no_other(root) -> None:
    cells = re.findall(r"^\| (`(?:GET|POST) .*?) \|", (root / "docs/reference/http.md").read_text(), re.MULTILINE)
    named = set(re.findall(r"`\w+ ([^`]*)`", " ".join(cells)))
    served = set(build_api(cast("Desk", None), "0").openapi()["paths"])
    assert named == {path for path in served if not path.endswith(("/replays/{name}", "/audits/{name}"))}


def test_every_extra_is_documented_and_no_other(root) -> None:
    extras = tomllib.loads((root / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \|", (root / "docs/reference/README.md").read_text(), re.MULTILINE)
    assert sorted(re.findall(r"\w+", " ".join(rows))) == sorted(extras)


def test_every_setting_of_a_trigger_a_history_and_an_outlet_is_documented_and_no_other(root) -> None:
    page = sections(root / "docs/reference/settings.md")
    declared = importlib.import_module("hindscan.history.declared")
    trigger = importlib.import_module("hindscan.events.declared")
    outlet = importlib.import_module("hindscan.events.outlet")
    for section, keys in (
        ("[triggers.NAME]", trigger._KEYS),
        ("[history.NAME]", declared.KEYS),
        ("[publish.NAME]", outlet.KEYS),
    ):
        documented = re.findall(r"^\| `(\w+)` \|", page[section], re.MULTILINE)
        assert sorted(documented) == sorted(keys), section
