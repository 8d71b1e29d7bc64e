"""The metrics for Prometheus: jobs by state, and the disk."""

import shutil

from prometheus_client import CollectorRegistry, Gauge, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST as MEDIA_TYPE

from bnfold.service.store import Store

__all__ = ["MEDIA_TYPE", "text"]


def text(store: Store) -> str:
    """All figures as they are now, in Prometheus' text form."""
    registry = CollectorRegistry()
    jobs = Gauge("bnfold_jobs", "Jobs by state.", ["state"], registry=registry)
    for state, number in store.counts().items():
        jobs.labels(state).set(number)
    Gauge("bnfold_disk_free_bytes", "Free disk under the service's folder.", registry=registry).set(
        shutil.disk_usage(store.root).free
    )
    return generate_latest(registry).decode()
