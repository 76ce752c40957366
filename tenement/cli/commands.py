"""The commands of `ten`, with their options and help.

What they do is in modules that are imported when a command runs, so that none waits for what it does not use.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import click
import typer

from tenement import __version__
from tenement.cli.tls_commands import domain, tls

if TYPE_CHECKING:
    from tenement.client import Client
    from tenement.names import TenantName

app: Final = typer.Typer(
    name="ten",
    help="Runs one copy of a web app for each customer: asleep while nobody uses it, awake on the next "
    "request.",
    epilog="A tenant is called SERVICE:ID, for example notes:alice. See ten(1) and tenement.toml(5).",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
config: Final = typer.Typer(
    help="Checks or shows the configuration.", no_args_is_help=True, rich_markup_mode=None
)
app.add_typer(config, name="config")
app.add_typer(tls, name="tls")
app.add_typer(domain, name="domain")
token: Final = typer.Typer(help="Tokens of the HTTP API.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(token, name="token")

Tenants = Annotated[
    list[str], typer.Argument(metavar="TENANT...", show_default=False, help="Tenants, as SERVICE:ID.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Write JSON.")]


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"tenement {__version__}")
        raise typer.Exit


@app.callback()
def ten(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Show the version of this command."
        ),
    ] = False,
    server: Annotated[
        str,
        typer.Option(
            "--server",
            metavar="URL",
            help="Talk to another machine's HTTP API instead of the manager here (or TENEMENT_SERVER).",
        ),
    ] = "",
    token: Annotated[
        str,
        typer.Option("--token", metavar="TOKEN", help="The token for it (better: TENEMENT_TOKEN)."),
    ] = "",
    token_file: Annotated[
        Path | None,
        typer.Option(
            "--token-file", metavar="FILE", help="A file with the token for it (or TENEMENT_TOKEN_FILE)."
        ),
    ] = None,
) -> None:
    """Takes the options that come before the command."""
    if server or token or token_file:
        from tenement.cli.destination import choose

        choose(server, token, token_file)


@app.command()
def spawn(
    tenants: Tenants,
    no_start: Annotated[
        bool, typer.Option("--no-start", help="Do not start them: the first request does.")
    ] = False,
    json: AsJson = False,
) -> int:
    """Make tenants, start them and show their addresses."""
    from tenement.cli import tenants as actions

    return actions.spawn(tenants, start=not no_start, as_json=json)


@app.command()
def stop(tenants: Tenants) -> int:
    """Put tenants to sleep now; the next request wakes them."""
    return _act(tenants, "stop")


@app.command()
def restart(tenants: Tenants) -> int:
    """Stop tenants once their requests have ended, and start them."""
    return _act(tenants, "restart")


@app.command()
def enable(tenants: Tenants) -> int:
    """Let requests wake tenants again that were disabled."""
    return _act(tenants, "enable")


@app.command()
def disable(tenants: Tenants) -> int:
    """Stop tenants and answer requests for them with 503."""
    return _act(tenants, "disable")


@app.command(short_help="Stop tenants and forget them.")
def rm(
    tenants: Tenants,
    purge: Annotated[bool, typer.Option("--purge", help="Delete their data too.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> int:
    """Stop tenants and forget them; their data is kept unless --purge is given."""
    from tenement.cli import tenants as actions

    actions.parse_all(tenants)
    if not yes:
        _confirm_removal(tenants, purge=purge)

    async def remove(client: "Client", name: "TenantName") -> None:
        await client.remove(name.service, name.id, purge=purge)

    return actions.act(tenants, remove)


@app.command()
def weight(
    tenant: Annotated[
        str, typer.Argument(metavar="TENANT", show_default=False, help="A tenant, as SERVICE:ID.")
    ],
    weight: Annotated[
        int,
        typer.Argument(
            metavar="WEIGHT", show_default=False, min=0, max=1_000_000, help="Its share; 0 for none."
        ),
    ],
) -> int:
    """Set a tenant's share of the requests for its service as a whole."""
    from tenement.cli import tenants as actions

    async def set_weight(client: "Client", name: "TenantName") -> None:
        await client.set_weight(name.service, name.id, weight)

    return actions.act([tenant], set_weight)


@app.command()
def deploy(
    tenant: Annotated[
        str, typer.Argument(metavar="TENANT", show_default=False, help="The version, as SERVICE:ID.")
    ],
    weight: Annotated[
        int,
        typer.Option(
            "--weight", metavar="N", min=0, max=1_000_000, help="Its share of requests once it is healthy."
        ),
    ] = 100,
    timeout: Annotated[
        float,
        typer.Option(
            "--timeout",
            metavar="SECONDS",
            min=0.0,
            max=86400.0,
            show_default=False,
            help="How long it may take to get healthy; by default the service's startup_timeout.",
        ),
    ] = 0.0,
) -> int:
    """Make and start a tenant, and give it its share of requests for the service only once it is healthy.

    If it does not get healthy it is removed again, and all others are as they were.
    """
    from tenement.cli.deploy import deploy

    return deploy(tenant, weight, timeout)


@app.command()
def route(
    service: Annotated[str, typer.Argument(metavar="SERVICE", show_default=False, help="The service.")],
    from_: Annotated[
        str, typer.Option("--from", metavar="ID", show_default=False, help="Who has the requests now.")
    ],
    to: Annotated[str, typer.Option("--to", metavar="ID", show_default=False, help="Who gets them instead.")],
) -> int:
    """Move a service's requests from one tenant to another in one step, once the other is healthy."""
    from tenement.cli.deploy import route

    return route(service, from_, to)


@app.command(short_help="Move a service's tenants to another release.")
def rollout(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="SERVICE|TENANT|status SERVICE|resume SERVICE|abort SERVICE|unpin TENANT",
            show_default=False,
            help="What to roll out, or what to do with the rollout of a service.",
        ),
    ],
    to: Annotated[
        str | None, typer.Option("--to", metavar="RELEASE", show_default=False, help="The release.")
    ] = None,
    canary: Annotated[
        str,
        typer.Option(
            "--canary",
            metavar="N|N%",
            show_default=False,
            help="How many tenants move first, and are started to see that it works; 1 by default.",
        ),
    ] = "",
    batch: Annotated[
        int, typer.Option("--batch", metavar="N", min=1, max=1000, help="How many move at a time.")
    ] = 10,
    pause_after: Annotated[
        str,
        typer.Option(
            "--pause-after", metavar="canary", show_default=False, help="Wait after the canary for `resume`."
        ),
    ] = "",
    no_wait: Annotated[
        bool, typer.Option("--no-wait", help="Do not wait for the end, which comes all the same.")
    ] = False,
    json: AsJson = False,
) -> int:
    """Move all tenants of a service to another release, or pin a single one to it.

    Tenants that run are restarted between requests; those that sleep wake on the release. A failure stops
    the rollout, and puts the tenant back on the release that it was on. The rollout goes on without this
    command, and over restarts of the manager.
    """
    from tenement.cli import rollout as actions

    match words:
        case ["status", service]:
            return actions.status(service, as_json=json)
        case ["resume", service]:
            return actions.resume(service, wait=not no_wait)
        case ["abort", service]:
            return actions.abort(service)
        case ["unpin", tenant]:
            return actions.unpin(tenant)
        case [selector] if to is not None:
            return actions.begin(
                selector, to, canary=canary, batch=batch, pause_after=pause_after, wait=not no_wait
            )
    raise click.UsageError(
        "say which release, as in 'ten rollout notes --to 2026-11-25', or status, resume, abort or unpin "
        "and of what",
        click.get_current_context(),
    )


@app.command()
def rollback(
    service: Annotated[str, typer.Argument(metavar="SERVICE", show_default=False, help="The service.")],
    no_wait: Annotated[
        bool, typer.Option("--no-wait", help="Do not wait for the end, which comes all the same.")
    ] = False,
) -> int:
    """Move a service's tenants back to the release that they were on before; their data stays as it is."""
    from tenement.cli import rollout as actions

    return actions.back(service, wait=not no_wait)


@app.command()
def ps(
    selectors: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[TENANT|SERVICE]...", show_default=False, help="Which to list; without any, all."
        ),
    ] = None,
    state: Annotated[
        list[str] | None, typer.Option("--state", metavar="STATE", help="List those in this state.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show names only.")] = False,
    json: AsJson = False,
) -> int:
    """List tenants."""
    from tenement.cli import listing

    if state:
        _check_states(state)
    return listing.ps(selectors or [], state or [], as_json=json, quiet=quiet)


@app.command()
def status(
    tenants: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[TENANT]...", show_default=False, help="Tenants; without any, a summary of all."
        ),
    ] = None,
    json: AsJson = False,
) -> int:
    """Show all that is known of tenants."""
    from tenement.cli import listing

    return listing.status(tenants or [], as_json=json)


@app.command(
    # journalctl's options are read by tenement.cli.logs: typer cannot express those whose value is optional.
    # There is no -h, because it would be found in `-S -1h`.
    context_settings={"ignore_unknown_options": True, "help_option_names": ["--help"]},
    options_metavar="[OPTIONS OF JOURNALCTL] [--search TEXT] [--json]",
    epilog="Takes these options of journalctl(1): -f, -n, -r, -S, -U, -g, -p, -b, -o, --utc, --no-pager.",
)
def logs(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[TENANT|SERVICE]...", show_default=False, help="Whose lines to show; without any, all."
        ),
    ] = None,
) -> int:
    """Show what tenants have printed, from the journal."""
    from tenement.cli.destination import chosen
    from tenement.cli.logs import UnknownOption, run

    server = chosen()
    try:
        if server is not None:
            from tenement.cli import remote_logs

            return remote_logs.run(server, arguments or [])
        return run(arguments or [])
    except UnknownOption as error:
        raise click.UsageError(str(error), click.get_current_context()) from error


@app.command()
def top(
    order: Annotated[
        str,
        typer.Option("--order", "-o", metavar="ORDER", help="Sort by requests, cpu, memory or name."),
    ] = "requests",
    delay: Annotated[
        float,
        typer.Option("--delay", "-d", metavar="SECONDS", min=0.2, max=3600, help="Time between two looks."),
    ] = 1.0,
    iterations: Annotated[
        int,
        typer.Option("--iterations", "-n", metavar="N", min=0, help="End after so many looks; 0 never does."),
    ] = 0,
) -> int:
    """Show what tenants use and how many requests they answer, live; q ends it."""
    from tenement.cli.top import ORDERS
    from tenement.cli.top import top as show

    if order not in ORDERS:
        raise click.BadParameter(f"{order!r} is none of {', '.join(ORDERS)}", param_hint="--order")
    return show(order, delay, iterations)


@app.command()
def reload(json: AsJson = False) -> int:
    """Make the manager read its configuration again."""
    from tenement.cli import configuration

    return configuration.reload(as_json=json)


@app.command()
def doctor(
    favordynmods: Annotated[
        bool,
        typer.Option(
            "--favordynmods",
            help="Make starts faster until the next boot, for dearer fork() and exit().",
        ),
    ] = False,
    json: AsJson = False,
) -> int:
    """Show what this host cannot enforce, what it could do faster, and what to do about it."""
    from tenement.cli import doctor as checks

    return checks.favordynmods() if favordynmods else checks.doctor(as_json=json)


@app.command()
def version(json: AsJson = False) -> int:
    """Show the version of this command and of the manager that runs."""
    from tenement.cli.tenants import run
    from tenement.cli.text import out, out_json
    from tenement.errors import TenementError

    try:
        running = run(lambda client: client.version())
    except TenementError:
        running = None
    if json:
        out_json({"version": __version__, "manager": running})
    else:
        out(f"tenement {__version__} (manager: {running or 'not reachable'})")
    return 0


@config.command("check")
def config_check(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[PATH]...", show_default=False, help="Files or directories; without any, /etc/tenement."
        ),
    ] = None,
    json: AsJson = False,
) -> int:
    """Check the configuration and the files that it names, and show every problem."""
    from tenement.cli import configuration

    return configuration.check(paths or [], as_json=json)


@config.command("show")
def config_show(
    service: Annotated[
        str | None, typer.Argument(metavar="[SERVICE]", show_default=False, help="Only this service.")
    ] = None,
    json: AsJson = False,
) -> int:
    """Show every setting that is in force, defaults included, without secrets."""
    from tenement.cli import configuration

    return configuration.show(service, as_json=json)


TokenTenant = Annotated[
    str | None,
    typer.Option(
        "--tenant",
        metavar="TENANT",
        help="A token for one tenant's own logs, health and storage: SERVICE:ID, or ID if there is only one.",
    ),
]
TokenScope = Annotated[
    str, typer.Option("--scope", metavar="SCOPE", help="admin, or metrics for one that reads /metrics only.")
]
TokenExpires = Annotated[
    str | None,
    typer.Option("--expires", metavar="SPAN", help="How long it is good, for example 30d; else for ever."),
]
TokenName = Annotated[
    str, typer.Option("--name", metavar="NAME", help="What it is for, to tell it from others.")
]


@token.command("create")
def token_create(
    tenant: TokenTenant = None,
    scope: TokenScope = "admin",
    name: TokenName = "",
    expires: TokenExpires = None,
    json: AsJson = False,
) -> int:
    """Make a token and show it; it is shown only once."""
    from tenement.cli import token as tokens

    return tokens.create(tenant, scope, name, expires, as_json=json)


@app.command("token-gen")
def token_gen(
    tenant: TokenTenant = None,
    scope: TokenScope = "admin",
    name: TokenName = "",
    expires: TokenExpires = None,
    json: AsJson = False,
) -> int:
    """Do as `ten token create` does."""
    return token_create(tenant, scope, name, expires, json)


@token.command("ls")
def token_ls(json: AsJson = False) -> int:
    """List tokens, without what is secret of them."""
    from tenement.cli import token as tokens

    return tokens.ls(as_json=json)


@token.command("revoke")
def token_revoke(
    ids: Annotated[list[str], typer.Argument(metavar="ID...", show_default=False, help="Ids of tokens.")],
) -> int:
    """End tokens, and the sessions begun with them, at once."""
    from tenement.cli import token as tokens

    return tokens.revoke(ids)


def _act(tenants: list[str], verb: str) -> int:
    """Calls the client's method `verb` for each tenant."""
    from tenement.cli import tenants as actions

    async def call(client: "Client", name: "TenantName") -> None:
        await getattr(client, verb)(name.service, name.id)

    return actions.act(tenants, call)


def _confirm_removal(tenants: list[str], *, purge: bool) -> None:
    names = ", ".join(tenants)
    if not sys.stdin.isatty():
        raise click.UsageError("say -y to remove tenants without being asked", click.get_current_context())
    question = f"Remove {names} and delete their data?" if purge else f"Remove {names}? Their data is kept."
    click.confirm(question, abort=True, err=True)


def _check_states(states: list[str]) -> None:
    from tenement.lifecycle import State

    known = [state.value for state in State]
    for state in states:
        if state not in known:
            raise click.BadParameter(f"{state!r} is none of {', '.join(known)}", param_hint="--state")
