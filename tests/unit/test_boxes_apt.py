import pytest
from boxes.apt import map_suites, parse_deb822, parse_one_line

DEB822 = """\
# Debian's own archive
Types: deb deb-src
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates bookworm-backports
Components: main contrib
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 abc

Types: deb
URIs: http://mirror.example/debian-security
Suites: bookworm-security
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: https://packages.example/tool
Suites: stable-tool
Components: main

Enabled: no
Types: deb
URIs: http://off.example/debian
Suites: bookworm
Components: main
"""


def test_debians_suites_are_mapped_with_their_options_and_others_left_out() -> None:
    main, security = parse_deb822(DEB822, "bookworm")
    assert main.uri == "http://mirror.example/debian"
    assert main.suites == ("trixie", "trixie-updates")
    assert "types: deb\n" in main.text
    assert "suites: trixie trixie-updates\n" in main.text
    assert "\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n abc\n" in main.text
    assert security.suites == ("trixie-security",)
    assert security.keyring == "/usr/share/keyrings/debian-archive-keyring.gpg"


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("deb http://m.example/debian trixie main", "deb http://m.example/debian trixie main\n"),
        (
            "deb [arch=amd64 signed-by=/k.gpg] http://m.example/debian trixie-updates main contrib # note",
            "deb [arch=amd64 signed-by=/k.gpg] http://m.example/debian trixie-updates main\n",
        ),
        ("deb-src http://m.example/debian trixie main", None),
        ("# deb http://m.example/debian trixie main", None),
        ("deb http://m.example/debian trixie contrib", None),
        ("deb https://m.example/linux trixie-tool main", None),
    ],
)
def test_one_line_sources_are_read_like_apt_reads_them(line: str, text: str | None) -> None:
    assert [source.text for source in parse_one_line(line, "trixie")] == ([text] if text else [])


def test_the_old_name_of_the_security_suite_and_stable_are_understood() -> None:
    assert map_suites(["stable", "stable/updates", "stable-updates"], "bookworm") == (
        "trixie",
        "trixie-security",
        "trixie-updates",
    )
