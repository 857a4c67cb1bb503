"""`roster gateway`: the team over HTTP."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from roster.cli.session import Session
from roster.errors import ConfigError

if TYPE_CHECKING:
    from roster.gateway import Settings

EXAMPLES = (
    "roster gateway",
    "roster gateway --listen 0.0.0.0:8700 --token-file tokens.yaml --name roster.example.org",
    "curl http://127.0.0.1:8700/api/v1/nodes",
)


def gateway(
    session: Session,
    listen: Annotated[
        str, typer.Option("--listen", metavar="HOST:PORT", help="Where to listen; port 0 takes a free one.")
    ] = "127.0.0.1:8700",
    token_file: Annotated[
        Path | None,
        typer.Option(
            "--token-file",
            metavar="FILE",
            help="Who may do what; without it ROSTER_GATEWAY_TOKENS. Needed off loopback.",
            show_default=False,
            envvar="ROSTER_GATEWAY_TOKENS",
        ),
    ] = None,
    name: Annotated[
        list[str] | None,
        typer.Option(
            "--name",
            metavar="HOST",
            help="A further host name by which clients reach it; may be given several times.",
            show_default=False,
        ),
    ] = None,
    origin: Annotated[
        list[str] | None,
        typer.Option(
            "--origin",
            metavar="URL",
            help="A further origin whose pages may use it, such as https://roster.example.org; may be given several times.",
            show_default=False,
        ),
    ] = None,
    orchestrate: Annotated[
        bool,
        typer.Option(
            "--orchestrate",
            help="Take up runs of process cards, too: those of orchestrators that died, and detached ones.",
            show_default=False,
        ),
    ] = False,
) -> None:
    """Serve the team over HTTP until Ctrl-C.

    That is an API under /api/v1, described at /openapi.json, live events, metrics and a dashboard. Nodes in any language
    register over it, get their commands and answer them. On loopback everybody on this machine may use it unless a token
    file says otherwise; beyond loopback it does not start without one. See docs/gateway.md.
    """
    try:
        import roster.gateway  # noqa: F401 - what is missing is to be known before anything is opened
        from roster.gateway.settings import Settings, read_listen
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"the gateway needs {error.name}, which is not installed; run: pip install 'agent-roster[gateway]'"
        ) from None
    host, port = read_listen(listen)
    settings = Settings(
        host=host,
        port=port,
        tokens=token_file,
        names=tuple(name or ()),
        origins=tuple(origin or ()),
        orchestrate=orchestrate,
    )
    settings.check()
    number = session.run(_serve(session, settings))
    if number == signal.SIGINT:
        raise typer.Exit(130)


async def _serve(session: Session, settings: Settings) -> signal.Signals | None:
    from roster.gateway import Gateway, serve
    from roster.gateway.server import bind

    listening = bind(settings)
    host, port = listening.getsockname()[:2]
    shown = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        async with Gateway(settings, registry_url=session.registry_url, bus_url=session.bus_url) as opened:
            return await serve(
                opened,
                listening,
                on_started=lambda: session.out.note(f"the gateway listens on http://{shown}; Ctrl-C ends it"),
            )
    finally:
        listening.close()
