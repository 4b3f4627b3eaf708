"""What job_api does by the clock: measure certificates."""

from math import inf

from services.job_api import metrics
from services.job_api.store import Store


async def measure_certificates(store: Store) -> None:
    """Set the gauges of how long certificates are valid."""
    validity = await store.certificate_validity()
    metrics.CERTIFICATES.labels("expired").set(validity.expired)
    metrics.CERTIFICATES.labels("7d").set(validity.within_7_days)
    metrics.CERTIFICATES.labels("14d").set(validity.within_14_days)
    metrics.CERTIFICATES.labels("30d").set(validity.within_30_days)
    metrics.CERTIFICATES.labels("later").set(validity.later)
    metrics.CERTIFICATE_EXPIRY.set(inf if validity.first is None else validity.first.total_seconds())
    metrics.TENANTS_EXPIRED.set(validity.tenants_expired)
