"""The Debian packages of this tree, built once for each state of its sources."""

import contextlib
import hashlib
import os
import shutil
import tempfile
from pathlib import Path

from boxes import CACHE, PATH_IN_BOX, SOURCE
from boxes.layer import chroot_mounts, ensure, layer, overlay
from boxes.process import locked, run_logged, say

# What the packages are built from: their version is the hash of these.
PACKAGE_SOURCES = (
    "CHANGELOG.md",
    "LICENSE",
    "Makefile",
    "README.md",
    "completions",
    "debian",
    "docs",
    "examples",
    "pyproject.toml",
    "templates",
    "tenement",
    "units",
)


def package_files() -> list[Path]:
    """List the files that go into the packages, relative to the tree, sorted."""
    found = []
    for name in PACKAGE_SOURCES:
        top = SOURCE / name
        found += [top] if top.is_file() else [path for path in top.rglob("*") if path.is_file()]
    skip = ("__pycache__", ".debhelper", "tenement.egg-info", "debhelper-build-stamp")
    built = [("debian", name) for name in ("tenement", "tenement-native", "tmp")]
    relative = (path.relative_to(SOURCE) for path in found)
    return sorted(
        path
        for path in relative
        if not any(part in skip for part in path.parts) and path.parts[:2] not in built
    )


def build_packages() -> list[Path]:
    """Build the .debs from the working tree, unless they are cached; returns them, tenement's first."""
    ensure(layer("test"))
    with tempfile.TemporaryDirectory(prefix="package-", dir=CACHE) as scratch_name:
        scratch = Path(scratch_name)
        # The tree may be edited meanwhile: what is hashed is the copy that is built.
        tree = scratch / "upper" / "build" / "tenement"
        digest = hashlib.sha256(layer("test").key.encode())
        for path in package_files():
            target = tree / path
            target.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileNotFoundError):
                shutil.copy(SOURCE / path, target)
                mode = target.stat().st_mode & 0o111
                digest.update(f"{path}\0{mode}\0".encode() + target.read_bytes())
        kept = CACHE / "packages" / digest.hexdigest()[:16]
        with locked(CACHE / "packages.lock"):
            if not kept.is_dir():
                compile_packages(scratch, kept)
        os.utime(kept)
        forget_old_packages()
    # "tenement_" comes after "tenement-native_".
    return sorted(kept.glob("*.deb"), reverse=True)


def compile_packages(scratch: Path, kept: Path) -> None:
    """Run dpkg-buildpackage in the `test` layer on the tree that lies in scratch/upper/build."""
    say("building the packages")
    log = CACHE / "log" / "package.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_bytes(b"")
    environment = {
        "DEB_BUILD_OPTIONS": "nocheck noautodbgsym",
        "HOME": "/root",
        "LC_ALL": "C.UTF-8",
        "PATH": PATH_IN_BOX,
    }
    stack = layer("test").stack
    with overlay(stack, scratch / "upper", scratch / "work", scratch / "root") as root, chroot_mounts(root):
        inside = "cd /build/tenement && exec dpkg-buildpackage -b -us -uc"
        run_logged(["chroot", root, "sh", "-c", inside], log, env=environment)
    finished = scratch / "finished"
    finished.mkdir()
    for pattern in ("*.deb", "*.changes", "*.buildinfo"):
        for path in (scratch / "upper" / "build").glob(pattern):
            shutil.copy(path, finished)
    kept.parent.mkdir(parents=True, exist_ok=True)
    finished.rename(kept)


def forget_old_packages(keep: int = 8) -> None:
    """Delete the packages used longest ago."""
    packages = sorted((CACHE / "packages").glob("*"), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in packages[keep:]:
        shutil.rmtree(path, ignore_errors=True)
