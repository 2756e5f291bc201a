"""The project file: every fault at once with its line, overrides, secrets, paths."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hindscan.config_file import find_root, load_project
from hindscan.errors import ConfigError, NotFound

GOOD = """
[store]
url = "sqlite:///here/h.db"

[compute]
workers = 3

[kafka.default]
"bootstrap.servers" = "127.0.0.1:9092"
"sasl.password" = "${SECRET}"

[history.bids]
parquet = "data/bids"
time = "date_time"
slice_rows = 500

[triggers.scan]
on = "http"
job = "bidder_scan"
"""


def project(folder: Path, text: str = GOOD, **env: str) -> object:
    (folder / "hindscan.toml").write_text(text)
    return load_project(folder, {"SECRET": "hush", **env})


def faults_of(folder: Path, text: str, **env: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        project(folder, text, **env)
    found = caught.value.details["faults"]
    assert isinstance(found, list)
    assert all(fault in str(caught.value) for fault in found)
    return found


@pytest.mark.parametrize(
    "property_",
    ["sasl.password", "ssl.key.password", "ssl.keystore.password", "sasl.oauthbearer.client.secret", "ssl.key.pem",
     "sasl.oauthbearer.assertion.private.key.passphrase", "sasl.oauthbearer.assertion.private.key.pem"],
)  # fmt: skip
@pytest.mark.parametrize("written", ["hush-hush", "pre-${SECRET}", "${SECRET}-post", ""])
def test_a_secret_that_stands_in_the_file_is_refused_and_not_repeated(
    tmp_path: Path, property_: str, written: str
) -> None:
    text = f'[kafka.prod]\n"bootstrap.servers" = "b:1"\n"{property_}" = "{written}"\n'
    [fault] = faults_of(tmp_path, text)
    assert fault.startswith(f"hindscan.toml:3: kafka.prod.{property_}: is a secret")
    assert "hush" not in fault
    assert project(tmp_path, text.replace(f'"{written}"', '"${SECRET}"')).clusters["prod"][property_] == "hush"


def test_the_password_of_the_stores_url_is_a_secret_too(tmp_path: Path) -> None:
    [fault] = faults_of(tmp_path, '[store]\nurl = "postgresql+psycopg://me:hush-hush@db/runs"\n')
    assert fault == (
        "hindscan.toml:2: store.url: its password is a secret and must be written ${NAME}, to be taken from the environment"
    )
    filled = project(tmp_path, '[store]\nurl = "postgresql+psycopg://me:${SECRET}@db/runs"\n')
    assert filled.store.url == "postgresql+psycopg://me:hush@db/runs"


def test_a_secret_may_come_as_an_override_and_is_taken_as_it_is(tmp_path: Path) -> None:
    text = '[kafka.prod]\n"bootstrap.servers" = "b:1"\n'
    for secret in ("12345", "true", '"quoted"', "[1]", "a=b"):
        found = project(tmp_path, text, HINDSCAN_KAFKA__PROD__SASL_PASSWORD=secret)
        assert found.clusters["prod"]["sasl.password"] == secret


def test_a_project_that_is_shown_shows_no_secret(tmp_path: Path) -> None:
    assert "hush" not in repr(project(tmp_path))


def test_what_is_written_is_what_is_had(tmp_path: Path) -> None:
    (tmp_path / "hindscan.toml").write_text(GOOD)
    loaded = load_project(tmp_path, {"SECRET": "hush"})
    assert loaded.root == tmp_path.resolve()
    assert loaded.store_url == f"sqlite:///{tmp_path.resolve()}/here/h.db"
    assert loaded.artefacts == tmp_path.resolve() / ".hindscan"
    assert (loaded.compute.workers, loaded.compute.runs, loaded.serve.port) == (3, 1, 8484)
    assert loaded.clusters["default"] == {"bootstrap.servers": "127.0.0.1:9092", "sasl.password": "hush"}
    assert loaded.slice_rows("bids") == 500
    assert loaded.history("bids").name == "bids"
    assert loaded.triggers["scan"].job == "bidder_scan"


def test_an_absolute_store_and_another_database_stay_as_they_are(tmp_path: Path) -> None:
    for url in ("sqlite:////var/h.db", "postgresql+psycopg://u@h/d"):
        (tmp_path / "hindscan.toml").write_text(f'[store]\nurl = "{url}"\n')
        assert load_project(tmp_path, {}).store_url == url


def test_the_environment_overrides_numbers_texts_and_kafka_properties(tmp_path: Path) -> None:
    (tmp_path / "hindscan.toml").write_text(GOOD)
    loaded = load_project(
        tmp_path,
        {
            "SECRET": "hush", "HINDSCAN_COMPUTE__WORKERS": "1", "HINDSCAN_HISTORY__BIDS__PARQUET": "other/bids",
            "HINDSCAN_KAFKA__DEFAULT__BOOTSTRAP_SERVERS": '"127.0.0.1:1"', "HINDSCAN_FAULT": "x", "HINDSCAN_CACHE": "y",
        },
    )  # fmt: skip
    assert loaded.compute.workers == 1
    assert loaded.history_tables["bids"]["parquet"] == "other/bids"
    assert loaded.clusters["default"]["bootstrap.servers"] == "127.0.0.1:1"


def test_registries_are_read_with_their_secrets_and_histories_find_theirs(tmp_path: Path) -> None:
    (tmp_path / "hindscan.toml").write_text(
        '[kafka.default]\n"bootstrap.servers" = "b:1"\n'
        '[registry.prod]\nurl = "https://r"\n"basic.auth.user.info" = "me:${SECRET}"\n'
        '[history.bids]\ntopic = "bids"\nformat = "avro"\nregistry = "prod"\n'
    )
    loaded = load_project(tmp_path, {"SECRET": "hush", "HINDSCAN_REGISTRY__PROD__SSL_CA_LOCATION": "ca.pem"})
    expected = {"url": "https://r", "basic.auth.user.info": "me:hush", "ssl.ca.location": "ca.pem"}
    assert loaded.registries == {"prod": expected}
    found: Any = loaded.history("bids")
    assert found.schemas.settings == expected
    assert "hush" not in repr(found)


def test_a_history_of_a_registry_that_is_not_declared_is_told_with_its_line(tmp_path: Path) -> None:
    text = '[kafka.default]\n"bootstrap.servers" = "b:1"\n[history.bids]\ntopic = "bids"\nformat = "avro"\nregistry = "prod"\n'
    [fault] = faults_of(tmp_path, text)
    assert fault.startswith("hindscan.toml:6: history.bids.registry: names the registry 'prod'")
    assert any("registry: must be a table" in each for each in faults_of(tmp_path, "registry = 5\n" + text))
    assert faults_of(tmp_path, text + "[registry.prod]\nurl2 = 5\n")[0].startswith(
        'hindscan.toml:7: registry.prod: needs "url"'
    )


def test_every_fault_is_told_at_once_with_its_line(tmp_path: Path) -> None:
    text = (
        GOOD.replace("workers = 3", 'workers = "three"')
        .replace('job = "bidder_scan"', 'jop = "bidder_scan"')
        .replace('time = "date_time"', "tme = 1")
    )
    faults = faults_of(tmp_path, text + "\n[nonsense]\nx = 1\n")
    lines = text.splitlines()
    where = {fault.split(": ")[1]: int(fault.split(":")[1]) for fault in faults if fault.startswith("hindscan.toml:")}
    assert where["compute.workers"] == lines.index('workers = "three"') + 1
    assert where["history.bids.tme"] == lines.index("tme = 1") + 1
    assert where["triggers.scan.jop"] == lines.index('jop = "bidder_scan"') + 1
    assert where["nonsense"] == len(lines) + 2
    assert "triggers.scan.job" in where


def test_a_missing_secret_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "hindscan.toml").write_text(GOOD)
    with pytest.raises(ConfigError, match="SECRET"):
        load_project(tmp_path, {})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[compute]\nworkers = 0\n", "at least 1"),
        ("[serve]\nport = 70000\n", "65535"),
        ('[compute]\ndask = "http://x"\n', "tcp://"),
        ("[kafka.default]\nacks = 1\n", "bootstrap.servers"),
        ("kafka = 1\n", "must be a table"),
        ('[kafka.default]\n"hindscan.reader" = "quick"\n', "'auto', 'fast', 'plain', found 'quick'"),
        ('[kafka.default]\n"hindscan.mork" = true\n', "no such property"),
        ("[compute]\nworker = 1\n", "no such setting"),
    ],
)
def test_values_out_of_bounds_are_refused(tmp_path: Path, text: str, said: str) -> None:
    assert any(said in fault for fault in faults_of(tmp_path, text))


def test_a_file_that_is_no_toml_is_refused_with_its_place(tmp_path: Path) -> None:
    (tmp_path / "hindscan.toml").write_text("[store\n")
    with pytest.raises(ConfigError, match="line 1"):
        load_project(tmp_path, {})


def test_a_file_in_another_encoding_is_refused_with_its_place(tmp_path: Path) -> None:
    (tmp_path / "hindscan.toml").write_bytes(b"[store]\n# \xff")
    with pytest.raises(ConfigError, match=r"hindscan.toml: it must be UTF-8; invalid start byte at byte 10"):
        load_project(tmp_path, {})


def test_a_project_is_found_upwards_or_not_at_all(tmp_path: Path) -> None:
    (tmp_path / "hindscan.toml").write_text("")
    deep = tmp_path / "a" / "b"
    deep.mkdir(parents=True)
    assert find_root(deep) == tmp_path.resolve()
    (tmp_path / "hindscan.toml").unlink()
    with pytest.raises(ConfigError, match="hindscan init"):
        find_root(deep)


def test_an_unknown_history_names_those_there_are(tmp_path: Path) -> None:
    (tmp_path / "hindscan.toml").write_text(GOOD)
    with pytest.raises(NotFound, match="bids"):
        load_project(tmp_path, {"SECRET": ""}).history("bets")


def test_secrets_of_webhooks_come_from_the_environment_alone_and_are_checked_and_not_repeated(tmp_path: Path) -> None:
    good = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    both = '[serve]\nwebhook_secrets = ["${NEW}", "${OLD}"]'
    found = project(tmp_path, both, NEW=good, OLD=good.removeprefix("whsec_"))
    assert len(set(found.serve.webhooks.secrets)) == 1
    assert good not in repr(found) + repr(found.serve)
    for text, env, word in (
        (f'[serve]\nwebhook_secrets = ["{good}"]', {}, "is a secret and must be written"),
        (f'[serve]\nwebhook_secrets = "{good}"', {}, "expected `array`"),
        (both, {"NEW": good}, "OLD must be set"),
        (both, {"NEW": good, "OLD": "short+secret"}, "secret 2 must be of at least 24 bytes"),
    ):
        with pytest.raises(ConfigError, match=word) as refused:
            project(tmp_path, text, **env)
        assert good not in str(refused.value)
        assert "short+secret" not in str(refused.value)


def test_the_places_of_published_results_are_checked(tmp_path: Path) -> None:
    (tmp_path / "hindscan.toml").write_text('[copies]\nscan = 7\nother = "nowhere://x"\n')
    with pytest.raises(ConfigError) as raised:
        load_project(tmp_path, {})
    assert "hindscan.toml:2: copies.scan: must be a folder or URL, or a table" in str(raised.value)
    assert "hindscan.toml:3: copies.other: While resolving nowhere://x" in str(raised.value)
    (tmp_path / "hindscan.toml").write_text('[copies]\nscan = "reports"\n')
    assert [str(to) for to in load_project(tmp_path, {}).copied_to("scan")] == [str(tmp_path / "reports")]
    (tmp_path / "hindscan.toml").write_text(
        '[iceberg.shop]\ntype = "sql"\n[copies]\nscan = ["reports", { iceberg = "shop.a.b", mode = "replace" }, { delta = "lake/t" }]\n'
    )
    copied = load_project(tmp_path, {}).copied_to("scan")
    assert [str(to) for to in copied] == [str(tmp_path / "reports"), "shop.a.b", "lake/t"]
    assert [getattr(to, "mode", None) for to in copied] == [None, "replace", "append"]


@pytest.mark.parametrize(
    ("said", "fault"),
    [
        ('{ iceberg = "shop.a.b" }', "a catalog declared as [iceberg.CATALOG] (declared: other), found 'shop.a.b'"),
        ('{ iceberg = "lake/t" }', "must be CATALOG.NAMESPACE.TABLE"),
        ('{ delta = "t", mode = "upsert" }', 'only mode, "append" or "replace"'),
        ('{ delta = "t", iceberg = "other.a.b" }', "must be a folder or URL, or a table"),
        ('{ delta = "t", by = "x" }', "must have beside delta only mode"),
        ("[{}]", "must be a folder or URL, or a table"),
    ],
)
def test_a_table_for_copies_is_refused_with_what_is_wrong(said: str, fault: str, tmp_path: Path) -> None:
    (tmp_path / "hindscan.toml").write_text(f'[iceberg.other]\ntype = "sql"\n[copies]\nscan = {said}\n')
    with pytest.raises(ConfigError) as raised:
        load_project(tmp_path, {})
    assert "hindscan.toml:4: copies.scan: " in str(raised.value)
    assert fault in str(raised.value)


def test_who_has_something_to_start_hears_of_sound_settings_before_all_is_checked(tmp_path: Path) -> None:
    file, heard = tmp_path / "hindscan.toml", []
    file.write_text(GOOD)
    whole = load_project(tmp_path, {"SECRET": "hush"}, begun=heard.append)
    assert [project.compute.workers for project in heard] == [3]
    assert heard[0] is whole
    file.write_text(GOOD.replace('on = "http"', 'on = "nowhere"'))
    with pytest.raises(ConfigError, match="nowhere"):
        load_project(tmp_path, {"SECRET": "hush"}, begun=heard.append)
    assert len(heard) == 2, "its settings are sound"
    file.write_text(GOOD.replace("workers = 3", "workers = 0"))
    with pytest.raises(ConfigError, match="workers"):
        load_project(tmp_path, {"SECRET": "hush"}, begun=heard.append)
    assert len(heard) == 2
