"""Every command of the README works, in the order in which it stands there."""

import re
from pathlib import Path

from .conftest import Box

SOURCE = Path(__file__).parent.parent.parent
README = (SOURCE / "README.md").read_text()


def shell_blocks() -> list[str]:
    return re.findall(r"^```sh\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def test_the_first_service_works_as_written(box: Box) -> None:
    make, install, set_up, spawn, operate = shell_blocks()
    # The box is what these two give: it was made by `make`, and the package was installed in it with apt.
    targets = re.findall(r"^make (\w+)", make + install, re.MULTILINE)
    makefile = (SOURCE / "Makefile").read_text()
    assert targets
    assert all(f"\n{target}:" in makefile for target in targets)
    assert box.run("dpkg-query -W -f '${db:Status-Status}' tenement").stdout == "installed"

    box.run("rm -rf /srv/notes")
    box.run(f"set -e\n{set_up}")
    try:
        box.run("ten rm --purge --yes notes:alice notes:bob", check=False)
        answers = box.run(f"set -e\n{spawn}".replace("curl", "curl -sS --fail-with-body")).stdout
        assert answers.splitlines()[-2:] == ['[{"id":1,"text":"milk, bread"}]', "[]"]
        printed = box.run(f"set -e\n{operate}".replace("curl", "curl -sS --fail-with-body")).stdout
        assert '[{"id":1,"text":"milk, bread"}]' in printed
        assert "tenement-notes.slice" in printed
        assert "notes:bob" not in box.run("ten ps").stdout
    finally:
        box.run("ten rm --purge --yes notes:alice notes:bob", check=False)


def test_the_demo_finds_everything_right(box: Box) -> None:
    config = "/etc/tenement/tenement.d/notes.toml"
    box.run(f"cp -p {config} /root")
    try:
        shown = box.run("/src/tools/demo").stdout
        assert "$ ten spawn notes:alice\n" in shown
        assert "woken and answered in" in shown
    finally:
        box.run("ten rm --purge --yes notes:alice notes:bob", check=False)
        box.run(f"mv /root/notes.toml {config} && ten reload")


def test_the_commands_for_workers_work_as_written(box: Box) -> None:
    commands = re.findall(r"`(systemctl .*?)`", README)
    assert len(commands) == 3
    try:
        for command in commands:
            box.run(command)
    finally:
        box.run("systemctl disable --now tenement-proxy@9; systemctl unmask tenement-proxy@2")
        box.run("systemctl start tenement-proxy.target")
