"""`comity serve`: the gateway before a chatbot."""

from __future__ import annotations

from pathlib import Path

import click

from comity.cli.ask import options_of
from comity.cli.output import note
from comity.cli.session import Session, pass_session, settings_options


@click.command("serve")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8080, show_default=True, type=click.IntRange(0, 65535))
@click.option(
    "--gateway",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Upstreams and tenants; without it the model of the settings is served to all.",
)
@settings_options("memory", "embedder", "model", "base_url", "timeout", "place")
@settings_options("hits", "relevance", "budget", "judge", "judge_timeout", "release", "rounds")
@pass_session
def serve_command(session: Session, host: str, port: int, gateway: Path | None) -> None:
    """Serve the OpenAI API under the rules in force, and the rules' own API.

    Point a client's base_url to http://HOST:PORT/v1 and give it a key of `comity keys create`.
    """
    import uvicorn

    from comity.serving.app import create_app
    from comity.serving.config import Gateway, read_gateway

    with session.open_memory() as memory:
        memory.index.catch_up()
        config = read_gateway(gateway) if gateway else Gateway()
        models = {} if gateway else {session.settings.model: session.open_model()}
        judge = session.open_judge(models.get(session.settings.model))
        app = create_app(memory, config, options_of(session.settings), judge=judge, models=models)
        note(f"http://{host}:{port}/v1 serves {', '.join((*models, *config.upstreams))}")
        uvicorn.run(app, host=host, port=port, log_level="warning", timeout_graceful_shutdown=30)
