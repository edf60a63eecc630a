"""Holds the examples to the schemas of the programs that read them: Kubernetes' own, the Prometheus
operator's, the compose specification's. Prometheus' files are promtool's business
(exporters/program/tests/dashboards.rs). Says what is wrong and fails."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]
import yaml
from cloudcoil.models.prometheus_operator import v1
from compose_spec import PyCompose
from pydantic import BaseModel

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"

# One that Kubernetes still maintained when this was written.
KUBERNETES_VERSION = "1.33"

OPERATOR_KINDS: dict[str, type[BaseModel]] = {
    "PodMonitor": v1.PodMonitor,
    "PrometheusRule": v1.PrometheusRule,
}


def lost(given: Any, kept: Any, path: str = "") -> Iterator[str]:
    """What a reader that ignores unknown keys has ignored."""
    if isinstance(given, dict) and isinstance(kept, dict):
        for key, value in given.items():
            if key not in kept:
                yield f"{path}.{key} is unknown"
            else:
                yield from lost(value, kept[key], f"{path}.{key}")
    elif isinstance(given, list) and isinstance(kept, list):
        for index, (one, other) in enumerate(zip(given, kept, strict=True)):
            yield from lost(one, other, f"{path}[{index}]")


def operator_problems(document: dict[str, Any]) -> Iterator[str]:
    try:
        kept = OPERATOR_KINDS[document["kind"]].model_validate(document)
    except ValueError as error:
        yield str(error)
        return
    yield from lost(document, kept.model_dump(mode="json", by_alias=True, exclude_none=True))


def kubernetes_problems(document: dict[str, Any]) -> Iterator[str]:
    if document["kind"] in OPERATOR_KINDS:
        yield from operator_problems(document)
        return
    try:
        kubernetes_validate.validate(document, KUBERNETES_VERSION, strict=True)
    except kubernetes_validate.ValidationError as error:
        yield error.message


def compose_problems(text: str) -> Iterator[str]:
    try:
        kept = yaml.safe_load(PyCompose.from_yaml(text).to_yaml())
    except ValueError as error:
        yield str(error)
        return
    yield from lost(yaml.safe_load(text), kept)


def main() -> int:
    problems = [
        f"{path.name}: {document['kind']}: {problem}"
        for path in sorted((EXAMPLES / "kubernetes").iterdir())
        for document in yaml.safe_load_all(path.read_text())
        for problem in kubernetes_problems(document)
    ]
    compose = EXAMPLES / "compose" / "docker-compose.yml"
    problems += [f"{compose.name}: {problem}" for problem in compose_problems(compose.read_text())]
    for folder in ("grafana", "parca"):
        for path in sorted((EXAMPLES / folder).rglob("*.y*ml")):
            if not isinstance(yaml.safe_load(path.read_text()), dict):
                problems.append(f"{path.name}: expected keys and values")
    for problem in problems:
        print(f"dashboards/examples: {problem}")
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
