"""The certificates that exports of a tenant are encrypted for."""

from typing import Annotated

from fastapi import APIRouter, Path, Request

from services.job_api.api.answers import CertificateAnswer, CertificateRemovedAnswer, CertificatesAnswer
from services.job_api.domain.certificates import read_certificate
from services.job_api.store import Store
from shared.http import Administrator, Reader
from shared.openapi import problems
from shared.preconditions import IdempotencyKey

Fingerprint = Annotated[
    str, Path(pattern=r"^[0-9a-f]{64}$", description="SHA-256 of the certificate's DER form, hexadecimal.")
]
_FORMS = {
    "application/x-pem-file": {"schema": {"type": "string"}},
    "application/pkix-cert": {"schema": {"type": "string", "format": "binary"}},
}


def router(store: Store) -> APIRouter:
    """The routes."""
    api = APIRouter(prefix="/certificates", tags=["certificates"])

    @api.post(
        "",
        status_code=201,
        responses=problems(404),
        openapi_extra={"requestBody": {"required": True, "content": _FORMS}},
    )
    async def add_certificate(request: Request, caller: Administrator, once: IdempotencyKey) -> CertificateAnswer:
        """Add an X.509 RSA certificate, PEM or DER, that exports are encrypted for."""
        certificate = read_certificate(await request.body())
        now, added = await store.add_certificate(caller.tenant, caller.subject, certificate, once)
        return CertificateAnswer.of(added, now)

    @api.get("")
    async def list_certificates(caller: Reader) -> CertificatesAnswer:
        """The tenant's certificates, the one that lasts longest first."""
        now, found = await store.now_and_certificates(caller.tenant)
        return CertificatesAnswer(items=[CertificateAnswer.of(certificate, now) for certificate in found])

    @api.get("/{fingerprint}", responses=problems(404))
    async def read_one_certificate(fingerprint: Fingerprint, caller: Reader) -> CertificateAnswer:
        """One certificate."""
        now, found = await store.certificate(caller.tenant, fingerprint)
        return CertificateAnswer.of(found, now)

    @api.delete("/{fingerprint}", responses=problems(404))
    async def remove_certificate(fingerprint: Fingerprint, caller: Administrator) -> CertificateRemovedAnswer:
        """Encrypt no more exports for a certificate; it may be added again."""
        now, left = await store.remove_certificate(caller.tenant, caller.subject, fingerprint)
        return CertificateRemovedAnswer.of(fingerprint, left, now)

    return api
