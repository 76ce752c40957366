"""What `ten` tells about the configuration: `ten config` and `ten reload`."""

from collections.abc import Sequence
from pathlib import Path

from tenement.cli.entry import complain, report
from tenement.cli.text import out, out_json
from tenement.errors import InvalidConfig, NotFound


def check(paths: Sequence[Path], *, as_json: bool) -> int:
    """Checks configuration files, and the files that they name; reports every problem."""
    from tenement.config import DIRECTORY, warnings
    from tenement.config.checks import check as check_files
    from tenement.config.files import config_files

    files: list[Path] = []
    for path in paths or [DIRECTORY]:
        files += config_files(path) if path.is_dir() else [path]
    try:
        config = check_files(files)
    except InvalidConfig as error:
        if as_json:
            problems = [
                {"file": p.file, "line": p.line, "key": p.key, "message": p.message, "hint": p.hint}
                for p in error.problems
            ]
            out_json({"problems": problems, "warnings": []})
            return error.exit_code
        return report(error)
    if as_json:
        out_json({"problems": [], "warnings": warnings(config)})
        return 0
    for warning in warnings(config):
        complain(f"warning: {warning}")
    services = len(config.services)
    out(f"The configuration is right: {services} service{'s' if services != 1 else ''}.")
    return 0


def show(service: str | None, *, as_json: bool) -> int:
    """Tells every setting as it is in force, defaults included; secrets are left out."""
    from tenement.config import load_directory
    from tenement.config.effective import as_document, as_toml

    config = load_directory()
    if service is not None and service not in config.services:
        raise NotFound(f"there is no service {service} in the configuration")
    document = as_document(config)
    if service is not None:
        document = {"service": {service: document["service"][service]}}
    if as_json:
        out_json(document)
    else:
        out(as_toml(document))
    return 0


def reload(*, as_json: bool) -> int:
    """Makes the manager read its configuration again, and tells what changed."""
    from tenement.cli.tenants import run

    answer = run(lambda client: client.reload())
    if as_json:
        out_json(answer)
        return 0
    for warning in answer.get("warnings", []):
        complain(f"warning: {warning}")
    for change in answer.get("changed", []):
        out(str(change))
    return 0
