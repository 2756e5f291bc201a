"""What S3 says of its objects becomes one CloudEvent for each, as the adapter specification has it."""

from __future__ import annotations

import base64
import copy
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from hindscan.errors import InvalidEvent, SignatureRefused
from hindscan.events.filters import Filter
from hindscan.events.s3 import s3_events
from hindscan.events.sns import Confirmation, check_envelope, confirm_url, confirmation_in, envelope_in, signed_text

RECORD: dict[str, Any] = {
    "eventVersion": "2.1",
    "eventSource": "aws:s3",
    "awsRegion": "us-west-2",
    "eventTime": "2026-11-25T06:07:08.123Z",
    "eventName": "ObjectCreated:Put",
    "userIdentity": {"principalId": "AIDAJDPLRKLG7UEXAMPLE"},
    "requestParameters": {"sourceIPAddress": "127.0.0.1"},
    "responseElements": {"x-amz-request-id": "C3D13FE58DE4C810", "x-amz-id-2": "FMyUVURIY8/IgAtTv8xRjskZ"},
    "s3": {
        "s3SchemaVersion": "1.0",
        "configurationId": "new-bids",
        "bucket": {"name": "lake", "arn": "arn:aws:s3:::lake"},
        "object": {
            "key": "bids/year%3D2018/a+b.parquet",
            "size": 1024,
            "eTag": "d41d8c",
            "sequencer": "0055AED6DCD90281E5",
        },
    },
}
BRIDGE: dict[str, Any] = {
    "version": "0",
    "id": "17793124-05d4-b198-2fde-7ededc63b103",
    "detail-type": "Object Created",
    "source": "aws.s3",
    "account": "111122223333",
    "time": "2026-11-25T06:07:08Z",
    "region": "us-west-2",
    "resources": ["arn:aws:s3:::lake"],
    "detail": {
        "version": "0",
        "bucket": {"name": "lake"},
        "object": {"key": "bids/a b.parquet", "size": 5, "etag": "b1946a", "sequencer": "617f08299329d189"},
        "request-id": "N4N7GDK58NMKJ12R",
        "reason": "PutObject",
    },
}


def changed(document: dict[str, Any], path: str, value: object) -> dict[str, Any]:
    made = copy.deepcopy(document)
    *parts, last = path.split(".")
    at = made
    for part in parts:
        at = at[part]
    at[last] = value
    return made


def test_a_record_is_mapped_as_the_specification_says() -> None:
    (event,) = s3_events({"Records": [RECORD]})
    assert event.to_json() == {
        "specversion": "1.0",
        "id": "C3D13FE58DE4C810.FMyUVURIY8/IgAtTv8xRjskZ",
        "source": "aws:s3.us-west-2.lake",
        "type": "com.amazonaws.s3.ObjectCreated:Put",
        "time": "2026-11-25T06:07:08.123000Z",
        "subject": "bids/year%3D2018/a+b.parquet",
        "datacontenttype": "application/json",
        "data": RECORD,
    }


def test_a_notification_of_eventbridge_passes_the_same_filter() -> None:
    (bridged,) = s3_events(BRIDGE)
    (event,) = s3_events({"Records": [RECORD]})
    same = Filter(
        {
            "all": [
                {"prefix": {"type": "com.amazonaws.s3.ObjectCreated"}},
                {"exact": {"source": "aws:s3.us-west-2.lake"}},
            ]
        }
    )
    assert same.matches(bridged)
    assert same.matches(event)
    assert (bridged.id, bridged.subject) == (BRIDGE["id"], "bids/a b.parquet")
    assert bridged.data == BRIDGE


def test_one_request_that_removes_many_objects_is_one_event_for_each() -> None:
    removed = changed(RECORD, "eventName", "ObjectRemoved:Delete")
    events = s3_events({"Records": [removed, changed(removed, "s3.object.key", "bids/b.parquet")]})
    assert len({event.identity for event in events}) == 2
    assert [event.id for event in events] == [
        event.id for event in s3_events({"Records": [removed, changed(removed, "s3.object.key", "bids/b.parquet")]})
    ]


def test_stores_like_s3_have_no_region_and_a_name_of_their_own() -> None:
    other = changed(
        changed(changed(RECORD, "awsRegion", ""), "eventSource", "minio:s3"), "eventName", "s3:ObjectCreated:Put"
    )
    (event,) = s3_events({"EventName": "s3:ObjectCreated:Put", "Key": "lake/a", "Records": [other]})
    assert (event.source, event.type) == ("minio:s3..lake", "com.amazonaws.s3.ObjectCreated:Put")


def enveloped(message: object) -> dict[str, Any]:
    """Wrap a message as SNS does."""
    return {
        "Type": "Notification",
        "MessageId": "da41e39f-ea4d-435a-b922-c6aae3915ebe",
        "TopicArn": "arn:aws:sns:us-west-2:123456789012:uploads",
        "Subject": "Amazon S3 Notification",
        "Message": message if isinstance(message, str) else json.dumps(message),
        "Timestamp": "2026-11-25T06:07:09.000Z",
        "SignatureVersion": "1",
    }


@pytest.mark.parametrize("within", [{"Records": [RECORD, RECORD]}, BRIDGE])
def test_in_an_envelope_of_sns_it_is_the_same_event(within: dict[str, Any]) -> None:
    assert s3_events(enveloped(within)) == s3_events(within)


def test_the_message_by_which_s3_tries_a_notification_is_an_event_of_its_own_type() -> None:
    tried = {
        "Service": "Amazon S3", "Event": "s3:TestEvent", "Time": "2014-10-13T15:57:02.089Z", "Bucket": "lake",
        "RequestId": "5582815E1AEA5ADF", "HostId": "8cLeGAmw098X5cv4Zkwcmo8vvZa3eH3eKxsPzbB9wrR",
    }  # fmt: skip
    (event,) = s3_events(enveloped(tried))
    assert (event.type, event.source, event.id) == (
        "com.amazonaws.s3.TestEvent",
        "aws:s3..lake",
        "5582815E1AEA5ADF.8cLeGAmw098X5cv4Zkwcmo8vvZa3eH3eKxsPzbB9wrR",
    )


def test_what_moto_sends_through_a_topic_to_a_queue_is_the_event_of_the_object() -> None:
    """Moto is the third party here: S3 to SNS to SQS, each as AWS would write it."""
    import boto3
    from moto import mock_aws

    with mock_aws():
        here: dict[str, Any] = {"region_name": "us-east-1", "aws_access_key_id": "a", "aws_secret_access_key": "b"}
        s3, sns, sqs = (boto3.client(name, **here) for name in ("s3", "sns", "sqs"))
        s3.create_bucket(Bucket="lake")
        topic = sns.create_topic(Name="uploads")["TopicArn"]
        queue = sqs.create_queue(QueueName="uploads")["QueueUrl"]
        arn = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
        sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=arn)
        wanted = {"TopicConfigurations": [{"TopicArn": topic, "Events": ["s3:ObjectCreated:*"]}]}
        s3.put_bucket_notification_configuration(Bucket="lake", NotificationConfiguration=wanted)
        s3.put_object(Bucket="lake", Key="bids/a b.parquet", Body=b"PAR1")
        bodies = [
            json.loads(message["Body"])
            for message in sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10)["Messages"]
        ]
    # Moto leaves out which request it was, which S3 tells.
    for body in bodies:
        body["Message"] = body["Message"].replace(
            '"s3": {', f'"responseElements": {json.dumps(RECORD["responseElements"])}, "s3": {{', 1
        )
    events = [event for body in bodies for event in s3_events(body)]
    assert {event.type for event in events} == {"com.amazonaws.s3.TestEvent", "com.amazonaws.s3.ObjectCreated:Put"}
    assert [event.subject for event in events if event.type == "com.amazonaws.s3.ObjectCreated:Put"] == [
        "bids%2Fa+b.parquet"
    ]


ASKED = {
    "Type": "SubscriptionConfirmation",
    "TopicArn": "arn:aws:sns:us-west-2:123456789012:uploads",
    "Token": "2336412f37",
    "SubscribeURL": "https://sns.us-west-2.amazonaws.com/?Action=ConfirmSubscription&Token=2336412f37",
}


def test_a_subscription_is_confirmed_for_declared_topics_at_hosts_of_sns_alone() -> None:
    asked = confirmation_in(envelope_in(json.dumps(ASKED).encode()))
    assert asked is not None
    assert confirm_url(asked, [ASKED["TopicArn"]]) == ASKED["SubscribeURL"]
    with pytest.raises(ValueError, match="must be named in `confirm`"):
        confirm_url(asked, ["arn:aws:sns:us-west-2:123456789012:other"])
    for url in (
        "http://sns.us-west-2.amazonaws.com/",
        "https://sns.us-west-2.amazonaws.com.example/",
        "https://user@sns.us-west-2.amazonaws.com/",
        "https://sns.us-west-2.amazonaws.com:8443/",
        "https://127.0.0.1/sns.us-west-2.amazonaws.com",
        "https://sns.us-west-2.amazonaws.com\u2215.example/",
        "file:///etc/passwd",
    ):
        with pytest.raises(ValueError, match="must be an https address of SNS"):
            confirm_url(Confirmation(topic=ASKED["TopicArn"], url=url), [ASKED["TopicArn"]])
    for other in (b"{", b"[]", b"5", json.dumps(enveloped({})).encode(), b'{"Type": "SubscriptionConfirmation"}'):
        assert confirmation_in(envelope_in(other)) is None


@pytest.mark.parametrize(
    ("document", "faults"),
    [
        ({"Service": "Amazon S3", "Event": "s3:TestEvent", "Bucket": "lake"}, ["Time: it must be a text"]),
        (enveloped("{"), ["Message of the SNS envelope: it is not JSON"]),
        (enveloped({"Records": []}), ["with Records"]),
        (enveloped(enveloped({"Records": [RECORD]})), ["with Records"]),
        (ASKED, ["with Records"]),
        ({"Records": []}, ["with Records"]),
        ({"Records": {}}, ["with Records"]),
        (None, ["with Records"]),
        ([RECORD], ["with Records"]),
        ({"Records": [RECORD, 5]}, ["record 1: eventName", "record 1: s3.bucket.name"]),
        (
            {"Records": [changed(RECORD, "eventTime", "soon"), changed(RECORD, "s3.object.key", None)]},
            ["record 0: time", "record 1: s3.object.key: it must be a text"],
        ),
        (changed(BRIDGE, "detail", None), ["detail.bucket.name", "detail.object.key"]),
    ],
)
def test_every_fault_of_a_notification_is_told_and_none_of_it_taken(document, faults) -> None:
    with pytest.raises(InvalidEvent) as refused:
        s3_events(document)
    for fault in faults:
        assert fault in str(refused.value)


TOPIC = "arn:aws:sns:us-west-2:123456789012:uploads"
CERTIFICATE_URL = "https://sns.us-west-2.amazonaws.com/SimpleNotificationService-0123456789abcdef.pem"


@pytest.fixture(scope="module")
def key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


@pytest.fixture(scope="module")
def certificate(key: rsa.RSAPrivateKey) -> bytes:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "sns.amazonaws.com")])
    began = datetime(2026, 1, 1, tzinfo=UTC)
    made = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
        .not_valid_before(began).not_valid_after(began + timedelta(days=365)).sign(key, hashes.SHA256())
    )  # fmt: skip
    return made.public_bytes(Encoding.PEM)


def signed(key: rsa.RSAPrivateKey, document: dict[str, Any], version: str = "1", **more: Any) -> dict[str, Any]:
    """Sign as SNS does. The text is written out here, not asked of the code under test."""
    text = "".join(f"{name}\n{document[name]}\n" for name in sorted(document) if name not in UNSIGNED)
    hashed: hashes.HashAlgorithm = hashes.SHA1() if version == "1" else hashes.SHA256()
    signature = base64.b64encode(key.sign(text.encode(), padding.PKCS1v15(), hashed)).decode()
    return document | {
        "SignatureVersion": version, "Signature": signature, "SigningCertURL": CERTIFICATE_URL,
        "UnsubscribeURL": "https://sns.us-west-2.amazonaws.com/?Action=Unsubscribe",
    } | more  # fmt: skip


UNSIGNED = ("SignatureVersion", "Signature", "SigningCertURL", "UnsubscribeURL")
WHOLE = ASKED | {
    "MessageId": "1",
    "Timestamp": "2026-11-25T06:07:09.000Z",
    "Token": "2336412f37",
    "Message": "You have",
}


def test_what_is_signed_is_the_text_of_the_documentation() -> None:
    # https://docs.aws.amazon.com/sns/latest/dg/sns-verify-signature-of-message.html, its example.
    example = {
        "Type": "Notification", "MessageId": "4d4dc071-ddbf-465d-bba8-08f81c89da64", "TopicArn": "arn:aws:sns:us-east-2:123456789012:s4-MySNSTopic-1G1WEFCOXTC0P",
        "Subject": "My subject", "Message": "My Test Message", "Timestamp": "2019-01-31T04:37:04.321Z", "SignatureVersion": "1",
    }  # fmt: skip
    assert signed_text(example) == (
        b"Message\nMy Test Message\nMessageId\n4d4dc071-ddbf-465d-bba8-08f81c89da64\nSubject\nMy subject\nTimestamp\n2019-01-31T04:37:04.321Z\n"
        b"TopicArn\narn:aws:sns:us-east-2:123456789012:s4-MySNSTopic-1G1WEFCOXTC0P\nType\nNotification\n"
    )


@pytest.mark.parametrize("version", ["1", "2"])
@pytest.mark.parametrize("document", [enveloped({"Records": [RECORD]}), WHOLE], ids=["notification", "confirmation"])
def test_an_envelope_that_sns_has_signed_for_a_declared_topic_is_taken(
    key: rsa.RSAPrivateKey, certificate: bytes, version: str, document: dict[str, Any]
) -> None:
    asked: list[str] = []

    def at(url: str) -> bytes:
        asked.append(url)
        return certificate

    whole = signed(key, document, version)
    check_envelope(envelope_in(json.dumps(whole).encode()), [TOPIC], at)
    assert asked == [CERTIFICATE_URL]
    for name in set(document) - set(UNSIGNED) - {"Type", "TopicArn"}:
        with pytest.raises(SignatureRefused, match="the signature is not valid"):
            check_envelope(whole | {name: "another"}, [TOPIC], at)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"TopicArn": "arn:aws:sns:us-west-2:123456789012:other"}, "must be named in `confirm`"),
        ({"SignatureVersion": "3"}, "SignatureVersion must be 1 or 2"),
        ({"SignatureVersion": "2"}, "the signature is not valid"),
        ({"Signature": "not base64"}, "Signature must be base64"),
        ({"Signature": None}, "Signature must be base64"),
        ({"Signature": ""}, "the signature is not valid"),
        *(
            ({"SigningCertURL": url}, "SigningCertURL must be an https address of SNS")
            for url in (
                None, "", "http://sns.us-west-2.amazonaws.com/a.pem", "https://sns.us-west-2.amazonaws.com.example/a.pem",
                "https://user@sns.us-west-2.amazonaws.com/a.pem", "https://sns.us-west-2.amazonaws.com/?a.pem", "https://[/a.pem",
                "https://127.0.0.1/a.pem", "file:///a.pem",
            )
        ),
    ],
)  # fmt: skip
def test_an_envelope_that_is_not_proven_is_refused_and_no_foreign_address_is_asked(
    key: rsa.RSAPrivateKey, certificate: bytes, more: dict[str, Any], words: str
) -> None:
    def at(url: str) -> bytes:
        assert url == CERTIFICATE_URL
        return certificate

    with pytest.raises(SignatureRefused, match=words):
        check_envelope(signed(key, enveloped({"Records": [RECORD]}), **more), [TOPIC], at)


def test_where_topics_are_declared_a_bare_notification_is_refused_and_what_is_no_certificate(
    key: rsa.RSAPrivateKey,
) -> None:
    bare = envelope_in(json.dumps({"Records": [RECORD]}).encode())
    check_envelope(bare, [], lambda _: b"")
    with pytest.raises(SignatureRefused, match="must be an envelope of SNS"):
        check_envelope(bare, [TOPIC], lambda _: b"")
    with pytest.raises(SignatureRefused, match="must give a certificate"):
        check_envelope(signed(key, enveloped({})), [TOPIC], lambda _: b"<html>")
