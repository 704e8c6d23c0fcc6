"""`comity mcp`: the rules for agents that speak the Model Context Protocol."""

from __future__ import annotations

import click

from comity.cli.ask import options_of
from comity.cli.output import note
from comity.cli.session import Session, pass_session, settings_options
from comity.errors import MissingExtra


@click.command("mcp")
@click.option(
    "--http",
    "port",
    type=click.IntRange(0, 65535),
    metavar="PORT",
    help="Serve streamable HTTP at http://HOST:PORT/mcp, for access keys; else stdin and stdout.",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@settings_options("memory", "tenant", "embedder", "base_url", "place")
@settings_options("hits", "relevance", "budget", "judge", "judge_timeout")
@pass_session
def mcp_command(session: Session, port: int | None, host: str) -> None:
    """Serve the rules over MCP: resources, a search, and a check of answers.

    On stdin and stdout it serves one tenant (--tenant) to whoever starts it, as desktop agents
    do. Over HTTP, callers give a key of `comity keys create`, which says whose rules they see.
    """
    try:
        import anyio

        from comity.integrations.mcp import http_app, local_owner, rules_server, serve_stdio
    except ImportError as error:
        raise MissingExtra("comity mcp", "mcp") from error

    with session.open_memory() as memory:
        options, judge = options_of(session.settings), session.open_judge(None)
        memory.index.catch_up()
        if port is None:
            who = local_owner(session.settings.tenant)
            anyio.run(serve_stdio, rules_server(memory, options, judge=judge, who=who))
            return
        import uvicorn

        url = f"http://{host}:{port}/mcp"
        app = http_app(memory, options, judge=judge, host=host, url=url)
        note(f"{url} serves the rules; Ctrl-C stops")
        uvicorn.run(app, host=host, port=port, log_level="warning", timeout_graceful_shutdown=5)
