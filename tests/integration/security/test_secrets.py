"""A secret is shown nowhere: commands that succeed and commands that fail, and then every byte that they printed or wrote is searched for it."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from acceptance.command import Answer, hindscan
from acceptance.serving import finished, serve
from clock import until
from integration.security.broker import CANARY, PASSWORDS, SecuredKafka
from integration.security.conftest import Site

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(240)]

JOBS = '''
import hindscan as hs

@hs.job(history="bids")
def count_bids(bids: hs.Data):
    """How many there are."""
    return bids.sql("SELECT count(*) AS n FROM bids")

@count_bids.combine
def merge(partials: hs.Data):
    return partials.sql("SELECT sum(n)::BIGINT AS n FROM partials")

@hs.job(history="bids")
def fails(bids: hs.Data):
    """Raise while rows are being read."""
    for batch in bids.batches():
        raise ValueError(f"{batch.num_rows} rows and {bids!r} {hs.Data!r}")
    return bids.sql("SELECT 1 AS n")

@fails.combine
def same(partials: hs.Data):
    return partials.arrow()
'''


class Typist:
    """Types commands in a project, in a home and a folder for temporary files of its own, and keeps all that was printed."""

    def __init__(self, site: Site, home: Path) -> None:
        self.site = site
        self.home = home
        self.printed: list[str] = []
        self.env = {"HOME": str(home), "TMPDIR": str(home), "SECRET": PASSWORDS[site.user]}

    def __call__(self, *arguments: str, code: int = 0, **env: str) -> Answer:
        answer = hindscan(*arguments, project=self.site.folder, check=None, **{**self.env, **env})
        self.printed += [answer.out, answer.err]
        assert answer.code == code, f"{arguments} gave {answer.code}\n{answer.out}\n{answer.err}"
        return answer

    def everything(self) -> Iterator[tuple[str, bytes]]:
        """Give what was printed, what lies in the project and the home, and what the database holds."""
        yield "printed", "\n".join(self.printed).encode()
        for folder in (self.site.folder, self.home):
            for file in folder.rglob("*"):
                if file.is_file():
                    yield str(file), file.read_bytes()
        with sqlite3.connect(self.site.folder / ".hindscan/hindscan.db") as database:
            yield "database", "\n".join(database.iterdump()).encode()


def test_no_command_prints_or_writes_a_secret_whether_it_succeeds_or_fails(
    secured: SecuredKafka, site: Callable[[str], Site], tmp_path_factory: pytest.TempPathFactory
) -> None:
    here = site("scram-512")
    secured.grant(here.user, here.without(("TOPIC", here.bids, "DESCRIBE_CONFIGS")))
    (here.folder / "jobs").mkdir()
    (here.folder / "jobs/count.py").write_text(JOBS)
    typed = Typist(here, tmp_path_factory.mktemp("home"))

    typed("generate", "auctions", f"kafka:prod:{here.bids}", "--bids", "500", "--partitions", "1")
    manifest = manifest_of(typed("run", "count_bids", "--json").document)
    assert manifest["caveats"] == [
        "bids: the topic's settings could not be read: it is unknown how long its records stay"
    ]
    assert "ValueError: 500 rows" in typed("run", "fails", code=1).err
    assert "it was refused" in typed("run", "count_bids", "--fresh", code=1, SECRET=f"{CANARY}-wrong").err
    assert here.settings["bootstrap.servers"] in typed("doctor").out
    typed("emit", "--type", "t", "--to", f"kafka:prod:{here.closed}")
    refused = typed("jobs", code=2, HINDSCAN_KAFKA__PROD__SASL_PASSWORD=f"{CANARY}-x", HINDSCAN_SERVE__PORT='"no"')
    assert "serve.port" in refused.err
    served(typed)

    found = list(typed.everything())
    assert [name for name, content in found if CANARY.encode() in content] == []
    # It can be found where it is: the search itself works, and what was searched is what there is.
    names = " ".join(name for name, _ in found)
    assert all(part in names for part in ("manifest.json", "result.parquet", "hindscan.db", ".arrow", "serve-"))
    assert here.bids.encode() in dict(found)["database"]


def served(typed: Typist) -> None:
    """Let the trigger's event start a run under `serve`; keep its log and what its HTTP side tells."""
    with serve(typed.site.folder, **typed.env) as server, server.client() as client:
        [run] = until(lambda: by_event(client), "a run")
        assert finished(client, run)["state"] == "succeeded"
        paths = (
            "/runs",
            f"/runs/{run}",
            f"/runs/{run}/manifest",
            "/events",
            "/histories",
            "/triggers",
            "/jobs",
            "/readyz",
        )
        typed.printed += [client.get(path).text for path in paths]
        typed.printed.append(server.log())


def by_event(client: Any) -> list[str]:
    return [one["id"] for one in client.get("/runs").json()["runs"] if one["event"] is not None]


def manifest_of(document: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(document["manifest"]).read_text())
    return found


def test_an_error_that_is_logged_with_all_it_holds_shows_no_secret(secured: SecuredKafka, tmp_path: Path) -> None:
    """What a debugger or a crash reporter would show: the values themselves."""
    from hindscan.config_file import load_project

    (tmp_path / "hindscan.toml").write_text(
        '[kafka.default]\n"bootstrap.servers" = "127.0.0.1:1"\n"sasl.password" = "${SECRET}"\n[history.log]\ntopic = "t"\n'
    )
    project = load_project(tmp_path, {**os.environ, "SECRET": CANARY})
    assert project.clusters["default"]["sasl.password"] == CANARY
    assert CANARY not in repr(project) + str(project) + f"{project.histories}"
