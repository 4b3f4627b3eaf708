"""What resources may look like: fields by their definitions, and no others.

Those of Kubernetes by its own strict schemas, which the package kubernetes-validate brings; its `validate` would read
and compile them anew for each manifest. The others as far as the chart uses them, from the resource definitions of
KEDA 2.19, the Prometheus operator 0.80 and the Gateway API 1.2.
"""

import json
import re
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any

import jsonschema_rs
import kubernetes_validate

Schema = dict[str, Any]

TEXT: Schema = {"type": "string", "minLength": 1}
COUNT: Schema = {"type": "integer", "minimum": 1}


def _object(required: Mapping[str, Schema], optional: Mapping[str, Schema] | None = None) -> Schema:
    return {
        "type": "object",
        "additionalProperties": False,
        "properties": {**required, **(optional or {})},
        "required": list(required),
    }


def _several(item: Schema) -> Schema:
    return {"type": "array", "items": item, "minItems": 1}


def _resource(version: str, spec: Schema) -> Schema:
    labels = {"type": "object", "additionalProperties": {"type": "string"}}
    metadata = _object({"name": TEXT, "labels": labels}, {"annotations": labels})
    return _object({"apiVersion": {"const": version}, "kind": TEXT, "metadata": metadata, "spec": spec})


_FLAG: Schema = {"enum": ["true", "false"]}
"""The metadata of a trigger are strings, all of them."""
_NUMBER: Schema = {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?$"}
_AUTHENTICATION = {"authenticationRef": _object({"name": TEXT})}
_KAFKA = _object(
    {
        "type": {"const": "kafka"},
        "metadata": _object(
            {
                "bootstrapServers": TEXT,
                "consumerGroup": TEXT,
                "topic": TEXT,
                "lagThreshold": _NUMBER,
                "offsetResetPolicy": {"enum": ["latest", "earliest"]},
                "allowIdleConsumers": _FLAG,
                "version": TEXT,
            },
            {
                "tls": {"enum": ["enable", "disable"]},
                "sasl": {"enum": ["none", "plaintext", "scram_sha256", "scram_sha512"]},
            },
        ),
    },
    _AUTHENTICATION,
)
_PROMETHEUS = _object(
    {
        "type": {"const": "prometheus"},
        "metadata": _object(
            {"serverAddress": TEXT, "query": TEXT, "threshold": _NUMBER, "ignoreNullValues": _FLAG},
            {"authModes": TEXT},
        ),
    },
    _AUTHENTICATION,
)
_POSTGRESQL = _object(
    {
        "type": {"const": "postgresql"},
        "metadata": _object({"query": TEXT, "targetQueryValue": _NUMBER}),
        **_AUTHENTICATION,
    }
)
_SCALE_DOWN = _object(
    {
        "stabilizationWindowSeconds": {"type": "integer", "minimum": 0, "maximum": 3600},
        "policies": _several(
            _object(
                {"type": {"enum": ["Pods", "Percent"]}, "value": COUNT, "periodSeconds": {**COUNT, "maximum": 1800}}
            )
        ),
    }
)
_SCALED_OBJECT = _object(
    {
        "scaleTargetRef": _object({"name": TEXT}),
        "pollingInterval": COUNT,
        "minReplicaCount": COUNT,
        "maxReplicaCount": COUNT,
        "advanced": _object(
            {
                "restoreToOriginalReplicaCount": {"type": "boolean"},
                "horizontalPodAutoscalerConfig": _object({"behavior": _object({"scaleDown": _SCALE_DOWN})}),
            }
        ),
        "triggers": _several({"anyOf": [_KAFKA, _PROMETHEUS, _POSTGRESQL]}),
    }
)
_PARAMETER = {"enum": ["connection", "username", "password", "ca", "cert", "key"]}
_REFERENCE = _object({"parameter": _PARAMETER, "name": TEXT, "key": TEXT})
_TRIGGER_AUTHENTICATION = {
    **_object(
        {},
        {
            "secretTargetRef": _several(_REFERENCE),
            "configMapTargetRef": _several(_REFERENCE),
            "env": _several(_object({"parameter": _PARAMETER, "name": TEXT, "containerName": TEXT})),
        },
    ),
    "minProperties": 1,
}
_SERVICE_MONITOR = _object(
    {
        "selector": _object({"matchLabels": {"type": "object"}}),
        "endpoints": _several(
            _object(
                {
                    "port": TEXT,
                    "path": TEXT,
                    "interval": {"type": "string", "pattern": "^[0-9]+(ms|s|m)$"},
                    "relabelings": _several(
                        _object({"targetLabel": TEXT}, {"sourceLabels": _several(TEXT), "replacement": TEXT})
                    ),
                }
            )
        ),
    }
)
_LABELS = {"type": "object", "additionalProperties": {"type": "string"}}
_RULE = _object(
    {"alert": TEXT, "expr": TEXT},
    {"for": {"type": "string", "pattern": "^[0-9]+[smhd]$"}, "labels": _LABELS, "annotations": _LABELS},
)
_PROMETHEUS_RULE = _object({"groups": _several(_object({"name": TEXT, "rules": _several(_RULE)}))})
_HTTP_ROUTE = _object(
    {
        "parentRefs": _several(_object({"name": TEXT}, {"namespace": TEXT, "sectionName": TEXT, "port": COUNT})),
        "hostnames": _several(TEXT),
        "rules": _several(
            _object(
                {
                    "matches": _several(_object({"path": _object({"type": {"const": "PathPrefix"}, "value": TEXT})})),
                    "backendRefs": _several(_object({"name": TEXT, "port": COUNT})),
                },
                {"timeouts": _object({}, {"request": {"type": "string", "pattern": "^([0-9]{1,5}(h|m|s|ms)){1,4}$"}})},
            )
        ),
    }
)

KUBERNETES = ("1.30", kubernetes_validate.latest_version().rpartition(".")[0])
"""The oldest version that the chart takes, and the newest whose schemas there are."""
_CUSTOM = {
    kind: jsonschema_rs.validator_for(_resource(version, spec))
    for kind, version, spec in (
        ("ScaledObject", "keda.sh/v1alpha1", _SCALED_OBJECT),
        ("TriggerAuthentication", "keda.sh/v1alpha1", _TRIGGER_AUTHENTICATION),
        ("ServiceMonitor", "monitoring.coreos.com/v1", _SERVICE_MONITOR),
        ("PrometheusRule", "monitoring.coreos.com/v1", _PROMETHEUS_RULE),
        ("HTTPRoute", "gateway.networking.k8s.io/v1", _HTTP_ROUTE),
    )
}


def validate(manifest: Mapping[str, Any]) -> None:
    """Raise jsonschema_rs.ValidationError when a cluster would not take this, in the oldest or newest version."""
    kind, version = manifest["kind"], manifest["apiVersion"]
    if kind in _CUSTOM:
        _CUSTOM[kind].validate(manifest)
        return
    for kubernetes in KUBERNETES:
        _kubernetes(kubernetes, kind, version).validate(manifest)


@cache
def _kubernetes(kubernetes: str, kind: str, version: str) -> jsonschema_rs.Validator:
    # networking.k8s.io/v1 -> networking-v1
    group = re.sub(r"^([^./]*)(?:\.[^/]*)?/", r"\1-", version)
    folder = resources.files(kubernetes_validate) / "kubernetes-json-schema" / f"v{kubernetes}.0-local-strict"
    schema = json.loads((folder / f"{kind.lower()}-{group}.json").read_text())
    return jsonschema_rs.validator_for({**schema, "$id": "memory:///manifest"}, registry=_definitions(kubernetes))


@cache
def _definitions(kubernetes: str) -> jsonschema_rs.Registry:
    folder = resources.files(kubernetes_validate) / "kubernetes-json-schema" / f"v{kubernetes}.0-local-strict"
    return jsonschema_rs.Registry(
        [("memory:///api/_definitions.json", json.loads((folder / "_definitions.json").read_text()))]
    )
