"""The type system of attributes against the grammars of its RFCs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hindscan.events.attributes import (
    attribute_name_fault,
    disallowed_character,
    format_time,
    is_absolute_uri,
    is_media_type,
    is_uri_reference,
    parse_time,
)


@pytest.mark.parametrize(
    "text",
    [
        # RFC 3986, 1.1.2
        "ftp://ftp.is.co.za/rfc/rfc1808.txt",
        "http://www.ietf.org/rfc/rfc2396.txt",
        "ldap://[2001:db8::7]/c=GB?objectClass?one",
        "mailto:John.Doe@example.com",
        "news:comp.infosystems.www.servers.unix",
        "tel:+1-816-555-1212",
        "telnet://192.0.2.16:80/",
        "urn:oasis:names:specification:docbook:dtd:xml:4.1.2",
        "urn:uuid:6e8bc430-9c3a-11d9-9669-0800200c9a66",
        "http://[v1.fe80::a+en1]/",
        "a:",
    ],
)
def test_an_absolute_uri_is_both(text) -> None:
    assert is_absolute_uri(text)
    assert is_uri_reference(text)


@pytest.mark.parametrize(
    "text",
    [
        # The examples of the specification, and RFC 3986, 5.4
        "/cloudevents/spec/pull/123",
        "1-555-123-4567",
        "g:h/../i#s",
        "//g",
        "?y",
        "g;x=1/../y",
        "../..",
        "#s",
        "/sensors/tn-1234567/alerts",
        "a/b:c",
        "%41/%e2%82%ac",
        "http://user:pass@host:80/p?q#f",
    ],
)
def test_a_reference_need_not_be_absolute(text) -> None:
    assert is_uri_reference(text)
    assert not is_absolute_uri(text) or "#" not in text


@pytest.mark.parametrize(
    "text",
    [
        "a b", "/a b", "http://[::1", "http://[1::2::3]/", "http://[12345::]/", "/%zz", "/%4", "http://h:port/", "1a:b", ":a",
        "/a#b#c", "/ä", "http://a[b]/", "\\server", "<x>", 'a"b', "{x}", "a|b", "`", "^", "/a\n",
    ],
)  # fmt: skip
def test_what_rfc_3986_does_not_derive_is_no_reference(text) -> None:
    assert not is_uri_reference(text)
    assert not is_absolute_uri(text)


def test_matching_a_uri_takes_linear_time() -> None:
    assert not is_uri_reference("/" + "a" * 500_000 + " ")
    assert not is_uri_reference("//" + "a:" * 250_000 + " ")
    assert not is_uri_reference("a/" * 250_000 + "\\")


@pytest.mark.parametrize(
    ("text", "micros"),
    [
        # RFC 3339, 5.8
        ("1985-04-12T23:20:50.52Z", 482196050_520000),
        ("1996-12-19T16:39:57-08:00", 851042397_000000),
        ("1990-12-31T23:59:60Z", 662687999_999999),
        ("1990-12-31T15:59:60-08:00", 662687999_999999),
        ("1937-01-01T12:00:27.87+00:20", -1041337172_130000),
        ("1970-01-01t00:00:00z", 0),
        ("1970-01-01T00:00:00-00:00", 0),
        ("1970-01-01T00:00:00.1234567899Z", 123456),
        ("1970-01-01T00:00:00.000000999Z", 0),
    ],
)
def test_a_time_of_rfc_3339_is_read(text, micros) -> None:
    time = parse_time(text)
    assert time.tzinfo is UTC
    assert (time - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1) == micros


@pytest.mark.parametrize(
    "text",
    [
        "", "now", "2018-04-05", "2018-04-05T17:31:00", "2018-04-05 17:31:00Z", "2018-04-05T17:31Z", "2018-4-5T17:31:00Z",
        "2018-02-29T00:00:00Z", "2018-13-01T00:00:00Z", "2018-04-05T24:00:00Z", "2018-04-05T17:31:61Z", "2018-04-05T17:31:60Z",
        "2018-04-05T17:31:00+24:00", "2018-04-05T17:31:00+0200", "2018-04-05T17:31:00.Z", "0000-01-01T00:00:00Z",
        "0001-01-01T00:00:00+01:00", "9999-12-31T23:59:59-00:01", "20180405T173100Z", "2018-W14-4T17:31:00Z", "٢٠١٨-04-05T17:31:00Z",
        "2018-04-05T17:31:00Z ", "1522949460",
    ],
)  # fmt: skip
def test_any_other_time_is_refused(text) -> None:
    with pytest.raises(ValueError) as fault:
        parse_time(text)
    assert "RFC 3339" in str(fault.value) or "not a time that exists" in str(fault.value) or "leap" in str(fault.value)


@given(
    st.datetimes(
        min_value=datetime(1, 1, 3),
        max_value=datetime(9999, 12, 29),
        timezones=st.integers(-1439, 1439).map(lambda minutes: timezone(timedelta(minutes=minutes))),
    )
)
def test_a_time_survives_its_text(time) -> None:
    assert parse_time(format_time(time)) == time


@pytest.mark.parametrize("name", ["a", "traceparent", "0day", "a" * 20])
def test_a_name_of_lower_case_letters_and_digits_is_fine(name) -> None:
    assert attribute_name_fault(name) is None


@pytest.mark.parametrize("name", ["", "data", "A", "a_b", "a-b", "ä", "a" * 21, "a b", "a\n", "１", 5, None])
def test_any_other_name_is_refused(name) -> None:
    assert attribute_name_fault(name) is not None


@pytest.mark.parametrize(
    "text", ["\x00", "a\x1f", "\x7f", "\x85", "\ud800", "\ufdd0", "\ufffe", "\U0001ffff", "\U0010fffe"]
)
def test_control_characters_surrogates_and_noncharacters_are_disallowed(text) -> None:
    assert disallowed_character("ok" + text) == (f"U+{ord(text[-1]):04X}", 1 + len(text))


@given(st.text(st.characters(exclude_categories=("Cc", "Cs", "Cn"))))
def test_all_other_characters_are_allowed(text) -> None:
    assert disallowed_character(text) is None


@pytest.mark.parametrize(
    "text",
    ["text/plain", "TEXT/Plain; CharSet=utf-8", 'multipart/mixed; boundary="a b\\"c"', "application/vnd.x+json;v=1"],
)
def test_a_media_type_is_recognised(text) -> None:
    assert is_media_type(text)


@pytest.mark.parametrize(
    "text", ["", "text", "text/", "/plain", "text/plain;", "text/plain; charset", "a b/c", "text/plain x=y", "a/b/c"]
)
def test_what_rfc_2045_does_not_derive_is_no_media_type(text) -> None:
    assert not is_media_type(text)
