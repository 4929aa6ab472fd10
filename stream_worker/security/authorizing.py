"""ACLs applied: those of a role given to a principal, by the protocol's own request."""

from __future__ import annotations

from aiokafka.errors import ClusterAuthorizationFailedError, KafkaError, SecurityDisabled, for_code
from aiokafka.protocol.admin import CreateAclsRequest

from stream_worker import topics
from stream_worker.errors import Exit, UserError
from stream_worker.security.acl import Role, grants
from stream_worker.settings import Kafka

ALLOW = 3
ANY_HOST = "*"


async def apply(kafka: Kafka, role: Role, principal: str, group: str | None = None) -> int:
    """Give `principal` (`User:name`) its role; how many ACLs that is. Those that are there already stay.

    Raises UserError: no broker, one that has no authorizer, or settings whose user may not do that.
    """
    wanted = grants(role, group)
    async with topics.admin(kafka) as client:
        for grant in wanted:
            request = CreateAclsRequest(
                int(grant.resource),
                grant.full_name(kafka.prefix),
                int(grant.pattern),
                principal,
                ANY_HOST,
                int(grant.operation),
                ALLOW,
            )
            try:
                answer = await client._send_to_controller(request)
            except (KafkaError, OSError, TimeoutError) as error:
                raise UserError(f"ACLs were not all applied: {type(error).__name__}: {error}", Exit.BROKER) from None
            for code, message in answer.creation_responses:
                if code:
                    raise UserError(_refused(code, message), Exit.BROKER)
    return len(wanted)


def _refused(code: int, message: str | None) -> str:
    if code == SecurityDisabled.errno:
        return "the broker has no authorizer: set authorizer.class.name (ops/security.md)"
    if code == ClusterAuthorizationFailedError.errno:
        return "this user may not give ACLs: it takes ALTER on the cluster, as a super user has"
    return f"an ACL was refused: {message or for_code(code).__name__}"
