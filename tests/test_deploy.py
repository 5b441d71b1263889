"""deploy/: every file is checked by the program that will read it, where that is installed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import runpy
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from nanohydra.errors import UserError

DEPLOY = Path(__file__).parent.parent / "deploy"
ROOT = DEPLOY.parent


def needs(program: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(program) is None, reason=f"{program} is not installed")


def run(*command: str | Path, cwd: Path | None = None) -> str:
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, cwd=cwd, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def load(name: str) -> Any:
    return yaml.safe_load((DEPLOY / name).read_text(encoding="utf-8"))


# Monitoring


def exported() -> set[str]:
    """The names that the server exports, once one request of each kind was seen."""
    from nanohydra.serve.metrics import Metrics

    metrics = Metrics("base")
    request = metrics.begin("adapter")
    request.tokens(2)
    request.tokens(1)
    request.end(3, "stop")
    metrics.http.labels("GET", "/health", 200).inc()
    metrics.recalled.labels("quote").inc()
    stats = dict.fromkeys(("running", "waiting", "kv_usage", "preemptions", "prefix_hits", "prefix_queries"), 1)
    text = metrics.render(stats, True, 0).decode()
    return {sample.name for family in text_string_to_metric_families(text) for sample in family.samples}


def dashboard() -> Any:
    return json.loads((DEPLOY / "grafana" / "dashboard.json").read_text(encoding="utf-8"))


def expressions() -> dict[str, str]:
    """Every query of the dashboard, with Grafana's variables filled in, and of the alerts."""
    found = {}
    for panel in dashboard()["panels"]:
        for target in panel["targets"]:
            expression = target["expr"].replace("$__rate_interval", "5m")
            expression = expression.replace("$instance", ".*").replace("$adapter", ".*")
            assert "$" not in expression
            found[f"{panel['title']} {target['refId']}"] = expression
    for rule in load("prometheus/alerts.yml")["groups"][0]["rules"]:
        found[rule["alert"]] = rule["expr"]
    return found


def test_every_metric_asked_for_is_one_that_the_server_exports() -> None:
    names = {name for e in expressions().values() for name in re.findall(r"\b(?:vllm:|nanohydra_)\w+", e)}
    assert len(names) > 10
    assert names <= exported()


@needs("promtool")
def test_every_query_is_promql(tmp_path: Path) -> None:
    rules = [{"record": f"query:{n}", "expr": e} for n, e in enumerate(expressions().values())]
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "all", "rules": rules}]}))
    assert f"{len(rules)} rules found" in run("promtool", "check", "rules", tmp_path / "rules.yml")


@needs("promtool")
def test_prometheus_reads_its_configuration(tmp_path: Path) -> None:
    shutil.copytree(DEPLOY / "prometheus", tmp_path, dirs_exist_ok=True)
    (tmp_path / "token").write_text("nh_x")
    config = tmp_path / "prometheus.yml"
    text = config.read_text()
    assert "/run/secrets/nanohydra-token" in text
    config.write_text(text.replace("/run/secrets/nanohydra-token", str(tmp_path / "token")))
    assert "SUCCESS" in run("promtool", "check", "config", config)


@needs("promtool")
def test_alerts_fire_when_they_should() -> None:
    tests = (DEPLOY / "prometheus" / "alerts_test.yml").read_text(encoding="utf-8")
    for rule in load("prometheus/alerts.yml")["groups"][0]["rules"]:
        assert rule["alert"] in tests
        assert set(rule["annotations"]) == {"summary", "action"}
    assert "SUCCESS" in run("promtool", "test", "rules", "alerts_test.yml", cwd=DEPLOY / "prometheus")


def test_the_dashboard_is_whole() -> None:
    board = dashboard()
    variables = {v["name"] for v in board["templating"]["list"]}
    assert {"datasource", "instance", "adapter"} == variables
    panels = board["panels"]
    assert len({p["id"] for p in panels}) == len({p["title"] for p in panels}) == len(panels) > 10
    squares: set[tuple[int, int]] = set()
    for panel in panels:
        assert panel["targets"]
        assert panel["datasource"]["uid"] == "${datasource}"
        x, y, w, h = (panel["gridPos"][k] for k in "xywh")
        assert x + w <= 24
        own = {(i, j) for i in range(x, x + w) for j in range(y, y + h)}
        assert not own & squares, panel["title"]
        squares |= own


# nginx


NGINX = """
daemon off;
pid {folder}/nginx.pid;
error_log stderr;
{user}
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    include {folder}/nanohydra.conf;
}}
"""


def nginx_folder(folder: Path, ports: dict[str, int]) -> Path:
    """A folder with our configuration, with a certificate and ports of its own."""
    subject = ("-subj", "/CN=chat.example.org", "-days", "1", "-newkey", "rsa:2048", "-nodes")
    run("openssl", "req", "-x509", *subject, "-keyout", folder / "key.pem", "-out", folder / "cert.pem")
    text = (DEPLOY / "nginx.conf").read_text(encoding="utf-8")
    for old, new in {
        "/etc/letsencrypt/live/chat.example.org/fullchain.pem": f"{folder}/cert.pem",
        "/etc/letsencrypt/live/chat.example.org/privkey.pem": f"{folder}/key.pem",
        "listen 80;": f"listen 127.0.0.1:{ports['http']};",
        "listen 443 ssl http2;": f"listen 127.0.0.1:{ports['https']} ssl http2;",
        "server 127.0.0.1:8000;": f"server 127.0.0.1:{ports['server']};",
    }.items():
        assert old in text
        text = text.replace(old, new)
    text = re.sub(r"listen \[::\].*", "", text)  # a container may have no IPv6
    (folder / "nanohydra.conf").write_text(text)
    user = f"user {Path(folder).owner()};"
    (folder / "nginx.conf").write_text(NGINX.format(folder=folder, user=user))
    return folder


@needs("nginx")
@needs("openssl")
def test_nginx_reads_its_configuration(tmp_path: Path) -> None:
    nginx_folder(tmp_path, {"http": 8080, "https": 8443, "server": 8000})
    assert "test is successful" in run("nginx", "-t", "-p", tmp_path, "-c", tmp_path / "nginx.conf")


def free_ports(count: int) -> list[int]:
    import socket

    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for s in sockets:
            s.bind(("127.0.0.1", 0))
        return [s.getsockname()[1] for s in sockets]


@needs("nginx")
@needs("openssl")
def test_nginx_passes_tokens_on_as_they_come_and_opens_websockets(tmp_path: Path) -> None:
    asyncio.run(asyncio.wait_for(_through_nginx(tmp_path), 60))


async def _through_nginx(folder: Path) -> None:
    ports = dict(zip(("http", "https", "server"), free_ports(3)))
    nginx_folder(folder, ports)
    seen, requests = asyncio.Event(), []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = (await reader.readuntil(b"\r\n\r\n")).decode()
        requests.append(request)
        if "upgrade: websocket" in request.lower():
            writer.write(b"HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nhello")
        else:
            writer.write(
                b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nSet-Cookie: a=b\r\n\r\ndata: first\n\n"
            )
            await writer.drain()
            await seen.wait()  # the rest follows only when the first part has arrived: nothing may be kept back
            writer.write(b"data: [DONE]\n\n")
        await writer.drain()
        writer.close()

    async def ask(port: str, head: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        import ssl

        context = ssl.create_default_context(cafile=str(folder / "cert.pem")) if port == "https" else None
        name = "chat.example.org" if context else None
        reader, writer = await asyncio.open_connection("127.0.0.1", ports[port], ssl=context, server_hostname=name)
        writer.write(f"GET {head}\r\n\r\n".replace("\n", "\r\n").replace("\r\r", "\r").encode())
        return reader, writer

    backend = await asyncio.start_server(answer, "127.0.0.1", ports["server"])
    command = ("nginx", "-p", str(folder), "-c", str(folder / "nginx.conf"))
    nginx = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 20
        while True:
            try:
                reader, writer = await ask("http", "/ HTTP/1.1\nHost: chat.example.org")
                break
            except OSError:
                assert time.monotonic() < deadline
                await asyncio.sleep(0.05)
        assert b"Location: https://chat.example.org/" in await reader.readuntil(b"\r\n\r\n")
        writer.close()

        host = f"chat.example.org:{ports['https']}"
        reader, writer = await ask("https", f"/v1/x HTTP/1.1\nHost: {host}\nOrigin: https://{host}\nConnection: close")
        begin = await reader.readuntil(b"data: first\n\n")
        assert b"set-cookie: a=b; secure\r\n" in begin.lower()
        seen.set()
        assert b"[DONE]" in await reader.read()
        writer.close()
        assert f"Host: {host}\r\n" in requests[0]
        assert f"Origin: https://{host}\r\n" in requests[0]
        assert "X-Forwarded-For: 127.0.0.1\r\n" in requests[0]  # so the server knows that this is nobody local

        reader, writer = await ask("https", f"/ws HTTP/1.1\nHost: {host}\nUpgrade: websocket\nConnection: Upgrade")
        assert b"101" in await reader.readuntil(b"\r\n\r\n")
        assert await reader.readexactly(5) == b"hello"
        writer.close()

        reader, writer = await ask("https", f"/metrics HTTP/1.1\nHost: {host}\nConnection: close")
        assert b" 404 " in await reader.readline()
        writer.close()
        assert len(requests) == 2
    finally:
        nginx.terminate()
        await nginx.wait()
        backend.close()


# systemd, Docker, Kubernetes


def unit_command() -> list[str]:
    (line,) = re.findall(r"^ExecStart=(.*)$", (DEPLOY / "nanohydra.service").read_text(encoding="utf-8"), re.M)
    return line.split()


@needs("systemd-analyze")
def test_systemd_reads_the_unit_and_finds_it_hardened(tmp_path: Path) -> None:
    program = unit_command()[0]
    text = (DEPLOY / "nanohydra.service").read_text(encoding="utf-8").replace(program, shutil.which("true") or "")
    unit = tmp_path / "nanohydra.service"
    unit.write_text(text)
    assert run("systemd-analyze", "verify", unit) == ""
    run("systemd-analyze", "security", "--offline=true", "--threshold=20", unit)


@needs("hadolint")
def test_the_dockerfile_is_linted() -> None:
    run("hadolint", DEPLOY / "Dockerfile")


def dockerfile() -> list[tuple[str, str]]:
    text = (DEPLOY / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", "")
    lines = [line.split(None, 1) for line in text.splitlines() if line and not line.startswith("#")]
    return [(word, rest) for word, rest in lines]


def test_the_image_is_small_and_nobody_is_root_in_it() -> None:
    lines = dockerfile()
    words = [word for word, _ in lines]
    assert words.count("FROM") == 2  # what only building needs stays behind
    assert all(":latest" not in rest and ":" in rest for word, rest in lines if word == "FROM")
    assert "USER" in words[len(words) - words[::-1].index("FROM") :]
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    for word, rest in lines:
        if word == "COPY" and "--from" not in rest:
            for source in rest.split()[:-1]:
                assert (ROOT / source).exists()
                assert f"!{source}" in ignored
    extras = re.findall(r"\.\[([\w,]+)\]", " ".join(rest for _, rest in lines))[0].split(",")
    assert set(extras) <= set(project_extras())


def project_extras() -> dict[str, list[str]]:
    import tomllib

    with (ROOT / "pyproject.toml").open("rb") as f:
        extras: dict[str, list[str]] = tomllib.load(f)["project"]["optional-dependencies"]
    return extras


def test_compose_names_what_is_there() -> None:
    compose = load("compose.yaml")
    for service in compose["services"].values():
        for volume in service["volumes"]:
            source = volume.split(":")[0]
            assert (DEPLOY / source).exists() if source.startswith(".") else source in compose["volumes"]
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:")  # nothing is offered to the network unasked
    for name in ("prometheus", "grafana"):
        assert compose["services"][name]["profiles"] == ["monitoring"]
    build = compose["services"]["nanohydra"]["build"]
    assert (DEPLOY / build["context"] / build["dockerfile"]).resolve() == DEPLOY / "Dockerfile"
    (source,) = load("grafana/datasource.yaml")["datasources"]
    assert source["type"] == "prometheus"
    boards = load("grafana/dashboards.yaml")["providers"][0]["options"]["path"]
    assert any(f":{boards}/" in volume for volume in compose["services"]["grafana"]["volumes"])


def test_every_command_is_one_that_the_program_takes_and_asks_for_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    from nanohydra.cli import serve

    started = []
    monkeypatch.setattr("nanohydra.serve.run.serve", lambda config, say: started.append(config))
    for verb, *arguments in (
        unit_command()[1:],
        json.loads(next(rest for word, rest in dockerfile() if word == "CMD")),
        load("compose.yaml")["services"]["nanohydra"]["command"],
        ["serve", "--allowed_hosts", "[chat.example.org]"],
    ):
        assert verb == "serve"
        serve.main(arguments)
    assert [config.base for config in started] == ["smollm2"] * 3 + ["demo"]
    assert not any(config.open for config in started)
    assert started[0].allowed_hosts == started[3].allowed_hosts == ("chat.example.org",)


def test_kubernetes_objects_fit_together() -> None:
    text = (DEPLOY / "kubernetes.yaml").read_text(encoding="utf-8")
    claim, deployment, service = yaml.safe_load_all(text)
    assert [o["kind"] for o in (claim, deployment, service)] == ["PersistentVolumeClaim", "Deployment", "Service"]
    template = deployment["spec"]["template"]
    assert (
        service["spec"]["selector"] == deployment["spec"]["selector"]["matchLabels"] == template["metadata"]["labels"]
    )
    (container,) = template["spec"]["containers"]
    ports = {port["name"] for port in container["ports"]}
    assert {p["targetPort"] for p in service["spec"]["ports"]} <= ports
    assert {container[f"{kind}Probe"]["httpGet"]["port"] for kind in ("startup", "readiness", "liveness")} <= ports
    volumes = {v["name"]: v for v in template["spec"]["volumes"]}
    assert {m["name"] for m in container["volumeMounts"]} == set(volumes)
    assert volumes["models"]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    assert ":latest" not in text


def test_ray_serves_the_same_folders() -> None:
    (application,) = load("ray_serve.yaml")["applications"]
    module, _, name = application["import_path"].partition(":")
    assert (module, name) == ("ray.serve.llm", "build_openai_app")
    (config,) = application["args"]["llm_configs"]
    assert {"model_loading_config", "lora_config", "engine_kwargs", "deployment_config"} == set(config)
    assert (
        config["engine_kwargs"]["max_loras"] == config["lora_config"]["max_num_adapters_per_replica"]
    )  # Ray demands it


# vLLM


@pytest.fixture
def vllm() -> Any:
    return runpy.run_path(str(DEPLOY / "vllm.py"))


def folders(tmp_path: Path, family: str = "llama", sidecar: Any = None, **adapter: Any) -> tuple[Path, Path]:
    base, folder = tmp_path / "base", tmp_path / "birds"
    for path in (base, folder):
        path.mkdir()
    (base / "config.json").write_text(json.dumps({"model_type": family}))
    (base / "model.safetensors").write_bytes(b"weights")
    config = {"peft_type": "LORA", "r": 12, "use_dora": False, "rank_pattern": {}, "alpha_pattern": {}, **adapter}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    if sidecar is not None:
        (folder / "nanohydra.json").write_text(json.dumps(sidecar))
    return base, folder


def test_the_command_for_vllm(tmp_path: Path, vllm: Any) -> None:
    base, birds = folders(tmp_path)
    words = " ".join(vllm["command"](base, {"birds": birds}))
    assert words == (
        f"vllm serve {base} --served-model-name base --enable-lora --max-loras 1 --max-lora-rank 16"
        f" --lora-modules birds={birds}"
    )
    assert vllm["command"](base, {})[-2:] == ["--served-model-name", "base"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"family": "nanohydra"}, "own"),
        ({"family": "gpt2"}, "gpt2"),
        ({"peft_type": "LOHA"}, "not LoRA"),
        ({"use_dora": True}, "DoRA"),
        ({"rank_pattern": {"q_proj": 4}}, "differ"),
        ({"r": 1000}, "512"),
        ({"sidecar": {"over": ["x"]}}, "over other"),
        ({"sidecar": {"base": "0" * 64}}, "another base"),
    ],
)
def test_what_vllm_cannot_serve_is_said(tmp_path: Path, vllm: Any, change: dict[str, Any], says: str) -> None:
    base, birds = folders(tmp_path, **change)
    with pytest.raises(UserError, match=says) as error:
        vllm["command"](base, {"birds": birds})
    assert "\n" not in str(error.value)


# docs/deploy.md


DOCS = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")


def test_the_page_names_what_is_there() -> None:
    files = set(re.findall(r"\bdeploy/[\w./]+\w", DOCS))
    assert {f.name for f in DEPLOY.iterdir() if f.suffix != ".dockerignore" and f.is_file()} <= {
        Path(f).name for f in files
    }
    assert [f for f in files if not (ROOT / f).exists()] == []
    anchors = {re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in re.findall(r"^## (.*)$", DOCS, re.M)}
    assert set(re.findall(r"\]\(#([\w-]+)\)", DOCS)) <= anchors
    metrics = set(re.findall(r"`((?:vllm:|nanohydra_)\w+)`", DOCS))
    assert metrics <= {re.sub(r"_bucket$", "", name) for name in exported()}


def test_the_backup_and_the_restore_of_the_page(tmp_path: Path) -> None:
    from nanohydra.store import Store

    store = Store.open(f"sqlite:///{tmp_path / 'nanohydra.db'}")
    user = store.local_user().user_id
    conversation = store.create_conversation(user, "kept").id
    first = store.add_message(conversation, user, None, "user", "x").id
    (backup,) = re.findall(r"^python3 -c .*backup.*$", DOCS, re.M)
    run("sh", "-c", backup, cwd=tmp_path)
    store.add_message(conversation, user, first, "user", "lost")
    store.close()
    (restore,) = re.findall(r"^rm -f .*\ncp .*$", DOCS, re.M)
    run("sh", "-c", restore, cwd=tmp_path)
    store = Store.open(f"sqlite:///{tmp_path / 'nanohydra.db'}")
    assert [m.id for m in store.path(conversation, user)] == [first]
    store.close()
