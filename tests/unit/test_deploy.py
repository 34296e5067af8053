"""The recipes in examples/deploy: Kubernetes' own schemas, and what they say of our server."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement

from foundryrt.errors import DISTRIBUTION
from foundryrt.options import parse
from parse_runtime.serve import Serving

DEPLOY = Path(__file__).parents[2] / "examples" / "deploy"
MANIFESTS: dict[str, Any] = {
    one["kind"]: one for one in yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text())
}
POD = MANIFESTS["Deployment"]["spec"]["template"]
CONTAINER = POD["spec"]["containers"][0]


@pytest.mark.parametrize("kind", MANIFESTS)
def test_manifests_fit_the_schemas(kind: str) -> None:
    """Of the newest and of a version of two years ago; unknown fields are refused."""
    validate = pytest.importorskip(
        "kubernetes_validate", reason="pip install kubernetes-validate"
    ).validate
    for version in ("1.30", "1.34"):
        validate(MANIFESTS[kind], version, strict=True)


def test_the_pod_runs_the_server_as_it_is() -> None:
    bundle, *options = CONTAINER["args"]
    assert bundle.endswith(".fdy")
    at = options.index("--weights")
    serving = parse(Serving, [*options[:at], *options[at + 2 :]])
    port = CONTAINER["ports"][0]
    assert serving.port == port["containerPort"]
    probes = [CONTAINER[f"{kind}Probe"]["httpGet"] for kind in ("startup", "readiness", "liveness")]
    assert all(probe == {"path": "/health", "port": port["name"]} for probe in probes)
    stop = CONTAINER["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert POD["spec"]["terminationGracePeriodSeconds"] >= stop + serving.grace + 5
    assert MANIFESTS["Service"]["spec"]["ports"][0]["targetPort"] == port["name"]


def test_parts_name_one_another() -> None:
    labels = POD["metadata"]["labels"]
    assert MANIFESTS["Deployment"]["spec"]["selector"]["matchLabels"] == labels
    assert MANIFESTS["Service"]["spec"]["selector"] == labels
    assert MANIFESTS["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels
    scaler = MANIFESTS["HorizontalPodAutoscaler"]["spec"]
    assert scaler["scaleTargetRef"]["name"] == MANIFESTS["Deployment"]["metadata"]["name"]
    volumes = {volume["name"] for volume in POD["spec"]["volumes"]}
    assert volumes == {mount["name"] for mount in CONTAINER["volumeMounts"]}


def test_the_scaler_reads_a_metric_of_the_server() -> None:
    pytest.importorskip("prometheus_client", reason="pip install 'foundry-graphs[serve]'")
    from parse_runtime.serve.metrics import Metrics

    engine: Any = SimpleNamespace(load=(3, 5), failed=0, usage={})
    page = Metrics(engine).page().decode()
    (metric,) = MANIFESTS["HorizontalPodAutoscaler"]["spec"]["metrics"]
    assert f"\n{metric['pods']['metric']['name']} 5.0\n" in page
    assert POD["metadata"]["annotations"]["prometheus.io/path"] == "/metrics"


def needed(name: str, extras: frozenset[str], known: set[str]) -> Iterator[str]:
    """The distributions that one needs with these extras, and what those need."""
    if name in known:
        return
    known.add(name)
    yield name
    for line in metadata.requires(name) or ():
        requirement = Requirement(line)
        wanted = (*extras, "")
        if requirement.marker and not any(
            requirement.marker.evaluate({"extra": extra}) for extra in wanted
        ):
            continue
        yield from needed(requirement.name, frozenset(requirement.extras), known)


def test_the_image_has_neither_torch_nor_a_toolkit() -> None:
    recipe = (DEPLOY / "Dockerfile").read_text()
    (extras,) = re.findall(r'install "\$wheel\[([\w,]+)\]"', recipe)
    names = set(needed(DISTRIBUTION, frozenset(extras.split(",")), set()))
    assert {"uvicorn", "tokenizers", "numpy"} <= names
    assert not [n for n in names if re.match(r"torch|triton|nvidia-(?!ml-py)|cuda", n)], names
    sources = (Path(__file__).parents[2] / "benchmarks" / "serving" / "size.py").read_text()
    assert f'EXTRAS = "{extras}"' in sources, "another size is measured than the image has"


@pytest.mark.parametrize(
    ("path", "root", "asked"),
    [
        ("/v1/models", "", "/v1/models?a=%2F"),
        ("/p/v1/models", "/p", "/v1/models?a=%2F"),
        ("/v1/models/x%2Fy", "", "/v1/models/x%2Fy?a=%2F"),
        ("//127.0.0.1:1/health", "", "/127.0.0.1:1/health?a=%2F"),
    ],
)
def test_a_relay_asks_its_own_server_alone(path: str, root: str, asked: str) -> None:
    """Whatever a client's path looks like: one that begins with // would name a host."""
    pytest.importorskip("aiohttp")
    pytest.importorskip("starlette")
    from examples.deploy.ray_relay import Relay

    relay = Relay(SimpleNamespace(address="http://127.0.0.1:8000"))
    scope = {"raw_path": path.encode(), "root_path": root, "query_string": b"a=%2F"}
    assert str(relay._target(scope)) == f"http://127.0.0.1:8000{asked}"


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf"])
def test_a_relay_gives_up_an_answer_whose_client_leaves(said: bytes) -> None:
    """Before the answer's head, and in the midst of the answer: the server sees the end of both."""
    pytest.importorskip("aiohttp")
    pytest.importorskip("starlette")
    from examples.deploy.ray_relay import Relay

    async def talk() -> tuple[bytes, list[Any]]:
        asked, gone = asyncio.Event(), asyncio.Event()
        came: list[Any] = []

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"question")
            writer.write(said)
            asked.set()
            rest.append(await reader.read())  # until the relay closes the connection
            gone.set()
            writer.close()

        rest: list[bytes] = []
        requests = [{"type": "http.request", "body": b"question"}]

        async def receive() -> Any:
            if requests:
                return requests.pop()
            await asked.wait()
            while said and len(came) < 2:
                await asyncio.sleep(0.01)
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            came.append(message)

        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            relay = Relay(SimpleNamespace(address=f"http://127.0.0.1:{port}", end=lambda: None))
            scope = {
                "type": "http", "method": "POST", "path": "/v1/completions", "query_string": b"",
                "headers": [],
            }  # fmt: skip
            async with relay._lifespan(None):
                await asyncio.wait_for(relay(scope, receive, send), 20)
                await asyncio.wait_for(gone.wait(), 20)
        return rest[0], came

    rest, came = asyncio.run(talk())
    assert rest == b""
    assert [message.get("body", message.get("status")) for message in came] == (
        [200, b"half"] if said else []
    )
