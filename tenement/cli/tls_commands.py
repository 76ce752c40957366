"""`ten tls` and `ten domain`: the commands and their options; what they do is in `tls` and `domain`."""

from pathlib import Path
from typing import Annotated, Final

import typer

tls: Final = typer.Typer(
    help="Serves HTTPS with certificates that are got and renewed by certbot.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
domain: Final = typer.Typer(
    help="Gives tenants domains of their own.", no_args_is_help=True, rich_markup_mode=None
)

_AsJson = Annotated[bool, typer.Option("--json", help="Write JSON.")]
_Name = Annotated[str, typer.Argument(metavar="NAME", show_default=False, help="A host name.")]
_Domain = Annotated[str, typer.Argument(metavar="DOMAIN", show_default=False, help="The customer's domain.")]


@tls.command("enable", short_help="Get certificates and serve HTTPS.")
def enable(
    email: Annotated[
        str,
        typer.Option(
            "--email", metavar="ADDRESS", show_default=False, help="Where the authority writes to in need."
        ),
    ],
    staging: Annotated[
        bool, typer.Option("--staging", help="Use Let's Encrypt's server for trials; browsers warn.")
    ] = False,
    acme_server: Annotated[
        str | None,
        typer.Option("--acme-server", metavar="URL", show_default=False, help="Use another authority."),
    ] = None,
    dns: Annotated[
        str | None,
        typer.Option(
            "--dns",
            metavar="PLUGIN",
            show_default=False,
            help="Get wildcards, by certbot's plugin for a name server: cloudflare, route53, rfc2136, ...",
        ),
    ] = None,
    dns_credentials: Annotated[
        Path | None,
        typer.Option(
            "--dns-credentials",
            metavar="FILE",
            show_default=False,
            help="The plugin's credentials, readable by root only.",
        ),
    ] = None,
    dns_propagation: Annotated[
        int | None,
        typer.Option(
            "--dns-propagation",
            metavar="SECONDS",
            min=0,
            max=3600,
            show_default=False,
            help="How long name servers take to agree.",
        ),
    ] = None,
    hsts: Annotated[
        int,
        typer.Option(
            "--hsts",
            metavar="DAYS",
            min=0,
            max=730,
            help="Tell browsers to use nothing but HTTPS for so long; 0 tells them nothing.",
        ),
    ] = 0,
    weekly_limit: Annotated[
        int,
        typer.Option(
            "--weekly-limit", metavar="N", min=1, help="Certificates the authority gives a domain in a week."
        ),
    ] = 50,
    no_wait: Annotated[
        bool, typer.Option("--no-wait", help="Do not wait for the first certificates.")
    ] = False,
) -> int:
    """Get certificates for all tenants, now and in future, and serve HTTPS.

    Plain HTTP redirects as soon as a name has its certificate. Without --dns each name gets its certificate
    by http-01, which needs port 80 to be reachable under that name; with --dns there is a wildcard for each
    service. Run again to change an option.
    """
    from tenement.cli import tls as actions

    return actions.enable(
        email=email,
        staging=staging,
        server=acme_server,
        dns=dns,
        credentials=dns_credentials,
        propagation_s=dns_propagation,
        hsts_days=hsts,
        weekly_limit=weekly_limit,
        wait=not no_wait,
    )


@tls.command("status")
def status(json: _AsJson = False) -> int:
    """Show every name with its certificate, or why it has none."""
    from tenement.cli import tls as actions

    return actions.status(as_json=json)


@tls.command("disable")
def disable() -> int:
    """Serve plain HTTP again; certificates are kept and go on to be renewed."""
    from tenement.cli import tls as actions

    return actions.disable()


@tls.command("retry")
def retry(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", show_default=False, help="Only this name.")
    ] = None,
) -> int:
    """Order certificates again now that failed before."""
    from tenement.cli import tls as actions

    return actions.retry(name or "")


@tls.command("replace")
def replace(name: _Name) -> int:
    """Get a new certificate with a new key, and revoke the old one: for a key that may be known to others."""
    from tenement.cli import tls as actions

    return actions.replace(name)


@tls.command("add")
def add(
    name: Annotated[
        str, typer.Argument(metavar="NAME", show_default=False, help="What to call the certificate.")
    ],
    chain: Annotated[
        Path, typer.Argument(metavar="CHAIN", show_default=False, help="Certificate and chain, as PEM.")
    ],
    key: Annotated[Path, typer.Argument(metavar="KEY", show_default=False, help="Private key, as PEM.")],
) -> int:
    """Use a certificate of your own, or replace it; you renew it yourself."""
    from tenement.cli import tls as actions

    return actions.add(name, chain, key)


@tls.command("remove")
def remove(
    name: Annotated[
        str, typer.Argument(metavar="NAME", show_default=False, help="What the certificate is called.")
    ],
) -> int:
    """Use a certificate of your own no more."""
    from tenement.cli import tls as actions

    return actions.remove(name)


@domain.command("add")
def domain_add(
    tenant: Annotated[
        str, typer.Argument(metavar="TENANT", show_default=False, help="A tenant, as SERVICE:ID.")
    ],
    domain: _Domain,
    no_check: Annotated[
        bool, typer.Option("--no-check", help="Do not check that the domain leads to this server.")
    ] = False,
) -> int:
    """Serve a tenant under a domain of its own too."""
    from tenement.cli import domain as actions

    return actions.add(tenant, domain, check=not no_check)


@domain.command("rm")
def domain_rm(domain: _Domain) -> int:
    """Serve a domain no more."""
    from tenement.cli import domain as actions

    return actions.remove(domain)


@domain.command("ls")
def domain_ls(
    selector: Annotated[
        str,
        typer.Argument(metavar="[SERVICE|TENANT]", show_default=False, help="Whose domains; without, all."),
    ] = "",
    json: _AsJson = False,
) -> int:
    """List domains."""
    from tenement.cli import domain as actions

    return actions.listing(selector, as_json=json)
