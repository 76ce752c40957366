"""The machine that the other tests stand on."""

from .conftest import Box


def test_pid_1_is_systemd_and_no_unit_of_ours_has_failed(box: Box) -> None:
    assert box.run("cat /proc/1/comm").stdout == "systemd\n"
    assert "tenement" not in box.run("systemctl --failed --no-legend --plain").stdout


def test_the_repository_is_at_src_and_cannot_be_written(box: Box) -> None:
    assert box.run("test -x /src/tools/box; touch /src/file", check=False).returncode == 1
    assert "Read-only" in box.run("touch /src/file", check=False).stderr


def test_names_under_localhost_resolve_for_every_program(box: Box) -> None:
    assert "127.0.0.1" in box.run("getent ahosts alice.notes.localhost").stdout


def test_the_network_is_the_loopback_alone_and_shared_with_the_tests(box: Box) -> None:
    assert box.run("ls /sys/class/net").stdout.split() == ["lo"]
    assert box.http("nobody.notes.localhost").status == 404


def test_a_command_runs_in_the_boxs_own_cgroup_as_the_user_asked_for(box: Box) -> None:
    assert "0::/command-" in box.run("cat /proc/self/cgroup").stdout
    assert box.run("id -un", user="tenement-proxy").stdout == "tenement-proxy\n"


def test_input_quotes_and_dollars_reach_a_command_untouched(box: Box) -> None:
    assert box.run("""x='a "b" $c'; cat; echo "$x" $(echo 'd')""", input="in\n").stdout == 'in\na "b" $c d\n'


def test_after_a_reboot_everything_is_up_again_without_help(box: Box) -> None:
    before = box.run(
        "cat /proc/sys/kernel/random/boot_id; systemctl show -p UserspaceTimestampMonotonic"
    ).stdout
    box.reboot()
    after = box.run(
        "cat /proc/sys/kernel/random/boot_id; systemctl show -p UserspaceTimestampMonotonic"
    ).stdout
    assert before != after
    units = [
        "manager.service",
        "http.socket",
        "https.socket",
        "proxy.target",
        "proxy@1.service",
        "tenants.service",
    ]
    names = " ".join(f"tenement-{unit}" for unit in units)
    assert set(box.run(f"systemctl is-active {names}").stdout.split()) == {"active"}
    assert box.http("nobody.notes.localhost").status == 404
