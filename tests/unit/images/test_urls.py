"""Reading photo URLs strictly, and what of them may be logged."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_worker.errors import Reason, RecordFault
from stream_worker.images.urls import HttpTarget, S3Target, follow, parse_url, safe_url

REFUSED = {
    "file": "file:///etc/passwd",
    "ftp": "ftp://example.com/a.png",
    "gopher": "gopher://example.com/_x",
    "data": "data:image/png;base64,AAAA",
    "javascript": "javascript:alert(1)",
    "no_scheme": "example.com/a.png",
    "scheme_relative": "//example.com/a.png",
    "empty": "",
    "no_host": "http:///a.png",
    "no_slashes": "http:example.com",
    "three_slashes_and_port": "http://:80/",
    "userinfo": "http://user:secret@example.com/a.png",
    "empty_userinfo": "http://@example.com/",
    "userinfo_trick": "http://example.com:80@127.0.0.1/",
    "backslash": "http://example.com\\@127.0.0.1/",
    "backslash_path": "http://example.com/\\..\\a",
    "space": "http://example.com/a b.png",
    "leading_space": " http://example.com/",
    "newline": "http://example.com/\r\nHost: evil",
    "tab_in_scheme": "ht\ttp://example.com/",
    "nul": "http://example.com/\x00",
    "escape": "http://example.com/\x1b[31m",
    "encoded_crlf": "http://example.com/%0d%0aHost:%20evil",
    "encoded_nul": "http://example.com/a%00.png",
    "encoded_del": "http://example.com/a%7F.png",
    "encoded_host": "http://%31%32%37.0.0.1/",
    "decimal": "http://2130706433/",
    "octal": "http://0177.0.0.1/",
    "octal_whole": "http://017700000001/",
    "hex": "http://0x7f000001/",
    "hex_parts": "http://0x7f.0.0.0x1/",
    "short": "http://127.1/",
    "five_parts": "http://1.2.3.4.5/",
    "too_big_part": "http://256.1.1.1/",
    "name_that_ends_in_a_number": "http://example.1/",
    "full_width_digits": "http://\uff11\uff12\uff17.0.0.1/",
    "circled_digits": "http://\u2460\u2461\u2466.0.0.1/",
    "ideographic_dots": "http://127\u30020\u30020\u30021/",
    "soft_hyphen": "http://local\u00adhost/",
    "non_ascii_host": "http://bücher.example/",
    "trailing_dot": "http://example.com./",
    "trailing_dot_ip": "http://127.0.0.1./",
    "empty_label": "http://example..com/",
    "long_label": "http://" + "a" * 64 + ".com/",
    "long_host": "http://" + "a.a" * 100 + "/",
    "long": "http://example.com/" + "a" * 5000,
    "hyphen_first": "http://-example.com/",
    "zone": "http://[fe80::1%25eth0]/",
    "bad_ipv6": "http://[::1::]/",
    "unclosed_ipv6": "http://[::1/",
    "ipvfuture": "http://[v1.fe80]/",
    "port_zero": "http://example.com:0/",
    "port_big": "http://example.com:65536/",
    "port_words": "http://example.com:http/",
    "port_empty": "http://example.com:/",
    "port_sign": "http://example.com:+80/",
    "surrogate": "http://example.com/\udcff",
    "bidi_override": "http://example.com/\u202egnp.exe",
    "s3_without_key": "s3://bucket",
    "s3_without_bucket": "s3:///key",
    "s3_query": "s3://bucket/key?versionId=1",
    "s3_dots": "s3://bucket/a/../b",
    "s3_credentials": "s3://id:secret@bucket/key",
    "s3_empty_part": "s3://bucket/a//b",
}


@pytest.mark.parametrize("url", REFUSED.values(), ids=REFUSED.keys())
def test_a_doubtful_url_is_refused_without_being_quoted(url: str) -> None:
    with pytest.raises(RecordFault) as caught:
        parse_url(url)
    assert caught.value.reason is Reason.URL_REFUSED
    assert "secret" not in caught.value.message
    assert caught.value.message.isprintable()


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("http://example.com", HttpTarget("http", "example.com", 80, "/")),
        ("HTTPS://Example.COM/A.png#part", HttpTarget("https", "example.com", 443, "/A.png")),
        ("http://example.com?x=1", HttpTarget("http", "example.com", 80, "/?x=1")),
        ("http://127.0.0.1:8123/a", HttpTarget("http", "127.0.0.1", 8123, "/a")),
        ("http://[::FFFF:127.0.0.1]:80/", HttpTarget("http", "::ffff:7f00:1", 80, "/")),
        ("http://xn--bcher-kva.example/a", HttpTarget("http", "xn--bcher-kva.example", 80, "/a")),
        ("http://my_bucket.example.com/@user/a", HttpTarget("http", "my_bucket.example.com", 80, "/@user/a")),
        ("http://example.com/사진.jpg", HttpTarget("http", "example.com", 80, "/%EC%82%AC%EC%A7%84.jpg")),
        # A signature covers the text as it is: nothing is decoded, re-quoted or put in order.
        (
            "https://b.example.com/a%2Fb+c/../d?sig=a%2Bb%3D&X=%7e~",
            HttpTarget("https", "b.example.com", 443, "/a%2Fb+c/../d?sig=a%2Bb%3D&X=%7e~"),
        ),
        ("s3://photos/2026/a b.jpg".replace(" ", "%20"), S3Target("photos", "2026/a%20b.jpg")),
    ],
)
def test_a_proper_url_is_taken_apart(url: str, target: HttpTarget | S3Target) -> None:
    assert parse_url(url) == target


def test_a_redirect_is_followed_from_where_it_came() -> None:
    here = HttpTarget("https", "a.example", 8443, "/x/y?sig=1")
    assert follow(here, "z").text == "https://a.example:8443/x/z"
    assert follow(here, "/z?k=v").text == "https://a.example:8443/z?k=v"
    assert follow(here, "//b.example/z").text == "https://b.example/z"
    assert follow(HttpTarget("http", "a.example", 80, "/"), "https://a.example/").scheme == "https"


@pytest.mark.parametrize(
    "location",
    [
        "http://a.example/",  # https down to http
        "//u:p@b.example/",
        "file:///etc/passwd",
        "s3://bucket/key",
        "data:,x",
        "/\\evil",
        "/a\r\nSet-Cookie: x",
        "http://[::1",
        "https://2130706433/",
        "/" + "a" * 5000,
    ],
)
def test_a_doubtful_redirect_is_refused(location: str) -> None:
    with pytest.raises(RecordFault) as caught:
        follow(HttpTarget("https", "a.example", 443, "/"), location)
    assert caught.value.reason is Reason.URL_REFUSED


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://h.example/a.jpg?X-Amz-Signature=secret#secret", "https://h.example/a.jpg"),
        ("http://h.example:8080/a?secret", "http://h.example:8080/a"),
        ("http://user:secret@h.example/", "http:..."),
        ("http://user:se/secret@h.example/", "http:..."),
        ("http://user:?secret@h.example/", "http:..."),
        ("http:/\\secret@h.example/", "http:..."),
        ("data:image/png;base64,secret", "data:..."),
        ("secret", "..."),
        ("", "..."),
        ("\x1b[31mhttp://h.example/secret", "..."),
        ("s3://photos/a.jpg", "s3://photos/a.jpg"),
    ],
)
def test_the_url_for_logs_holds_no_secret(url: str, shown: str) -> None:
    assert safe_url(url) == shown


def test_the_url_for_logs_is_bounded() -> None:
    assert len(safe_url("http://h.example/" + "a" * 4000)) == 200


@given(st.text())
def test_any_text_gives_a_fault_or_a_target_and_a_printable_log_form(text: str) -> None:
    for url in (text, f"http://{text}", f"http://h.example/{text}", f"s3://{text}/a"):
        shown = safe_url(url)
        assert shown.isprintable()
        assert "?" not in shown
        assert "@" not in shown.partition("://")[2].partition("/")[0]
