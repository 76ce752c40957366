import base64
from typing import Any

import pytest

from tenement.config import Credential, Service
from tenement.names import TenantName
from tenement.systemd import Property
from tenement.unit_properties import PROXY_SOURCE, Launch, pre_release_unit, slice_unit, tenant_unit

ALICE = TenantName("notes", "alice")
LAUNCH = Launch(generation=1, port=20001)
UNLIMITED = 2**64 - 1


def service(**settings: Any) -> Service:
    return Service(name="notes", command=("/srv/notes/notes.py", "--x"), **settings)


def values(properties: list[Property]) -> dict[str, Any]:
    """The properties by name; of those that are given twice, the last."""
    return {each.name: each.value for each in properties}


def unit(launch: Launch = LAUNCH, version: int = 257, **settings: Any) -> dict[str, Any]:
    return values(tenant_unit(service(**settings), ALICE, launch, version))


def networks(found: list[list[Any]]) -> set[tuple[bytes, int]]:
    return {(bytes(packed), prefix) for _, packed, prefix in found}


@pytest.mark.parametrize(
    ("setting", "value", "name", "expected"),
    [
        ("memory_limit_mb", 64, "MemoryMax", 64 << 20),
        ("memory_limit_mb", 0, "MemoryMax", UNLIMITED),
        ("memory_high_mb", 48, "MemoryHigh", 48 << 20),
        ("memory_high_mb", 0, "MemoryHigh", UNLIMITED),
        ("cpu_shares", 30, "CPUWeight", 30),
        ("cpu_quota", 150, "CPUQuotaPerSecUSec", 1_500_000),
        ("cpu_quota", 0, "CPUQuotaPerSecUSec", UNLIMITED),
        ("io_weight", 20, "IOWeight", 20),
        ("tasks_max", 40, "TasksMax", 40),
        ("tasks_max", 40, "LimitNPROC", 40),
        ("open_files", 128, "LimitNOFILE", 128),
        ("storage_quota_mb", 16, "LimitFSIZE", 16 << 20),
        ("storage_quota_mb", 0, "LimitFSIZE", UNLIMITED),
        ("memory_deny_write_execute", True, "MemoryDenyWriteExecute", True),
    ],
)
def test_each_limit_is_a_property(setting: str, value: object, name: str, expected: object) -> None:
    assert unit(**{setting: value})[name] == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("DynamicUser", True),
        ("User", ALICE.user),
        ("NoNewPrivileges", True),
        ("CapabilityBoundingSet", 0),
        ("AmbientCapabilities", 0),
        ("ProtectSystem", "strict"),
        ("ProtectHome", "tmpfs"),
        ("ProtectProc", "invisible"),
        ("ProtectClock", True),
        ("ProtectKernelLogs", True),
        ("ProtectKernelModules", True),
        ("ProtectKernelTunables", True),
        ("PrivateTmp", True),
        ("PrivateDevices", True),
        ("PrivateIPC", True),
        ("PrivateUsers", True),
        ("RestrictNamespaces", 0),
        ("RestrictSUIDSGID", True),
        ("StateDirectoryMode", 0o700),
        ("UMask", 0o077),
        ("SystemCallArchitectures", ["native"]),
        ("SystemCallErrorNumber", 1),
        ("LimitCORE", 0),
        ("NotifyAccess", "none"),
    ],
)
def test_the_default_is_the_whole_sandbox(name: str, expected: object) -> None:
    assert unit()[name] == expected


def test_two_tenants_of_a_service_never_share_a_user() -> None:
    users = {
        values(tenant_unit(service(), TenantName("notes", f"t{n}"), LAUNCH, 257))["User"] for n in range(500)
    }
    assert len(users) == 500
    assert all(len(user) <= 31 for user in users)


def test_of_run_an_app_sees_no_bus_and_no_others_sockets() -> None:
    found = unit()
    assert [place for place, _ in found["TemporaryFileSystem"]] == ["/run", "/dev/shm"]
    bound = {source for source, *_ in found["BindReadOnlyPaths"]}
    assert not any(path.startswith(("/run/dbus", "/run/tenement", "/run/systemd/private")) for path in bound)
    assert "/run/systemd/journal" not in bound
    assert "/run/systemd/notify" not in bound


def test_the_app_is_started_in_a_domain_of_its_own() -> None:
    ((program, words, _),) = unit()["ExecStartEx"]
    assert program == "/usr/bin/perl"
    assert words[-2:] == ["/srv/notes/notes.py", "--x"]
    ((program, words, _),) = unit(Launch(1, 20001, armed=True))["ExecStartEx"]
    assert (program, words[3]) == ("/usr/bin/perl", "/bin/sh")
    assert words[-2:] == ["/srv/notes/notes.py", "--x"]


def test_without_namespaces_there_is_no_sandbox_but_still_a_user_of_its_own() -> None:
    found = unit(isolation="process")
    assert "ProtectSystem" not in found
    assert found["User"] == ALICE.user
    ((program, _, _),) = found["ExecStartEx"]
    assert program == "/srv/notes/notes.py"


def test_without_a_network_there_is_none() -> None:
    assert unit(network="none", listen="socket")["PrivateNetwork"] is True
    assert unit()["PrivateNetwork"] is False


def test_older_versions_of_systemd_get_what_they_know() -> None:
    assert unit(version=257)["ProtectControlGroupsEx"] == "strict"
    older = unit(version=254)
    assert older["ProtectControlGroups"] is True
    assert "ProtectControlGroupsEx" not in older


def test_secrets_are_credentials_and_not_in_the_environment() -> None:
    sealed = base64.b64encode(b"sealed bytes").decode()
    found = unit(
        credentials={
            "plain": Credential(path="/etc/secrets/{id}"),
            "file": Credential(encrypted_path="/etc/sealed/{name}"),
            "inline": Credential(encrypted_value=sealed),
            "odd": Credential(encrypted_value="no Base64"),
        }
    )
    assert found["LoadCredential"] == [["plain", "/etc/secrets/alice"]]
    assert found["LoadCredentialEncrypted"] == [["file", "/etc/sealed/notes"]]
    assert found["SetCredentialEncrypted"] == [["inline", b"sealed bytes"], ["odd", b"no Base64"]]
    assert not any("sealed" in each or "secret" in each for each in found["Environment"])
    assert "LoadCredential" not in unit()


def test_a_release_is_prepared_in_the_same_sandbox() -> None:
    found = values(pre_release_unit(service(pre_release=("/srv/migrate",)), ALICE, "r2", 257))
    kept = {
        name: value for name, value in unit().items() if name.startswith(("Protect", "Private", "System"))
    }
    assert kept
    assert {name: found[name] for name in kept} == kept
    assert (found["Type"], found["Restart"]) == ("oneshot", "no")


def test_a_slice_closes_the_loopback_the_cloud_and_the_hosts_own_addresses() -> None:
    found = values(slice_unit(service(), ["192.0.2.1", "2001:db8::1"], ["127.0.0.53"]))
    denied = networks(found["IPAddressDeny"])
    for closed in (
        (bytes([127, 0, 0, 0]), 8),
        (bytes(15) + b"\x01", 128),
        (bytes([169, 254, 0, 0]), 16),
        (b"\xfe\x80" + bytes(14), 10),
        (bytes([192, 0, 2, 1]), 32),
        (b"\x20\x01\x0d\xb8" + bytes(11) + b"\x01", 128),
    ):
        assert closed in denied
    proxy = bytes(int(part) for part in PROXY_SOURCE.split("."))
    assert networks(found["IPAddressAllow"]) == {(proxy, 32), (bytes([127, 0, 0, 53]), 32)}


@pytest.mark.parametrize("listen", ["socket", "fd"])
def test_apps_on_unix_sockets_need_nothing_of_the_loopback(listen: str) -> None:
    assert values(slice_unit(service(listen=listen), []))["IPAddressAllow"] == []


def test_lists_of_a_living_slice_are_replaced_and_not_added_to() -> None:
    for name in ("IPAddressDeny", "IPAddressAllow"):
        given = [each.value for each in slice_unit(service(), []) if each.name == name]
        assert given[0] == []
