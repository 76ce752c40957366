"""The machine's own apt configuration, and apt-get on a root that is not this machine's."""

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from boxes import CACHE, PATH_IN_BOX, RELEASE
from boxes.process import BoxError, run_logged, say


@dataclass(frozen=True, slots=True)
class AptSource:
    """One entry of sources.list, its suites rewritten for the box's release."""

    text: str
    kind: str
    uri: str
    suites: tuple[str, ...]
    keyring: str | None


def map_suites(suites: Sequence[str], codename: str) -> tuple[str, ...]:
    """Name the box's suites that correspond to the machine's own; suites not of Debian map to nothing."""
    mapped = []
    for suite in suites:
        for prefix in (codename, "stable"):
            if suite.rstrip("/") in (prefix, f"{prefix}-updates", f"{prefix}-security", f"{prefix}/updates"):
                tail = suite.rstrip("/").removeprefix(prefix).replace("/updates", "-security")
                mapped.append(RELEASE + tail)
                break
    return tuple(mapped)


def parse_deb822(text: str, codename: str) -> Iterator[AptSource]:
    """Read a .sources file: stanzas of fields, kept as they are but for the suites."""
    for stanza in re.split(r"\n\s*\n", text):
        lines = [line for line in stanza.splitlines() if line.strip() and not line.startswith("#")]
        fields: dict[str, list[str]] = {}
        name = ""
        for line in lines:
            if line[0] in " \t":
                fields.setdefault(name, []).append(line)
            else:
                name, _, value = line.partition(":")
                name = name.lower()
                fields[name] = [value.strip()]
        flat = {key: " ".join(part.strip() for part in value) for key, value in fields.items()}
        if "deb" not in flat.get("types", "").split() or "main" not in flat.get("components", "").split():
            continue
        if flat.get("enabled", "yes").lower() in ("no", "false", "0"):
            continue
        suites = map_suites(flat.get("suites", "").split(), codename)
        if not suites:
            continue
        fields |= {"types": ["deb"], "suites": [" ".join(suites)], "components": ["main"]}
        rewritten = "\n".join(f"{key}: " + "\n".join(value) for key, value in fields.items())
        signed_by = flat.get("signed-by", "")
        keyring = signed_by if signed_by.startswith("/") else None
        yield AptSource(rewritten + "\n", "sources", flat["uris"].split()[0], suites, keyring)


def parse_one_line(text: str, codename: str) -> Iterator[AptSource]:
    """Read a .list file: `deb [options] URI suite components...`."""
    for line in text.splitlines():
        match = re.match(r"\s*deb\s+(\[[^]]*\]\s+)?(\S+)\s+(\S+)\s+([^#]*)", line)
        if not match or "main" not in match[4].split():
            continue
        options, uri = match[1] or "", match[2]
        suites = map_suites([match[3]], codename)
        if not suites:
            continue
        signed_by = re.search(r"signed-by=([^\s\]]+)", options)
        text = f"deb {options}{uri} {suites[0]} main\n"
        yield AptSource(text, "list", uri, suites, signed_by[1] if signed_by else None)


def machine_sources() -> list[AptSource]:
    """Find where this machine gets Debian from. Raises BoxError when it is no Debian or has no source."""
    release = dict(
        line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if "=" in line
    )
    codename = release.get("VERSION_CODENAME", "").strip('"')
    if release.get("ID", "").strip('"') != "debian" or not codename:
        raise BoxError("this needs Debian 12 or 13 (see /etc/os-release)")
    found: list[AptSource] = []
    files = [Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("*"))]
    for file in files:
        if file.suffix == ".sources" and file.is_file():
            found += parse_deb822(file.read_text(), codename)
        elif file.suffix == ".list" and file.is_file():
            found += parse_one_line(file.read_text(), codename)
    if not any(RELEASE in source.suites for source in found):
        raise BoxError(f"found no source for Debian's suite {codename} in /etc/apt/sources.list*: add one")
    return found


def apt_settings() -> list[str]:
    """Return the machine's own network settings of apt (proxy, checks, retries), as lines of apt.conf."""
    dump = subprocess.run(["apt-config", "dump"], stdout=subprocess.PIPE, text=True, check=True).stdout
    return [
        line
        for line in dump.splitlines()
        if line.startswith("Acquire::")
        and not line.startswith(("Acquire::IndexTargets", "Acquire::Changelogs"))
    ]


def proxy_environment() -> dict[str, str]:
    """Return this process's environment with apt's proxy, if it has one, for debootstrap's downloads."""
    environment = dict(os.environ)
    for scheme in ("http", "https"):
        proxy = subprocess.run(
            ["apt-config", "shell", "P", f"Acquire::{scheme}::Proxy"],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        ).stdout.strip()
        if proxy and (value := shlex.split(proxy)[0].removeprefix("P=")) not in ("", "DIRECT", "false"):
            environment[f"{scheme}_proxy"] = value
    return environment


def apt_in_root(root: Path, scratch: Path, log: Path, *commands: Sequence[str]) -> None:
    """Run apt-get commands of the machine on `root`: fetching happens here, dpkg runs inside.

    So proxies, certificates and passwords of the machine serve without ever being copied into a layer.
    """
    parts = scratch / "sources.list.d"
    parts.mkdir(parents=True, exist_ok=True)
    for number, source in enumerate(machine_sources()):
        (parts / f"{number}.{source.kind}").write_text(source.text)
    options = {
        "APT::Sandbox::User": "root",
        "Dir::Cache": f"{root}/var/cache/apt",
        "Dir::Etc::main": "/dev/null",
        "Dir::Etc::parts": "/dev/null",
        "Dir::Etc::preferences": "/dev/null",
        "Dir::Etc::preferencesparts": "/dev/null",
        "Dir::Etc::sourcelist": "/dev/null",
        "Dir::Etc::sourceparts": str(parts),
        "Dir::Log": str(scratch),
        "Dir::State": f"{root}/var/lib/apt",
        "Dir::State::status": f"{root}/var/lib/dpkg/status",
        "DPkg::Chroot-Directory": str(root),
        "DPkg::Options::": "--force-unsafe-io",
        "Dpkg::Use-Pty": "false",
    }
    configuration = scratch / "apt.conf"
    lines = apt_settings() + [f'{name} "{value}";' for name, value in options.items()]
    configuration.write_text("\n".join(lines) + "\n")
    environment = proxy_environment() | {
        "APT_CONFIG": str(configuration),
        "DEBIAN_FRONTEND": "noninteractive",
        "LC_ALL": "C.UTF-8",
        "PATH": PATH_IN_BOX,
    }
    for command in commands:
        run_logged(["apt-get", "-q", *command], log, env=environment)


def require_tools() -> None:
    """Install debootstrap and systemd-container when they are missing."""
    needed = {"debootstrap": "debootstrap", "systemd-nspawn": "systemd-container", "unshare": "util-linux"}
    missing = sorted({package for tool, package in needed.items() if shutil.which(tool) is None})
    if not missing:
        return
    say(f"installing {' and '.join(missing)} on this machine")
    log = CACHE / "log" / "tools.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = dict(os.environ) | {"DEBIAN_FRONTEND": "noninteractive"}
    run_logged(["apt-get", "-q", "update"], log, env=environment)
    run_logged(["apt-get", "-q", "install", "-y", "--no-install-recommends", *missing], log, env=environment)
