"""The Helm chart, rendered by Helm's own library and checked against Kubernetes' schemas; a cluster is not needed."""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from hytrec_clients.cli import app as client_app
from hytrec_export.cli.app import app
from hytrec_export.server.container import EXIT_TIMEOUT_S, HTTP_SOCKET, access_of
from hytrec_export.serving.request_metrics import FAMILIES
from hytrec_export.state.options import StoreOptions
from hytrec_export.state.redis_address import RedisAddress
from hytrec_export.state.url import StoreUrl

helm: Any = importlib.import_module("helm_python")
kubernetes: Any = importlib.import_module("kubernetes_validate")
yaml: Any = importlib.import_module("yaml")

DEPLOY = Path(__file__).parents[1] / "deploy"
CHART = DEPLOY / "helm" / "hytrec"
VERSIONS = ("1.29", "1.37")
USER = 10001
GIVEN = {
    "repository": {"image": "registry.example/shop:7"},
    "state": {"url": "redis+cluster://a:6379,b:6379", "passwordSecret": "redis"},
    "tls": {"secret": "hytrec-tls"},
    "token": {"secret": "hytrec-token"},
}
PLAIN = {
    "repository": {"existingClaim": "models", "subPath": "shop"},
    "state": {"url": "redis://r:6379/0"},
    "insecure": True,
}
GPU = yaml.safe_load((CHART / "values-gpu.yaml").read_text())
CASES: dict[str, dict[str, Any]] = {
    "cpu": GIVEN,
    "gpu": GIVEN | GPU,
    "plain": PLAIN,
    "gpu-plain": PLAIN | GPU,
    "mutual": GIVEN | {"tls": {"secret": "t", "clientCa": True, "serverName": "reco.example"}},
    "gpu-mutual": GIVEN | GPU | {"tls": {"secret": "t", "clientCa": True}},
    "all": GIVEN
    | {
        "kind": "StatefulSet",
        "state": {"url": "rediss://r:6379/0?ca=/redis-tls/ca.crt", "tlsSecret": "redis-ca"},
        "autoscaling": {"enabled": True, "requestsPerSecond": 50},
        "options": {
            "eligible": ["a=/lists/a", "b=/lists/b"],
            "snapshot-every": 64,
            "durability": "power",
            "log": True,
            "restart-delay": 0.5,
        },
        "env": {"MALLOC_ARENA_MAX": 2},
        "image": {"pullSecrets": ["registry"]},
        "nodeSelector": {"pool": "cpu"},
        "tolerations": [{"key": "reco", "operator": "Exists"}],
        "affinity": {"nodeAffinity": {}},
        "service": {"type": "LoadBalancer", "annotations": {"a": "b"}},
        "podAnnotations": {"c": "d"},
        "networkPolicy": {
            "clients": [{"podSelector": {"matchLabels": {"app": "shop"}}}],
            "store": [{"ipBlock": {"cidr": "10.0.0.0/8"}}],
        },
    },
}


@pytest.fixture(scope="module")
def chart() -> Iterator[Any]:
    with helm.Chart.load(CHART) as loaded:
        yield loaded


@pytest.fixture(params=CASES, scope="module")
def case(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def objects(chart: Any, case: str) -> dict[str, dict[str, Any]]:
    """What the chart makes, by kind and name without the release's."""
    texts = chart.render(CASES[case], name="shop", namespace="reco")
    found = [one for name, text in texts.items() if name.endswith(".yaml") for one in yaml.safe_load_all(text) if one]
    return {f"{one['kind']}{one['metadata']['name'].removeprefix('shop')}": one for one in found}


def pods(objects: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {name: one["spec"]["template"] for name, one in objects.items() if "template" in one["spec"]}


def server(objects: dict[str, dict[str, Any]]) -> dict[str, Any]:
    (container,) = next(pod for name, pod in pods(objects).items() if not name.startswith("Job"))["spec"]["containers"]
    return dict(container)


def params(command: list[str]) -> dict[str, Any]:
    """What one of our programs makes of a command line; it fails where an option or a value is unknown."""
    program, *words = command
    found = get_command({"hytrec-export": app, "hytrec-client": client_app}[program])
    while hasattr(found, "commands"):
        name, *words = words
        found = found.commands[name]
    return dict(found.make_context(program, list(words)).params)


def test_every_object_is_one_of_kubernetes(objects: dict[str, dict[str, Any]], case: str) -> None:
    assert {"PodDisruptionBudget", "NetworkPolicy", "Service", "Service-headless"} < set(objects)
    assert ("HorizontalPodAutoscaler" in objects) == (case == "all")
    assert ("Job-rebuild" in objects) == ("gpu" not in case)
    for one in objects.values():
        for version in VERSIONS if case == "all" else VERSIONS[-1:]:
            kubernetes.validate(one, version, strict=True)


def test_the_schema_check_refuses_what_kubernetes_would(chart: Any) -> None:
    texts = chart.render(GIVEN, name="shop")
    one = yaml.safe_load(texts["hytrec/templates/server.yaml"])
    one["spec"]["template"]["spec"]["containers"][0]["livenesProbe"] = {}
    with pytest.raises(kubernetes.ValidationError):
        kubernetes.validate(one, VERSIONS[-1], strict=True)


def test_lint_finds_nothing(case: str) -> None:
    report = helm.lint(CHART, CASES[case], strict=True)
    assert report["errors"] == []
    assert [one for one in report["messages"] if one["severity"] > 1] == []


def test_the_servers_are_started_with_what_the_programs_take(objects: dict[str, dict[str, Any]], case: str) -> None:
    container, values = server(objects), CASES[case]
    environment = {one["name"]: one.get("value", "") for one in container["env"]}
    mutual = values.get("tls", {}).get("clientCa", False)
    if values.get("server") == "gpu":
        assert container["command"] == ["python3", "-m", "hytrec_export.server.container", "/repository"]
        assert re.fullmatch(r"--exit-timeout-secs=\d+", *container["args"])
        access = access_of(environment)
        assert access.insecure == values.get("insecure", False)
        given = [access.tls_cert, access.tls_key, access.tls_client_ca, access.token_file]
        assert str(StoreOptions.from_environment(environment).url) == values["state"]["url"]
    else:
        seen = params(container["command"] + container["args"])
        assert seen["state"] == values["state"]["url"]
        assert seen["insecure"] == values.get("insecure", False)
        given = [seen["tls_cert"], seen["tls_key"], seen["tls_client_ca"], seen["token_file"]]
        assert seen["repository"] == Path("/repository")
        if case == "all":
            chosen = ("eligible", "snapshot_every", "durability", "log", "restart_delay_s")
            assert [seen[name] for name in chosen] == [["a=/lists/a", "b=/lists/b"], 64, "power", True, 0.5]
    names = ["/certs/tls.crt", "/certs/tls.key", "/certs/ca.crt" if mutual else "", "/token/token"]
    expected = [] if values.get("insecure") else [Path(name) for name in names if name]
    assert [path for path in given if path] == expected


def test_probes_are_grpc_with_the_credentials_that_the_server_asks_for(
    objects: dict[str, dict[str, Any]], case: str
) -> None:
    container, values = server(objects), CASES[case]
    probes = {name: container[f"{name}Probe"] for name in ("startup", "readiness", "liveness")}
    if values.get("server") == "gpu":
        socket = re.sub(r"-\d+/", f"-{USER}/", str(HTTP_SOCKET))
        command = ["python3", "-m", "hytrec_export.serving.health", f"unix:{socket}"]
        assert probes.pop("liveness")["exec"]["command"] == command
    for probe in probes.values():
        if values.get("insecure"):
            assert probe["grpc"] == {"port": 8001}
            continue
        seen = params(probe["exec"]["command"])
        assert seen["url"] == f"{values['tls'].get('serverName', 'localhost')}:8001"
        assert (seen["tls_ca"], seen["token_file"]) == (Path("/certs/ca.crt"), Path("/token/token"))
        assert (seen["tls_cert"] is not None) == values["tls"].get("clientCa", False)
    pod = next(pod for name, pod in pods(objects).items() if not name.startswith("Job"))["spec"]
    aliases = [name for alias in pod.get("hostAliases", []) for name in alias["hostnames"]]
    assert aliases == [name for name in [values.get("tls", {}).get("serverName")] if name]
    assert pod["terminationGracePeriodSeconds"] > EXIT_TIMEOUT_S + 5


def test_nothing_runs_as_root_or_writes_to_its_image(objects: dict[str, dict[str, Any]]) -> None:
    for pod in pods(objects).values():
        spec = pod["spec"]
        assert (spec["securityContext"]["runAsNonRoot"], spec["securityContext"]["runAsUser"]) == (True, USER)
        assert not spec["automountServiceAccountToken"]
        for container in (*spec["containers"], *spec.get("initContainers", [])):
            own = container["securityContext"]
            assert (own["readOnlyRootFilesystem"], own["allowPrivilegeEscalation"]) == (True, False)
            assert own["capabilities"] == {"drop": ["ALL"]}
            volumes = {volume["name"] for volume in spec["volumes"]}
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
        (main,) = spec["containers"]
        assert {"/tmp", "/repository"} <= {mount["mountPath"] for mount in main["volumeMounts"]}  # noqa: S108
    for name in ("Dockerfile", "Dockerfile.cpu"):
        assert f"--uid {USER} " in (DEPLOY / name).read_text()


def test_the_repository_comes_from_an_image_or_a_volume(objects: dict[str, dict[str, Any]], case: str) -> None:
    for pod in pods(objects).values():
        (volume,) = [one for one in pod["spec"]["volumes"] if one["name"] == "repository"]
        (mount,) = [one for one in pod["spec"]["containers"][0]["volumeMounts"] if one["name"] == "repository"]
        assert mount["readOnly"]
        if "insecure" in CASES[case]:
            assert volume["persistentVolumeClaim"] == {"claimName": "models", "readOnly": True}
            assert (mount["subPath"], pod["spec"].get("initContainers")) == ("shop", None)
            continue
        (copy,) = pod["spec"]["initContainers"]
        assert (copy["image"], volume["emptyDir"]) == ("registry.example/shop:7", {})
        assert copy["command"] == ["cp", "-r", "/repository/.", copy["volumeMounts"][0]["mountPath"] + "/"]
        assert copy["volumeMounts"][0]["mountPath"] != "/repository"


def test_files_of_redis_tls_are_where_the_url_says(objects: dict[str, dict[str, Any]], case: str) -> None:
    for pod in pods(objects).values():
        mounts = {one["name"]: one["mountPath"] for one in pod["spec"]["containers"][0]["volumeMounts"]}
        secrets = {one["name"]: one["secret"]["secretName"] for one in pod["spec"]["volumes"] if "secret" in one}
        assert ("redis-tls" in mounts) == ("redis-tls" in secrets) == (case == "all")
        if case == "all":
            address = RedisAddress.parse(StoreUrl.parse(CASES[case]["state"]["url"]))
            assert [str(path.parent) for path in address.files.values()] == [mounts["redis-tls"]]
            assert secrets["redis-tls"] == "redis-ca"


def test_states_are_rebuilt_before_an_upgrade(objects: dict[str, dict[str, Any]], case: str) -> None:
    if "Job-rebuild" not in objects:
        return
    job = objects["Job-rebuild"]
    assert job["metadata"]["annotations"]["helm.sh/hook"] == "pre-upgrade"
    (container,) = job["spec"]["template"]["spec"]["containers"]
    seen = params(container["command"] + container["args"])
    assert (seen["repository"], seen["state"]) == (Path("/repository"), CASES[case]["state"]["url"])
    assert seen["missing_ok"]  # a release that never served can be mended by an upgrade
    assert [one for one in container["env"] if one["name"] == "HYTREC_STATE_PASSWORD"] == [
        one for one in server(objects)["env"] if one["name"] == "HYTREC_STATE_PASSWORD"
    ]


def test_services_policies_and_budgets_choose_the_servers(objects: dict[str, dict[str, Any]]) -> None:
    (labels,) = [pod["metadata"]["labels"] for name, pod in pods(objects).items() if not name.startswith("Job")]
    choosers = [objects[name]["spec"]["selector"] for name in ("Service", "Service-headless")]
    choosers += [
        objects[name]["spec"][key]["matchLabels"]
        for name, key in (("PodDisruptionBudget", "selector"), ("NetworkPolicy", "podSelector"))
    ]
    for chosen in choosers:
        assert chosen
        assert chosen.items() <= labels.items()
    assert objects["Service-headless"]["spec"]["clusterIP"] == "None"
    if "Job-rebuild" in objects:  # which is no server, and reaches the store too
        rebuild = objects["Job-rebuild"]["spec"]["template"]["metadata"]["labels"]
        assert [chosen.items() <= rebuild.items() for chosen in choosers] == [False, False, False, True]


def test_a_stateful_sets_pods_are_named_for_clients(chart: Any) -> None:
    notes = chart.render(CASES["all"] | {"replicas": 3}, name="shop", namespace="reco")["hytrec/templates/NOTES.txt"]
    (command,) = re.findall(r"hytrec-client .*", notes)
    urls = params(command.split())["url"].split(",")
    assert urls == [f"shop-{number}.shop-headless.reco.svc:8001" for number in range(3)]


def test_servers_scale_by_a_metric_of_the_project(chart: Any) -> None:
    text = chart.render(CASES["all"], name="shop")["hytrec/templates/policies.yaml"]
    scaler = next(one for one in yaml.safe_load_all(text) if one["kind"] == "HorizontalPodAutoscaler")
    assert scaler["spec"]["scaleTargetRef"]["kind"] == "StatefulSet"
    (rule,) = yaml.safe_load((CHART / "prometheus-adapter.yaml").read_text())
    assert scaler["spec"]["metrics"][0]["pods"]["metric"]["name"] == rule["name"]["as"]
    assert rule["seriesQuery"].partition("{")[0] in {family.name for family in FAMILIES}


@pytest.mark.parametrize(
    ("url", "port"),
    [
        ("redis://r:7000/0?timeout=3", "7000"),
        ("rediss+cluster://hytrec@a:6379,b:7001", "7001"),
        ("redis+sentinel://a:1,b/users/0", "1"),
        ("redis://[::1]/0", None),
        ("redis+sentinel://a,b:26379/users", None),
    ],
)
def test_the_network_policy_lets_the_servers_reach_the_store(chart: Any, url: str, port: str | None) -> None:
    values: dict[str, Any] = GIVEN | {"state": {"url": url}}
    if port is not None:
        message = f"networkPolicy.storePorts lacks {port}, a port of state.url: the servers could not reach the store"
        with pytest.raises(helm.HelmError, match=message):
            chart.render(values, name="shop")
        values |= {"networkPolicy": {"storePorts": [26379, 6379, int(port)]}}
    text = chart.render(values, name="shop")["hytrec/templates/policies.yaml"]
    policy = next(one for one in yaml.safe_load_all(text) if one["kind"] == "NetworkPolicy")
    ports = {one["port"] for rule in policy["spec"]["egress"] for one in rule["ports"]}
    assert {address for _, address in RedisAddress.parse(StoreUrl.parse(url)).nodes} <= ports


def test_annotations_of_ones_own_come_first(chart: Any) -> None:
    values = GIVEN | {"podAnnotations": {"prometheus.io/scrape": "false"}}
    text = chart.render(values, name="shop")["hytrec/templates/server.yaml"]
    assert text.count("prometheus.io/scrape") == 1
    annotations = yaml.safe_load(text)["spec"]["template"]["metadata"]["annotations"]
    assert annotations == {"prometheus.io/scrape": "false", "prometheus.io/port": "8002"}


def test_an_upgrade_waits_for_the_rebuild_of_all_states(chart: Any) -> None:
    text = (CHART.parents[2] / "README.md").read_text()
    (command,) = re.findall(r"\$ (helm upgrade .*--reuse-values .*)", text)
    hours = int(re.findall(r"--timeout (\d+)h", command)[0])
    assert hours * 3_600 == chart.values["rebuild"]["deadline"]
    notes = chart.render(GIVEN, name="shop")["hytrec/templates/NOTES.txt"]
    assert f"helm upgrade --timeout {hours * 3_600}s" in notes


def described(schema: dict[str, Any], values: Any, path: str = "") -> Iterator[str]:
    """Values without a description in the schema."""
    for name, value in values.items():
        own = schema.get("properties", {}).get(name, {})
        if "description" not in own:
            yield f"{path}{name}"
        if isinstance(value, dict) and own.get("properties"):
            yield from described(own, value, f"{path}{name}.")


def test_every_value_is_described(chart: Any) -> None:
    assert list(described(chart.schema, chart.values)) == []
    names = [name for name in chart.schema["properties"] if name != "global"]
    assert sorted(chart.values) == sorted(names)


def test_the_options_are_those_of_serve(chart: Any) -> None:
    """All but those that the chart gives itself."""
    command = get_command(app).commands["serve"]  # type: ignore[attr-defined]
    own = {
        *("state", "host", "metrics-host", "stop-timeout", "insecure", "tls-cert", "tls-key", "token-file"),
        *("tls-client-ca", "grpc-port", "metrics-port", "http", "http-port"),
    }
    known = {name.removeprefix("--") for one in command.params for name in one.opts if name.startswith("--")}
    assert set(chart.schema["properties"]["options"]["propertyNames"]["enum"]) == known - own
    assert own < known


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"repository": {}}, "repository"),
        ({"repository": {"image": "a", "existingClaim": "b"}}, "repository"),
        ({"state": {"url": "sqlite:/state"}}, "url"),
        ({"state": {"url": "redis://user:secret@host:6379/0"}}, "url"),
        ({"tls": {"secret": ""}}, "tls"),
        ({"token": {}}, "token"),
        ({"insecure": True}, "secret"),
        ({"replicas": 0}, "replicas"),
        ({"server": "tpu"}, "server"),
        ({"kind": "DaemonSet"}, "kind"),
        ({"options": {"host": "any"}}, "propertyName"),
        ({"options": {"snapshot-evry": 3}}, "propertyName"),
        ({"options": {"log": True}, "server": "gpu"}, "options"),
        ({"rollout": {"maxSurge": 0, "maxUnavailable": 0}}, "rollout"),
        ({"sharedMemory": "1 GB"}, "sharedMemory"),
        ({"networkPolicy": {"storePorts": [70000]}}, "storePorts"),
        ({"replicaCount": 3}, "replicaCount"),
        ({"stopTimeout": "30s"}, "stopTimeout"),
    ],
)
def test_values_that_do_not_fit_are_refused(chart: Any, change: dict[str, Any], where: str) -> None:
    chart.validate_schema(GIVEN)
    with pytest.raises(helm.HelmError, match=where):
        chart.validate_schema(GIVEN | change)
    with pytest.raises(helm.HelmError):
        chart.render(GIVEN | change, name="shop")


def test_the_version_is_the_projects() -> None:
    import hytrec  # noqa: PLC0415

    about = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert (about["version"], about["appVersion"]) == (hytrec.__version__, hytrec.__version__)
    assert json.loads((CHART / "values.schema.json").read_text())["title"]
