-- What was over long ago is deleted (services/exporter/store/forgetting.py); its index follows.
GRANT DELETE ON runs, artifacts, documents, cancellations TO exporter_worker;
