"""What is deployed fits Kubernetes' schema, itself, and the service's settings."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from service.settings import PREFIX, Settings

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
NAME = "app.kubernetes.io/name"
VERSION = "1.37"


def documents() -> Iterator[tuple[str, dict[str, Any]]]:
    for path in sorted(KUBERNETES.rglob("*.yaml")):
        if path.name != "kustomization.yaml":
            for document in yaml.safe_load_all(path.read_text()):
                yield f"{path.relative_to(KUBERNETES)}: {document['kind']}", document


RESOURCES = dict(documents())


def find(kind: str, name: str) -> dict[str, Any]:
    (found,) = [
        one for one in RESOURCES.values() if one["kind"] == kind and one["metadata"]["name"] == name
    ]
    return found


def pods() -> list[dict[str, Any]]:
    """The pod template of everything that runs."""
    templates = []
    for one in RESOURCES.values():
        if one["kind"] in ("Deployment", "StatefulSet"):
            templates.append(one["spec"]["template"])
        if one["kind"] == "CronJob":
            templates.append(one["spec"]["jobTemplate"]["spec"]["template"])
    return templates


@pytest.mark.parametrize("name", RESOURCES)
def test_every_manifest_fits_the_schema(name: str) -> None:
    kubernetes_validate.validate(RESOURCES[name], VERSION, strict=True)


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="needs kubectl")
@pytest.mark.parametrize("overlay", ["base", "gpu", "refresh"])
def test_what_kustomize_builds_fits_the_schema(overlay: str) -> None:
    command = ["kubectl", "kustomize", str(KUBERNETES / overlay)]
    built = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    resources = list(yaml.safe_load_all(built))
    assert resources
    for resource in resources:
        kubernetes_validate.validate(resource, VERSION, strict=True)
    if overlay == "gpu":
        (deployment,) = [one for one in resources if one["kind"] == "Deployment"]
        (container,) = deployment["spec"]["template"]["spec"]["containers"]
        assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
        assert {"name": "LSVCR_DEVICE", "value": "cuda"} in container["env"]


def test_kustomizations_name_every_file_but_the_secret() -> None:
    for folder in ("base", "refresh"):
        listed = yaml.safe_load((KUBERNETES / folder / "kustomization.yaml").read_text())
        there = {path.name for path in (KUBERNETES / folder).glob("*.yaml")}
        assert there - {*listed["resources"]} <= {"kustomization.yaml", "secret.example.yaml"}


def test_selectors_and_claims_find_what_they_name() -> None:
    labels = {pod["metadata"]["labels"][NAME] for pod in pods()}
    for kind, path in (("Service", "selector"), ("PodDisruptionBudget", "matchLabels")):
        for one in RESOURCES.values():
            if one["kind"] == kind:
                spec = one["spec"]["selector"]
                assert (spec if path == "selector" else spec[path])[NAME] in labels
    claims = {
        one["metadata"]["name"]
        for one in RESOURCES.values()
        if one["kind"] == "PersistentVolumeClaim"
    }
    secret = find("Secret", "lsvcr")["stringData"]
    for pod in pods():
        for volume in pod["spec"].get("volumes", []):
            if "persistentVolumeClaim" in volume:
                assert volume["persistentVolumeClaim"]["claimName"] in claims
            for item in volume.get("secret", {}).get("items", []):
                assert item["key"] in secret
        for container in pod["spec"]["containers"]:
            for variable in container.get("env", []):
                reference = variable.get("valueFrom", {}).get("secretKeyRef")
                assert reference is None or reference["key"] in secret


def test_every_container_is_confined() -> None:
    for pod in pods():
        assert pod["spec"]["automountServiceAccountToken"] is False
        security = pod["spec"]["securityContext"]
        assert security["runAsNonRoot"] and security["runAsUser"]
        for container in pod["spec"]["containers"]:
            confined = container["securityContext"]
            assert confined["allowPrivilegeEscalation"] is False
            assert confined["capabilities"] == {"drop": ["ALL"]}
            assert {"requests", "limits"} <= container["resources"].keys()


def test_settings_in_manifests_and_units_are_known_to_the_service() -> None:
    known = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields}
    text = "".join(path.read_text() for path in DEPLOY.rglob("*.*"))
    used = set(re.findall(rf"\b{PREFIX}[A-Z_]+\b", text))
    assert len(used) >= 5
    assert used <= known


def test_scaling_asks_for_a_metric_that_the_service_has() -> None:
    scaler = find("HorizontalPodAutoscaler", "lsvcr")
    names = [one["pods"]["metric"]["name"] for one in scaler["spec"]["metrics"] if "pods" in one]
    assert names == ["lsvcr_queue_waiting"]
    metrics = (DEPLOY.parent / "service" / "metrics.py").read_text()
    assert '"queue_waiting"' in metrics


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd")
def test_units_are_ones_that_systemd_reads() -> None:
    for unit in sorted((DEPLOY / "systemd").iterdir()):
        command = ["systemd-analyze", "verify", str(unit)]
        ran = subprocess.run(command, capture_output=True, text=True)
        problems = [
            line
            for line in ran.stderr.splitlines()
            if unit.name in line and "is not executable" not in line  # installed elsewhere
        ]
        assert problems == []


def test_images_copy_only_what_the_build_is_sent() -> None:
    sent = set(re.findall(r"^!(\S+)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE))
    copied = {
        source.split("/")[0]
        for dockerfile in (ROOT / "docker").glob("*.Dockerfile")
        for sources in re.findall(
            r"^COPY (?!--from)(.+) \S+$", dockerfile.read_text(), re.MULTILINE
        )
        for source in sources.split()
    }
    assert copied == sent
    assert all((ROOT / name).exists() for name in copied)
