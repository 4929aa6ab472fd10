"""Every knob of the service: one typed object, read once from a TOML file and STREAM_WORKER_* variables.

A variable wins over the file, the file over the default: `STREAM_WORKER_DETECTOR__CONFIDENCE=0.4` is
`confidence = 0.4` under `[detector]` in `stream-worker.toml`. `stream-worker config` shows what is in force.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from stream_worker.errors import UserError

DEFAULT_FILE = "stream-worker.toml"
ENV_PREFIX = "STREAM_WORKER_"
MODEL = r"^[A-Za-z_][\w.]*(:[A-Za-z_]\w*)?$"


class Section(BaseModel):
    """A group of settings. A name that is not known is a mistake, not a wish."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, protected_namespaces=())


def servers(value: str) -> str:
    """A list of brokers as it came. Raises ValueError, which says nothing of it, where it is a URL or has credentials:
    it is shown in errors and by `stream-worker config`."""
    if "@" in value or "://" in value:
        raise ValueError(
            "brokers are host:port,host:port: no URLs, no credentials (kafka.username, kafka.password_file)"
        )
    return value


class Kafka(Section):
    """Where the events are, how we get in (ops/security.md), and how patient we are with it."""

    bootstrap_servers: str | None = Field(None, description="host:port,... of the broker; unset: a private local one")
    prefix: str = Field("", pattern=r"^[A-Za-z0-9._-]{0,64}$", description="stands before every topic and group name")
    partitions: int = Field(12, ge=1, le=1000, description="partitions of a topic that we create")
    replication_factor: int = Field(1, ge=1, le=9, description="replicas of a topic that we create; 3 in production")
    session_timeout_ms: int = Field(45_000, ge=1_000, le=300_000, description="a silent worker is dead after this")
    rebalance_timeout_ms: int = Field(60_000, ge=5_000, le=600_000, description="time for every worker to drain")
    max_poll_interval_ms: int = Field(
        300_000, ge=2_000, le=3_600_000, description="a worker that has stopped polling leaves its group after this"
    )
    request_timeout_ms: int = Field(20_000, ge=1_000, le=300_000, description="a broker's answer, at most")
    transaction_timeout_ms: int = Field(60_000, ge=5_000, le=900_000, description="an open transaction, at most")
    max_event_bytes: int = Field(1_000_000, ge=10_000, description="largest event we write (topic: max.message.bytes)")
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        "PLAINTEXT",
        description="of the broker's listener: SSL is TLS, SASL a user's name; in production SASL_SSL or SSL",
    )
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"] | None = Field(
        None, description="with SASL: how we say who we are"
    )
    username: str | None = Field(None, min_length=1, description="with PLAIN and SCRAM")
    password_file: Path | None = Field(None, description="file of its password; with SCRAM read for every connection")
    password: SecretStr | None = Field(
        None, description="... itself, for a variable; in a file it changes without a restart"
    )
    ca_file: Path | None = Field(
        None,
        description="with TLS: PEM file of the authorities that may sign brokers' certificates; unset: the machine's",
    )
    certificate_file: Path | None = Field(None, description="with TLS: our certificate (mTLS), PEM, with its chain")
    key_file: Path | None = Field(None, description="its private key, PEM; unset: in certificate_file")
    key_password_file: Path | None = Field(None, description="file of the key's password")
    oauth_token_file: Path | None = Field(
        None, description="with OAUTHBEARER: file of the token, which somebody renews; read for every connection"
    )
    oauth_token_endpoint: str | None = Field(
        None, description="... or where to get one (client credentials): an https URL"
    )
    oauth_client_id: str | None = Field(None, min_length=1, description="... as whom")
    oauth_client_secret_file: Path | None = Field(None, description="... file of its secret; read for every token")
    oauth_scope: str | None = Field(None, description="... scope of the token")
    oauth_ca_file: Path | None = Field(None, description="... authorities of the endpoint; unset: the machine's")

    @field_validator("bootstrap_servers")
    @classmethod
    def _plain_servers(cls, value: str | None) -> str | None:
        return None if value is None else servers(value)

    @field_validator("oauth_token_endpoint")
    @classmethod
    def _safe_endpoint(cls, value: str | None) -> str | None:
        if value is None:
            return None
        parts = urlsplit(value)
        if "@" in parts.netloc or not parts.hostname:
            raise ValueError("want https://host/path, without credentials")
        if parts.scheme != "https" and not (
            parts.scheme == "http" and parts.hostname in ("127.0.0.1", "::1", "localhost")
        ):
            raise ValueError("a client's secret goes by https only (http: to this machine itself)")
        return value

    @model_validator(mode="after")
    def _one_way_in(self) -> Self:
        """Settings that contradict each other: one of them is a mistake, and it must not be found out by silence."""
        if contradiction := _contradiction(self):
            raise ValueError(contradiction)
        return self


_PASSWORD = ("username", "password_file", "password")
_TOKEN = ("oauth_token_file",)
_CLIENT = ("oauth_token_endpoint", "oauth_client_id", "oauth_client_secret_file")
_CLIENT_MAY = ("oauth_scope", "oauth_ca_file")
_TLS = ("ca_file", "certificate_file", "key_file", "key_password_file")


def _contradiction(kafka: Kafka) -> str | None:
    """What can't be meant in the ways to get in; None where all is well."""

    def named(*names: str) -> list[str]:
        return [name for name in names if getattr(kafka, name) is not None]

    protocol, mechanism = kafka.security_protocol, kafka.sasl_mechanism
    by_sasl = named("sasl_mechanism", *_PASSWORD, *_TOKEN, *_CLIENT, *_CLIENT_MAY)
    if not protocol.startswith("SASL_"):
        if by_sasl:
            return f"{by_sasl[0]} has no meaning with security_protocol {protocol}: want SASL_SSL, or leave it out"
    elif mechanism is None:
        return f"security_protocol {protocol} needs sasl_mechanism"
    elif mechanism == "OAUTHBEARER":
        if wrong := named(*_PASSWORD):
            return f"{wrong[0]} has no meaning with OAUTHBEARER"
        given = named(*_CLIENT)
        if named(*_TOKEN) and (given or named(*_CLIENT_MAY)):
            return "name oauth_token_file or oauth_token_endpoint, not both"
        if not named(*_TOKEN) and len(given) < len(_CLIENT):
            return "OAUTHBEARER needs oauth_token_file, or all of " + ", ".join(_CLIENT)
    else:
        if wrong := named(*_TOKEN, *_CLIENT, *_CLIENT_MAY):
            return f"{wrong[0]} has no meaning with {mechanism}"
        if kafka.username is None:
            return f"{mechanism} needs username"
        if len(named("password", "password_file")) != 1:
            return f"{mechanism} needs password_file or password, one of them"
    if by_tls := named(*_TLS):
        if not protocol.endswith("SSL"):
            return f"{by_tls[0]} has no meaning with security_protocol {protocol}: want SSL or SASL_SSL"
        if kafka.certificate_file is None and (lonely := named("key_file", "key_password_file")):
            return f"{lonely[0]} needs certificate_file"
    return None


class Store(Section):
    """Where photos and results are kept: a folder, or a bucket of any S3 server."""

    url: str | None = Field(None, description="/folder, file:///folder or s3://bucket/prefix; unset: local.data_dir")
    endpoint: str | None = Field(None, description="host:port of the S3 server")
    access_key: str | None = Field(None, description="unset: where the tools of AWS look for it")
    secret_key: SecretStr | None = Field(None, description="... likewise")
    secret_key_file: Path | None = Field(None, description="... file of it, read when the store is opened")
    region: str | None = Field(None, description="of the bucket")
    secure: bool = Field(True, description="https to the S3 server")
    ca_file: Path | None = Field(
        None,
        description="PEM file of the authorities that may sign its certificate; unset: the machine's and the usual",
    )
    create_bucket: bool = Field(False, description="create the bucket where it is missing")
    timeout_s: float = Field(20.0, gt=0, description="one request to the S3 server, at most")

    @field_validator("url", "endpoint")
    @classmethod
    def _no_credentials(cls, value: str | None) -> str | None:
        if value is not None and "@" in (urlsplit(value).netloc if "://" in value else value.partition("/")[0]):
            raise ValueError("no credentials here, it is shown: store.access_key and store.secret_key_file")
        return value

    @model_validator(mode="after")
    def _one_secret(self) -> Self:
        if self.secret_key is not None and self.secret_key_file is not None:
            raise ValueError("name secret_key_file or secret_key, not both")
        if self.ca_file is not None and not self.secure:
            raise ValueError("ca_file has no meaning without https (secure)")
        return self


class Images(Section):
    """Fetching and decoding photos from outside."""

    allow_networks: list[str] = Field([], description="private networks to fetch from all the same: CIDR or CIDR:port")
    ports: list[int] = Field([80, 443], description="ports that a URL may name")
    s3_buckets: list[str] = Field([], description="bucket or bucket/prefix that s3:// URLs may name")
    timeout_s: float = Field(20.0, gt=0, le=600, description="fetching one photo, redirects included")
    max_bytes: int = Field(25 * 2**20, ge=1, description="largest photo file")
    max_pixels: int = Field(40_000_000, ge=1, description="largest photo, width x height")
    decoders: int = Field(1, ge=1, le=64, description="sandboxed decoder processes a detector has")


class ModelProcess(Section):
    """What every model's child process has."""

    python: str | None = Field(None, description="interpreter of the model's process; unset: ours")
    device: str = Field("auto", description="auto, cpu, cuda, or cuda:N; `up` gives each worker its own")
    threads: int = Field(4, ge=1, le=256, description="OMP, BLAS and torch threads of the model's process")
    load_timeout_s: float = Field(300.0, gt=0, description="loading and warming up, at most")
    task_timeout_s: float = Field(120.0, gt=0, description="one photo or object in the model, at most")
    memory_limit_mb: int | None = Field(None, ge=64, description="the process is recycled above this RSS")
    gpu_memory_mb: int | None = Field(
        None,
        ge=256,
        description="GPU memory the process may take, CUDA's context aside; unset: what there is, or with several of a "
        "model on a card, which `up` starts, an equal share",
    )


class Detector(ModelProcess):
    """YOLO or YOLOE segmentation."""

    model: str = Field("yolo", pattern=MODEL, description="yolo, or module:Class of a model of your own")
    weights: str = Field("rooms-seg", description="rooms-seg (ours, in the package) or the path of a .pt file")
    weights_sha256: str | None = Field(None, pattern=r"^[0-9a-f]{64}$", description="refuse weights that differ")
    classes: list[str] | None = Field(None, description="only these classes; unset: all that the weights know")
    synonyms: dict[str, str] = Field(
        {}, description="label of a class that the weights call otherwise: {couch = 'sofa', settee = 'sofa'}"
    )
    confidence: float = Field(0.25, ge=0, le=1, description="objects less certain than this are dropped")
    iou: float = Field(0.7, ge=0, le=1, description="boxes that overlap more are one object")
    agnostic_nms: bool = Field(True, description="... also where their classes differ")
    max_objects: int = Field(64, ge=1, le=1000, description="most objects of one photo")
    image_size: int = Field(640, ge=32, le=4096, multiple_of=32, description="the network's input, pixels")
    min_box_px: int = Field(20, ge=0, description="boxes narrower or lower than this are dropped")
    batch: Annotated[int, Field(ge=1, le=256)] | None = Field(
        None, description="photos that the model is given at once; unset: 16 on a GPU, 1 on a CPU, which gains nothing"
    )
    batch_wait_ms: int = Field(10, ge=0, le=10_000, description="a batch that is not full waits for more, at most")
    half: bool = Field(True, description="half precision, on a GPU")


class Reconstructor(ModelProcess):
    """From a mask to 3D."""

    model: str = Field(
        "silhouette",
        pattern=MODEL,
        description="silhouette (needs no GPU), sam3d (see that section), or module:Class of a model of your own",
    )
    points: bool = Field(False, description="store a small PLY of coloured points too: x y z, red green blue")
    catalogue: Path | None = Field(
        None, description="TOML file of known sizes per class: turns relative sizes into millimetres"
    )
    max_gaussians: int = Field(20_000, ge=100, le=2_000_000, description="most Gaussians of one object")
    seed: int = Field(42, description="of models that draw random numbers")


SAM3D = "sam3d"
"""`reconstructor.model` for SAM 3D Objects."""


class Sam3d(Section):
    """SAM 3D Objects, where `reconstructor.model` is sam3d. The defaults are those of the guide in ops/decisions."""

    checkpoint: str | None = Field(None, description="folder of upstream's pipeline.yaml and weights")
    sha256sums: str | None = Field(
        None, description="pins of the files there that are read, as `sha256sum` writes them"
    )
    stage1_steps: int = Field(15, ge=1, le=200, description="of the structure (upstream: 25; 15 moved volumes 1.3 %)")
    stage2_steps: int = Field(8, ge=1, le=200, description="of the latents (upstream's code: 25, its yaml: 12)")
    mesh: bool = Field(False, description="decode a mesh too (20 GB more at its peak), and make its GLB")
    mesh_postprocess: bool = Field(False, description="simplify and fill the mesh: 20 to 40 s")
    texture_baking: bool = Field(False, description="bake a texture for the GLB: 30 to 60 s")
    layout_postprocess: bool = Field(
        False, description="refine the pose by rendering; upstream's published configuration names no method for it"
    )
    pointmap: Literal["pinhole", "moge"] = Field(
        "pinhole", description="depth of the photo: a plane (sizes are relative), or MoGe's estimate in metres"
    )
    exact_savings: bool = Field(
        True, description="compute once per object what upstream computes at every step: the same results"
    )
    cuda_graphs: bool = Field(True, description="with exact_savings: start each pass of stage 1 as one CUDA graph")
    step_cache: int = Field(
        0, ge=0, le=5, description="steps that take over each computed velocity: faster, but other results; 0 for none"
    )
    compile: bool = Field(
        True, description="torch.compile, where CUDA graphs don't run stage 1 (with them it gains nothing)"
    )
    warm_up_runs: int = Field(3, ge=0, le=20, description="made-up objects before the first real one")
    min_opacity: float = Field(0.1, gt=0, lt=1, description="Gaussians fainter than this count for no size")
    outlier_share: float = Field(0.001, ge=0, lt=0.5, description="furthest Gaussians on either side that do neither")


class Aggregator(Section):
    """The join."""

    deadline_s: float = Field(900.0, gt=0, description="an image is completed with what there is after this")
    grace_s: float = Field(3600.0, ge=0, description="a finished image is remembered this long, to know duplicates")
    memory_mb: int = Field(
        1024,
        ge=8,
        le=1_048_576,
        description="images that a worker holds, in equal parts for its lanes; past that, new ones wait in Kafka and "
        "finished ones are forgotten before their grace is over: their duplicates are done again, late results dropped",
    )


class Stage(Section):
    """How every group runs."""

    drain_s: float = Field(10.0, ge=0, description="work in hand may finish this long when a lane is given up")
    retries: int = Field(3, ge=0, le=100, description="further attempts at a record with a transient fault")
    retry_delay_s: float = Field(0.5, gt=0, description="before the first further attempt; then doubled")
    retry_deadline_s: float = Field(120.0, gt=0, description="no further attempt begins later than this, outages apart")
    worker_crashes: int = Field(
        3, ge=1, le=100, description="workers that may die with one record alone in work; then it is given up"
    )
    watchdog_s: float = Field(300.0, gt=0, description="no progress for this long, with work waiting, ends the process")
    batch: int = Field(200, ge=2, le=10_000, description="most records in one transaction")
    commit_interval_ms: int = Field(
        0, ge=0, le=60_000, description="a lane that is not full commits no more often: fewer transactions"
    )


class Local(Section):
    """The private broker and store that are used when none is named."""

    data_dir: Path = Field(Path("~/.local/share/stream-worker"), description="Kafka's data, and the local store")
    port: int | None = Field(None, ge=1, le=65535, description="of the private broker; unset: a free one")

    @field_validator("data_dir")
    @classmethod
    def _expand(cls, value: Path) -> Path:
        return value.expanduser()


class Up(Section):
    """What `stream-worker up` starts."""

    detectors: Annotated[int, Field(ge=0, le=256)] | None = Field(None, description="unset: one per GPU, or one")
    reconstructors: Annotated[int, Field(ge=0, le=256)] | None = Field(
        None, description="unset: one per GPU, or one; of SAM 3D Objects as many as memory and cores allow, 4 at most"
    )
    aggregators: int = Field(1, ge=0, le=256, description="how many")


class Metrics(Section):
    """What a worker tells Prometheus."""

    port: int | None = Field(None, ge=1, le=65535, description="of /metrics; `up` counts on from it; unset: none")
    host: str = Field("127.0.0.1", description="address that /metrics is served at")
    refresh_s: float = Field(
        5.0,
        ge=1,
        le=300,
        description="lag and ages are looked at this often; brokers are asked only of partitions not read meanwhile",
    )


class Log(Section):
    """What is written to stderr."""

    format: Literal["auto", "console", "json"] = Field("auto", description="auto: console on a terminal, else json")
    level: Literal["debug", "info", "warning", "error"] = Field("info", description="the least that is written")


class Settings(BaseSettings):
    """All settings of the service."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        toml_file=None,
    )

    kafka: Kafka = Kafka()
    store: Store = Store()
    images: Images = Images()
    detector: Detector = Detector()
    reconstructor: Reconstructor = Reconstructor()
    sam3d: Sam3d = Sam3d()
    aggregator: Aggregator = Aggregator()
    stage: Stage = Stage()
    local: Local = Local()
    up: Up = Up()
    metrics: Metrics = Metrics()
    log: Log = Log()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments, then variables, then the TOML file."""
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)


def load(file: Path | None = None, **sections: Any) -> Settings:
    """The effective settings. `file` defaults to ./stream-worker.toml, where there is one.

    Raises UserError, one line that names the setting, what is wrong with it, and where it may have come from.
    """
    chosen = file or (Path(DEFAULT_FILE) if Path(DEFAULT_FILE).is_file() else None)
    if chosen is not None and not chosen.is_file():
        raise UserError(f"settings file {chosen} does not exist")
    _refuse_unknown_variables()

    class FromFile(Settings):
        model_config = SettingsConfigDict(toml_file=chosen)

    try:
        return FromFile(**sections)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"]) or "settings"
        said = first["msg"].removeprefix("Value error, ")  # pydantic's, before what a validator of ours says
        raise UserError(f"setting {name}: {said} (from {chosen or 'the environment'} or its defaults)") from None
    except ValueError as error:
        raise UserError(f"settings can't be read: {str(error).splitlines()[0]}") from None


def _refuse_unknown_variables() -> None:
    """A misspelt variable would silently change nothing."""
    for name in os.environ:
        if not name.startswith(ENV_PREFIX):
            continue
        section, _, field = name.removeprefix(ENV_PREFIX).lower().partition("__")
        known = Settings.model_fields.get(section)
        fields = getattr(known.annotation, "model_fields", {}) if known else {}
        if not (field in fields or (known and not field)):
            raise UserError(f"variable {name} is no setting: see `stream-worker config` for their names")


_WORD = re.compile(r"(key|secret|password|token)(?!.*_(file|endpoint)$)", re.IGNORECASE)
"""In the name of a setting: its value is a secret. Where a secret's file lies, or who hands tokens out, is none."""


def shown(settings: Settings) -> dict[str, dict[str, Any]]:
    """The settings as plain values, secrets masked."""
    plain: dict[str, dict[str, Any]] = settings.model_dump(mode="json")
    return {
        section: {name: "****" if value and _WORD.search(name) else value for name, value in fields.items()}
        for section, fields in plain.items()
    }


def markdown() -> str:
    """All settings with their defaults, as the table of the README."""
    rows = ["| setting | default | what it is |", "|---|---|---|"]
    for name, section in Settings.model_fields.items():
        fields: dict[str, FieldInfo] = getattr(section.annotation, "model_fields", {})
        for field, info in fields.items():
            default = "" if info.default is None else f"`{json.dumps(info.default, default=str)}`"
            rows.append(f"| `{name}.{field}` | {default} | {info.description or ''} |")
    return "\n".join(rows) + "\n"


def environment(settings: Settings) -> dict[str, str]:
    """The variables that give a child process exactly these settings, secrets included."""
    plain = settings.model_dump(mode="json")
    for section, fields in settings:
        for name, value in fields:
            if isinstance(value, SecretStr):
                plain[section][name] = value.get_secret_value()
    return {ENV_PREFIX + name.upper(): json.dumps(fields) for name, fields in plain.items()}
