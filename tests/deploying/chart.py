"""`make chart`: the Helm chart linted and rendered by Helm's own engine, checked against the schemas of Kubernetes.

It runs in its own environment (deploy/helm/requirements.txt), so it imports nothing from this project.
"""

from __future__ import annotations

import base64
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import helm_python as helm
import kubernetes_validate
import yaml

CHART: Final = Path(__file__).parents[2] / "deploy" / "helm" / "token-vault"
OPERATOR: Final = "monitoring.coreos.com/v1"  # of Prometheus
RELEASES: Final = ("1.27", "1.31", "1.37")
WARNING: Final = 2  # one of Helm's four severities


def _peers(namespace: str) -> list[dict[str, Any]]:
    return [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}}}]


NEEDED: Final[Mapping[str, Any]] = {"publicUrl": "https://vault.example.com", "existingSecret": "token-vault"}
EVERYTHING: Final[Mapping[str, Any]] = {
    **NEEDED,
    "publicUrl": "https://vault.example.com:8443",
    "replicas": 3,
    "image": {"repository": "registry.example.com/token-vault", "tag": "1", "pullPolicy": "Always"},
    "imagePullSecrets": [{"name": "registry"}],
    "secretFiles": {"slack": {"secret": "slack-app", "key": "client-secret"}},
    "trustedProxies": ["10.1.0.0/16"],
    "ingress": {"enabled": True, "className": "nginx"},
    "storage": {"size": "5Gi", "className": "fast"},
    "metrics": {"enabled": True, "port": 9464, "serviceMonitor": True},
    "networkPolicy": {"enabled": True, "from": _peers("ingress"), "metricsFrom": _peers("monitoring")},
    "nodeSelector": {"disk": "ssd"},
    "tolerations": [{"key": "vault", "operator": "Exists"}],
    "podAnnotations": {"note": "x"},
}
SMALL: Final[Mapping[str, Any]] = {**NEEDED, "postgresql": False, "replicas": 1}
CHECKED: Final = (
    ("as little as possible", NEEDED),
    ("everything", EVERYTHING),
    ("SQLite", SMALL),
    ("a policy without metrics", {**NEEDED, "networkPolicy": {"enabled": True, "from": _peers("ingress")}}),
    ("metrics without a policy", {**NEEDED, "metrics": {"enabled": True}}),
)
REFUSED: Final[Mapping[str, Mapping[str, Any]]] = {
    "no public address": {"existingSecret": "token-vault"},
    "plain http": {**NEEDED, "publicUrl": "http://vault.example.com"},
    "no secret": {"publicUrl": "https://vault.example.com"},
    "two replicas on SQLite": {**NEEDED, "postgresql": False, "replicas": 2},
    "a policy that opens the metrics to everyone": {
        **NEEDED,
        "metrics": {"enabled": True},
        "networkPolicy": {"enabled": True},
    },
    "a value that the chart doesn't know": {**NEEDED, "replicaCount": 3},
}


def render(values: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The manifests that Kubernetes gets."""
    with helm.Chart.load(str(CHART)) as chart:
        chart.validate_schema(dict(values))
        texts = chart.render(dict(values), name="vault", namespace="prod")
    parts = [text for name, text in texts.items() if name.endswith(".yaml")]
    return [one for text in parts for one in yaml.safe_load_all(text) if one]


def check_pod(spec: Mapping[str, Any]) -> None:
    """Check Kubernetes' restricted profile, a read-only root, and variables that the program accepts."""
    assert spec["enableServiceLinks"] is False
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] == 10001
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    (container,) = spec["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    variables = {one["name"]: one for one in container["env"]}
    assert "value" not in variables["TOKEN_VAULT_KEY"]
    assert int(variables["TOKEN_VAULT_SERVER__DRAIN_NOTICE"]["value"]) + 30 < spec["terminationGracePeriodSeconds"]
    host = variables["TOKEN_VAULT_SERVER__PUBLIC_URL"]["value"].removeprefix("https://")
    for probe in ("startupProbe", "livenessProbe"):
        assert container[probe]["httpGet"]["httpHeaders"] == [{"name": "Host", "value": host}]
    assert container["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "http"}
    mounted = {one["name"] for one in container["volumeMounts"]}
    assert mounted == {one["name"] for one in spec["volumes"]} | {"data"}


def check(name: str, values: Mapping[str, Any]) -> None:
    """Check everything for one set of values."""
    manifests = render(values)
    for one in manifests:
        if one["apiVersion"] == OPERATOR:  # not among Kubernetes' own schemas
            continue
        for release in RELEASES:
            kubernetes_validate.validate(one, release, strict=True)
    kinds = [one["kind"] for one in manifests]
    (stateful,) = [one for one in manifests if one["kind"] == "StatefulSet"]
    check_pod(stateful["spec"]["template"]["spec"])
    assert ("PodDisruptionBudget" in kinds) is (stateful["spec"]["replicas"] > 1)
    for service in (one for one in manifests if one["kind"] == "Service"):
        labels = stateful["spec"]["template"]["metadata"]["labels"]
        assert service["spec"]["selector"].items() <= labels.items()
    for monitor in (one for one in manifests if one["apiVersion"] == OPERATOR):
        services = [one for one in manifests if one["kind"] == "Service"]
        wanted, (endpoint,) = monitor["spec"]["selector"]["matchLabels"], monitor["spec"]["endpoints"]
        found = [one for one in services if wanted.items() <= one["metadata"]["labels"].items()]
        assert [port["name"] for one in found for port in one["spec"]["ports"]].count(endpoint["port"]) == 1
    for rule in (one for found in manifests if found["kind"] == "NetworkPolicy" for one in found["spec"]["ingress"]):
        (port,) = rule["ports"]
        assert rule["from"] == values["networkPolicy"]["metricsFrom" if port["port"] == "metrics" else "from"]
    text = yaml.safe_dump_all(manifests)
    assert not re.search(r"://[^/\s:]+:[^/\s]+@", text)
    assert base64.b64encode(b"0" * 32).decode() not in text
    print(f"{name}: {len(manifests)} manifests ({', '.join(sorted(set(kinds)))})")


def main() -> None:
    """Run all checks; exit with what failed."""
    report = helm.lint(str(CHART), dict(NEEDED), strict=True)
    found = [one["error"] for one in report["messages"] if one["severity"] >= WARNING] + report["errors"]
    if found:
        sys.exit("\n".join(found))
    print(f"Helm {helm.helm_sdk_version()} finds nothing wrong")
    for name, values in CHECKED:
        check(name, values)
    for name, values in REFUSED.items():
        try:
            render(values)
        except helm.HelmError as refused:
            print(f"refused, {name}: {str(refused).strip().splitlines()[-1]}")
        else:
            sys.exit(f"accepted, though there is {name}")


if __name__ == "__main__":
    os.environ.setdefault("HELM_NO_PLUGINS", "1")
    main()
