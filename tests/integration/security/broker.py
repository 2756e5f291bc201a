"""One broker with many ways in (SASL/PLAIN, SCRAM, OAUTHBEARER with and without a provider, certificates) that lets nobody do anything unless it is granted.

Everything about security stands here once: users and their secrets, certificates made on the spot, rights. The way in without security belongs to
the tests: there they are the super user.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import pytest
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    NewTopic,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from clock import until
from hindscan.testing import KafkaCluster
from integration.security.provider import AUDIENCE, STALE, TokenProvider

Settings = dict[str, Any]

#: Who comes in which way; the name is the principal everywhere.
USERS: Final = {
    "plain": "paula",
    "scram-256": "susi",
    "scram-512": "sven",
    "oauth": "olga",
    "oidc": "otto",
    "mtls": "milo",
}
#: A secret that must never be seen again, wherever it is used.
CANARY: Final = "canary-9d41c7e2"
PASSWORDS: Final = {name: f"{CANARY}-{name}" for name in USERS.values()}

_ALL: Final = AclPermissionType.ALLOW


class Authority:
    """Makes certificates that its own certificate vouches for."""

    def __init__(self, folder: Path, name: str = "test authority") -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        certificate = self._sign(self._name, self._key, days=(-2, 2), is_authority=True)
        self.file = folder / f"{name.replace(' ', '-')}.pem"
        self.file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def issue(self, name: str, *, days: tuple[int, int] = (-1, 1), password: str | None = None) -> tuple[Path, Path]:
        """Make a key and a certificate for a name, valid for days counted from now; give their files."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._sign(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]), key, days=days)
        kept = serialization.BestAvailableEncryption(password.encode()) if password else serialization.NoEncryption()
        key_file, file = (self._folder / f"{name}-{id(key)}.{kind}.pem" for kind in ("key", "crt"))
        key_file.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, kept))
        file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        return key_file, file

    def _sign(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, *, days: tuple[int, int], is_authority: bool = False
    ) -> x509.Certificate:
        first, last = (dt.datetime.now(dt.UTC) + dt.timedelta(days=day) for day in days)
        loopback = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(first)
            .not_valid_after(last)
            .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
            .add_extension(loopback, critical=False)
            .sign(self._key, hashes.SHA256())
        )


class SecuredKafka:
    """A running broker, and how each user comes in."""

    def __init__(self, cluster: KafkaCluster, authority: Authority, provider: TokenProvider) -> None:
        self.cluster = cluster
        self.authority = authority
        self._provider = provider
        self.admin = AdminClient({"bootstrap.servers": cluster.bootstrap, "log_level": 0})
        self._milos_key, self._milos_certificate = authority.issue("milo", password=PASSWORDS["milo"])

    def settings(self, way: str, **changed: object) -> Settings:
        """Give the librdkafka properties of the user of a way in; underscores in a changed one stand for dots."""
        user = USERS[way]
        safe = {"ssl.ca.location": str(self.authority.file)}
        password = {"sasl.username": user, "sasl.password": PASSWORDS[user]}
        made: Settings = {
            "plain": {"security.protocol": "SASL_PLAINTEXT", "sasl.mechanism": "PLAIN", **password},
            "scram-256": {"security.protocol": "SASL_SSL", "sasl.mechanism": "SCRAM-SHA-256", **password, **safe},
            "scram-512": {"security.protocol": "SASL_SSL", "sasl.mechanism": "SCRAM-SHA-512", **password, **safe},
            "oauth": {
                "security.protocol": "SASL_PLAINTEXT", "sasl.mechanism": "OAUTHBEARER",
                "enable.sasl.oauthbearer.unsecure.jwt": True, "sasl.oauthbearer.config": f"principal={user}",
            },
            "oidc": {
                "security.protocol": "SASL_PLAINTEXT", "sasl.mechanism": "OAUTHBEARER", "sasl.oauthbearer.method": "oidc",
                "sasl.oauthbearer.client.id": user, "sasl.oauthbearer.client.secret": PASSWORDS[user],
                "sasl.oauthbearer.token.endpoint.url": self._provider.url,
            },
            "mtls": {
                "security.protocol": "SSL", "ssl.key.location": str(self._milos_key), "ssl.key.password": PASSWORDS[user],
                "ssl.certificate.location": str(self._milos_certificate), **safe,
            },
        }[way]  # fmt: skip
        listener = "SCRAM" if way.startswith("scram") else way.upper()
        made["bootstrap.servers"] = self.cluster.bootstraps[listener]
        return made | {name.replace("_", "."): value for name, value in changed.items()}

    def create(self, topic: str, partitions: int = 1) -> str:
        new = NewTopic(topic, partitions, 1, config={"retention.ms": "-1"})
        self.admin.create_topics([new])[topic].result(20)
        return topic

    def grant(self, user: str, rights: Iterable[tuple[str, str, str]]) -> None:
        """Grant (kind of resource, its name, operation)."""
        wanted = [self._binding(user, *right) for right in rights]
        for asked in self.admin.create_acls(wanted).values():
            asked.result(20)
        # The controller has written them; the broker may hear of it a moment later.
        until(lambda: set(wanted) <= set(self.granted(user)), f"rights of {user}")

    def revoke(self, user: str, rights: Iterable[tuple[str, str, str]] | None = None) -> None:
        """Take rights away; all of a user's, unless told which."""
        filters = (
            [AclBindingFilter(ResourceType.ANY, None, ResourcePatternType.ANY, f"User:{user}", None, AclOperation.ANY, AclPermissionType.ANY)]
            if rights is None
            else [
                AclBindingFilter(
                    ResourceType[kind], name, ResourcePatternType.LITERAL, f"User:{user}", "*", AclOperation[operation], _ALL
                )
                for kind, name, operation in rights
            ]
        )  # fmt: skip
        gone = {one for asked in self.admin.delete_acls(filters).values() for one in asked.result(20)}
        until(lambda: not gone & set(self.granted(user)), f"rights of {user} taken away")

    def granted(self, user: str) -> list[AclBinding]:
        """Ask the broker what a user may do."""
        mine = AclBindingFilter(
            ResourceType.ANY,
            None,
            ResourcePatternType.ANY,
            f"User:{user}",
            None,
            AclOperation.ANY,
            AclPermissionType.ANY,
        )
        return self.admin.describe_acls(mine).result(20)

    def _binding(self, user: str, kind: str, name: str, operation: str) -> AclBinding:
        return AclBinding(
            ResourceType[kind], name, ResourcePatternType.LITERAL, f"User:{user}", "*", AclOperation[operation], _ALL
        )


def _properties(authority: Authority, provider: TokenProvider) -> dict[str, str]:
    key, certificate = authority.issue("broker")
    keystore = key.with_suffix(".both.pem")
    keystore.write_bytes(key.read_bytes() + certificate.read_bytes())
    plain = 'org.apache.kafka.common.security.plain.PlainLoginModule required user_{}="{}";'
    scram = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
    oauth = "org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required;"
    handler = (
        "org.apache.kafka.common.security.oauthbearer.internals.unsecured.OAuthBearerUnsecuredValidatorCallbackHandler"
    )
    return {
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:ANONYMOUS",
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(keystore),
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(authority.file),
        "listener.name.plain.sasl.enabled.mechanisms": "PLAIN",
        "listener.name.plain.plain.sasl.jaas.config": plain.format(USERS["plain"], PASSWORDS[USERS["plain"]]),
        "listener.name.scram.sasl.enabled.mechanisms": "SCRAM-SHA-256,SCRAM-SHA-512",
        "listener.name.scram.scram-sha-256.sasl.jaas.config": scram,
        "listener.name.scram.scram-sha-512.sasl.jaas.config": scram,
        "listener.name.oauth.sasl.enabled.mechanisms": "OAUTHBEARER",
        "listener.name.oauth.oauthbearer.sasl.jaas.config": oauth,
        "listener.name.oauth.oauthbearer.sasl.server.callback.handler.class": handler,
        "listener.name.oidc.sasl.enabled.mechanisms": "OAUTHBEARER",
        "listener.name.oidc.oauthbearer.sasl.jaas.config": oauth,
        "listener.name.oidc.oauthbearer.sasl.server.callback.handler.class": "org.apache.kafka.common.security.oauthbearer.OAuthBearerValidatorCallbackHandler",
        "listener.name.oidc.sasl.oauthbearer.jwks.endpoint.url": provider.keys.as_uri(),
        "listener.name.oidc.sasl.oauthbearer.expected.audience": AUDIENCE,
        "listener.name.mtls.ssl.client.auth": "required",
        "listener.name.mtls.ssl.principal.mapping.rules": "RULE:^CN=(.*?)$/$1/",
    }  # fmt: skip


@contextmanager
def secured_kafka(folder: Path) -> Iterator[SecuredKafka]:
    """Start the broker; its users exist and have no rights."""
    authority = Authority(folder)
    ways = {
        "PLAIN": "SASL_PLAINTEXT",
        "SCRAM": "SASL_SSL",
        "OAUTH": "SASL_PLAINTEXT",
        "OIDC": "SASL_PLAINTEXT",
        "MTLS": "SSL",
    }
    with (
        TokenProvider(folder, {**PASSWORDS, STALE: PASSWORDS["otto"]}) as provider,
        pytest.MonkeyPatch.context() as patch,
        ExitStack() as stack,
    ):
        # A broker takes keys only from where its own command line allows.
        allowed = "-Dorg.apache.kafka.sasl.oauthbearer.allowed"
        patch.setenv("JAVA_TOOL_OPTIONS", f"{allowed}.urls={provider.keys.as_uri()} {allowed}.files={provider.keys}")
        cluster = stack.enter_context(KafkaCluster(settings=_properties(authority, provider), listeners=ways))
        patch.undo()
        secured = SecuredKafka(cluster, authority, provider)
        for way, mechanism in (
            ("scram-256", ScramMechanism.SCRAM_SHA_256),
            ("scram-512", ScramMechanism.SCRAM_SHA_512),
        ):
            user = USERS[way]
            wanted = UserScramCredentialUpsertion(user, ScramCredentialInfo(mechanism, 4096), PASSWORDS[user].encode())
            secured.admin.alter_user_scram_credentials([wanted])[user].result(20)
        yield secured
