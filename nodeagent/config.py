# SPDX-License-Identifier: Apache-2.0
"""One immutable Config for the agent, made once from flags, environment and file; nobody reads the environment later.

A setting is looked up as flag, then environment variable, then file, then default. Environment names are ztunnel's
where it has one, so that a ztunnel DaemonSet's environment works unchanged. Every field says its unit and the reason
for its default.
"""

import dataclasses
import ipaddress
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_type_hints
from urllib.parse import urlsplit

from nodeagent.errors import ConfigError
from nodeagent.model.address import split_host_port
from nodeagent.model.exclusion import Exclusion, parse_exclusions
from nodeagent.model.mark import Marks, find_fault


def setting(default: Any, env: str, help: str) -> Any:  # noqa: A002 - click's and argparse's word for it
    """A field that can be set by flag (`--field-name`), by the environment variable `env`, and by the file."""
    return dataclasses.field(default=default, metadata={"env": env, "help": help})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    # -- who we are ----------------------------------------------------------------------------------------------
    node: str = setting("", "NODE_NAME", "Name of this node, as pods carry it in spec.nodeName. Required.")
    cluster: str = setting("Kubernetes", "CLUSTER_ID", "Cluster id, sent as `clusterid` to xDS and CA.")
    network: str = setting("", "NETWORK", "Network of this node's pods in a multi-network mesh.")
    trust_domain: str = setting("cluster.local", "TRUST_DOMAIN", "Trust domain of the mesh.")
    pod_name: str = setting("", "POD_NAME", "Name of the agent's own pod; istiod checks it against the token.")
    pod_namespace: str = setting("istio-system", "POD_NAMESPACE", "Namespace of the agent's own pod.")
    service_account: str = setting("ztunnel", "SERVICE_ACCOUNT", "Service account of the agent's own pod.")
    instance_ip: str = setting("", "INSTANCE_IP", "IP of the agent's own pod (default: 1.1.1.1, as ztunnel does).")
    # -- control plane -------------------------------------------------------------------------------------------
    xds_address: str = setting(
        "https://istiod.istio-system.svc:15012", "XDS_ADDRESS", "xDS server, https://host:port or http://host:port."
    )
    ca_address: str = setting("", "CA_ADDRESS", "CA server (default: the xDS server).")
    server_name: str = setting(
        "", "ALT_XDS_HOSTNAME", "Name that the control plane's certificate must carry, if not the address's host."
    )
    root_certificate: str = setting(
        "/var/run/secrets/istio/root-cert.pem", "XDS_ROOT_CA", "PEM file of the roots that verify xDS and CA; re-read."
    )
    token: str = setting(
        "/var/run/secrets/tokens/istio-token", "AUTH_TOKEN", "File with the bearer token; re-read for every use."
    )
    crl: str = setting(
        "",
        "CRL_PATH",
        "File with lists of revoked certificates (CRL; PEM or DER), for peers in both roles; re-read (default: those "
        "alone that the control plane names).",
    )
    resolv_conf: str = setting(
        "/etc/resolv.conf",
        "NODEAGENT_RESOLV_CONF",
        "Servers, search domains and options for endpoints that are known by a DNS name alone; re-read for every use.",
    )
    certificate_seconds: int = setting(86400, "SECRET_TTL", "Lifetime asked for workload certificates, seconds or 24h.")
    # -- pods of this node ---------------------------------------------------------------------------------------
    pods_file: str = setting("", "NODEAGENT_PODS", "YAML file of local pods: namespace, name, netns; re-read.")
    kubernetes: str = setting(
        "off",
        "NODEAGENT_KUBERNETES",
        "Where this node's pods are known from: `on` (the Kubernetes API, by the label istio.io/dataplane-mode; "
        "captured ones are annotated) or `off` (--pods-file).",
    )
    kubernetes_host: str = setting("", "KUBERNETES_SERVICE_HOST", "Host of the Kubernetes API; every pod is told it.")
    kubernetes_port: int = setting(443, "KUBERNETES_SERVICE_PORT", "Port of the Kubernetes API.")
    kubernetes_ca: str = setting(
        "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt",
        "NODEAGENT_KUBERNETES_CA",
        "PEM file of the roots that verify the Kubernetes API; re-read.",
    )
    kubernetes_token: str = setting(
        "/var/run/secrets/kubernetes.io/serviceaccount/token",
        "NODEAGENT_KUBERNETES_TOKEN",
        "File with the bearer token for the Kubernetes API; re-read for every request.",
    )
    exclude_namespaces: str = setting(
        "kube-system",
        "NODEAGENT_EXCLUDE_NAMESPACES",
        "Kubernetes namespaces whose pods are never captured, with commas.",
    )
    netns_dir: str = setting(
        "/run/netns", "NODEAGENT_NETNS_DIR", "Where the container runtime mounts the pods' network namespaces."
    )
    adoption_seconds: int = setting(
        10, "NODEAGENT_ADOPTION", "How long connections that were open before enrolment are taken over, seconds."
    )
    attach: str = setting(
        "auto", "NODEAGENT_ATTACH", "How programs are attached: tcx, clsact, or auto (TCX where the kernel has it)."
    )
    same_node: str = setting(
        "kernel",
        "NODEAGENT_SAME_NODE",
        "Connections between pods of this node: `kernel` (allowed ones stay in it) or `tunnel` (mutual TLS for all).",
    )
    service_connect: str = setting(
        "off",
        "NODEAGENT_SERVICE_CONNECT",
        "Services with a pod on this node: `on` (their endpoint is drawn in connect(2), and same_node applies to it) "
        "or `off` (the proxy draws).",
    )
    exclude: str = setting(
        "",
        "NODEAGENT_EXCLUDE",
        "Destinations left alone, in plain text, but for pods of this node: blocks, block:port, *:port, with commas.",
    )
    mark: int = setting(0x1000, "NODEAGENT_MARK", "Our packet mark (0x1000): bits of the mask, above its three lowest.")
    mark_mask: int = setting(
        0x100F,
        "NODEAGENT_MARK_MASK",
        "The bits of packet marks that are ours (0x100f): three in a row at the low end, and the mark's.",
    )
    # -- workers -------------------------------------------------------------------------------------------------
    workers: int = setting(0, "NODEAGENT_WORKERS", "Tunnel workers (0: one per two cores, at least one; at most 4).")
    worker_uid: int = setting(15008, "NODEAGENT_WORKER_UID", "User id of the workers; nothing else should run as it.")
    drain_seconds: float = setting(
        5.0, "CONNECTION_TERMINATION_DEADLINE", "How long a stopping worker waits for its connections."
    )
    policy_wait_seconds: float = setting(
        2.0, "NODEAGENT_POLICY_WAIT", "How long a connection waits for a policy or certificate before it is denied."
    )
    pool_idle_seconds: float = setting(300.0, "POOL_UNUSED_RELEASE_TIMEOUT", "Idle tunnels are closed after this.")
    pool_streams: int = setting(100, "POOL_MAX_STREAMS_PER_CONNECTION", "Streams on one tunnel before another opens.")
    connect_seconds: float = setting(10.0, "NODEAGENT_CONNECT_TIMEOUT", "Deadline of a TCP connect.")
    handshake_seconds: float = setting(10.0, "NODEAGENT_HANDSHAKE_TIMEOUT", "Deadline of a TLS handshake.")
    kernel_tls: str = setting(
        "off",
        "NODEAGENT_KERNEL_TLS",
        "Records of tunnels: `off` (the workers make them) or `auto` (the kernel does, where it passes a trial at the "
        "agent's start, and the keys of a tunnel never change or Linux 6.14 can change them).",
    )
    compiled: str = setting(
        "auto",
        "NODEAGENT_COMPILED",
        "What carries payload in the workers: `auto` (compiled code, where a C compiler was there to build it) or "
        "`off` (the same in Python, slower).",
    )
    spin_microseconds: int = setting(
        0,
        "NODEAGENT_SPIN",
        "How long a worker that has little to do looks for an answer before it sleeps, as long as that pays; 0: never.",
    )
    max_connections: int = setting(
        50000, "NODEAGENT_MAX_CONNECTIONS", "Connections of one worker; beyond it new ones are reset and counted."
    )
    max_held_mib: int = setting(
        512,
        "NODEAGENT_MAX_HELD",
        "MiB that one worker holds for applications that do not read; beyond it, tunnels that add to it are cut.",
    )
    # -- this machine --------------------------------------------------------------------------------------------
    run_dir: str = setting("/run/nodeagent", "NODEAGENT_RUN_DIR", "Sockets, proxy namespace and last good state.")
    bpffs: str = setting("/sys/fs/bpf", "NODEAGENT_BPFFS", "Where bpffs is mounted; pins go into nodeagent/ there.")
    cgroup: str = setting(
        "",
        "NODEAGENT_CGROUP",
        "Cgroup of the pods, below the mount of cgroup v2; where connections that stay in the kernel are seen "
        "(default: the kubelet's).",
    )
    stats_address: str = setting("[::]:15020", "NODEAGENT_STATS", "Address of /metrics; empty: none.")
    ready_address: str = setting("[::]:15021", "NODEAGENT_READY", "Address of /healthz/ready; empty: none.")
    admin_address: str = setting(
        "127.0.0.1:15000",
        "NODEAGENT_ADMIN",
        "Address of /config_dump and /logging, where istioctl and Kiali ask a ztunnel; loopback only; empty: none.",
    )
    page: str = setting(
        "",
        "NODEAGENT_PAGE",
        "Address of a read-only web page about this node: 127.0.0.1:PORT, [::1]:PORT or the path of a Unix socket; "
        "empty: none. Whoever may connect there sees who connects to whom.",
    )
    # -- seeing it -----------------------------------------------------------------------------------------------
    log_format: str = setting("text", "LOG_FORMAT", "Log lines as `text` or `json`.")
    log_level: str = setting("info", "NODEAGENT_LOG", "debug, info, warning or error.")
    trace_endpoint: str = setting(
        "",
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
        "Collector of spans of connections, by OTLP over HTTP, such as http://collector:4318/v1/traces; empty: none. "
        "Needs the extra `otel`.",
    )
    trace_sampling: float = setting(
        0.01, "NODEAGENT_TRACE_SAMPLING", "Share of connections that are traced, 0 to 1, besides what a peer samples."
    )
    access_log: str = setting("-", "NODEAGENT_ACCESS_LOG", "File of the access log; `-`: standard output; empty: none.")

    @property
    def exclusions(self) -> frozenset[Exclusion]:
        return parse_exclusions(self.exclude)

    @property
    def excluded_namespaces(self) -> frozenset[str]:
        return frozenset(name for name in map(str.strip, self.exclude_namespaces.split(",")) if name)

    @property
    def marks(self) -> Marks:
        return Marks(self.mark, self.mark_mask)

    @property
    def draws_services(self) -> bool:
        """In connect(2). Not if all pods of this node shall reach each other by tunnel: there is nothing to save."""
        return self.service_connect == "on" and self.same_node == "kernel"

    @property
    def traced_share(self) -> float:
        """For the workers: 0 when nobody collects. A traceparent is sent for the smallest share, too."""
        return max(self.trace_sampling, 1e-9) if self.trace_endpoint else 0.0

    @property
    def admin_socket(self) -> str:
        return str(Path(self.run_dir) / "admin.sock")

    @property
    def state_file(self) -> str:
        return str(Path(self.run_dir) / "state")


def make_config(
    flags: Mapping[str, object], environment: Mapping[str, str], file_values: Mapping[str, object]
) -> Config:
    """Pure. `flags` and `file_values` are keyed by field name; flags that were not given are None.

    Raises ConfigError naming the source (flag, variable or file) of the first value that cannot be.
    """
    unknown = sorted(set(file_values) - {field.name for field in dataclasses.fields(Config)}, key=str)
    if unknown:
        raise ConfigError(
            f"configuration file: unknown setting {unknown[0]!r}", check="Settings: nodeagent agent --help."
        )
    types = get_type_hints(Config)
    values: dict[str, Any] = {}
    for field in dataclasses.fields(Config):
        env = field.metadata["env"]
        for origin, raw in (
            (_flag(field.name), flags.get(field.name)),
            (env, environment.get(env)),
            (f"configuration file: {field.name}", file_values.get(field.name)),
        ):
            if raw is not None:
                values[field.name] = _parse(origin, raw, types[field.name])
                break
    return _validated(Config(**values))


_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def _parse(origin: str, raw: object, kind: type) -> object:
    if kind is str:
        if isinstance(raw, str):
            return raw
        raise ConfigError(f"{origin}: {raw!r}: a text is expected")
    number: float | None = _hexadecimal(raw) if kind is int else None
    if number is None:
        number = _number(raw)
    if number is None:
        raise ConfigError(f"{origin}: {raw!r} is neither a number nor a duration such as 500ms, 30s, 5m, 24h")
    if kind is int and number != int(number):
        raise ConfigError(f"{origin}: {raw!r}: a whole number is expected")
    return kind(number)


def _hexadecimal(raw: object) -> int | None:
    """A mark, as `ip rule` and iptables write it."""
    return int(raw, 16) if isinstance(raw, str) and re.fullmatch(r"0x[0-9a-fA-F]{1,8}", raw.strip()) else None


def _number(raw: object) -> float | None:
    """A finite number of anything, or a duration in seconds; None when it is neither."""
    text, scale = str(raw).strip(), 1.0
    if isinstance(raw, str):
        for unit in ("ms", "s", "m", "h", "d"):
            if text.endswith(unit):
                text, scale = text.removesuffix(unit), _UNITS[unit]
                break
    elif isinstance(raw, bool) or not isinstance(raw, int | float):
        return None
    try:
        number = float(text) * scale
    except ValueError:
        return None
    return number if math.isfinite(number) else None


_CHOICES = {
    "attach": ("auto", "tcx", "clsact"),
    "compiled": ("auto", "off"),
    "kernel_tls": ("off", "auto"),
    "kubernetes": ("off", "on"),
    "log_format": ("text", "json"),
    "log_level": ("debug", "info", "warning", "error"),
    "same_node": ("kernel", "tunnel"),
    "service_connect": ("off", "on"),
}
_POSITIVE = (
    "certificate_seconds",
    "drain_seconds",
    "connect_seconds",
    "handshake_seconds",
    "pool_streams",
    "max_connections",
    "max_held_mib",
)
_LONGEST_SPIN = 1000
"""Microseconds: timers wait for its end."""
_NOT_NEGATIVE = ("adoption_seconds", "policy_wait_seconds", "pool_idle_seconds", "spin_microseconds")


def _validated(config: Config) -> Config:
    """Raises ConfigError for values that have the right type and cannot work."""
    if not config.node:
        raise ConfigError("the node's name is not set", check="Give --node or set NODE_NAME.")
    if not 0 <= config.workers <= 4:
        raise ConfigError(f"--workers: {config.workers} is not 0 to 4", check="The kernel programs have four slots.")
    if config.worker_uid <= 0:
        raise ConfigError("--worker-uid: a worker never runs as root", check="Choose an id that nothing else uses.")
    for name, choices in _CHOICES.items():
        if getattr(config, name) not in choices:
            raise ConfigError(f"{_flag(name)}: {getattr(config, name)!r} is not {' or '.join(choices)}")
    _validate_numbers(config)
    _validate_addresses(config)
    _validate_tracing(config)
    _validate_marks(config)
    _validate_exclusions(config)
    _validate_kubernetes(config)
    cgroup = Path(config.cgroup).parts
    if config.cgroup and (".." in cgroup or not set(cgroup) - {"/"}):
        raise ConfigError(
            f"--cgroup: {config.cgroup!r} is not a cgroup below the root",
            check="On the root every connection of the machine would be looked at: name the pods' own, as kubepods.",
        )
    if not Path(config.run_dir).is_absolute() or not Path(config.bpffs).is_absolute():
        raise ConfigError("--run-dir and --bpffs: absolute paths are expected")
    return config


def _validate_numbers(config: Config) -> None:
    for name in (*_POSITIVE, *_NOT_NEGATIVE):
        if getattr(config, name) < 0 or (name in _POSITIVE and not getattr(config, name)):
            raise ConfigError(f"{_flag(name)}: must be {'more than 0' if name in _POSITIVE else '0 or more'}")
    if config.spin_microseconds > _LONGEST_SPIN:
        raise ConfigError(f"--spin-microseconds: {config.spin_microseconds} is more than {_LONGEST_SPIN}")


def check_page_address(address: str) -> None:
    """`ip:port` of loopback, or the absolute path of a Unix socket. Raises ConfigError for anything else."""
    if Path(address).is_absolute():
        return
    check = "Expected: 127.0.0.1:PORT, [::1]:PORT or the absolute path of a Unix socket."
    try:
        ip = ipaddress.ip_address(split_host_port(address)[0])
    except ValueError as error:
        raise ConfigError(f"--page: {error}", check=check) from error
    if not ip.is_loopback:
        words = f"--page: {address} is not loopback, and whoever reaches the page sees who connects to whom"
        raise ConfigError(words, check=check)


def _validate_exclusions(config: Config) -> None:
    try:
        parse_exclusions(config.exclude)
    except ValueError as error:
        raise ConfigError(f"--exclude: {error}", check="Such as: 10.0.0.0/8, 192.0.2.0/24:443, *:2049.") from error


def _validate_kubernetes(config: Config) -> None:
    if config.kubernetes == "off":
        return
    if config.pods_file:
        raise ConfigError(
            "--kubernetes and --pods-file: two sources of this node's pods", check="Leave out one of them."
        )
    if not config.kubernetes_host or not 1 <= config.kubernetes_port <= 65535:
        raise ConfigError(
            "--kubernetes: the API server's address is not known",
            check="In a pod it is in KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT; elsewhere give "
            "--kubernetes-host and --kubernetes-port.",
        )
    if not Path(config.netns_dir).is_absolute():
        raise ConfigError("--netns-dir: an absolute path is expected")


def _validate_marks(config: Config) -> None:
    fault = find_fault(config.marks)
    if fault:
        raise ConfigError(
            f"--mark and --mark-mask: {fault}", check="The defaults, 0x1000 and 0x100f, meet nobody known."
        )


def _validate_tracing(config: Config) -> None:
    if not 0 <= config.trace_sampling <= 1:
        raise ConfigError(f"--trace-sampling: {config.trace_sampling} is not 0 to 1")
    if config.trace_endpoint and not _is_web_address(config.trace_endpoint):
        raise ConfigError(
            f"--trace-endpoint: {config.trace_endpoint!r} is no URL of a collector",
            check="Expected: http://host:4318/v1/traces or https://..., or nothing.",
        )


def _is_web_address(text: str) -> bool:
    try:
        parts = urlsplit(text)
    except ValueError:
        return False
    return parts.scheme in {"http", "https"} and bool(parts.netloc)


def _validate_addresses(config: Config) -> None:
    """The control plane's addresses are parsed by who dials them."""
    if config.instance_ip:
        try:
            ipaddress.ip_address(config.instance_ip)
        except ValueError as error:
            raise ConfigError(f"--instance-ip: {error}") from error
    for name in ("stats_address", "ready_address", "admin_address"):
        try:
            if getattr(config, name):
                split_host_port(getattr(config, name))
        except ValueError as error:
            raise ConfigError(f"{_flag(name)}: {error}", check="Expected: address:port, or nothing.") from error
    if config.page:
        check_page_address(config.page)
    if config.admin_address and not _is_loopback(split_host_port(config.admin_address)[0]):
        raise ConfigError(
            f"--admin-address: {config.admin_address!r} is not on loopback",
            check="Whoever reaches it may change what is logged: 127.0.0.1:15000, or nothing.",
        )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
