"""Throwaway Debian 13 machines ("boxes") that have the packages of this tree installed.

*Layers* (layer.py). A box's file system is a stack of cached layers under /var/cache/tenement, or
$TENEMENT_CACHE. `box` is a Debian by debootstrap plus what the packages depend on; `test` and `bench` are
overlayfs uppers on it, with tools that the server itself has no use for. A layer's directory is named after
a hash of all that goes into it, is built under a temporary name below a lock, and renamed when complete: what
exists is whole. Where packages come from, and through which proxy, is read from the machine's own apt
configuration each time and never stored (apt.py).

*The packages* (package.py) are built by dpkg-buildpackage in the `test` layer and kept under the hash of
their sources.

*A box* (machine.py) is systemd-nspawn on an overlay of its own, with a private network (loopback only) and a
cgroup of its own, so that several boxes never see each other. All mounts are made in a mount namespace
private to the process: they are gone when it is gone, whatever ended it. nspawn dies with its parent
(PR_SET_PDEATHSIG). A box is up when its PID 1 says so by sd_notify, which nspawn passes on.

Needs root, cgroup v2 mounted somewhere, and Debian 12 or 13; what else is needed is installed. Python 3.11,
standard library only.
"""

import os
from pathlib import Path

SOURCE = Path(__file__).resolve().parent.parent.parent
CACHE = Path(os.environ.get("TENEMENT_CACHE") or "/var/cache/tenement")
RELEASE = "trixie"
PATH_IN_BOX = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
