"""The rights that a project needs on its Kafka clusters: no more than these, and what each is for.

Keeps promise 12 on the broker's side: what hindscan may do there can be as little as what it does. Read off the project file: nothing is connected to. A
right includes DESCRIBE on the same resource, as Kafka has it (READ and WRITE imply it). Not needed, although often granted: IDEMPOTENT_WRITE (WRITE on
a topic implies it), anything on the group that a reader names and never joins, anything on the cluster.

On top of the package. ::

    Project -> needed_rights -> Right, Right, ... -> acl_commands -> lines for kafka-acls.sh
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal

import msgspec

from hindscan.events.declared import parse_source

if TYPE_CHECKING:
    from hindscan.config import Project

__all__ = ["Right", "acl_commands", "needed_rights"]

#: How kafka-acls.sh writes what Kafka's protocol calls by other names.
_OPERATIONS = {"READ": "Read", "WRITE": "Write", "CREATE": "Create", "DESCRIBE_CONFIGS": "DescribeConfigs"}


class Right(msgspec.Struct, frozen=True, kw_only=True, order=True):
    """One operation on one resource of one cluster."""

    #: Name in the project file.
    cluster: str
    #: Whether what the project declares does not work without it; the others are for commands that may never be typed.
    needed: bool
    kind: Literal["topic", "group"]
    name: str
    operation: Literal["READ", "WRITE", "CREATE", "DESCRIBE_CONFIGS"]
    #: What it is for, and what happens without it.
    purpose: str


def needed_rights(project: Project) -> tuple[Right, ...]:
    """List the rights that a project needs; the ones it cannot do without come first, cluster by cluster."""
    rights: dict[tuple[str, str, str, str], Right] = {}

    def want(cluster: str, kind: Literal["topic", "group"], name: str, needed: bool, **purposes: str) -> None:
        for operation, purpose in purposes.items():
            right = msgspec.convert(
                {"cluster": cluster, "kind": kind, "name": name, "operation": operation, "needed": needed, "purpose": purpose},
                Right,
            )  # fmt: skip
            rights.setdefault((cluster, kind, name, operation), right)

    for name, table in project.history_tables.items():
        if "topic" in table:
            of = parse_source(f"kafka:{table['topic']}")
            want(of.cluster, "topic", of.topic, True, READ=f"pin and read history {name}")
            want(
                of.cluster, "topic", of.topic, False,
                DESCRIBE_CONFIGS=f"say in manifests how long records of history {name} stay; without it they say that it is unknown",
                CREATE=f"hindscan generate, to create {of.topic}", WRITE=f"hindscan generate, to fill {of.topic}",
            )  # fmt: skip
    for name, trigger in project.triggers.items():
        for source in trigger.sources:
            if source.kind == "kafka":
                group = project.serve.group
                want(source.cluster, "topic", source.topic, True, READ=f"listen for trigger {name}")
                want(source.cluster, "group", group, True, READ=f"listen for the triggers of cluster {source.cluster}")
                want(source.cluster, "topic", source.topic, False, WRITE=f"hindscan emit --to kafka:{source.topic}")
    for name, outlet in project.outlets.items():
        if outlet.topic is not None:
            want(outlet.topic.cluster, "topic", outlet.topic.topic, True, WRITE=f"send events of runs to outlet {name}")
    return tuple(sorted(rights.values(), key=lambda r: (r.cluster, not r.needed, r.kind, r.name, r.operation)))


def acl_commands(project: Project, rights: Iterable[Right], principal: str) -> list[str]:
    """Write rights as lines for kafka-acls.sh, one for each.

    Parameters
    ----------
    project : Project
        Says where the clusters are.
    rights : Iterable[Right]
        What to grant.
    principal : str
        Whom, as the broker names this client: a user, or what it makes of a certificate's subject.
    """
    return [
        shlex.join(
            [
                "kafka-acls.sh", "--bootstrap-server", str(project.clusters[right.cluster]["bootstrap.servers"]),
                "--command-config", "admin.properties", "--add", "--allow-principal", f"User:{principal}",
                "--operation", _OPERATIONS[right.operation], f"--{right.kind}", right.name,
            ]
        )
        for right in rights
    ]  # fmt: skip
