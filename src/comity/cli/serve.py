"""`comity serve`: the gateway before a chatbot."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from comity.cli.ask import options_of
from comity.cli.output import note
from comity.cli.session import Session, pass_session, settings_options
from comity.errors import MissingExtra

if TYPE_CHECKING:
    from comity.models.chat import ChatModel
    from comity.serving.config import Gateway
    from comity.settings import Settings


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
    try:
        import uvicorn

        from comity.serving.app import create_app
    except ImportError as error:
        raise MissingExtra("comity serve", "serve") from error
    from comity.serving.config import read_gateway
    from comity.serving.intake import patient

    with session.open_memory() as memory:
        memory.index.catch_up()
        models: dict[str, ChatModel] = {}
        if gateway is not None:
            config = read_gateway(gateway)
        else:
            config = _of_settings(session.settings)
            if not config.upstreams:
                models[session.settings.model] = session.open_model()
        judge = session.open_judge(models.get(session.settings.model))
        app = create_app(memory, config, options_of(session.settings), judge=judge, models=models)
        served = ", ".join(name for name in (*models, *config.upstreams) if name != "*")
        note(f"http://{host}:{port}/v1 serves {served or 'any model'}; Ctrl-C stops")
        uvicorn.run(
            app,
            host=host,
            port=port,
            log_level="warning",
            http=patient(config.max_body_seconds),
            ws="none",
            timeout_graceful_shutdown=30,
        )


def _of_settings(settings: Settings) -> Gateway:
    """The endpoint of the settings, for whatever model clients ask for; none for a local model."""
    from pydantic import SecretStr

    from comity.models.chat import REMOTE_TIMEOUT
    from comity.models.openai import OPENAI_URL
    from comity.serving.config import Gateway
    from comity.serving.upstream import Upstream

    kind, _, name = settings.model.partition(":")
    if kind != "openai":
        return Gateway()
    key = settings.api_key.get_secret_value() or os.environ.get("OPENAI_API_KEY", "")
    upstream = Upstream(
        base_url=settings.base_url or os.environ.get("OPENAI_BASE_URL") or OPENAI_URL,
        api_key=SecretStr(key),
        timeout=settings.timeout or REMOTE_TIMEOUT,
    )
    return Gateway(upstreams={name: upstream, "*": upstream})
