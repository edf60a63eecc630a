"""Writes what is made from a source: service.json and fleet.json from service.py and fleet.py, the
Prometheus operator's copy of the rules from rules/*.yml. With --check, says which of them is not what its
source makes it, and fails."""

import json
import sys
from pathlib import Path

import yaml
from grafana_foundation_sdk.builders.dashboard import Dashboard
from grafana_foundation_sdk.cog.encoder import JSONEncoder

from fleet import fleet
from service import service

FOLDER = Path(__file__).resolve().parent.parent

OPERATOR_HEAD = """\
# For the Prometheus operator: rules/recording.yml and rules/alerts.yml in one resource. Written by
# `scripts/dashboards build`; change the rules there.
"""


def dashboard(one: Dashboard) -> str:
    return json.dumps(one.build(), cls=JSONEncoder, indent=2, ensure_ascii=False) + "\n"


def operator_rules() -> str:
    groups = [
        group
        for name in ("recording.yml", "alerts.yml")
        for group in yaml.safe_load((FOLDER / "rules" / name).read_text())["groups"]
    ]
    resource = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "slackwater", "namespace": "monitoring"},
        "spec": {"groups": groups},
    }
    return OPERATOR_HEAD + yaml.safe_dump(resource, sort_keys=False, width=100)


def main() -> int:
    arguments = sys.argv[1:]
    if arguments not in ([], ["--check"]):
        print(f"{' '.join(arguments)}: expected nothing, or --check", file=sys.stderr)
        return 2
    made = {
        "service.json": dashboard(service()),
        "fleet.json": dashboard(fleet()),
        "examples/kubernetes/prometheusrule.yaml": operator_rules(),
    }
    stale = False
    for name, wanted in made.items():
        path = FOLDER / name
        if not arguments:
            path.write_text(wanted)
        elif not path.exists() or path.read_text() != wanted:
            print(f"dashboards/{name} is not what its source makes it; run scripts/dashboards build")
            stale = True
    return int(stale)


if __name__ == "__main__":
    sys.exit(main())
