"""`cdds topics acls`: what each principal has to be allowed on Kafka, as a list, as a script, or done."""

import asyncio
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final

import typer
from aiokafka.errors import for_code
from aiokafka.protocol.admin import CreateAclsRequest_v1
from aiokafka.protocol.api import Request

from cli.broker import reaching
from cli.console import Failure, Output, OutputOption, out, print_json, print_table
from cli.installation import DataOption, Installation, KafkaOption, cluster_of
from shared.brokers import answer_of, connection_to_any
from shared.cluster import Cluster
from shared.rights import RIGHTS, Operation

TOPIC: Final = "topic"
GROUP: Final = "group"
_RESOURCE_TYPES: Final = {TOPIC: 2, GROUP: 3}
_LITERAL: Final = 3
_ALLOW: Final = 3
_FROM_ANYWHERE: Final = "*"


@dataclass(frozen=True, slots=True)
class Permission:
    """What a principal may do with a topic or a consumer group."""

    name: str
    """Whose it is: a service's, `operator` or `administrator`."""
    principal: str
    kind: str
    resource: str
    operations: tuple[Operation, ...]


def acls(
    principal: Annotated[
        list[str] | None,
        typer.Option(
            "--principal",
            metavar="NAME=PRINCIPAL",
            help="How Kafka calls it, as scheduler=User:CN=scheduler; User:NAME otherwise. Repeat it.",
        ),
    ] = None,
    script: Annotated[bool, typer.Option("--script", help="Print calls of kafka-acls.sh.")] = False,
    apply: Annotated[
        bool, typer.Option("--apply", help="Permit it, as a principal that may Alter the cluster.")
    ] = False,
    kafka: KafkaOption = None,
    data: DataOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show what each service, the operator and the administrator of topics need on Kafka, and no more.

    The operator runs `cdds doctor` and `cdds dead-letters`, the administrator `cdds topics ensure`. Nothing is taken
    away, and what is permitted already stays so: both forms may be carried out again after an upgrade.
    """
    if script and apply:
        raise Failure("--script and --apply: choose one")
    needed = list(permissions(dict(_named(text) for text in principal or ())))
    if script:
        typer.echo(as_script(needed), nl=False)
        return
    if apply:
        cluster = cluster_of(Installation.find(data, kafka=kafka))
        asyncio.run(reaching(cluster, permit(cluster, needed)))
    if output == Output.JSON:
        print_json(
            {
                "applied": apply,
                "permissions": [
                    {
                        "principal": one.principal,
                        "resource_type": one.kind,
                        "resource": one.resource,
                        "operations": [str(operation) for operation in one.operations],
                    }
                    for one in needed
                ],
            }
        )
        return
    rows = [(one.principal, one.kind, one.resource, " ".join(map(str, one.operations))) for one in needed]
    print_table("principal", "", "name", "may", rows=rows)
    out.print(f"{len(rows)} {'are permitted now' if apply else 'are needed'}.", highlight=False)


def permissions(principals: Mapping[str, str]) -> Iterator[Permission]:
    """All that are needed; principals that are not given are called like what they are for."""
    for name, rights in RIGHTS.items():
        for kind, resources in ((TOPIC, rights.topics), (GROUP, rights.groups)):
            for resource, operations in resources.items():
                yield Permission(name, principals.get(name, f"User:{name}"), kind, resource, tuple(sorted(operations)))


def as_script(needed: Sequence[Permission]) -> str:
    """A call of kafka-acls.sh for all that a principal may do alike."""
    calls: dict[tuple[str, tuple[Operation, ...]], list[Permission]] = {}
    for one in needed:
        calls.setdefault((one.name, one.operations), []).append(one)
    principals = {one.name: one.principal for one in needed}
    lines = [_HEAD]
    lines += [f'{name}="${{{name.upper()}:-{called}}}"' for name, called in principals.items()]
    for (name, operations), resources in calls.items():
        said = [f"--operation {operation}" for operation in operations]
        said += [f"--{one.kind} {shlex.quote(one.resource)}" for one in resources]
        lines.append(f'\n"$acls" "$@" --add --allow-principal "${name}" \\\n  ' + " \\\n  ".join(said))
    return "\n".join(lines) + "\n"


_HEAD: Final = """\
#!/bin/sh
# What CDDS needs on Kafka, and no more; made by `cdds topics acls --script`, and harmless to run again.
#
#   deploy/kafka/acls.sh --bootstrap-server kafka:9093 --command-config admin.properties
#
# Principals with other names: SCHEDULER='User:CN=scheduler' deploy/kafka/acls.sh …
set -eu
acls="${KAFKA_ACLS:-kafka-acls.sh}"
"""


async def permit(cluster: Cluster, needed: Sequence[Permission]) -> None:
    """Add what is not permitted yet; raises KafkaError, Refused."""
    creations = [
        (_RESOURCE_TYPES[one.kind], one.resource, _LITERAL, one.principal, _FROM_ANYWHERE, int(operation), _ALLOW)
        for one in needed
        for operation in one.operations
    ]
    async with connection_to_any(cluster) as connection:
        answer: Any = await answer_of(connection, _Creations(creations))
    for code, message in answer.creation_responses:
        if code:
            raise for_code(code)(message)


class _Creations(Request[CreateAclsRequest_v1]):
    """Many at once; that of aiokafka takes one."""

    API_KEY = 30

    def __init__(self, creations: Sequence[tuple[int, str, int, str, str, int, int]]) -> None:
        self._creations = creations

    def build(self, request_struct_class: type[CreateAclsRequest_v1]) -> CreateAclsRequest_v1:
        return request_struct_class(self._creations)


def _named(text: str) -> tuple[str, str]:
    name, _, principal = text.partition("=")
    # Quoted into a script, nothing else than a name may come of it.
    if name not in RIGHTS or not re.fullmatch(r"\w+:[\w =,.@/*-]+", principal):
        raise Failure(f"--principal {text!r}: write NAME=User:WHO, where NAME is one of {', '.join(RIGHTS)}")
    return name, principal
