"""What job_api measures: how long the certificates of all tenants are valid."""

from math import inf
from typing import Final

from prometheus_client import Gauge

CERTIFICATE_EXPIRY: Final = Gauge(
    "cdds_certificate_expiry_seconds", "Until the first valid certificate expires, +Inf when there is none"
)
CERTIFICATE_EXPIRY.set(inf)
CERTIFICATES: Final = Gauge(
    "cdds_certificates", "Certificates, by the shortest time within which they expire", ["expires"]
)
TENANTS_EXPIRED: Final = Gauge("cdds_tenants_expired", "Tenants all of whose certificates have expired")
