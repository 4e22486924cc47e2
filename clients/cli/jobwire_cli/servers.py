"""`jobwire broker`, `jobwire gateway`, `jobwire webhooks`, `jobwire worker`: one server process each.

Their packages are imported when their command runs, because a machine may have installed only one of them.
"""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer

from jobwire_cli import auth_options, settings
from jobwire_cli.config_file import Config
from jobwire_cli.durations import parse_duration
from jobwire_cli.exits import CommandFailed, Exit
from jobwire_cli.given import given, span
from jobwire_cli.logs import LogFormat, set_up_logging

Insecure = Annotated[
    bool, typer.Option("--insecure", envvar="JOBWIRE_INSECURE", help="Listen on other addresses than loopback, although nobody has to say who they are.")
]
AllowEviction = Annotated[
    bool, typer.Option("--allow-eviction", envvar="JOBWIRE_ALLOW_EVICTION", help="Accept a store whose maxmemory-policy may throw jobs away.")
]
Metrics = Annotated[
    str, typer.Option(envvar="JOBWIRE_METRICS", metavar="HOST:PORT", help="Serve metrics to Prometheus here; port 0 picks one. Default: none are served.")
]
Queues = Annotated[
    Path | None, typer.Option("--queues", envvar="JOBWIRE_QUEUES_FILE", metavar="FILE", help="Policies of queues, in YAML; set when the broker starts.")
]
WebhooksFile = Annotated[
    Path | None,
    typer.Option(
        "--webhooks", envvar="JOBWIRE_WEBHOOKS_FILE", metavar="FILE", help="Endpoints in YAML that are told of the ends of jobs; runs `jobwire webhooks`."
    ),
]
LogStyle = Annotated[LogFormat, typer.Option("--log-format", envvar="JOBWIRE_LOG_FORMAT", help="Lines of the log for people, or as JSON.")]
SessionTime = Annotated[str, typer.Option(envvar="JOBWIRE_SESSION_TIME", metavar="DURATION", help="How long a silent worker keeps its jobs: 1s to 10m.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(broker)
    app.command()(gateway)
    app.command()(webhooks)
    app.command()(worker)


def broker(
    store: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="redis://, rediss:// or unix://. Default: JOBWIRE_STORE, REDIS_URL, REDIS_HOST with REDIS_PORT and REDIS_PASSWORD, then "
            f"{settings.DEFAULT_STORE}. A URL with a password belongs in the variable: flags can be read by every user of the machine.",
        ),
    ] = None,
    grpc: Annotated[str, typer.Option(envvar="JOBWIRE_GRPC", metavar="HOST:PORT", help="Where to listen; port 0 picks one.")] = "127.0.0.1:7410",
    session_time: SessionTime = "10s",
    keys: auth_options.Keys = None,
    jwt_jwks: auth_options.JwtJwks = "",
    jwt_key: auth_options.JwtKey = None,
    jwt_issuer: auth_options.JwtIssuer = "",
    jwt_audience: auth_options.JwtAudience = "",
    tls_cert: auth_options.TlsCert = None,
    tls_key: auth_options.TlsKey = None,
    tls_client_ca: auth_options.TlsClientCa = None,
    queues: Queues = None,
    metrics: Metrics = "",
    log_format: LogStyle = LogFormat.CONSOLE,
    insecure: Insecure = False,
    allow_eviction: AllowEviction = False,
    config_file: Config = None,
) -> None:
    """Serve gRPC, with all state in a Redis or Valkey. Any number of brokers may share one store."""
    set_up_logging(log_format)
    config, server = _load("jobwire_broker", "broker")
    made = _configured(
        lambda: config.BrokerConfig(
            store=settings.store_url(store),
            grpc=grpc,
            auth=auth_options.auth_config(keys, jwt_jwks, jwt_key, jwt_issuer, jwt_audience),
            tls=auth_options.tls_config(tls_cert, tls_key, tls_client_ca),
            queues=load_queues(queues),
            metrics=metrics,
            insecure=insecure,
            allow_eviction=allow_eviction,
            session_time=given("--session-time", session_time, parse_duration),
        )
    )
    raise typer.Exit(server.run(made))


def gateway(
    http: Annotated[str, typer.Option(envvar="JOBWIRE_HTTP", metavar="HOST:PORT", help="Where to listen; port 0 picks one.")] = "127.0.0.1:8080",
    broker: Annotated[
        str, typer.Option(envvar=["JOBWIRE_BROKER", "JOBWIRE_TARGET"], metavar="HOST:PORT[,…]", help="The brokers, with commas between.")
    ] = "127.0.0.1:7410",
    drain: Annotated[
        str, typer.Option(envvar="JOBWIRE_DRAIN", metavar="DURATION", help="How long open streams are spread over when the process is told to end.")
    ] = "5s",
    heartbeat: Annotated[str, typer.Option(envvar="JOBWIRE_HEARTBEAT", metavar="DURATION", help="An open stream is never silent for longer.")] = "15s",
    retry: Annotated[
        str, typer.Option(envvar="JOBWIRE_RETRY", metavar="DURATION", help="How long browsers wait at least before they reconnect; up to twice as long.")
    ] = "2s",
    max_streams: Annotated[int, typer.Option(envvar="JOBWIRE_MAX_STREAMS", min=1, help="Open streams; one more is told to come back later.")] = 10_000,
    max_stream_starts: Annotated[
        int, typer.Option(envvar="JOBWIRE_MAX_STREAM_STARTS", min=1, help="Streams that may begin in a second; twice as many may at once.")
    ] = 1_000,
    max_topics: Annotated[int, typer.Option(envvar="JOBWIRE_MAX_TOPICS", min=1, help="Topics on one stream.")] = 100,
    max_topics_total: Annotated[
        int,
        typer.Option(envvar="JOBWIRE_MAX_TOPICS_TOTAL", min=1, max=90_000, help="Topics of all streams; one with one more is told to come back."),
    ] = 50_000,
    max_streams_per_topic: Annotated[
        int, typer.Option(envvar="JOBWIRE_MAX_STREAMS_PER_TOPIC", min=1, help="Open streams of one topic; one more is told to come back later.")
    ] = 10_000,
    auth: auth_options.Auth = None,
    allowed_hosts: auth_options.AllowedHosts = "",
    allowed_origins: auth_options.AllowedOrigins = "",
    trusted_proxies: auth_options.TrustedProxies = "",
    request_rate: auth_options.RequestRate = "",
    attempt_rate: auth_options.AttemptRate = "20/10second",
    max_streams_per_address: auth_options.PerAddress = 0,
    max_streams_per_identity: auth_options.PerIdentity = 0,
    max_streams_per_tenant: auth_options.PerTenant = 0,
    metrics: Metrics = "",
    log_format: LogStyle = LogFormat.CONSOLE,
    insecure: Insecure = False,
    config_file: Config = None,
) -> None:
    """Serve REST, event streams for browsers, and the live page. Any number of gateways may share the brokers."""
    set_up_logging(log_format)
    config, server = _load("jobwire_gateway", "gateway")
    made = _configured(
        lambda: config.GatewayConfig(
            http=http,
            broker=broker,
            drain=given("--drain", drain, parse_duration),
            heartbeat=given("--heartbeat", heartbeat, parse_duration),
            retry=given("--retry", retry, parse_duration),
            max_streams=max_streams,
            max_stream_starts=max_stream_starts,
            max_topics=max_topics,
            max_topics_total=max_topics_total,
            max_streams_per_topic=max_streams_per_topic,
            credentials=auth_options.gateway_credentials(),
            auth=auth,
            allowed_hosts=auth_options.listed(allowed_hosts),
            allowed_origins=auth_options.listed(allowed_origins),
            trusted_proxies=auth_options.listed(trusted_proxies),
            request_rate=request_rate,
            attempt_rate=attempt_rate,
            max_streams_per_address=max_streams_per_address,
            max_streams_per_identity=max_streams_per_identity,
            max_streams_per_tenant=max_streams_per_tenant,
            metrics=metrics,
            insecure=insecure,
        )
    )
    raise typer.Exit(server.run(made))


def webhooks(
    file: Annotated[Path, typer.Option("--file", envvar="JOBWIRE_WEBHOOKS_FILE", metavar="FILE", help="The endpoints, in YAML.")],
    broker: Annotated[
        str, typer.Option(envvar=["JOBWIRE_BROKER", "JOBWIRE_TARGET"], metavar="HOST:PORT[,…]", help="The brokers, with commas between.")
    ] = "127.0.0.1:7410",
    metrics: Metrics = "",
    log_format: LogStyle = LogFormat.CONSOLE,
    insecure: Annotated[bool, typer.Option("--insecure", envvar="JOBWIRE_INSECURE", help="Serve metrics on other addresses than loopback.")] = False,
    config_file: Config = None,
) -> None:
    """Tell HTTP endpoints of the ends of jobs, by signed requests. Any number of these may run beside one another, and share the work."""
    set_up_logging(log_format)
    config, server = _load("jobwire_gateway.webhooks", "webhooks")
    settings = _configured(lambda: load_webhooks(file))
    made = _configured(
        lambda: config.WebhookConfig(settings=settings, broker=broker, credentials=auth_options.gateway_credentials(), metrics=metrics, insecure=insecure)
    )
    raise typer.Exit(server.run(made))


def worker(
    spec: Annotated[str, typer.Argument(metavar="MODULE:WORKER", help="Where the Worker object is: a module on the path or in this directory.")],
    target: Annotated[str | None, typer.Option(metavar="HOST:PORT[,…]", help="The brokers, instead of those that the worker names.")] = None,
    concurrency: Annotated[int | None, typer.Option(min=1, help="How many jobs to run at once, instead of what the worker says.")] = None,
    health: Annotated[
        str | None, typer.Option(envvar="JOBWIRE_WORKER_HEALTH", metavar="HOST:PORT", help="Answer health checks here, instead of where the worker says.")
    ] = None,
    drain_grace: Annotated[
        str | None, typer.Option(metavar="DURATION", help="How long running jobs may take when the worker is told to end, instead of what the worker says.")
    ] = None,
    config_file: Config = None,
) -> None:
    """Run a Python worker. Ctrl-C or SIGTERM lets it finish what runs."""
    from jobwire_worker import HealthPortError, RegistrationError, SpecError, run_from_spec

    try:
        code = run_from_spec(spec, target=target, concurrency=concurrency, health=health, drain_grace=span("--drain-grace", drain_grace))
    except HealthPortError as error:
        raise CommandFailed(str(error)) from error
    except (SpecError, RegistrationError, ValueError) as error:
        raise CommandFailed(str(error), Exit.USAGE) from error
    raise typer.Exit(code)


def load_queues(path: Path | None) -> Any:
    """The policies of a file, checked. Raises ValueError, which says every mistake with its line."""
    if path is None:
        return ()
    try:
        return import_module("jobwire_broker.services.queues_file").load_queues_file(path)
    except ModuleNotFoundError as error:
        raise _missing(error, "broker") from error


def load_webhooks(path: Path) -> Any:
    """The endpoints of a file, checked. Raises ValueError, which says every mistake with its line."""
    try:
        return import_module("jobwire_gateway.webhooks.webhooks_file").load_webhooks_file(path)
    except ModuleNotFoundError as error:
        raise _missing(error, "webhooks") from error


def _load(package: str, extra: str) -> tuple[Any, Any]:
    """The package's `config` and `server` modules."""
    try:
        return import_module(f"{package}.config"), import_module(f"{package}.server")
    except ModuleNotFoundError as error:
        raise _missing(error, extra) from error


def _missing(error: ModuleNotFoundError, extra: str) -> CommandFailed:
    if error.name is None or error.name.startswith("jobwire"):
        raise error  # ours is always there; this is a fault to be seen
    return CommandFailed(f"{error.name.partition('.')[0]} is missing: install jobwire[{extra}]")


def _configured(make: Callable[[], Any]) -> Any:
    try:
        return make()
    except ValueError as error:
        raise CommandFailed(str(error), Exit.USAGE) from error
