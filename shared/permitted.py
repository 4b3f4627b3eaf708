"""Asking Kafka what the one who asks may do with topics and groups (KIP-430); aiokafka has no requests for that."""

from typing import Any, Final

from aiokafka.protocol.admin import DescribeGroupsRequest_v2, DescribeGroupsRequest_v3, DescribeGroupsResponse_v3
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.metadata import MetadataRequest_v4
from aiokafka.protocol.types import Array, Boolean, Int16, Int32, Schema, String

from shared.rights import Operation

_NOT_SAID: Final = -(2**31)
"""In the place of operations, from a broker that keeps no permissions."""


def operations(bits: int) -> set[Operation]:
    """Those that a field of authorized operations stands for; all of them where a broker has no such field.

    >>> operations(1 << 3 | 1 << 8)
    {<Operation.READ: 3>, <Operation.DESCRIBE: 8>}
    """
    if bits == _NOT_SAID:
        return set(Operation)
    return {operation for operation in Operation if bits & 1 << operation}


class _TopicsResponse(Response):
    API_KEY = 3  # pyright: ignore[reportAssignmentType, reportIncompatibleMethodOverride] - as aiokafka does
    API_VERSION = 8  # pyright: ignore[reportAssignmentType, reportIncompatibleMethodOverride]
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "brokers",
            Array(("node_id", Int32), ("host", String("utf-8")), ("port", Int32), ("rack", String("utf-8"))),
        ),
        ("cluster_id", String("utf-8")),
        ("controller_id", Int32),
        (
            "topics",
            Array(
                ("error_code", Int16),
                ("topic", String("utf-8")),
                ("is_internal", Boolean),
                (
                    "partitions",
                    Array(
                        ("error_code", Int16),
                        ("partition", Int32),
                        ("leader", Int32),
                        ("leader_epoch", Int32),
                        ("replicas", Array(Int32)),
                        ("isr", Array(Int32)),
                        ("offline_replicas", Array(Int32)),
                    ),
                ),
                ("authorized_operations", Int32),
            ),
        ),
        ("cluster_authorized_operations", Int32),
    )


class _TopicsRequest_v8(RequestStruct):
    API_KEY = 3
    API_VERSION = 8
    RESPONSE_TYPE = _TopicsResponse
    SCHEMA = Schema(
        ("topics", Array(String("utf-8"))),
        ("allow_auto_topic_creation", Boolean),
        ("include_cluster_authorized_operations", Boolean),
        ("include_topic_authorized_operations", Boolean),
    )


class TopicsRequest(Request[MetadataRequest_v4 | _TopicsRequest_v8]):
    """Metadata of topics with what may be done with them, where the broker knows to say so; creates none."""

    API_KEY = 3

    def __init__(self, topics: list[str]) -> None:
        self._topics = topics

    def build(self, request_struct_class: type[Any]) -> Any:
        if request_struct_class is _TopicsRequest_v8:
            return request_struct_class(self._topics, False, False, True)
        return request_struct_class(self._topics, False)


class _GroupsRequest_v3(RequestStruct):
    """That of aiokafka reads the answer as one of version 2, which has no operations."""

    API_KEY = 15
    API_VERSION = 3
    RESPONSE_TYPE = DescribeGroupsResponse_v3
    SCHEMA = DescribeGroupsRequest_v3.SCHEMA


class GroupsRequest(Request[DescribeGroupsRequest_v2 | _GroupsRequest_v3]):
    """Consumer groups with what may be done with them, where the broker knows to say so."""

    API_KEY = 15

    def __init__(self, groups: list[str]) -> None:
        self._groups = groups

    def build(self, request_struct_class: type[Any]) -> Any:
        if request_struct_class is _GroupsRequest_v3:
            return request_struct_class(self._groups, True)
        return request_struct_class(self._groups)
